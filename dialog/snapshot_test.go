package dialog

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"
)

// unstored are the fields that no snapshot has: those of the indexes, and those that follow
// from other fields.
var unstored = map[reflect.Type][]string{
	reflect.TypeFor[call](): {
		"deadline", "nextCheck", "heapIndex", "changedAt", "stored",
		"legs", "parties", // in a list of their own
	},
	reflect.TypeFor[leg]():               {"call", "refers"},
	reflect.TypeFor[openRefers]():        {"earlier"},   // in the list of REFERs
	reflect.TypeFor[party]():             {"recovered"}, // set on every restored party
	reflect.TypeFor[refer]():             {"leg"},
	reflect.TypeFor[unverifiedRequest](): {"refer"},
}

// TestEveryFieldIsStored sets each field of a call, its leg and its party and compares it
// with the decoded snapshot. A field that is added to them must be added to the snapshot, or
// above.
func TestEveryFieldIsStored(t *testing.T) {
	for _, of := range []func(*call) any{
		func(c *call) any { return c },
		func(c *call) any { return c.legs[0] },
		func(c *call) any { return &c.legs[0].inviteFacts },
		func(c *call) any { return &c.legs[0].cancelReason },
		func(c *call) any { return &c.legs[0].refusal },
		func(c *call) any { return &c.legs[0].refers },
		func(c *call) any { return c.legs[0].refers.last },
		func(c *call) any { return c.legs[0].unverified },
		func(c *call) any { return c.legs[0].loss },
		func(c *call) any { return c.parties[0] },
		func(c *call) any { return &c.parties[0].outcome },
	} {
		typ := reflect.TypeOf(of(smallCall())).Elem()
		for i := range typ.NumField() {
			f := typ.Field(i)
			if slices.Contains(unstored[typ], f.Name) {
				continue
			}
			t.Run(typ.Name()+"."+f.Name, func(t *testing.T) {
				c := smallCall()
				v := fieldValue(of(c), i)
				fillIn(t, v, c)
				read, _, err := New(Config{}).decodeSnapshot(c.encodeSnapshot(nil, 0))
				if err != nil {
					t.Fatal(err)
				}
				got := fieldValue(of(read), i)
				if v.Kind() == reflect.Pointer && v.Type() != reflect.TypeFor[*refer]() && v.Type() != reflect.TypeFor[*Event]() {
					if got.IsNil() {
						t.Error("the field is not stored")
					}
					return
				}
				if f.Name == "last" {
					read.legs[0].refers.last.leg, c.legs[0].refers.last.leg = nil, nil
				}
				if !reflect.DeepEqual(got.Interface(), v.Interface()) {
					t.Errorf("got %v, want %v", got, v)
				}
			})
		}
	}
}

// smallCall returns a call of one leg and one party.
func smallCall() *call {
	c := &call{id: "c"}
	l := &leg{call: c, refers: openRefers{last: &refer{referredBy: "x"}}, unverified: &unverifiedRequest{branch: "x"}, loss: &dialogLoss{code: 1}}
	l.refers.last.leg = l
	c.legs = []*leg{l}
	c.parties = []*party{{firstLeg: l}}
	return c
}

// fieldValue returns a field of the struct that v points to, exported or not.
func fieldValue(v any, i int) reflect.Value {
	f := reflect.ValueOf(v).Elem().Field(i)
	return reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem()
}

// fillIn sets v to a value other than zero.
func fillIn(t *testing.T, v reflect.Value, c *call) {
	t.Helper()
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(start.Add(1234567 * time.Microsecond)))
		return
	case netip.AddrPort:
		v.Set(reflect.ValueOf(netip.MustParseAddrPort("[2001:db8::1]:5060")))
		return
	case *leg:
		v.Set(reflect.ValueOf(c.legs[0]))
		return
	case *party:
		v.Set(reflect.ValueOf(c.parties[0]))
		return
	case *Extension:
		v.Set(reflect.ValueOf(&Extension{User: "600"}))
		return
	case *refer, *unverifiedRequest, *dialogLoss:
		return // smallCall sets it
	case *Event:
		e := Event{CallerNum: "1", CallerExtension: &Extension{User: "1"}, Headers: [][2]string{{"A", "1"}}}
		v.Set(reflect.ValueOf(&e))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("a \"b\" \\ é\x01" + v.Type().Name())
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(4 * int64(time.Hour))
	case reflect.Uint8:
		v.SetUint(2)
	case reflect.Uint32:
		v.SetUint(1<<32 - 1)
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Field(i)
			fillIn(t, reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem(), c)
		}
	case reflect.Array:
		for i := range v.Len() {
			fillIn(t, v.Index(i), c)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fillIn(t, v.Index(i), c)
		}
	default:
		t.Fatalf("no value for a field of type %s", v.Type())
	}
}

