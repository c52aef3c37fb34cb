package notify

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"bellhop/dialog"
	"bellhop/notify/send"
	"bellhop/notify/subscription"
)

// signedPayload returns the signed part of a request: its body, or the query of a GET.
func signedPayload(r request) []byte {
	if r.Method == "GET" {
		return []byte(r.URL.RawQuery)
	}
	return []byte(r.body)
}

// verifyRequest has the library of the specification verify a request that was just
// received.
func verifyRequest(secret Secret, r request) error {
	w, err := standardwebhooks.NewWebhook(string(secret))
	if err != nil {
		return err
	}
	return w.Verify(signedPayload(r), r.Header)
}

// testEvent returns an event of extension 101.
func testEvent(i int) dialog.Event {
	return dialog.Event{ID: fmt.Sprintf("%032x", i), Call: fmt.Sprint("c", i), Party: "p", Seq: 1, Type: dialog.DialOut, Flow: dialog.Out,
		At: time.Now(), Extension: dialog.Extension{User: "101", Domain: "pbx"}}
}

func TestSignatureVerifies(t *testing.T) {
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	n, stop := startNotifier(t, js, Config{Allow: loopback})
	defer stop()
	i := 0
	for _, dialect := range []Dialect{Unified, Telphin, JSON, CTI, CloudEvents} {
		for _, kind := range []string{"GET", "GET template", "POST", "POST template", "PUT"} {
			method, kind, _ := strings.Cut(kind, " ")
			r := newReceiver(t, nil)
			s := NewSubscription()
			s.Extension, s.Types, s.Method, s.Dialect = "101", []string{"dial-out"}, method, dialect
			s.URL = r.URL + "/hook?key=a+b%20c&empty="
			if kind != "" {
				s.URL += map[Dialect]string{JSON: "{&caller_id_name}", CTI: "{&user}", CloudEvents: "{&caller_id_name}"}[dialect]
				if dialect == Unified || dialect == Telphin {
					s.URL += "{&CallerIDName}"
				}
			}
			if dialect == CTI && method != "POST" || dialect == CloudEvents && method == "GET" {
				continue // is refused
			}
			s = mustSubscribe(t, n, s)
			i++
			e := testEvent(i)
			e.CallerName = `Zoë "Z" <Öl & Co>`
			n.EventLog.Append([]dialog.Event{e})
			got := <-r.got
			if err := verifyRequest(s.Secret, got); err != nil {
				t.Errorf("%s %s %s: %v", dialect, method, kind, err)
			}
			if got.id != e.ID+"-"+s.ID || got.Header.Get("Traceparent")[:36] != "00-"+e.ID+"-" {
				t.Errorf("%s %s %s has the header %v", dialect, method, kind, got.Header)
			}
			// Verify accepts whatever the library accepts.
			c := send.Callback{ID: got.id, Timestamp: got.Header.Get("Webhook-Timestamp"), Signature: got.Header.Get("Webhook-Signature"), Payload: signedPayload(got)}
			if err := c.Verify(s.Secret, time.Now(), time.Minute); err != nil {
				t.Errorf("%s %s %s: %v", dialect, method, kind, err)
			}
			if err := n.Unsubscribe(t.Context(), s.ID, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Each attempt has a timestamp and a signature of its own.
func TestEachAttemptIsSigned(t *testing.T) {
	var secret Secret
	answer := func(n int, r request) (int, http.Header) {
		if err := verifyRequest(secret, r); err != nil {
			t.Errorf("attempt %d: %v", n, err)
		}
		return []int{500, 500, 200}[n-1], nil
	}
	runInVirtualTime(t, answer, func(t *testing.T, n *Notifier, w *fakeWire, s Subscription) {
		secret = s.Secret
		n.EventLog.Append([]dialog.Event{testEvent(1)})
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(w.got) != 3 {
			t.Fatalf("%d attempts, want 3", len(w.got))
		}
		first := w.got[0].Header
		for i, after := range []int64{0, 2, 6} {
			h := w.got[i].Header
			if want := strconv.FormatInt(w.start.Unix()+after, 10); h.Get("Webhook-Timestamp") != want {
				t.Errorf("attempt %d is of %s, want %s", i+1, h.Get("Webhook-Timestamp"), want)
			}
			if h.Get("Webhook-Id") != first.Get("Webhook-Id") {
				t.Errorf("attempt %d is %s, want %s", i+1, h.Get("Webhook-Id"), first.Get("Webhook-Id"))
			}
			if trace := h.Get("Traceparent"); trace[:36] != first.Get("Traceparent")[:36] || i > 0 && trace == first.Get("Traceparent") {
				t.Errorf("attempt %d is traced as %s, the first as %s", i+1, trace, first.Get("Traceparent"))
			}
		}
	})
}

func TestRotatesSecret(t *testing.T) {
	var secrets []Secret // all secrets so far, newest first
	var good []bool      // the last request is signed with these
	count := 0           // its signatures
	answer := func(_ int, r request) (int, http.Header) {
		good = nil
		for _, s := range secrets {
			good = append(good, verifyRequest(s, r) == nil)
		}
		signatures := strings.Split(r.Header.Get("Webhook-Signature"), " ")
		count = len(signatures)
		r.Header.Set("Webhook-Signature", signatures[0])
		if err := verifyRequest(secrets[0], r); err != nil {
			t.Errorf("the first signature is not the new secret's: %v", err)
		}
		return 200, nil
	}
	runInVirtualTime(t, answer, func(t *testing.T, n *Notifier, _ *fakeWire, s Subscription) {
		shown := 0
		want := func(when string, want ...bool) {
			t.Helper()
			shown++
			n.EventLog.Append([]dialog.Event{testEvent(shown)})
			time.Sleep(time.Second)
			synctest.Wait()
			signatures := 0
			for _, g := range want {
				if g {
					signatures++
				}
			}
			if fmt.Sprint(good) != fmt.Sprint(want) || count != signatures {
				t.Errorf("%s: signed by %v with %d signatures, want %v", when, good, count, want)
			}
		}
		rotate := func() {
			t.Helper()
			s, err := n.RotateSecret(t.Context(), s.ID, 0)
			if err != nil {
				t.Fatal(err)
			}
			secrets = append([]Secret{s.Secret}, secrets...)
			if s.OldSecret != "" || !s.OldSecretUntil.After(time.Now().Add(23*time.Hour)) {
				t.Errorf("rotated to %+v", s)
			}
		}
		secrets = []Secret{s.Secret}
		want("at first", true)
		rotate()
		want("after a rotation", true, true)
		if _, err := n.Edit(t.Context(), s.ID, 0, func(s *Subscription) error { s.Note = "x"; s.OldSecret = ""; return nil }); err != nil {
			t.Fatal(err)
		}
		want("edited after it", true, true)
		rotate()
		want("rotated twice", true, true, false)
		own := subscription.NewSecret()
		if _, err := n.Edit(t.Context(), s.ID, 0, func(s *Subscription) error { s.Secret = own; return nil }); err != nil {
			t.Fatal(err)
		}
		secrets = append([]Secret{own}, secrets...)
		want("with one of the user's own", true, true, false, false)
		if _, err := n.Edit(t.Context(), s.ID, 0, func(s *Subscription) error { s.Secret = ""; return nil }); err != nil {
			t.Fatal(err)
		}
		want("edited to none", true, true, false, false)
	})
}

// After a rotation the old secret signs for a day.
func TestRotationKeepsOldSecret(t *testing.T) {
	at := time.Unix(1767322800, 0)
	old := Subscription{Secret: subscription.NewSecret()}
	s := Subscription{Secret: subscription.NewSecret()}
	s.InheritSecrets(&old, at)
	if s.OldSecret != old.Secret || !s.OldSecretUntil.Equal(at.Add(24*time.Hour)) {
		t.Errorf("the old secret signs until %v", s.OldSecretUntil)
	}
	// An edit keeps it until then, and drops it afterwards.
	before, after := Subscription{}, Subscription{}
	before.InheritSecrets(&s, at.Add(subscription.SecretOverlap-time.Second))
	after.InheritSecrets(&s, at.Add(subscription.SecretOverlap))
	if before.Secret != s.Secret || before.OldSecret != old.Secret || !before.OldSecretUntil.Equal(at.Add(subscription.SecretOverlap)) {
		t.Error("an edit within the day loses a secret")
	}
	if after.Secret != s.Secret || after.OldSecret != "" || !after.OldSecretUntil.IsZero() {
		t.Error("an edit after the day keeps the old secret")
	}
}

func TestSecretsAreShownOnce(t *testing.T) {
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	n, stop := startNotifier(t, js, Config{})
	defer stop()
	hidden := func(when string, subs ...Subscription) {
		t.Helper()
		for _, s := range subs {
			if s.Secret != "" || s.OldSecret != "" {
				t.Errorf("%s it is shown", when)
			}
		}
	}
	s := mustSubscribe(t, n, testSubscription("", "http://a/"))
	made := s.Secret
	if key, err := made.Key(); err != nil || len(key) != 32 {
		t.Errorf("made %q: %v", string(made), err)
	}
	hidden("listed", n.Subscriptions()...)
	read, err := n.Subscription(s.ID)
	hidden("read", read)
	if err != nil {
		t.Fatal(err)
	}
	edited, err := n.Edit(t.Context(), s.ID, 0, func(s *Subscription) error { s.Note = "x"; return nil })
	hidden("edited", edited)
	if err != nil {
		t.Fatal(err)
	}
	rotated, err := n.RotateSecret(t.Context(), s.ID, edited.Revision)
	if err != nil || rotated.Secret == "" || rotated.Secret == made || rotated.OldSecret != "" {
		t.Errorf("rotated to %q: %v", string(rotated.Secret), err)
	}
	hidden("listed after it", n.Subscriptions()...)
	if _, err := n.RotateSecret(t.Context(), s.ID, edited.Revision); err != ErrConflict {
		t.Errorf("an old revision: %v", err)
	}
	if _, err := n.RotateSecret(t.Context(), "nobody", 0); err != ErrNotFound {
		t.Errorf("who is not there: %v", err)
	}
	stored, _ := n.registry.get(s.ID)
	if stored.Secret != rotated.Secret || stored.OldSecret != made {
		t.Error("what is stored is neither")
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(format, stored); strings.Contains(text, "whsec_") {
			t.Errorf("%s prints %s", format, text)
		}
	}

	own := subscription.NewSecret()
	mine := testSubscription("", "http://a/")
	mine.Secret, mine.OldSecret, mine.OldSecretUntil = own, own, time.Now().Add(time.Hour)
	mine = mustSubscribe(t, n, mine)
	if stored, _ := n.registry.get(mine.ID); mine.Secret != own || stored.Secret != own || stored.OldSecret != "" || !stored.OldSecretUntil.IsZero() {
		t.Error("a secret that is given is not the one that is stored")
	}
}

func TestSecretsChecked(t *testing.T) {
	of := func(n int) string { return base64.StdEncoding.EncodeToString(make([]byte, n)) }
	for _, tt := range []struct {
		secret Secret
		ok     bool
	}{
		{"", true},
		{subscription.NewSecret(), true},
		{Secret("whsec_" + of(24)), true},
		{Secret("whsec_" + of(64)), true},
		{Secret("whsec_" + of(23)), false},
		{Secret("whsec_" + of(65)), false},
		{Secret(of(32)), false},
		{Secret("WHSEC_" + of(32)), false},
		{Secret("whsec_" + of(32) + "\n"), false},
		{Secret("whsec_" + of(16) + "\n" + of(16)), false},
		{Secret("whsec_" + strings.TrimRight(of(32), "=")), false},
		{"whsec_", false},
		{"whsec_my secret of more than 24 bytes in the clear", false},
	} {
		s := testSubscription("", "http://a/")
		s.Secret = tt.secret
		err := s.Validate()
		if invalid, _ := err.(*Invalid); (err == nil) != tt.ok || err != nil && (invalid == nil || invalid.Field != "secret") {
			t.Errorf("%q: %v", string(tt.secret), err)
		}
		s.Secret, s.OldSecret = subscription.NewSecret(), tt.secret
		if invalid, _ := s.Validate().(*Invalid); (invalid == nil) != tt.ok || invalid != nil && invalid.Field != "old_secret" {
			t.Errorf("%q as the old one: %v", string(tt.secret), invalid)
		}
		if err != nil && len(tt.secret) > 10 && strings.Contains(err.Error(), string(tt.secret[6:])) {
			t.Errorf("the error tells the secret: %v", err)
		}
	}
}

// A subscription of an old version, without a secret, is delivered without a signature
// until it gets a secret.
func TestWithoutSecret(t *testing.T) {
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	n, stop := startNotifier(t, js, Config{Allow: loopback})
	defer stop()
	r := newReceiver(t, nil)
	old := testSubscription("old", r.URL)
	b, err := json.Marshal(old)
	if err != nil || strings.Contains(string(b), "secret") {
		t.Fatalf("%s, %v", b, err)
	}
	if _, err := n.registry.kv.Put(t.Context(), old.ID, b); err != nil {
		t.Fatal(err)
	}
	if err := n.registry.refreshSubscription(t.Context(), old.ID); err != nil {
		t.Fatal(err)
	}
	n.EventLog.Append([]dialog.Event{testEvent(1)})
	if h := (<-r.got).Header; h["Webhook-Signature"] != nil || h.Get("Webhook-Timestamp") == "" || h.Get("Webhook-Id") == "" {
		t.Errorf("without a secret it has %v", h)
	}
	s, err := n.RotateSecret(t.Context(), old.ID, 0)
	if err != nil || !s.OldSecretUntil.IsZero() {
		t.Fatal(s, err)
	}
	n.EventLog.Append([]dialog.Event{testEvent(2)})
	got := <-r.got
	if err := verifyRequest(s.Secret, got); err != nil || strings.Contains(got.Header.Get("Webhook-Signature"), " ") {
		t.Errorf("with one it has %v: %v", got.Header, err)
	}
}

// A declared subscription is signed with the secrets of the config file, with both while it
// names two.
func TestDeclaredIsSigned(t *testing.T) {
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	n, stop := startNotifier(t, js, Config{Allow: loopback})
	defer stop()
	r := newReceiver(t, nil)
	s := declaredSubscription(r.URL, "dial-out")
	for i, secrets := range [][2]Secret{{}, {subscription.NewSecret()}, {subscription.NewSecret(), subscription.NewSecret()}} {
		s.Secret, s.OldSecret = secrets[0], secrets[1]
		if err := s.Validate(); err != nil {
			t.Fatal(err)
		}
		n.Declare([]Subscription{s})
		if shown := n.Subscriptions()[0]; shown.Secret != "" || shown.OldSecret != "" {
			t.Error("a declared secret is shown")
		}
		n.EventLog.Append([]dialog.Event{testEvent(i + 1)})
		got := <-r.got
		for j, secret := range secrets {
			if err := verifyRequest(secret, got); secret != "" && err != nil {
				t.Errorf("%d secrets, the %dth: %v", i, j, err)
			}
		}
		if signatures := strings.Fields(got.Header.Get("Webhook-Signature")); len(signatures) != i {
			t.Errorf("%d secrets make the signatures %v", i, signatures)
		}
		if _, err := n.RotateSecret(t.Context(), n.Subscriptions()[0].ID, 0); !errors.Is(err, ErrDeclared) {
			t.Errorf("a declared secret is rotated: %v", err)
		}
	}
}
