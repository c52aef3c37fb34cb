package notify

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/dialog"
	"bellhop/notify/deliverylog"
	"bellhop/notify/eventlog"
	"bellhop/notify/payload"
	"bellhop/notify/schedule"
)

// ringEvent returns an event of a party of call c. The name of the party ends with the last
// two digits of the extension, and how often it rang before.
func ringEvent(user string, round int, typ dialog.Type, status dialog.Status) dialog.Event {
	party := fmt.Sprintf("%029d%d%s", 0, round, user[len(user)-2:])
	e := dialog.Event{ID: dialog.EventID(party, typ), Call: "c", Party: party, Type: typ, Status: status, Flow: dialog.In,
		Extension: dialog.Extension{User: user, Domain: "pbx.example"}, CallerNum: "442071234567", CalledNumber: "600"}
	if typ == dialog.Answer {
		e.Status = dialog.Answered
	}
	return e
}

// findGroup finds, from the events alone, the parties that form one call and the event that
// is sent.
func TestFindGroup(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tt := range []struct {
		name   string
		events string // seconds, extension, and d, a or h
		want   string // of each party: the first of its group, the ringing ones, the one that answered, and the one whose hangup ends it
	}{
		{"one", "0 11d, 5 11h", "11: 11 [11] - 11"},
		{"all at once, and nobody", "0 11d, 0 12d, 0 13d, 9 12h, 9 11h, 9 13h", "11: 11 [11 12 13] - 13; 12: 11 [11 12 13] - 13; 13: 11 [11 12 13] - 13"},
		{"one is still called", "0 11d, 0 12d, 9 12h", "11: 11 [11 12] - -; 12: 11 [11 12] - -"},
		{"one takes it", "0 11d, 0 12d, 3 12a, 3 11h, 60 12h", "11: 11 [11 12] 12 12; 12: 11 [11 12] 12 12"},
		{"one declines before", "0 11d, 0 12d, 1 11h, 3 12a, 60 12h", "11: 11 [11 12] 12 12; 12: 11 [11 12] 12 12"},
		{"another ends after who took it", "0 11d, 0 12d, 3 12a, 4 12h, 5 11h", "11: 11 [11 12] 12 12; 12: 11 [11 12] 12 12"},
		{"one after another", "0 11d, 8 11h, 8 12d, 17 12h, 17 13d, 25 13h", "11: 11 [11 12 13] - 13; 12: 11 [11 12 13] - 13; 13: 11 [11 12 13] - 13"},
		{"much later", "0 11d, 8 11h, 20 12d, 30 12h", "11: 11 [11] - 11; 12: 12 [12] - 12"},
		{"sent on", "0 11d, 3 11a, 20 12d, 21 11h, 25 12a, 40 12h", "11: 11 [11] 11 11; 12: 12 [12] 12 12"},
		{"a host that goes on", "0 60d, 0 11d, 8 11h, 14 12d, 15 12a, 30 12h, 30 60h", "60: 60 [60 11 12] 12 12; 11: 60 [60 11 12] 12 12; 12: 60 [60 11 12] 12 12"},
		{"not of the subscription", "0 99d, 1 11d, 2 99a, 3 11h, 9 99h", "11: 11 [11] - 11"},
	} {
		var events []eventlog.Entry
		var parties []string
		for _, text := range strings.Split(tt.events, ", ") {
			var s int
			var what string
			fmt.Sscan(text, &s, &what)
			e := ringEvent(what[:2], 0, map[byte]dialog.Type{'d': dialog.DialIn, 'a': dialog.Answer, 'h': dialog.Hangup}[what[2]], "")
			e.At = at.Add(time.Duration(s) * time.Second)
			events = append(events, eventlog.Entry{Seq: uint64(len(events) + 1), Event: &e})
			if !slices.Contains(parties, e.Party) {
				parties = append(parties, e.Party)
			}
		}
		user := func(e *dialog.Event) string {
			if e == nil {
				return "-"
			}
			return e.Extension.User
		}
		var got []string
		for _, p := range parties {
			g := findGroup(p, events, func(e dialog.Extension) bool { return e.User != "99" })
			if g == nil {
				continue
			}
			var rings []string
			for _, e := range g.ringing {
				rings = append(rings, e.User)
			}
			got = append(got, fmt.Sprint(p[len(p)-2:], ": ", user(g.first), " ", rings, " ", user(g.answer), " ", user(g.end)))
		}
		if all := strings.Join(got, "; "); all != tt.want {
			t.Errorf("%s:\ngot  %s\nwant %s", tt.name, all, tt.want)
		}
	}
}