// TestTemplateFieldsAreStored checks that all fields of the event that replaces a lost
// snapshot are stored.
func TestTemplateFieldsAreStored(t *testing.T) {
	var from, told Event
	v := reflect.ValueOf(&from).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); f.Interface().(type) {
		case *bool, *Subscription:
		case *Extension:
			f.Set(reflect.ValueOf(&Extension{User: "1", Domain: v.Type().Field(i).Name}))
		default:
			fillIn(t, f, nil)
		}
	}
	told.copyFrom(&from)
	c := smallCall()
	c.parties[0].template = &from
	read, _, err := New(Config{}).decodeSnapshot(c.encodeSnapshot(nil, 0))
	if err != nil {
		t.Fatal(err)
	}
	var again Event
	again.copyFrom(read.parties[0].template)
	if !reflect.DeepEqual(told, again) {
		t.Errorf("got %+v, want %+v", again, told)
	}
}

// TestBadSnapshotsAreErrors checks that an invalid snapshot is an error without a panic or
// a call.
func TestBadSnapshotsAreErrors(t *testing.T) {
	good := smallCall().encodeSnapshot(nil, 0)
	for _, r := range []string{
		``, `null`, `{`, `[]`, `{}`, `{"legs":[]}`, `{"has_legs":1}`, `{"has_legs":2,"legs":[{}]}`,
		`{"has_legs":1,"legs":[{"state":7}]}`, `{"has_legs":1,"legs":[{"state":"over"}]}`, `{"has_legs":1,"legs":[3]}`,
		`{"has_legs":1,"legs":[{"party":1}]}`, `{"has_legs":1,"legs":[{"party":-1}],"parties":[{"first":1}]}`,
		`{"has_legs":1,"legs":[{}],"has_parties":1,"parties":[{}]}`, `{"has_legs":1,"has_parties":-1,"legs":[{}]}`,
		`{"has_legs":1.5,"legs":[{}]}`, `{"has_legs":1,"legs":[{"began":"now"}]}`, `{"has_legs":1,"legs":[{"headers":["one"]}]}`,
		`{"has_legs":1,"legs":[{"cseq":-1}]}`,
	} {
		tracker := New(testConfig())
		err := tracker.Restore("", []Change{{"bad", []byte(r)}, {"c", good}}, nil)
		if err == nil || !strings.Contains(err.Error(), "call bad: ") || len(tracker.deadlines) != 1 {
			t.Errorf("%s: %v, and %d calls", r, err, len(tracker.deadlines))
		}
	}
}

// restoreFrom returns a tracker that has restored the snapshots of another.
func restoreFrom(t *testing.T, old *Tracker) *Tracker {
	t.Helper()
	fresh := New(old.config)
	if err := fresh.Restore("", old.Changed(start.Add(24*time.Hour)), nil); err != nil {
		t.Fatal(err)
	}
	return fresh
}

