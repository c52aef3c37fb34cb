package cli

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bellhop/cmd/bellhop/config"
	"bellhop/notify"
)

// there returns a subscription as the API shows it.
func there(id string, edit func(*notify.Subscription)) notify.Subscription {
	sub := notify.NewSubscription()
	sub.ID, sub.Extension, sub.Types, sub.URL, sub.State = id, "101", []string{"hangup"}, "https://crm.example/a", notify.StateActive
	if edit != nil {
		edit(&sub)
	}
	return sub
}

func TestPlansStepsToMatchFile(t *testing.T) {
	const usual = "[[subscription]]\nextension = \"101\"\ntypes = [\"hangup\"]\nurl = \"https://crm.example/a\"\n"
	for _, tt := range []struct {
		name  string
		file  string
		had   []notify.Subscription
		how   reconciliation
		want  string         // a line for each step: what, which, and its fields
		body  map[string]any // of the first
		wrong string
	}{
		{
			name: "new", file: usual + "headers = {X-A = \"1\"}\n",
			want: "create",
			body: map[string]any{"extension": "101", "types": []any{"hangup"}, "url": "https://crm.example/a", "method": "POST", "dialect": "json", "active": true, "headers": map[string]any{"X-A": "1"}},
		},
		{
			name: "as it is", file: usual + "secret = \"whsec_b25seSBoZXJlLCBhbmQgb25seSBmb3IgdGVzdHMsIG9r\"\n",
			had:  []notify.Subscription{there("a", nil)},
			want: "leave a",
		},
		{
			name: "secrets anyway", file: usual + "secret = \"whsec_b25seSBoZXJlLCBhbmQgb25seSBmb3IgdGVzdHMsIG9r\"\n",
			had: []notify.Subscription{there("a", nil)}, how: reconciliation{secrets: true},
			want: "change a secret",
			body: map[string]any{"secret": "whsec_b25seSBoZXJlLCBhbmQgb25seSBmb3IgdGVzdHMsIG9r"},
		},
		{
			name: "what is left out has its default", file: usual,
			had: []notify.Subscription{there("a", func(s *notify.Subscription) {
				s.Active, s.Note, s.Extended, s.MaxInFlight, s.Timeout, s.Headers = false, "x", true, 7, 1e9, map[string]string{"X-A": ""}
			})},
			want: "change a active note headers extended timeout max_in_flight",
			body: map[string]any{"active": true, "note": "", "extended": false, "max_in_flight": 0.0, "timeout": "", "headers": map[string]any{}},
		},
		{
			name: "another extension, by id", file: "[[subscription]]\nid = \"a\"\nextension_regex = \"10.\"\ntypes = [\"hangup\"]\nurl = \"https://crm.example/b\"\n",
			had:  []notify.Subscription{there("a", nil), there("b", nil)},
			want: "change a extension extension_regex url",
			body: map[string]any{"extension": "", "extension_regex": "10.", "url": "https://crm.example/b"},
		},
		{
			name: "the rest, pruned, but for what the config declares", file: usual,
			had: []notify.Subscription{
				there("a", nil), there("b", func(s *notify.Subscription) { s.Extension = "102" }),
				there("c", func(s *notify.Subscription) { s.Extension, s.Declared = "103", "[[subscription]] 1" }),
			},
			how:  reconciliation{prune: true},
			want: "leave a\nremove b",
		},
		{
			name: "an id wins over what looks alike", file: usual + strings.Replace(usual, "]]\n", "]]\nid = \"a\"\n", 1),
			had:  []notify.Subscription{there("a", nil), there("b", nil)},
			want: "leave b\nleave a",
		},
		{
			name: "the same twice", file: usual + usual,
			had:  []notify.Subscription{there("a", nil), there("b", nil)},
			want: "leave a\nleave b",
		},
		{
			name: "the config declares it so", file: usual,
			had:  []notify.Subscription{there("a", func(s *notify.Subscription) { s.Declared = "[[subscription]] 1" })},
			want: "leave a",
		},
		{
			name: "the config declares it otherwise", file: usual + "note = \"x\"\n",
			had:   []notify.Subscription{there("a", func(s *notify.Subscription) { s.Declared = "[[subscription]] 1" })},
			wrong: "f.toml:1:1: the subscription of 101 to https://crm.example/a is declared in the server's config ([[subscription]] 1): change it there",
		},
		{
			name: "no such id, but one like it", file: strings.Replace(usual, "]]\n", "]]\nid = \"abcdef\"\n", 1),
			had:   []notify.Subscription{there("abcdfe", nil)},
			wrong: `f.toml:1:1: no subscription has the id "abcdef": did you mean abcdfe?`,
		},
		{
			name: "an id twice", file: strings.Repeat(strings.Replace(usual, "]]\n", "]]\nid = \"abcdef\"\n", 1), 2),
			wrong: "f.toml:7:6: subscription.id: is used by another [[subscription]] above",
		},
		{
			name: "a note as it is stored", file: usual + "note = \" a\\tnote\"\n",
			had:  []notify.Subscription{there("a", func(s *notify.Subscription) { s.Note = " a\tnote"; s.Normalize() })},
			want: "leave a",
		},
		{
			name: "a certificate, of which nobody sees the key", file: usual + "tls_cert = \"pem\"\n",
			had:  []notify.Subscription{there("a", func(s *notify.Subscription) { s.TLSCert = "pem" })},
			want: "leave a",
		},
		{
			name: "a new one with a certificate alone", file: usual + "tls_cert = \"pem\"\n",
			wrong: "f.toml:1:1: tls_key is missing, and none is stored: set it",
		},
		{
			name: "a header more, without its value", file: usual + "headers = {x-a = \"\", X-B = \"\"}\n",
			had:   []notify.Subscription{there("a", func(s *notify.Subscription) { s.Headers = map[string]string{"X-A": ""} })},
			wrong: "f.toml:1:1: header X-B has no value, and none is stored: set one",
		},
		{
			name: "on a line", file: `subscription = [{id = "b", extension = "101", types = ["hangup"], url = "https://crm.example/a"}]`,
			had:  []notify.Subscription{there("a", nil), there("b", nil)},
			want: "leave b",
		},
		{
			name: "tables and none", file: `subscription = [{id = "b", extension = "101", types = ["hangup"], url = "https://crm.example/a"}, 1]`,
			wrong: "f.toml:1:99: subscription: must be a table, not a number: use [subscription[1]] on its own line\n" +
				"f.toml:1:99: subscription.extension: is missing: name an extension, or give extension_regex\n" +
				"f.toml:1:99: subscription.types: is empty: name at least one event type\n" +
				"f.toml:1:99: subscription.url: is missing",
		},
		{
			name: "no table", file: "subscription = 1\n",
			wrong: "f.toml:1:16: subscription: must be an array of tables, not a number: use [[subscription]]",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var err error
			var steps []step
			if tt.how.wanted, err = config.ReadSubscriptions("f.toml", tt.file); err == nil {
				steps, err = tt.how.planSteps(tt.had)
			}
			if tt.wrong != "" {
				if err == nil || err.Error() != tt.wrong {
					t.Errorf("got %v, want %s", err, tt.wrong)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var lines []string
			for _, s := range steps {
				lines = append(lines, strings.TrimSpace(s.Action+" "+strings.TrimSpace(s.ID+" "+strings.Join(s.Fields, " "))))
			}
			if got := strings.Join(lines, "\n"); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			if tt.body != nil {
				if diff := cmp.Diff(tt.body, steps[0].body); diff != "" {
					t.Errorf("the request: -want +got\n%s", diff)
				}
			}
		})
	}
}

// TestCertificateAndKeyChangeTogether checks that a changed certificate sends its key
// too.
func TestCertificateAndKeyChangeTogether(t *testing.T) {
	w := config.FileSubscription{Subscription: there("", func(s *notify.Subscription) { s.TLSCert, s.TLSKey = "new", "key" })}
	old := there("a", func(s *notify.Subscription) { s.TLSCert = "old" })
	s := new(reconciliation).changeStep(w, old)
	if got := slices.Sorted(maps.Keys(s.body)); !slices.Equal(got, []string{"tls_cert", "tls_key"}) {
		t.Errorf("a new certificate sends %v", got)
	}
	old.TLSCert = "new"
	if s := new(reconciliation).changeStep(w, old); s.Action != "leave" {
		t.Errorf("the same certificate: %s %v", s.Action, s.Fields)
	}
}

// TestExportedFileAppliesUnchanged applies an exported file: no step changes anything.
func TestExportedFileAppliesUnchanged(t *testing.T) {
	subs := []notify.Subscription{
		there("a", nil),
		there("b", func(s *notify.Subscription) {
			s.Extension, s.ExtensionRegex = "", `1\d"'`
			s.Types = []string{"answer-in", "hangup"}
			s.URL, s.Method, s.Dialect, s.Active = "https://crm.example/{?CallID}", "GET", notify.Telphin, false
			s.Note = "Zoë's \"note\"\\\n# none"
			s.Headers = map[string]string{"X-Api-Key": ""}
			s.Extended, s.FlowCase, s.Group, s.FollowURLs = true, "upper", "each", true
			s.LiveTTL, s.Timeout, s.MaxInFlight = notify.Duration(9e10), notify.Duration(5e8), 9
		}),
	}
	for i := range subs {
		subs[i].Normalize()
		if err := subs[i].Validate(); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := exportSubscriptions(&b, subs, true); err != nil {
		t.Fatal(err)
	}
	wanted, err := config.ReadSubscriptions("exported", b.String())
	if err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	a := reconciliation{wanted: wanted, prune: true}
	steps, err := a.planSteps(subs)
	if err != nil || len(steps) != 2 {
		t.Fatalf("%v %v", steps, err)
	}
	for _, s := range steps {
		if s.Action != "leave" {
			t.Errorf("%s is %s: %v\n%s", s.ID, s.Action, s.Fields, b.String())
		}
	}
}