// testGrouping runs f with a cti receiver that subscribes to all extensions.
func testGrouping(t *testing.T, f func(*ctiTest)) {
	testKeeping(t, 422, func(t *testing.T, s *ctiTest) {
		s.editSubscription(func(s *Subscription) { s.Extension, s.ExtensionRegex = "", ".*" })
		time.Sleep(time.Second)
		f(s)
	})
}

// editSubscription edits the subscription of the receiver.
func (s *ctiTest) editSubscription(f func(*Subscription)) {
	s.Helper()
	if _, err := s.Edit(s.Context(), s.id, 0, func(s *Subscription) error { f(s); return nil }); err != nil {
		s.Error(err)
	}
}

// publishEvents publishes events now, one after another.
func (s *ctiTest) publishEvents(events ...dialog.Event) {
	for _, e := range events {
		e.At = time.Now()
		s.EventLog.Append([]dialog.Event{e})
		time.Sleep(3 * time.Millisecond)
	}
}

func dialIns(users ...string) (all []dialog.Event) {
	for _, u := range users {
		all = append(all, ringEvent(u, 0, dialog.DialIn, dialog.Calling))
	}
	return all
}

func hangupsOf(status dialog.Status, users ...string) (all []dialog.Event) {
	for _, u := range users {
		all = append(all, ringEvent(u, 0, dialog.Hangup, status))
	}
	return all
}

// answerOf returns the answer of one extension, and the hangups of the others.
func answerOf(user string, others ...string) []dialog.Event {
	all := []dialog.Event{ringEvent(user, 0, dialog.Answer, "")}
	for _, e := range hangupsOf(dialog.Canceled, others...) {
		e.Elsewhere = true
		all = append(all, e)
	}
	return all
}

func hangupOf(user string) dialog.Event {
	e := ringEvent(user, 0, dialog.Hangup, dialog.Answered)
	e.AnsweredAt = time.Now()
	return e
}

// wantSent checks the requests that the receiver has accepted and refused: event, end of
// the callId, and the extensions that ring, the one that answered, or the cause.
func (s *ctiTest) wantSent(want string) {
	s.Helper()
	time.Sleep(5 * time.Second)
	var got []string
	s.keeper.update(func() {
		for _, f := range s.keeper.forms {
			call := f.Get("callId")
			got = append(got, f.Get("event")+" "+call[len(call)-2:]+" "+cmp.Or(strings.Join(f["user[]"], "+"), f.Get("user"), f.Get("cause")))
		}
		s.keeper.forms = nil
	})
	if all := strings.Join(got, ", "); all != want {
		s.Errorf("sent %s; want %s", all, want)
	}
	if summary := s.keeper.summary(); strings.Contains(summary, " 4") {
		s.Errorf("refused: %s", summary)
	}
}

// wantState checks the state of the delivery of an event, and its reason.
func (s *ctiTest) wantState(e dialog.Event, state, why string) {
	s.Helper()
	d, err := s.Delivery(s.Context(), deliverylog.ID(e.ID, s.id))
	if err != nil || d.State != state || !strings.Contains(d.Attempts[len(d.Attempts)-1].Error, why) {
		s.Errorf("%s of %s: %s, %v, %v; want %s, %q", e.Type, e.Extension.User, d.State, d.Attempts, err, state, why)
	}
}

