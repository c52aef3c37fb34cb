//go:build interop

package main

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"bellhop/sip"
	"bellhop/sip/siptest"
)

// TestInteropKamailio uses Kamailio as the PBX. It is a proxy: a call and its forks pass
// bellhop twice with one Call-ID.
func TestInteropKamailio(t *testing.T) {
	path, err := exec.LookPath("kamailio")
	if err != nil {
		t.Fatal("this test needs Kamailio: as root, run: apt-get update && apt-get install -y kamailio")
	}
	s := newSite(t, sip.UDP, sip.UDP)
	k := launch(t, "kamailio", exec.Command(path, "-DD", "-E", "-m", "64", "-M", "8",
		"-f", filepath.Join("..", "..", "testdata", "interop", "kamailio.cfg"),
		"-l", "udp:"+s.pbx.AddrPort.String(), "-Y", s.dir, "-P", filepath.Join(s.dir, "kamailio.pid")))
	t.Cleanup(func() { // it has children, and takes them with it
		k.signal(syscall.SIGTERM)
		k.exits(0, patience)
	})
	s.eventually("Kamailio listens", func() bool { return bound(t, s.pbx) })
	hop := s.serve()
	s.subscribe("json", "POST", interopTypes...)

	g := &gang{s: s, phones: map[string]*siptest.Phone{}}
	for name, user := range map[string]string{"alice": "101", "bob": "102", "bob2": "102", "carol": "103"} {
		at := freePort(t, "127.0.0.2")
		socket, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
		if err != nil {
			t.Fatal(err)
		}
		g.phones[name] = siptest.NewPhone(socket, s.hop, user, strings.ToUpper(name[:1])+name[1:])
		t.Cleanup(g.phones[name].Close)
	}

	report := newReport(t)
	for _, c := range kamailioCalls {
		t.Run(c.name, func(t *testing.T) {
			s := *s
			s.t = t
			g := *g
			g.s = &s
			file := filepath.Join("..", "..", "testdata", "interop", "kamailio", c.name+".txt")
			want, err := readExpectation(file)
			if err != nil {
				t.Fatal(err)
			}
			r := result{scenario: c.name, want: want}
			begin, written := time.Now(), len(k.out.String())
			c.play(&g)
			r.came, r.differences = s.settled(begin, nil)
			record := readTransactions(k.out.String()[written:])
			r.word = record.String()
			r.judgeProxy(record)
			report.add(t, r, file)
		})
	}
	hop.stop()
}

// A gang is the phones at Kamailio: alice is 101, bob and bob2 are 102, and carol is
// 103.
type gang struct {
	s      *site
	phones map[string]*siptest.Phone
}

func (g *gang) register(names ...string) {
	g.s.t.Helper()
	for _, name := range names {
		if err := g.phones[name].Register(); err != nil {
			g.s.t.Fatal(err)
		}
	}
}

// calls has alice call a number, and checks the final status. She hangs up an answered
// call after a while.
func (g *gang) calls(number string, status int) {
	g.s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := g.phones["alice"].Dial(number)
	if got := c.Wait(ctx); got != status {
		g.s.t.Fatalf("the call of %s ended with %d, want %d", number, got, status)
	}
	if status == 200 {
		<-time.After(500 * time.Millisecond)
		if err := c.Hangup(); err != nil {
			g.s.t.Fatal(err)
		}
	}
}

// gives has alice call a number, and give up some time after it rings.
func (g *gang) gives(number string) {
	g.s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := g.phones["alice"].Dial(number)
	if !c.WaitRinging(ctx) {
		g.s.t.Fatal("the phone did not ring")
	}
	<-time.After(300 * time.Millisecond)
	c.Cancel()
	if got := c.Wait(ctx); got != 487 {
		g.s.t.Fatalf("the call ended with %d, want 487", got)
	}
}

var (
	soon  = siptest.Behavior{Answer: 200 * time.Millisecond}
	late  = siptest.Behavior{Answer: 600 * time.Millisecond}
	busy  = siptest.Behavior{Busy: true}
	tired = siptest.Behavior{Busy: true, Answer: 100 * time.Millisecond}
	rings = siptest.Behavior{}
)