// TestRestartLosesTransactions checks calls that get no final response after a restart: the
// next messages of the phones end the call, or its limit.
func TestRestartLosesTransactions(t *testing.T) {
	out := func(l *line) []Message { return []Message{l.invite(), l.response(100), l.response(180)} }
	for _, tt := range []struct {
		name   string
		before func(*line) []Message
		then   func(*line) []Message // after the restart
		want   string                // type, status, who hung up and duration of the last event
	}{
		{"the caller gives up", out, func(l *line) []Message { return []Message{l.cancel()} }, "hangup CANCEL caller 0s"},
		{"the PBX hangs up what it answered meanwhile", out, func(l *line) []Message {
			l.to = "another"
			return []Message{l.bye(false)}
		}, "hangup UNKNOWN callee 0s"},
		{"the caller hangs up what was answered meanwhile", out, func(l *line) []Message { return []Message{l.bye(true)} }, "hangup UNKNOWN caller 0s"},
		{"somebody else's BYE", out, func(l *line) []Message {
			l.from, l.to = "x", "y"
			return []Message{l.bye(true)}
		}, ""},
		{"the INVITE is repeated, and goes on", out, func(l *line) []Message {
			return []Message{l.invite(), l.cancel(), l.response(487)}
		}, "hangup CANCEL caller 0s"},
		{"the INVITE is repeated, and answered", out, func(l *line) []Message {
			return []Message{l.invite(), l.later(time.Second).response(200), l.later(time.Second).bye(true)}
		}, "hangup ANSWER caller 1s"},
		{"the answered call goes on", func(l *line) []Message { return append(out(l), l.response(200)) }, func(l *line) []Message {
			return []Message{l.later(time.Minute).bye(false)}
		}, "hangup ANSWER callee 1m0s"},
		{"a fork's BYE is not the call's", func(l *line) []Message { return append(out(l), l.response(200)) }, func(l *line) []Message {
			l.to = "another"
			return []Message{l.bye(false)}
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := caller()
			tracker := New(testConfig())
			tracker.Changed(start)
			var before []Event
			for _, m := range tt.before(l) {
				before = append(before, tracker.Observe(m)...)
			}
			for _, how := range []string{"record", "log"} {
				fresh := New(tracker.config)
				if how == "log" {
					if err := fresh.Restore("", nil, slices.Values(before)); err != nil {
						t.Fatal(err)
					}
				} else {
					fresh = restoreFrom(t, tracker)
				}
				var emitted []Event
				l := *l
				for _, m := range tt.then(&l) {
					emitted = append(emitted, fresh.Observe(m)...)
				}
				got := ""
				if len(emitted) > 0 {
					e := emitted[len(emitted)-1]
					got = fmt.Sprintf("%s %s %s %v", e.Type, e.Status, e.HangupBy, e.Duration)
					if !e.Recovered {
						t.Error("the event is not marked as recovered")
					}
				}
				if got != tt.want {
					t.Errorf("from the %s: got %q, want %q", how, got, tt.want)
				}
			}
		})
	}
}

// TestRestoredCallsEndAtTheirLimit checks that a call which ended while no process ran ends
// when its limit passes, once, and leaves no state.
func TestRestoredCallsEndAtTheirLimit(t *testing.T) {
	for _, tt := range []struct {
		status  int
		headers string
		after   time.Duration
		talked  time.Duration
	}{
		{180, "", ringLimit, 0},
		{200, "", time.Hour, time.Hour},
		{200, "Session-Expires: 600\r\n", 10*time.Minute + lingerTime, 10*time.Minute + lingerTime},
	} {
		c := testConfig()
		c.MaxDuration = time.Hour
		l := caller()
		tracker := New(c)
		tracker.Changed(start)
		tracker.Observe(l.invite())
		tracker.Observe(l.response(tt.status, tt.headers))
		tracker = restoreFrom(t, tracker)
		next, _ := tracker.Next()
		if want := start.Add(tt.after); !next.Equal(want) {
			t.Errorf("%d: the next deadline is %v, want %v", tt.status, next, want)
		}
		emitted := tracker.Advance(start.Add(24 * time.Hour)) // down for a day
		if len(emitted) != 1 || emitted[0].Type != Hangup || emitted[0].Status != Unknown || emitted[0].Duration != tt.talked || !emitted[0].Recovered || !emitted[0].At.Equal(start.Add(tt.after)) {
			t.Errorf("%d: emitted %+v", tt.status, emitted)
		}
		if changes := tracker.Changed(start.Add(24 * time.Hour)); len(changes) != 1 || changes[0].Record != nil {
			t.Errorf("%d: %d changes, want that the call is gone", tt.status, len(changes))
		}
		for next, ok := tracker.Next(); ok; next, ok = tracker.Next() {
			if emitted := tracker.Advance(next); len(emitted) > 0 {
				t.Errorf("%d: emitted %+v", tt.status, emitted)
			}
		}
		wantEmpty(t, tracker)
	}
}