// A call that rings at several extensions is one newCall, one answer and one hangup.
func TestGroupIsOneCall(t *testing.T) {
	for _, tt := range []struct {
		name string
		play func(*ctiTest)
	}{
		{"nobody takes it", func(s *ctiTest) {
			s.publishEvents(dialIns("111", "112", "113")...)
			s.wantSent("newCall 11 111+112+113")
			s.publishEvents(hangupsOf(dialog.NoAnswer, "113", "111", "112")...)
			s.wantSent("hangup 11 noAnswer")
			s.wantState(dialIns("112")[0], Canceled, "rang at 111 first")
			s.wantState(hangupsOf("", "113")[0], Canceled, "rang at 111 first")
			s.wantState(hangupsOf("", "112")[0], Delivered, "")
			for _, e := range []dialog.Event{dialIns("111")[0], hangupsOf("", "112")[0]} {
				if d, err := s.Delivery(s.Context(), deliverylog.ID(e.ID, s.id)); err != nil || len(d.Attempts) != 1 || d.Attempts[0].Number != 1 {
					s.Errorf("%s: %v, %v; to wait is no attempt", e.Type, d.Attempts, err)
				}
			}
			if len(s.keeper.known) != 1 {
				s.Errorf("%d entries are kept", len(s.keeper.known))
			}
		}},
		{"the caller gives up", func(s *ctiTest) {
			s.publishEvents(dialIns("111", "112")...)
			time.Sleep(time.Second)
			for _, e := range hangupsOf(dialog.Canceled, "111", "112") {
				e.HangupBy = dialog.ByCaller
				s.publishEvents(e)
			}
			time.Sleep(100 * time.Millisecond) // no other phone rings: the hangup does not wait
			s.wantSummary("sent", "11 newCall, 11 hangup")
		}},
		{"one takes it", func(s *ctiTest) {
			s.publishEvents(dialIns("111", "112", "113")...)
			time.Sleep(3 * time.Second)
			s.publishEvents(answerOf("112", "111", "113")...)
			s.wantSent("newCall 11 111+112+113, answer 11 112")
			s.publishEvents(hangupOf("112"))
			s.wantSent("hangup 11 normalClearing")
		}},
		{"it is taken at once", func(s *ctiTest) {
			s.publishEvents(append(dialIns("111", "112"), answerOf("111", "112")...)...)
			s.wantSent("newCall 11 111+112, answer 11 111")
		}},
		{"one after another", func(s *ctiTest) {
			s.publishEvents(dialIns("111")...)
			time.Sleep(8 * time.Second)
			s.publishEvents(append(hangupsOf(dialog.NoAnswer, "111"), dialIns("112")...)...)
			s.wantSent("newCall 11 111")
			s.publishEvents(hangupsOf(dialog.Busy, "112")...)
			time.Sleep(400 * time.Millisecond)
			s.publishEvents(dialIns("113")...)
			time.Sleep(6 * time.Second)
			s.publishEvents(answerOf("113")...)
			s.publishEvents(hangupOf("113"))
			s.wantSent("answer 11 113, hangup 11 normalClearing")
		}},
		{"a queue", func(s *ctiTest) {
			s.publishEvents(append(dialIns("600"), dialIns("111", "112")...)...)
			time.Sleep(9 * time.Second)
			s.publishEvents(hangupsOf(dialog.NoAnswer, "111", "112")...)
			time.Sleep(5 * time.Second)
			again := ringEvent("112", 1, dialog.DialIn, dialog.Calling)
			s.publishEvents(again)
			s.wantSent("newCall 00 600+111+112")
			again.Type, again.Status = dialog.Hangup, dialog.Canceled
			again.ID = dialog.EventID(again.Party, dialog.Hangup)
			s.publishEvents(append(hangupsOf(dialog.Canceled, "600"), again)...)
			s.wantSent("hangup 00 cancel")
		}},
		{"it is sent on", func(s *ctiTest) {
			s.publishEvents(dialIns("111", "112")...)
			time.Sleep(time.Second)
			s.publishEvents(answerOf("112", "111")...)
			time.Sleep(9 * time.Second)
			s.publishEvents(dialIns("113")...)
			s.publishEvents(hangupOf("112"))
			s.publishEvents(answerOf("113")...)
			s.publishEvents(hangupOf("113"))
			s.wantSent("newCall 11 111+112, answer 11 112, newCall 13 113, hangup 11 normalClearing, answer 13 113, hangup 13 normalClearing")
		}},
		{"two calls", func(s *ctiTest) {
			other := ringEvent("112", 2, dialog.DialIn, dialog.Calling)
			other.Call = "d"
			s.publishEvents(append(dialIns("111"), other)...)
			s.wantSent("newCall 11 111, newCall 12 112")
		}},
		{"who calls is a call of its own", func(s *ctiTest) {
			out := ringEvent("120", 0, dialog.DialOut, dialog.Calling)
			out.Flow = dialog.Out
			s.publishEvents(append([]dialog.Event{out}, dialIns("111", "112")...)...)
			s.wantSent("newCall 20 120, newCall 11 111+112")
		}},
		{"each", func(s *ctiTest) {
			s.editSubscription(func(s *Subscription) { s.Group = "each" })
			s.publishEvents(dialIns("111", "112")...)
			s.publishEvents(hangupsOf(dialog.NoAnswer, "111", "112")...)
			s.wantSent("newCall 11 111, newCall 12 112, hangup 11 noAnswer, hangup 12 noAnswer")
		}},
		{"of an extension", func(s *ctiTest) {
			s.editSubscription(func(s *Subscription) { s.Extension, s.ExtensionRegex = "112", "" })
			s.publishEvents(dialIns("111", "112")...)
			s.wantSent("newCall 12 112")
			s.editSubscription(func(s *Subscription) { s.Group = "one" })
			s.publishEvents(ringEvent("112", 1, dialog.DialIn, dialog.Calling))
			s.wantSent("")
		}},
		{"another dialect", func(s *ctiTest) {
			s.editSubscription(func(s *Subscription) { s.Dialect, s.Group = Telphin, "one" })
			s.publishEvents(dialIns("111", "112")...)
			time.Sleep(5 * time.Second)
			s.wantState(dialIns("112")[0], Delivered, "")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) { testGrouping(t, tt.play) })
	}
}

