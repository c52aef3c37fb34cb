package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"bellhop/sip"
)

// An agent is a SIPp process that plays one end of calls.
type agent struct {
	*process
	at       sip.Addr
	calls    string // the Call-ID of the third call is 3 and this
	messages string // the file in which it writes down all that it sent and got
}

// sipp starts SIPp at an address, for n calls of a scenario in testdata/sipp.
func (s *site) sipp(scenario string, at sip.Addr, n int, args ...string) *agent {
	s.t.Helper()
	return s.sippIn(nil, scenario, at, n, args...)
}

// sippIn is sipp below another command, such as one that enters a network namespace.
func (s *site) sippIn(command []string, scenario string, at sip.Addr, n int, args ...string) *agent {
	s.t.Helper()
	path, err := exec.LookPath("sipp")
	if err != nil {
		s.t.Fatal("this test needs SIPp: as root, run: apt-get update && apt-get install -y sip-tester")
	}
	dir := s.t.TempDir()
	messages, errors := filepath.Join(dir, "messages"), filepath.Join(dir, "errors")
	line := slices.Concat(command, []string{
		path,
		"-sf", filepath.Join("..", "..", "testdata", "sipp", scenario+".xml"),
		"-i", at.Addr().String(), "-mi", at.Addr().String(), "-ci", at.Addr().String(),
		"-p", strconv.Itoa(int(at.Port())), "-t", map[sip.Proto]string{sip.UDP: "u1", sip.TCP: "t1"}[at.Proto],
		"-m", strconv.Itoa(n), "-l", strconv.Itoa(n), "-nostdin",
		"-timeout", "600s", "-timeout_error",
		"-trace_err", "-error_file", errors, "-trace_msg", "-message_file", messages,
	}, args)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Stdout = io.Discard // pictures of its counters
	s.t.Cleanup(func() {    // after launch's, so that it has ended
		if s.t.Failed() && !cmd.ProcessState.Success() {
			for _, file := range []string{errors, messages} {
				if b, err := os.ReadFile(file); err == nil {
					s.t.Logf("%s, %s:\n%s", scenario, filepath.Base(file), tail(string(b)))
				}
			}
		}
	})
	return &agent{process: launch(s.t, "sipp "+scenario, cmd), at: at, messages: messages}
}

// place places n calls of a story, at a rate per second. SIPp plays the phones and the
// PBX.
func (s *site) place(story string, n, rate int) (phones, pbx *agent) {
	s.t.Helper()
	pbx = s.sipp(story+".pbx", s.pbx, n)
	s.eventually("the PBX listens", func() bool { return bound(s.t, s.pbx) })
	at := sip.Addr{Proto: s.phones, AddrPort: freePort(s.t, "127.0.0.2")}
	calls := fmt.Sprintf("-%v-%d", story, at.Port())
	phones = s.sipp(story+".phone", at, n, "-r", strconv.Itoa(rate), "-cid_str", "%u"+calls, s.hop.String())
	phones.calls, pbx.calls = calls, calls
	return phones, pbx
}

// acknowledged waits until the PBX has got that many ACKs.
func (a *agent) acknowledged(calls int) {
	a.t.Helper()
	(&site{t: a.t}).eventually("every call is acknowledged", func() bool {
		messages, err := os.ReadFile(a.messages)
		return err == nil && bytes.Count(messages, []byte("\nACK ")) >= calls
	})
}

// A story is a call that two scenarios of SIPp play, with the callbacks of its
// extension. A # in a field is the number of the call.
type story struct {
	name   string
	want   []string // type, flow and status of the callbacks, in order; ringing is in json only
	fields map[string]string
	hangup map[string]string // fields of the hangup in json
	talk   time.Duration     // at least
}

var (
	fromPhone = map[string]string{
		"CallerIDNum": "10#", "CallerIDName": "Alice", "CallerExtension": "10#@pbx.example",
		"CalledNumber": "20#", "CalledExtension": "20#@pbx.example",
	}
	toPhone = map[string]string{
		"CallerIDNum": "20#", "CallerIDName": "Bob", "CallerExtension": "20#",
		"CalledNumber": "10#", "CalledExtension": "10#@pbx.example",
	}
)

