package notify

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"bellhop/notify/send/tlstest"
)

func TestBadTLS(t *testing.T) {
	a := tlstest.NewCA(t)
	cert, key := a.Sign("bellhop")
	_, otherKey := a.Sign("bellhop")
	long := strings.Repeat(cert, 32<<10/len(cert)+1)
	for _, tt := range []struct {
		ca, cert, key, url string
		field              string // "": valid
	}{
		{a.PEM, cert, key, "", ""},
		{a.PEM, "", "", "", ""},
		{"\n" + a.PEM + "\n" + a.PEM + "\n\n", cert + a.PEM, key, "", ""},
		{"/etc/ssl/ca.pem", "", "", "", "tls_ca"},
		{a.PEM + "and more", "", "", "", "tls_ca"},
		{"  ", "", "", "", "tls_ca"},
		{key, "", "", "", "tls_ca"},
		{"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "", "", "", "tls_ca"},
		{long, "", "", "", "tls_ca"},
		{"", cert, "", "", "tls_key"},
		{"", "", key, "", "tls_cert"},
		{"", cert, otherKey, "", "tls_key"},
		{"", cert, "nonsense", "", "tls_key"},
		{"", cert, cert, "", "tls_key"},
		{"", key, key, "", "tls_cert"},
		{"", cert + key, key, "", "tls_cert"},
		{"", long, key, "", "tls_cert"},
		{"", cert, strings.Repeat(key, 200), "", "tls_key"},
		{a.PEM, "", "", "http://crm.example/", "url"},
		{"", cert, key, "HTTP://crm.example/", "url"},
	} {
		s := testSubscription("a", "https://crm.example/")
		s.TLSCA, s.TLSCert, s.TLSKey = tt.ca, tt.cert, PrivateKey(tt.key)
		if tt.url != "" {
			s.URL = tt.url
		}
		var invalid *Invalid
		switch err := s.Validate(); {
		case tt.field == "" && err != nil:
			t.Errorf("%.40q %.40q %.40q: %v", tt.ca, tt.cert, tt.key, err)
		case tt.field != "" && (!errors.As(err, &invalid) || invalid.Field != tt.field):
			t.Errorf("%.40q %.40q %.40q %s: %v, want %s", tt.ca, tt.cert, tt.key, tt.url, err, tt.field)
		case invalid != nil && strings.Contains(invalid.Why, "PRIVATE"):
			t.Errorf("a key is shown: %v", invalid)
		}
	}
}

// The key is stored and never shown.
func TestKeyIsWriteOnly(t *testing.T) {
	a := tlstest.NewCA(t)
	cert, key := a.Sign("bellhop")
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	n, err := Open(t.Context(), js, Config{})
	if err != nil {
		t.Fatal(err)
	}
	s := testSubscription("", "https://crm.example/")
	s.TLSCert, s.TLSKey = cert, PrivateKey(key)
	made := mustSubscribe(t, n, s)
	one, err := n.Subscription(made.ID)
	if err != nil {
		t.Fatal(err)
	}
	edited, err := n.Edit(t.Context(), made.ID, 0, func(s *Subscription) error { s.Note = "x"; return nil })
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range append(n.Subscriptions(), made, one, edited) {
		if b, err := json.Marshal(shown); err != nil || shown.TLSCert != cert || shown.TLSKey != "" || strings.Contains(string(b), "PRIVATE") {
			t.Errorf("shown is %s, %v", b, err)
		}
	}
	stored, err := n.registry.get(made.ID)
	if err != nil || string(stored.TLSKey) != key {
		t.Errorf("the key is lost, %v", err)
	}
	if text := fmt.Sprintf("%v %+v %#v", stored, stored, stored); strings.Contains(text, "PRIVATE") {
		t.Error("the key is printed")
	}
}