// The deliveries of a group survive a restart, an outage, a replay and a redelivery.
func TestGroupSurvivesRestart(t *testing.T) {
	for _, tt := range []struct {
		name string
		play func(*ctiTest)
	}{
		{"a restart before the newCall", func(s *ctiTest) {
			s.publishEvents(dialIns("111", "112")...)
			s.restart()
			s.wantSent("newCall 11 111+112")
			s.publishEvents(hangupsOf(dialog.NoAnswer, "111", "112")...)
			s.wantSent("hangup 11 noAnswer")
		}},
		{"a restart between", func(s *ctiTest) {
			s.publishEvents(dialIns("111", "112")...)
			time.Sleep(5 * time.Second)
			s.restart()
			s.publishEvents(answerOf("112", "111")...)
			s.restart()
			s.publishEvents(hangupOf("112"))
			s.wantSent("newCall 11 111+112, answer 11 112, hangup 11 normalClearing")
		}},
		{"a restart before the hangup", func(s *ctiTest) {
			s.publishEvents(dialIns("111", "112")...)
			time.Sleep(5 * time.Second)
			s.publishEvents(hangupsOf(dialog.NoAnswer, "111", "112")...)
			s.restart()
			s.wantSent("newCall 11 111+112, hangup 11 noAnswer")
		}},
		{"the receiver is away for a while", func(s *ctiTest) {
			s.keeper.update(func() { s.keeper.away = true })
			s.publishEvents(dialIns("111", "112")...)
			time.Sleep(3 * time.Second)
			s.keeper.update(func() { s.keeper.away = false })
			s.publishEvents(answerOf("111", "112")...)
			s.wantSent("newCall 11 111+112, answer 11 111")
		}},
		{"the newCall expires", func(s *ctiTest) {
			s.keeper.update(func() { s.keeper.away = true })
			s.publishEvents(dialIns("111", "112")...)
			time.Sleep(20 * time.Second)
			s.keeper.update(func() { s.keeper.away = false })
			s.publishEvents(answerOf("111", "112")...)
			s.publishEvents(hangupOf("111"))
			s.wantSent("")
			s.wantState(hangupOf("111"), Expired, schedule.ReasonUndelivered)
		}},
		{"the subscription is younger", func(s *ctiTest) {
			s.publishEvents(dialIns("111", "112")...)
			s.wantSent("newCall 11 111+112")
			s.editSubscription(func(s *Subscription) { s.Active = false })
			time.Sleep(time.Second)
			s.editSubscription(func(s *Subscription) { s.Active = true })
			s.publishEvents(hangupsOf(dialog.NoAnswer, "111", "112")...)
			s.wantSent("")
			s.wantState(hangupsOf("", "112")[0], Expired, reasonTooEarly)
		}},
		{"all is replayed", func(s *ctiTest) {
			from := time.Now()
			s.keeper.update(func() { s.keeper.away = true })
			s.publishEvents(dialIns("111", "112", "113")...)
			s.publishEvents(answerOf("112", "111", "113")...)
			s.publishEvents(hangupOf("112"))
			time.Sleep(20 * time.Second)
			s.keeper.update(func() { s.keeper.away = false })
			if _, err := s.Replay(s.Context(), s.id, from, time.Time{}, nil); err != nil {
				s.Error(err)
			}
			time.Sleep(20 * time.Second)
			s.wantSent("newCall 11 111+112+113, answer 11 112, hangup 11 normalClearing")
		}},
		{"by hand", func(s *ctiTest) {
			s.keeper.update(func() { s.keeper.away = true })
			s.publishEvents(dialIns("111", "112")...)
			time.Sleep(20 * time.Second)
			s.keeper.update(func() { s.keeper.away = false })
			for user, want := range map[string]string{"111": Delivered, "112": Failed} {
				if a, err := s.Redeliver(s.Context(), deliverylog.ID(dialIns(user)[0].ID, s.id)); a.Outcome != want || err != nil {
					s.Error(user, a.Outcome, err)
				}
			}
			s.publishEvents(hangupsOf(dialog.NoAnswer, "112", "111")...)
			s.wantSent("newCall 11 111+112, hangup 11 noAnswer")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) { testGrouping(t, tt.play) })
	}
}