// TestChangedReturnsEachChangeOnce checks that a call is returned once after each change,
// not before the first use of Changed, and not at all if it was over by then.
func TestChangedReturnsEachChangeOnce(t *testing.T) {
	tracker := New(testConfig())
	brief, long := caller(), caller()
	long.callID = "long@phone"
	tracker.Observe(caller().later(-time.Second).invite()) // before the first use of Changed
	want := func(what string, until time.Time, changes ...string) {
		t.Helper()
		var got []string
		for _, c := range tracker.Changed(until) {
			word := "gone"
			if c.Record != nil {
				var r struct{ Seq int }
				if err := json.Unmarshal(c.Record, &r); err != nil {
					t.Fatal(err)
				}
				word = fmt.Sprint(r.Seq)
			}
			got = append(got, word)
		}
		if !slices.Equal(got, changes) {
			t.Errorf("%s: %q, want %q", what, got, changes)
		}
	}
	want("nothing yet", start)
	brief.callID = "brief@phone"
	tracker.Observe(brief.invite())
	tracker.Observe(long.later(100 * time.Millisecond).invite())
	if at, ok := tracker.OldestChange(); !ok || !at.Equal(start) {
		t.Errorf("the oldest change is of %v, want %v", at, start)
	}
	tracker.Observe(long.response(180))
	tracker.Observe(brief.later(150 * time.Millisecond).response(486))
	want("the brief call is over", start.Add(50*time.Millisecond))
	want("the long one rings", start.Add(time.Second), "2")
	want("nothing new", start.Add(time.Second))
	tracker.Observe(long.later(5 * time.Second).response(200))
	want("it is answered", start.Add(time.Minute), "3")
	tracker.Observe(long.later(5 * time.Second).bye(true))
	tracker.Observe(long.bye(true))
	want("it is over", start.Add(time.Minute), "gone")
	if at, ok := tracker.OldestChange(); ok {
		t.Errorf("there is a change of %v", at)
	}
	for next, ok := tracker.Next(); ok; next, ok = tracker.Next() {
		tracker.Advance(next)
	}
	tracker.Changed(start.Add(24 * time.Hour))
	wantEmpty(t, tracker)
}

// TestNodesRestoreTheirOwnCalls checks that each of several nodes that share a log restores
// the calls that it followed itself.
func TestNodesRestoreTheirOwnCalls(t *testing.T) {
	tracker := New(testConfig())
	if err := tracker.Restore("n1", nil, nil); err != nil {
		t.Fatal(err)
	}
	log := tracker.Observe(callee().invite())
	for node, want := range map[string]int{"n1": 1, "n2": 0, "": 0} {
		fresh := New(testConfig())
		if err := fresh.Restore(node, nil, slices.Values(log)); err != nil {
			t.Fatal(err)
		}
		if got := len(fresh.Calls()); got != want {
			t.Errorf("%q restores %d calls, want %d", node, got, want)
		}
	}
}

// FuzzRestart restarts a tracker again and again, with few different messages like
// FuzzTracker. The bucket is older than the log, and the log stores an event once, as in
// operation: each dial in it has one hangup, and no state is left in the end.
func FuzzRestart(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 10, 2, 0, 0, 0, 1, 10, 3, 0, 0, 0, 1, 11, 6, 0, 0, 0, 1, 12})
	f.Add([]byte{1, 1, 0, 0, 0, 10, 1, 1, 1, 0, 0, 12, 3, 1, 1, 0, 1, 10, 5, 1, 0, 0, 0, 11, 4, 1, 0, 0, 1, 250})
	f.Add([]byte(strings.Repeat("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\xfb\xfc", 8)))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := testConfig()
		c.MaxDuration = time.Hour
		tracker := New(c)
		now, far := start, start.Add(1000*time.Hour)
		var log []Event
		emitted := map[string]bool{}
		hear := func(events []Event) {
			for _, e := range events {
				if !emitted[e.ID] {
					emitted[e.ID] = true
					log = append(log, e)
				}
			}
		}
		bucket, mark := map[string]Change{}, 0
		tracker.Changed(start)
		data = data[:min(len(data), 6*250)]
		for ; len(data) >= 6; data = data[6:] {
			now = now.Add(jumps[int(data[5])%len(jumps)])
			switch data[5] % 7 {
			case 0:
				for _, change := range tracker.Changed(far) {
					if bucket[change.Call] = change; change.Record == nil {
						delete(bucket, change.Call)
					}
				}
				mark = len(log)
			case 1:
				var records []Change
				for _, r := range bucket {
					records = append(records, r)
				}
				slices.SortFunc(records, func(a, b Change) int { return strings.Compare(a.Call, b.Call) })
				tracker = New(c)
				if err := tracker.Restore("", records, slices.Values(log[mark:])); err != nil {
					t.Fatal(err)
				}
			}
			hear(tracker.Observe(messageFromBytes(now, data)))
		}
		for next, ok := tracker.Next(); ok; next, ok = tracker.Next() {
			hear(tracker.Advance(next))
		}
		dials, hangups := map[string]int{}, map[string]int{}
		for _, e := range log {
			switch e.Type {
			case DialIn, DialOut:
				dials[e.Party]++
			case Hangup:
				hangups[e.Party]++
			}
		}
		for party, n := range dials {
			if n != 1 || hangups[party] != 1 {
				t.Errorf("party %s has %d dials and %d hangups", party, n, hangups[party])
			}
		}
		if len(hangups) > len(dials) {
			t.Errorf("%d parties have a hangup, and %d a dial", len(hangups), len(dials))
		}
		wantEmpty(t, tracker)
	})
}

