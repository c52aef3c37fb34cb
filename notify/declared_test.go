package notify

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/dialog"
)

// declaredSubscription returns a subscription as the config file declares it.
func declaredSubscription(url string, types ...string) Subscription {
	s := testSubscription("", url)
	s.Dialect, s.Types, s.Declared = Telphin, types, "[[subscription]] 1"
	return s
}

// A declared subscription is delivered to like any other, and only the config file can
// change it.
func TestDeclaredIsDeliveredTo(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		w := &fakeWire{start: time.Now()}
		n, stop := startNotifier(t, js, Config{Transport: w, MaxSubscriptions: 2})
		defer stop()

		n.Declare([]Subscription{declaredSubscription("http://crm/a", "dial-out"), declaredSubscription("http://crm/a", "hangup"), declaredSubscription("http://crm/b", "answer")})
		subs := n.Subscriptions()
		if len(subs) != 3 || subs[0].State != StateActive || subs[0].Declared == "" || subs[0].Revision == 0 {
			t.Fatalf("declared are %+v", subs)
		}
		ids := map[string]string{}
		for _, s := range subs {
			if len(s.ID) != 30 {
				t.Errorf("id %q", s.ID)
			}
			ids[s.URL+" "+s.Types[0]] = s.ID
		}
		if len(ids) != 3 {
			t.Errorf("ids are %v", ids)
		}
		n.EventLog.Append(callOf(1))
		synctest.Wait()
		time.Sleep(time.Second)
		if got, want := w.summary(), "0s dial-out, 0s hangup, 0s answer"; len(got) != len(want) {
			t.Errorf("came %s, want %s", got, want)
		}

		id := subs[0].ID
		if _, err := n.Edit(t.Context(), id, 0, func(s *Subscription) error { s.Active = false; return nil }); !errors.Is(err, ErrDeclared) {
			t.Errorf("edited: %v", err)
		}
		if err := n.Unsubscribe(t.Context(), id, 0); !errors.Is(err, ErrDeclared) {
			t.Errorf("unsubscribed: %v", err)
		}

		// The id depends on extension and URL only.
		again := declaredSubscription("http://crm/b", "hangup", "answer")
		again.Note, again.Timeout = "changed", Duration(time.Second)
		n.Declare([]Subscription{again})
		if subs := n.Subscriptions(); len(subs) != 1 || subs[0].ID != ids["http://crm/b answer"] || subs[0].Note != "changed" {
			t.Errorf("declared are %+v", subs)
		}

		// It counts towards the limit; another subscription can be created beside it, and Declare keeps that one.
		other := mustSubscribe(t, n, testSubscription("", "http://crm/c"))
		n.Declare(nil)
		if subs := n.Subscriptions(); len(subs) != 1 || subs[0].ID != other.ID {
			t.Errorf("left are %+v", subs)
		}
	})
}

// Pending deliveries of a declared subscription survive a restart, and are canceled when
// the config file no longer declares it.
func TestDeclaredSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		w := &fakeWire{start: time.Now(), answer: answerStatuses(500)}
		c := Config{Transport: w, KeepEvents: keepForever}
		one := []Subscription{declaredSubscription("http://crm/a", "hangup")}
		n, stop := startNotifier(t, js, c)
		n.Declare(one)
		n.EventLog.Append(callOf(1))
		time.Sleep(2 * time.Second)
		stop()

		w.answer = answerStatuses(200)
		n, err := Open(t.Context(), js, c)
		if err != nil {
			t.Fatal(err)
		}
		n.Declare(one)
		stop = runNotifier(n)
		time.Sleep(time.Minute)
		stop()
		if s := n.Stats(); s.Delivered != 1 || s.Canceled != 0 {
			t.Errorf("after a restart: %+v", s)
		}
		if got := w.got; len(got) < 2 || got[0].id != got[len(got)-1].id {
			t.Errorf("came %s", w.summary())
		}

		w.answer = answerStatuses(500)
		n, err = Open(t.Context(), js, c)
		if err != nil {
			t.Fatal(err)
		}
		n.Declare(one)
		stop = runNotifier(n)
		n.EventLog.Append(callOf(2))
		time.Sleep(2 * time.Second)
		n.Declare(nil)
		time.Sleep(time.Second)
		if s := n.Stats(); s.Canceled != 1 || s.Pending != 0 {
			t.Errorf("undeclared: %+v", s)
		}
		stop()
	})
}

// A declared subscription whose receiver answers 410 is disabled until the config file is
// read again.
func TestDeclaredIsDisabledBy410(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		w := &fakeWire{start: time.Now(), answer: answerStatuses(410, 200)}
		n, stop := startNotifier(t, js, Config{Transport: w})
		defer stop()
		one := []Subscription{declaredSubscription("http://crm/a", "hangup")}
		n.Declare(one)
		say := func(i int) {
			n.EventLog.Append([]dialog.Event{callOf(i)[2]})
			time.Sleep(time.Second)
		}
		say(1)
		if s := n.Subscriptions()[0]; s.Active || s.State != StateDisabled || s.Why != "the receiver answered 410 Gone" || s.Declared == "" {
			t.Errorf("after 410: %+v", s)
		}
		say(2)
		n.Declare(one)
		say(3)
		if got, want := w.summary(), "0s hangup, 2s hangup"; got != want {
			t.Errorf("received %s, want the events before 410 and after the file was read: %s", got, want)
		}
		if s := n.Subscriptions()[0]; !s.Active || s.State != StateActive || s.Why != "" {
			t.Errorf("after the file was read: %+v", s)
		}
	})
}

// Invalid reports all errors at once: no check relies on an earlier one.
func TestInvalidReportsEverything(t *testing.T) {
	s := Subscription{
		Extension: "1 1", ExtensionRegex: "(", Types: []string{"hangdown"}, URL: "ftp://{x}.example/{+y:3}", Method: "EAT", Dialect: "klingon",
		Headers: map[string]string{"Host": "x"}, FlowCase: "x", TLSCA: "x", TLSKey: "x", Timeout: -1,
	}
	var fields []string
	for err := range s.Invalid() {
		fields = append(fields, err.Field)
	}
	if want := []string{"extension_regex", "types", "method", "url", "headers", "tls_ca", "timeout"}; !slices.Equal(fields, want) {
		t.Errorf("wrong are %v, want %v", fields, want)
	}
	for _, dialect := range []Dialect{"", "klingon", Unified, Telphin, CTI, JSON, CloudEvents} {
		for _, url := range []string{"", "{", "}", "{}", "x{", "http://{", "http://a/{", "http://a/{?}", "http://a/{?x", ":", "%"} {
			s := Subscription{Dialect: dialect, URL: url, TLSCA: "x"}
			for err := range s.Invalid() {
				fields = append(fields, err.Field)
			}
		}
	}
}