// An attempt is postponed once, until some time after its event, and never for longer than
// that: the clock of another node may be ahead.
func TestPostponeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			name  string
			at    time.Duration // of the event, from now
			again bool
			want  time.Duration
		}{
			{name: "just now", at: 0, want: time.Second},
			{name: "a while ago", at: -300 * time.Millisecond, want: 700 * time.Millisecond},
			{name: "long ago", at: -time.Hour},
			{name: "in the future", at: time.Hour, want: time.Second},
			{name: "a second time", at: 0, again: true},
		} {
			a := &attempt{Attempt: schedule.Attempt{At: time.Now().Add(tt.at), MayPostpone: !tt.again}}
			if got := a.postponeAttempt(time.Second); got != (tt.want > 0) || got && time.Until(a.NotBefore) != tt.want {
				t.Errorf("%s: %v, by %v; want %v", tt.name, got, time.Until(a.NotBefore), tt.want)
			}
		}
	})
}

// An event that the copy of the log lacks is read again later.
func TestGroupNotCopied(t *testing.T) {
	testGrouping(t, func(s *ctiTest) {
		sub := Subscription{ID: s.id, ExtensionRegex: ".*", Dialect: CTI}
		e := hangupOf("111")
		for _, patience := range []bool{true, false} {
			a := &attempt{Attempt: schedule.Attempt{Seq: 7, EventID: e.ID, Type: e.Type, At: time.Now(), Sub: &sub, MayPostpone: patience}}
			if g, err := s.joinGroup(s.Context(), a, &e); g != nil || (err == nil) != patience || a.NotBefore.IsZero() == patience {
				s.Errorf("patience %v: %v, %v, %v", patience, g, err, a.NotBefore)
			}
		}
	})
}