var stories = []story{
	{
		name:   "caller-hangs-up",
		want:   []string{"dial-out out CALLING", "ringing out CALLING", "answer out ANSWER", "hangup out ANSWER"},
		fields: fromPhone,
		hangup: map[string]string{"hangup_by": "caller"},
		talk:   300 * time.Millisecond,
	},
	{
		name:   "callee-hangs-up",
		want:   []string{"dial-out out CALLING", "ringing out CALLING", "answer out ANSWER", "hangup out ANSWER"},
		fields: fromPhone,
		hangup: map[string]string{"hangup_by": "callee"},
		talk:   300 * time.Millisecond,
	},
	{
		name:   "busy",
		want:   []string{"dial-out out CALLING", "hangup out BUSY"},
		fields: fromPhone,
		hangup: map[string]string{"hangup_by": "callee", "sip_code": "486", "sip_reason": "Busy Here"},
	},
	{
		name:   "no-answer",
		want:   []string{"dial-out out CALLING", "ringing out CALLING", "hangup out NOANSWER"},
		fields: fromPhone,
		hangup: map[string]string{"hangup_by": "system", "sip_code": "480", "sip_reason": "Temporarily Unavailable"},
	},
	{
		name:   "canceled",
		want:   []string{"dial-out out CALLING", "ringing out CALLING", "hangup out CANCEL"},
		fields: fromPhone,
		hangup: map[string]string{"hangup_by": "caller", "sip_code": "487", "sip_reason": "Request Terminated"},
	},
	{
		name:   "challenged",
		want:   []string{"dial-out out CALLING", "ringing out CALLING", "answer out ANSWER", "hangup out ANSWER"},
		fields: fromPhone,
		hangup: map[string]string{"hangup_by": "caller"},
		talk:   300 * time.Millisecond,
	},
	{
		name:   "dial-in",
		want:   []string{"dial-in in CALLING", "ringing in CALLING", "answer in ANSWER", "hangup in ANSWER"},
		fields: toPhone,
		hangup: map[string]string{"hangup_by": "caller", "missed": "false"},
		talk:   300 * time.Millisecond,
	},
}

// TestSIPp plays every story through bellhop with SIPp, over each transport. Every
// callback must arrive once, in order, with its fields.
func TestSIPp(t *testing.T) {
	for _, tt := range []struct{ phones, pbx sip.Proto }{
		{sip.UDP, sip.UDP},
		{sip.TCP, sip.TCP},
		{sip.UDP, sip.TCP},
	} {
		t.Run(fmt.Sprintf("%v to %v", tt.phones, tt.pbx), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, tt.phones, tt.pbx)
			p := s.serve()
			s.subscribe("telphin", "POST", "dial-in", "dial-out", "answer", "hangup")
			s.subscribe("unified", "GET", "dial-in", "dial-out", "answer", "hangup")
			s.subscribe("json", "POST", "dial-in", "dial-out", "answer", "hangup", "ringing")
			for _, c := range stories {
				s.tell(c, 2, 25)
			}
			s.tell(stories[0], 50, 25)
			s.tell(stories[len(stories)-1], 20, 25)
			p.stop()
			if extra := s.receiver.take(); len(extra) > 0 {
				t.Errorf("%d callbacks too many, the first %v", len(extra), extra[0])
			}
		})
	}
}

// tell places n calls of a story, and compares every callback.
func (s *site) tell(c story, n, rate int) {
	s.t.Helper()
	begin := time.Now()
	phones, pbx := s.place(c.name, n, rate)
	phones.exits(0, patience)
	pbx.exits(0, patience)
	want := map[string][]string{"json": c.want}
	want["telphin"] = slices.DeleteFunc(slices.Clone(c.want), func(w string) bool { return strings.HasPrefix(w, "ringing") })
	for _, w := range want["telphin"] {
		want["unified"] = append(want["unified"], w[strings.Index(w, " ")+1:]) // it has no type
	}
	all := n * (len(want["json"]) + len(want["telphin"]) + len(want["unified"]))
	s.receiver.wait(fmt.Sprintf("the %d that %d calls of %s owe", all, n, c.name), patience, func(came []received) bool { return len(came) >= all })
	took := time.Since(begin)

	calls := map[string][]received{}
	ids := map[string]bool{}
	for _, cb := range s.receiver.take() {
		if cb.id == "" || ids[cb.id] {
			s.t.Errorf("%s: webhook-id %q came twice", c.name, cb.id)
		}
		ids[cb.id] = true
		key := cb.dialect + " " + cb.get("CallID")
		calls[key] = append(calls[key], cb)
	}
	if len(calls) != n*len(want) {
		s.t.Errorf("%s: callbacks of %d calls and dialects, want %d", c.name, len(calls), n*len(want))
	}
	numbers := map[string]bool{}
	for _, cbs := range calls {
		var got []string
		for _, cb := range cbs {
			got = append(got, strings.TrimSpace(cb.get("EventType")+" "+cb.get("CallFlow")+" "+cb.get("CallStatus")))
		}
		dialect := cbs[0].dialect
		if !slices.Equal(got, want[dialect]) {
			s.t.Errorf("%s, %s: got %q\nwant %q", c.name, dialect, got, want[dialect])
			continue
		}
		number := strings.TrimPrefix(cbs[0].get("CallerIDNum"), strings.TrimSuffix(c.fields["CallerIDNum"], "#"))
		if n, err := strconv.Atoi(number); err != nil || numbers[dialect+number] {
			s.t.Errorf("%s, %s: call %d twice, or %v", c.name, dialect, n, err)
		}
		numbers[dialect+number] = true
		s.compare(c, cbs, number, begin, took)
	}
}