// TestSnapshotNamesArePermanent compares the names in a snapshot with those that other
// versions write and read. A new name is added to the list; none is changed or removed.
func TestSnapshotNamesArePermanent(t *testing.T) {
	want := map[string]string{
		"callSnapshot":       "id seq began heard call_ids keys caller callees back leaving joined bridged was_bridged picked_up handed_on talked last_talker last_talker_domain shown has_legs has_parties refers legs parties",
		"keySnapshot":        "by value",
		"legSnapshot":        "party host origin trunk state call_id from_tag to_tag branch turn cseq began rang heard dial_at answered ended expires offer offer_seq early canceled canceled_at why picked_up bye_tag by refused  called_ext called_ext_domain no_agent stranger referred_to joined number also contested moved_to forsaken cut tried refers peer near_seq far_seq claim refers_sent asked_pbx asked_phone muted forks doubt",
		"inviteSnapshot":     "num name verstat called called_host did diversion callapi client_api callback tag rec agent headers num_e164 called_e164 credentials hidden asked num_raw called_raw private withheld",
		"unverifiedSnapshot": "branch at seq q850 rec offer",
		"reasonSnapshot":     "q850 sip zero",
		"outcomeSnapshot":    "status code phrase q850 by elsewhere",
		"forkSnapshot":       "to_tag near_seq far_seq over doubt",
		"lossSnapshot":       "at seq by code phrase",
		"referSnapshot":      "leg awaited open sends at cseq by to contact ext ext_domain replaces other accepted told begun taken taken_phrase",
		"partySnapshot":      "id ext ext_domain flow first kind called called_e164 dialed rang answered answered_at over left outcome agent rec remote callapi through transferee transferred holds repeated like",
		"templateSnapshot":   "caller_num caller_name caller_extension called_number called_extension called_did callapi_id diversion client_api_id correlation user_agent verstat transferred callback_id remote_number ani tag headers caller_e164 called_e164 caller_num_raw called_number_raw privacy distributor",
	}
	for _, v := range []any{
		callSnapshot{}, keySnapshot{}, legSnapshot{}, inviteSnapshot{}, unverifiedSnapshot{}, reasonSnapshot{},
		outcomeSnapshot{}, forkSnapshot{}, lossSnapshot{}, referSnapshot{}, partySnapshot{}, templateSnapshot{},
	} {
		typ := reflect.TypeOf(v)
		var names []string
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			names = append(names, name)
		}
		if got := strings.Join(names, " "); got != want[typ.Name()] {
			t.Errorf("names in a %s:\n%s, want\n%s", typ.Name(), got, want[typ.Name()])
		}
	}
}

// TestRestartWhileATransferIsAwaited restarts the tracker while a party stays open for its
// REFER, which is too old for a new leg to follow.
func TestRestartWhileATransferIsAwaited(t *testing.T) {
	tracker := New(testConfig())
	tracker.Changed(start)
	show := func(messages ...Message) {
		for _, m := range messages {
			tracker.Observe(m)
		}
	}
	x := legFromPhone("105", "106", "x")
	x.peer = peerOf("105")
	show(x.invite(), x.response(200))
	a := showTakenTransfer(show)
	x.at = a.at
	refer := requestInDialog(x, "REFER", true, x.peer, 2, "z9hG4bK-x")
	refer.Head += "Refer-To: <sip:103@pbx.example>\r\n"
	show(refer) // evicts the older REFER
	records := tracker.Changed(a.at)
	tracker = New(testConfig())
	tracker.SetClock(a.at, 0)
	if err := tracker.Restore("", records, nil); err != nil {
		t.Fatal(err)
	}
	a.later(50 * time.Millisecond)
	var got []string
	for _, e := range tracker.Observe(a.bye(true)) {
		got = append(got, string(e.Type)+" "+e.Extension.User)
	}
	if want := []string{"transfer 102", "hangup 102", "hangup 101"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