// A newCall lists all ringing extensions, in each field that names them.
func TestGroupPayload(t *testing.T) {
	e := ringEvent("111", 0, dialog.DialIn, dialog.Calling)
	s := Subscription{Dialect: CTI, Method: "POST", URL: "http://crm.example/{?user,callId}"}
	v := payload.New(&e, s.Format())
	v.GroupParty, v.Ringing = e.Party, []dialog.Extension{{User: "111", Domain: "a"}, {User: "112"}}
	form, err := url.ParseQuery(string(v.Append(nil)))
	for name, want := range map[string]string{"user[]": "[111 112]", "userId[]": "[111 112]", "fullUserId[]": "[111@a 112]", "callId": "[" + e.Party + "]", "origCallId": "[c]"} {
		if got := fmt.Sprint(form[name]); got != want || err != nil {
			t.Errorf("%s: %s, want %s: %v", name, got, want, err)
		}
	}
	u := s.BaseURL()
	if u, err := v.ResolveURL(u, nil); err != nil || u.Query().Get("user") != "111,112" {
		t.Error(u, err)
	}
}

// A lagging subscription gets the same groups as one that does not lag.
func TestGroupOfLaggingSubscription(t *testing.T) {
	const calls = 20
	synctest.Test(t, func(t *testing.T) {
		k := &ctiReceiver{known: make(map[string]bool), twice: 422, away: true}
		js, closeStore := openStore(t, t.TempDir())
		defer closeStore()
		n, err := Open(t.Context(), js, Config{Transport: k, KeepEvents: keepForever})
		if err != nil {
			t.Fatal(err)
		}
		n.maxPending = 4
		defer runNotifier(n)()
		all := testSubscription("", "http://crm/hook")
		all.Extension, all.ExtensionRegex, all.Dialect, all.LiveTTL = "", ".*", CTI, Duration(30*time.Minute)
		all.Types = []string{"dial-in", "answer", "hangup"}
		mustSubscribe(t, n, all)
		s := &ctiTest{T: t, Notifier: n, keeper: k}
		for i := range calls {
			for _, e := range append(dialIns("111", "112", "113"), hangupsOf(dialog.NoAnswer, "112", "113", "111")...) {
				e.Call = fmt.Sprint("c", i)
				e.Party = fmt.Sprintf("%04d%s", i, e.Party[4:])
				e.ID = dialog.EventID(e.Party, e.Type)
				s.publishEvents(e)
			}
		}
		time.Sleep(30 * time.Second)
		k.update(func() { k.away = false })
		time.Sleep(10 * time.Minute)
		got := make(map[string]int)
		k.update(func() {
			for _, f := range k.forms {
				got[fmt.Sprint(f.Get("event"), len(f["user[]"]), f.Get("callId")[28:])]++
			}
		})
		if len(got) != 2 || got["newCall3"+"0011"] != calls || got["hangup0"+"0011"] != calls || len(k.known) != calls {
			t.Errorf("%v of %d calls; want %d newCalls with 3 who ring, and as many hangups", got, len(k.known), calls)
		}
	})
}