// compare compares the callbacks of a call in a dialect.
func (s *site) compare(c story, cbs []received, number string, begin time.Time, took time.Duration) {
	s.t.Helper()
	dialect := cbs[0].dialect
	fail := func(cb received, format string, args ...any) {
		s.t.Helper()
		s.t.Errorf("%s, %s: %s\n%v", c.name, dialect, fmt.Sprintf(format, args...), cb.fields)
	}
	var answered int64
	for i, cb := range cbs {
		for name, want := range c.fields {
			want = strings.ReplaceAll(want, "#", number)
			if dialect != "telphin" {
				want = strings.TrimSuffix(want, "@pbx.example")
			}
			if got := cb.get(name); got != want {
				fail(cb, "%s is %q, want %q", name, got, want)
			}
		}
		if !callID.MatchString(cb.get("CallID")) {
			fail(cb, "CallID is %q", cb.get("CallID"))
		}
		if dialect == "unified" {
			if len(cb.fields) != 10 {
				fail(cb, "%d fields, want the ten", len(cb.fields))
			}
			continue
		}
		if id := cb.get("SubCallID"); !subCallID[dialect].MatchString(id) || id != cbs[0].get("SubCallID") {
			fail(cb, "SubCallID is %q", id)
		}
		at := cb.number("EventTime")
		if when := time.UnixMicro(at); when.Before(begin) || when.After(begin.Add(took)) {
			fail(cb, "EventTime is %v, want it within the test", when)
		}
		if i > 0 && at < cbs[i-1].number("EventTime") {
			fail(cb, "EventTime is before the one of the event before it")
		}
		if dialect == "json" && cb.get("sequence") != strconv.Itoa(i+1) {
			fail(cb, "sequence is %s, want %d", cb.get("sequence"), i+1)
		}
		switch cb.get("EventType") {
		case "answer":
			answered = at
		case "hangup":
			d := time.Duration(cb.number("Duration")) * time.Microsecond
			if answered == 0 && d != 0 {
				fail(cb, "talked %v before the answer", d)
			}
			if answered != 0 && d.Microseconds() != at-answered {
				fail(cb, "Duration is %v, but answer to hangup %d µs", d, at-answered)
			}
			if d < c.talk || d > took {
				fail(cb, "Duration is %v, want it between %v and %v", d, c.talk, took)
			}
			for name, want := range c.hangup {
				if got := cb.get(name); dialect == "json" && got != want {
					fail(cb, "%s is %q, want %q", name, got, want)
				}
			}
		}
	}
}

var (
	callID    = regexp.MustCompile(`^[0-9a-f]{32}$`)
	subCallID = map[string]*regexp.Regexp{"telphin": regexp.MustCompile(`^[1-9][0-9]*-[0-9a-f]{32}$`), "json": callID}
)

// jsonNames maps field names of the dialect telphin to those of json.
var jsonNames = map[string]string{
	"CallID": "call_id", "CallerIDNum": "caller_id_num", "CallerIDName": "caller_id_name",
	"CallerExtension": "caller_extension", "CalledNumber": "called_number", "CalledExtension": "called_extension",
	"CallFlow": "call_flow", "CallStatus": "call_status", "EventType": "event_type", "EventTime": "event_time",
	"Duration": "duration", "SubCallID": "sub_call_id",
}

// get returns a field by its name in telphin or in the callback's own dialect.
func (c received) get(name string) string {
	if n, ok := jsonNames[name]; ok && c.dialect == "json" {
		name = n
	}
	return c.fields[name]
}

// number returns a numeric field, or -1.
func (c received) number(name string) int64 {
	n, err := strconv.ParseInt(c.get(name), 10, 64)
	if err != nil {
		return -1
	}
	return n
}
