package dialog

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

const phoneContact = "Contact: <sip:101@192.0.2.11:5060>;expires=60\r\n"

// registerWithResponse returns a REGISTER of 101 and its 2xx, which lists contacts.
func registerWithResponse(at time.Time, callID string, cseq uint32, contacts string) []Message {
	ok := registerResponse(at, "sip:101@pbx.example", contacts)
	ok.CallID, ok.CSeq, ok.Branch = callID, cseq, fmt.Sprint("z9hG4bK-", callID, cseq)
	m := ok
	m.Src, m.Dst, m.Status = Edge, PBX, 0
	m.Head = "REGISTER sip:pbx.example SIP/2.0\r\nTo: <sip:101@pbx.example>\r\nUser-Agent: Phone/1.0\r\n"
	return []Message{m, ok}
}

// observeAll observes messages and returns their events.
func observeAll(t *Tracker, messages []Message) (events []Event) {
	for _, m := range messages {
		events = append(events, t.Observe(m)...)
	}
	return events
}

// wantOneEvent returns the only event, and checks its type and time.
func wantOneEvent(t *testing.T, events []Event, typ Type, at time.Time) Event {
	t.Helper()
	if len(events) != 1 || events[0].Type != typ || !events[0].At.Equal(at) {
		t.Fatalf("got %+v, want %s at %v", events, typ, at)
	}
	return events[0]
}

func TestRegistrationExpires(t *testing.T) {
	tracker := New(testConfig())
	e := wantOneEvent(t, observeAll(tracker, registerWithResponse(start, "a", 1, phoneContact)), Registered, start)
	if e.Extension != (Extension{"101", "pbx.example"}) || e.UserAgent != "Phone/1.0" || e.Seq != 1 {
		t.Errorf("got %+v", e)
	}
	end := start
	for i := range 10 {
		end = end.Add(50 * time.Second)
		if events := observeAll(tracker, registerWithResponse(end, "a", uint32(2+i), phoneContact)); len(events) > 0 {
			t.Fatalf("a refresh emits %v", events)
		}
	}
	end = end.Add(time.Minute)
	var events []Event
	for next, ok := tracker.Next(); ok; next, ok = tracker.Next() {
		if next.After(end) {
			t.Fatalf("something is due at %v, want nothing after %v", next, end)
		}
		events = append(events, tracker.Advance(next)...)
	}
	gone := wantOneEvent(t, events, Unregistered, end)
	if gone.Call != e.Call || gone.Party != e.Party || gone.ID == e.ID || gone.Seq != 2 || gone.UserAgent != "Phone/1.0" {
		t.Errorf("got %+v after %+v", gone, e)
	}
	wantEmpty(t, tracker)
}

// TestExpiryComesBeforeTheNextRegister checks that a limit which has passed comes before
// the observed message, and has its own time.
func TestExpiryComesBeforeTheNextRegister(t *testing.T) {
	tracker := New(testConfig())
	observeAll(tracker, registerWithResponse(start, "a", 1, phoneContact))
	late := start.Add(time.Hour)
	events := observeAll(tracker, registerWithResponse(late, "a", 2, phoneContact))
	if len(events) != 2 {
		t.Fatalf("got %v, want two events", events)
	}
	wantOneEvent(t, events[:1], Unregistered, start.Add(time.Minute))
	wantOneEvent(t, events[1:], Registered, late)
}

func TestShorterRegistrationExpiresSooner(t *testing.T) {
	tracker := New(testConfig())
	observeAll(tracker, registerWithResponse(start, "a", 1, strings.Replace(phoneContact, "60", "3600", 1)))
	observeAll(tracker, registerWithResponse(start.Add(time.Second), "a", 2, phoneContact))
	wantOneEvent(t, tracker.Advance(start.Add(time.Hour)), Unregistered, start.Add(61*time.Second))
}

func TestRegistrationIDsAreStable(t *testing.T) {
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	on := func(t *testing.T, tracker *Tracker, s int, callID string, cseq uint32) Event {
		t.Helper()
		return wantOneEvent(t, observeAll(tracker, registerWithResponse(at(s), callID, cseq, phoneContact)), Registered, at(s))
	}
	off := func(t *testing.T, tracker *Tracker, s int, callID string, cseq uint32) Event {
		t.Helper()
		return wantOneEvent(t, observeAll(tracker, registerWithResponse(at(s), callID, cseq, "")), Unregistered, at(s))
	}
	t.Run("a refresh after a restart repeats the event", func(t *testing.T) {
		first := on(t, New(testConfig()), 0, "a", 1)
		again := on(t, New(testConfig()), 30, "a", 2)
		if first.ID != again.ID || first.Call != again.Call || first.Party != again.Party {
			t.Errorf("got %+v and %+v, want the same ids", first, again)
		}
	})
	t.Run("turns differ", func(t *testing.T) {
		ids := map[string]bool{}
		tracker := New(testConfig())
		n := 0
		for i := range 3 * maxPeriods {
			callID := fmt.Sprint(i % (maxPeriods + 2))
			ids[on(t, tracker, 10*i, callID, uint32(2*i)).ID] = true
			ids[off(t, tracker, 10*i+5, callID, uint32(2*i+1)).ID] = true
			n += 2
		}
		if len(ids) != n {
			t.Errorf("%d ids of %d events", len(ids), n)
		}
	})
	t.Run("an end is not hidden by an earlier one", func(t *testing.T) {
		tracker := New(testConfig())
		on(t, tracker, 0, "a", 1)
		first := off(t, tracker, 10, "a", 2)
		restarted := New(testConfig())
		on(t, restarted, 20, "a", 3)
		if second := off(t, restarted, 30, "a", 4); second.ID == first.ID {
			t.Errorf("both have the id %s", first.ID)
		}
	})
}

