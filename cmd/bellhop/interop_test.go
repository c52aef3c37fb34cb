//go:build interop

package main

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"bellhop/sip"
)

// The tests of this build tag put bellhop between real phones and real PBXs, and compare
// its callbacks with the records of the PBX. `make interop` runs them.

var (
	captures = flag.String("captures", "", "keep what the PBX recorded of each scenario in this directory")
)

// interopTypes are all event types, including those that a subscription must name.
var interopTypes = []string{
	"dial-in", "dial-out", "answer", "hangup", "message-in", "message-out", "voicemail",
	"ringing", "hold", "resume", "transfer", "registered", "unregistered",
}

// TestInteropAsterisk plays the scenarios in testdata/interop/asterisk with real phones
// at a real Asterisk behind bellhop. The folder named by the environment variable PBX
// sets them up: testdata/README.md lists its files.
func TestInteropAsterisk(t *testing.T) {
	files, err := filepath.Glob("../../testdata/interop/asterisk/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios", err)
	}
	p := openPBXFolder(t)
	p.out = cmp.Or(*captures, p.out)
	p.start()
	s := newInteropSite(t)
	s.configure(asteriskConfig())
	hop := s.serve()
	s.subscribe("json", "POST", interopTypes...)

	report := newReport(t)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		t.Run(name, func(t *testing.T) {
			want, err := readExpectation(file)
			if err != nil {
				t.Fatal(err)
			}
			s := *s
			s.t = t
			r := result{scenario: name, want: want}
			begin := time.Now()
			r.differences = p.play(t, name)
			r.came, r.differences = s.settled(begin, r.differences)
			record, err := readRecord(filepath.Join(p.out, name+".cdr.csv"))
			if err != nil {
				t.Fatal(err)
			}
			r.word = record.String()
			r.judge(record)
			report.add(t, r, file)
		})
	}
	hop.stop()
}

// openPBXFolder returns the folder that the environment variable PBX names. It stops what an
// earlier test left running there.
func openPBXFolder(t *testing.T) *pbxFolder {
	t.Helper()
	folder := os.Getenv("PBX")
	if folder == "" {
		t.Fatal("the environment variable PBX does not name the folder that sets up Asterisk and its phones: see testdata/README.md")
	}
	p := &pbxFolder{t: t, path: folder, out: t.TempDir()}
	p.run(time.Minute, "./stop.sh")
	return p
}

// start starts the PBX until the test ends.
func (p *pbxFolder) start() {
	p.t.Helper()
	p.t.Cleanup(func() { p.run(time.Minute, "./stop.sh") })
	p.run(time.Minute, "./start.sh")
}

// newInteropSite returns a site before the PBX of the folder.
func newInteropSite(t *testing.T) *site {
	return &site{
		t:        t,
		dir:      t.TempDir(),
		hop:      netip.MustParseAddrPort("127.0.0.1:5060"),
		pbx:      sip.Addr{Proto: sip.UDP, AddrPort: netip.MustParseAddrPort("127.0.0.2:5060")},
		admin:    netip.MustParseAddrPort("127.0.0.1:8080"),
		receiver: newReceiver(t),
	}
}

// interopKinds are the extensions of the PBX that are not phones, interopDIDs the public
// numbers that lead to extensions.
var (
	interopKinds = map[string]string{"600": "queue", "601": "queue", "602": "queue", "700": "ivr", "800": "conference"}
	interopDIDs  = map[string][]string{"102": {"5551234", "5558102", "5559102"}, "103": {"5551103"}, "600": {"5551600"}, "700": {"5551700"}}
)

func asteriskConfig() string {
	var b strings.Builder
	b.WriteString(`
[calls]
correlate = ["header:X-CID", "header:X-Corr-Call-ID", "session-id", "replaces", "icid", "call-id", "numbers"]
[guard]
allow = ["127.0.0.0/8"]
[[trunk]]
name = "carrier"
sources = ["127.0.0.21", "127.0.0.22"]
`)
	for _, number := range []string{"102", "103", "600", "601", "602", "700", "800"} {
		fmt.Fprintf(&b, "[[extension]]\nnumber = %q\n", number)
		if kind := interopKinds[number]; kind != "" {
			fmt.Fprintf(&b, "kind = %q\n", kind)
		}
		if dids := interopDIDs[number]; dids != nil {
			fmt.Fprintf(&b, "did = [\"%s\"]\n", strings.Join(dids, `", "`))
		}
	}
	return b.String()
}

// A pbxFolder is the folder with the scripts that run Asterisk and its phones.
type pbxFolder struct {
	t    *testing.T
	path string
	out  string // where the scenarios leave what they recorded
}