// kamailioCalls are played in this order: registrations persist.
var kamailioCalls = []struct {
	name string
	play func(g *gang)
}{
	{"registers", func(g *gang) { g.register("alice", "bob") }},
	{"answered", func(g *gang) { g.phones["bob"].Behave(soon); g.calls("102", 200) }},
	{"busy", func(g *gang) { g.phones["bob"].Behave(busy); g.calls("102", 486) }},
	{"canceled", func(g *gang) { g.phones["bob"].Behave(rings); g.gives("102") }},
	{"no-answer", func(g *gang) { g.phones["bob"].Behave(rings); g.calls("102", 408) }},
	{"not-registered", func(g *gang) { g.calls("105", 480) }},
	{"no-such-number", func(g *gang) { g.calls("199", 404) }},
	{"two-devices", func(g *gang) {
		g.register("bob2")
		g.phones["bob"].Behave(rings)
		g.phones["bob2"].Behave(soon)
		g.calls("102", 200)
	}},
	{"two-devices-one-busy", func(g *gang) {
		g.phones["bob"].Behave(tired)
		g.phones["bob2"].Behave(late)
		g.calls("102", 200)
	}},
	{"two-devices-canceled", func(g *gang) {
		g.phones["bob"].Behave(rings)
		g.phones["bob2"].Behave(rings)
		g.gives("102")
	}},
	{"group", func(g *gang) {
		g.register("carol")
		g.phones["bob"].Behave(rings)
		g.phones["bob2"].Behave(rings)
		g.phones["carol"].Behave(soon)
		g.calls("710", 200)
	}},
	{"group-all-busy", func(g *gang) {
		g.phones["bob"].Behave(tired)
		g.phones["bob2"].Behave(tired)
		g.phones["carol"].Behave(tired)
		g.calls("710", 486)
	}},
	{"group-no-answer", func(g *gang) {
		g.phones["bob"].Behave(rings)
		g.phones["bob2"].Behave(tired)
		g.phones["carol"].Behave(rings)
		g.calls("710", 408)
	}},
	{"hunt", func(g *gang) {
		g.phones["bob"].Behave(rings)
		g.phones["bob2"].Behave(rings)
		g.phones["carol"].Behave(soon)
		g.calls("711", 200)
	}},
	{"hunt-canceled", func(g *gang) {
		g.phones["bob"].Behave(tired)
		g.phones["bob2"].Behave(tired)
		g.phones["carol"].Behave(rings)
		g.gives("711")
	}},
	{"digest", func(g *gang) {
		g.phones["bob"].Behave(soon)
		g.phones["bob2"].Behave(tired)
		at := sip.Addr{Proto: sip.UDP, AddrPort: freePort(g.s.t, "127.0.0.2")}
		g.s.sipp("../interop/digest", at, 1, g.s.hop.String()).exits(0, patience)
	}},
}

// transactions are the entries of Kamailio's accounting: INVITEs that ended, and BYEs.
type transactions []transaction

type transaction struct {
	method, callID, src, dst string
	code                     int
	reason                   string
	at                       time.Time
}

var accountingField = regexp.MustCompile(`(\w+)=([^;]*)`)

func readTransactions(log string) (all transactions) {
	for l := range strings.Lines(log) {
		_, l, ok := strings.Cut(strings.TrimSpace(l), "ACC: transaction ")
		if !ok {
			continue
		}
		f := map[string]string{}
		for _, m := range accountingField.FindAllStringSubmatch(l, -1) {
			f[m[1]] = m[2]
		}
		code, _ := strconv.Atoi(f["code"])
		secs, micros, _ := strings.Cut(f["at"], ".")
		s, _ := strconv.ParseInt(secs, 10, 64)
		us, _ := strconv.ParseInt(micros, 10, 64)
		all = append(all, transaction{
			method: f["method"], callID: f["call_id"], src: f["src"], dst: f["dst"],
			code: code, reason: f["reason"], at: time.Unix(s, us*1000),
		})
	}
	return all
}

// talked returns the talk time of an answered INVITE.
func (all transactions) talked(invite transaction) time.Duration {
	for _, t := range all {
		if t.method == "BYE" && t.callID == invite.callID {
			return t.at.Sub(invite.at)
		}
	}
	return 0
}

func (all transactions) String() string {
	var words []string
	for _, t := range all {
		if t.method != "INVITE" || t.code == 407 {
			continue
		}
		w := fmt.Sprintf("%s>%s %d %s", t.src, t.dst, t.code, t.reason)
		if t.code == 200 {
			w += fmt.Sprintf(" %.1fs", all.talked(t).Seconds())
		}
		words = append(words, w)
	}
	if words == nil {
		return "-"
	}
	return strings.Join(words, ", ")
}

// codeWords are the status words of the caller's hangup that are valid for a proxy's
// final response.
var codeWords = map[int][]string{
	200: {"ANSWER"},
	404: {"CHANUNAVAIL"},
	408: {"NOANSWER", "CHANUNAVAIL"},
	480: {"NOANSWER", "CHANUNAVAIL"},
	486: {"BUSY"},
	487: {"CANCEL"},
}

// judgeProxy compares bellhop's events with the accounting: each INVITE that ended is
// one turn of a caller, and of a callee if it was answered.
func (res *result) judgeProxy(all transactions) {
	parties, differences := turns(res.came)
	differ := func(format string, args ...any) { differences = append(differences, fmt.Sprintf(format, args...)) }
	var invites []transaction
	for _, t := range all {
		if t.method == "INVITE" && t.code != 407 {
			invites = append(invites, t)
		}
	}
	callers := slices.DeleteFunc(slices.Clone(parties), func(p *turn) bool { return p.flow != "out" })
	if len(callers) != len(invites) {
		differ("%d callers, but %d INVITEs ended", len(callers), len(invites))
	}
	for i := range min(len(callers), len(invites)) {
		c, t := callers[i], invites[i]
		if c.ext != t.src {
			differ("%s calls, the accounting says %s", c.ext, t.src)
		}
		if !slices.Contains(codeWords[t.code], c.status) {
			differ("%s out disposition: %s, the accounting says %d", c.ext, c.status, t.code)
		}
		answered := 0
		for _, p := range parties {
			if p.call != c.call || !p.answered {
				continue
			}
			answered++
			if talked := all.talked(t); (talked - p.talked).Abs() > tolerance {
				differ("%s %s talk: %v, the accounting says %v", p.ext, p.flow, p.talked, talked)
			}
		}
		if want := map[bool]int{true: 2}[t.code == 200]; answered != want {
			differ("%s out answer: %d parties talk, want %d", c.ext, answered, want)
		}
	}
	res.differences = append(res.differences, differences...)
}