func TestWhichRegistrationsEmitEvents(t *testing.T) {
	numbers := regexp.MustCompile(`^[0-9]+$`)
	for _, tt := range []struct {
		name    string
		config  Config
		change  func(*Message)
		want    int
		aor     string
		contact string
	}{
		{name: "learnt extension", config: Config{Learn: true}, aor: "sip:anna@x", want: 1},
		{name: "by its form", config: Config{Pattern: numbers}, aor: "sip:101@x", want: 1},
		{name: "no extension", config: Config{Pattern: numbers}, aor: "sip:anna@x"},
		{name: "a trunk", config: Config{Learn: true}, aor: "sip:101@x", change: func(m *Message) { m.Trunk = "carrier" }},
		{name: "refused registration", config: Config{Learn: true}, aor: "sip:101@x", change: func(m *Message) { m.Status = 403 }},
		{name: "our own word", config: Config{Learn: true}, aor: "sip:101@x", change: func(m *Message) { m.Own = true }},
		{name: "a phone's word", config: Config{Learn: true}, aor: "sip:101@x", change: func(m *Message) { m.Src, m.Dst = Edge, PBX }},
		{name: "nobody's", config: Config{Learn: true}, aor: "sip:x"},
		{name: "no contact", config: Config{Learn: true}, aor: "sip:101@x", contact: "-"},
		{name: "none that lasts", config: Config{Learn: true}, aor: "sip:101@x", contact: "Contact: <sip:1@y>;expires=0\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			contact := phoneContact
			if tt.contact != "" {
				contact = strings.Trim(tt.contact, "-")
			}
			m := registerResponse(start, tt.aor, contact)
			if tt.change != nil {
				tt.change(&m)
			}
			tracker := New(tt.config)
			if events := tracker.Observe(m); len(events) != tt.want {
				t.Errorf("got %v, want %d events", events, tt.want)
			}
		})
	}
}

// TestRegistrationsOfTwoDomains checks that the same number in two domains is two
// extensions.
func TestRegistrationsOfTwoDomains(t *testing.T) {
	tracker := New(testConfig())
	got := ""
	for i, domain := range []string{"a", "b", "a", "b"} {
		for _, e := range tracker.Observe(registerResponse(start.Add(time.Duration(i)*time.Second), "sip:101@"+domain, phoneContact)) {
			got += fmt.Sprint(e.Type, " ", e.Extension, "; ")
		}
	}
	for _, e := range append(tracker.Observe(registerResponse(start.Add(5*time.Second), "sip:101@a", "")), tracker.Advance(start.Add(time.Hour))...) {
		got += fmt.Sprint(e.Type, " ", e.Extension, "; ")
	}
	if want := "registered 101@a; registered 101@b; unregistered 101@a; unregistered 101@b; "; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestRegistrationsAreBounded(t *testing.T) {
	tracker := New(testConfig())
	for i := range maxRegistrations + 100 {
		m := registerResponse(start.Add(time.Duration(i)), fmt.Sprintf("sip:%d@pbx.example", i), phoneContact)
		ask := registerWithResponse(start, fmt.Sprint(i), 1, "")[0]
		ask.Head = strings.Replace(ask.Head, "sip:101@", fmt.Sprintf("sip:u%d@", i), 1)
		tracker.Observe(m)
		tracker.Observe(ask)
	}
	r := tracker.registrar
	if r.registrations.Len() != maxRegistrations || len(r.expiries) != maxRegistrations || r.pending.Len() != maxRegisters {
		t.Errorf("%d registrations, %d due, %d pending, want %d, %d and %d", r.registrations.Len(), len(r.expiries), r.pending.Len(),
			maxRegistrations, maxRegistrations, maxRegisters)
	}
	n := 0
	for next, ok := tracker.Next(); ok; next, ok = tracker.Next() {
		n += len(tracker.Advance(next))
	}
	if n != maxRegistrations {
		t.Errorf("%d ends, want %d", n, maxRegistrations)
	}
	wantEmpty(t, tracker)
}

// BenchmarkRegister measures a REGISTER and its 2xx, a refresh without events, and one that
// the PBX refuses.
func BenchmarkRegister(b *testing.B) {
	refused := registerWithResponse(start, "b", 1, "")
	refused[1].Status = 401
	for name, messages := range map[string][]Message{"refresh": registerWithResponse(start, "a", 1, phoneContact), "refused": refused} {
		b.Run(name, func(b *testing.B) {
			tracker := New(testConfig())
			b.ReportAllocs()
			for b.Loop() {
				for _, m := range messages {
					tracker.Observe(m)
				}
			}
		})
	}
}