// command returns a script of the folder as a command. The processes that it starts and
// does not record end with it.
func (p *pbxFolder) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = p.path
	cmd.Env = append(os.Environ(), "EDGE=127.0.0.1", "EDGE_START=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// run runs a script and logs its output if it fails. The output goes to a file:
// processes that the script starts keep running and would hold a pipe open.
func (p *pbxFolder) run(within time.Duration, name string, args ...string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	out, err := os.Create(filepath.Join(p.out, filepath.Base(name)+".log"))
	if err != nil {
		p.t.Fatal(err)
	}
	defer out.Close()
	cmd := p.command(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(out.Name())
		p.t.Fatalf("%s: %v\n%s", name, err, tail(string(said)))
	}
}

// play plays a scenario, and returns the errors of its phones.
func (p *pbxFolder) play(t *testing.T, name string) (differences []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	var out bytes.Buffer
	cmd := p.command(ctx, "bin/scenarios", p.out, name)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		t.Fatalf("the scenario was not played: %v\n%s", err, tail(out.String()))
	}
	for line := range strings.Lines(out.String()) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "?") || strings.HasPrefix(line, "!!") {
			differences = append(differences, "the scenario went astray: "+line)
		}
	}
	if !strings.Contains(out.String(), "done 1") {
		t.Fatalf("%s is not one scenario of the PBX:\n%s", name, tail(out.String()))
	}
	return differences
}

// settled waits until no call is live and all callbacks since begin have arrived, and
// returns them.
func (s *site) settled(begin time.Time, differences []string) ([]received, []string) {
	s.t.Helper()
	limit := time.Now().Add(90 * time.Second)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var calls struct {
		Items []struct {
			CallID string `json:"call_id"`
		} `json:"items"`
	}
	var log struct {
		Items []struct {
			EventID string `json:"event_id"`
		} `json:"items"`
	}
	calm, before := 0, -1
	for calm < 5 {
		<-tick.C
		s.api("GET", "/v1/calls", nil, &calls)
		s.api("GET", "/v1/events?limit=1000&since="+url.QueryEscape(begin.UTC().Format(time.RFC3339Nano)), nil, &log)
		ids := map[string]bool{}
		s.receiver.mu.Lock()
		for _, c := range s.receiver.came {
			ids[c.fields["event_id"]] = true
		}
		s.receiver.mu.Unlock()
		owed := 0
		for _, e := range log.Items {
			if !ids[e.EventID] {
				owed++
			}
		}
		if len(calls.Items) == 0 && owed == 0 && len(log.Items) == before {
			calm++
		} else {
			calm = 0
		}
		before = len(log.Items)
		if time.Now().After(limit) {
			for _, c := range calls.Items {
				differences = append(differences, "call "+c.CallID+" is still live")
			}
			if owed > 0 {
				differences = append(differences, fmt.Sprintf("%d events of the log did not come", owed))
			}
			break
		}
	}
	came := s.receiver.take()
	slices.SortStableFunc(came, func(a, b received) int {
		if d := a.number("EventTime") - b.number("EventTime"); d != 0 {
			return int(d)
		}
		return int(a.count("sequence") - b.count("sequence"))
	})
	return came, differences
}

// count returns a numeric field, or 0 if it is absent.
func (c received) count(name string) int64 { return max(c.number(name), 0) }

// A result is the result of a scenario.
type result struct {
	scenario    string
	want        expectation
	came        []received
	word        string // the PBX's own
	differences []string
}

// A report is the table of all results.
type report struct {
	t       *testing.T
	results []result
}

func newReport(t *testing.T) *report {
	r := &report{t: t}
	t.Cleanup(func() { t.Logf("\n%s", r) })
	return r
}

// add compares a result with its expectation and adds it to the table. With -update, it
// rewrites the expectation instead.
func (r *report) add(t *testing.T, res result, file string) {
	t.Helper()
	got := lines(res.came)
	if *update {
		if err := res.want.rewrite(file, got); err != nil {
			t.Fatal(err)
		}
	} else {
		res.differences = append(res.differences, res.want.compare(got)...)
	}
	res.differences = res.want.explain(res.differences)
	for _, d := range res.differences {
		t.Error(d)
	}
	if t.Failed() {
		t.Logf("what came:\n%s\nwhat the PBX says: %s", strings.Join(texts(got), "\n"), res.word)
	}
	r.results = append(r.results, res)
}

func (r *report) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SCENARIO\tEXPECTED CALLBACKS\tGOT\tTHE PBX'S WORD\tDIFFERENCE")
	failed := 0
	for _, res := range r.results {
		expected, got := summary(res.want.lines), summary(lines(res.came))
		if got == expected {
			got = "the same"
		}
		difference := "none"
		if n := len(res.want.excuses); n > 0 {
			difference = "explained"
		}
		if n := len(res.differences); n > 0 {
			failed++
			difference = res.differences[0]
			if first, rest, more := strings.Cut(difference, "\n"); more {
				difference = first + " " + strings.Join(strings.Fields(rest), " ")
			}
			if n > 1 {
				difference += fmt.Sprintf(" (and %d more)", n-1)
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", res.scenario, expected, got, res.word, difference)
	}
	w.Flush()
	fmt.Fprintf(&b, "%d scenarios, %d with a difference\n", len(r.results), failed)
	return b.String()
}

// summary counts the callbacks, and lists how each party ended.
func summary(lines []line) string {
	var ends []string
	for _, l := range lines {
		if l.typ == "hangup" {
			ends = append(ends, l.ext+" "+l.flow+" "+l.status)
		}
	}
	slices.Sort(ends)
	return strings.TrimSuffix(strconv.Itoa(len(lines))+": "+strings.Join(ends, ", "), ": ")
}
