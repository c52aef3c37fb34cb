package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"bellhop/cmd/bellhop/config"
	"bellhop/notify"
	"bellhop/notify/subscription"
)

// exportSubscriptions writes subscriptions as TOML, with their ids if ids is set. Fields
// with default values are left out, and so are secrets.
func exportSubscriptions(w io.Writer, subs []notify.Subscription, ids bool) error {
	var b bytes.Buffer
	enc := toml.NewEncoder(&b)
	enc.Indent = ""
	defaults := notify.NewSubscription()
	for i, sub := range subs {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString("[[subscription]]\n")
		if ids && sub.ID != "" {
			enc.Encode(map[string]string{"id": sub.ID}) // cannot fail
		}
		for _, f := range subscription.Fields {
			v := f.Value(&sub)
			if f.Secret || f.Name == "headers" || reflect.DeepEqual(v.Interface(), f.Value(&defaults).Interface()) {
				continue
			}
			if err := enc.Encode(map[string]any{f.Name: v.Interface()}); err != nil {
				return err
			}
		}
		if len(sub.Headers) > 0 { // a table ends the fields
			b.WriteString("[subscription.headers]\n")
			if err := enc.Encode(sub.Headers); err != nil {
				return err
			}
		}
	}
	_, err := w.Write(escapeControls(b.Bytes()))
	return err
}

// A reconciliation has the subscriptions of the file and the flags of the command
// bellhop subscriptions apply.
type reconciliation struct {
	wanted                 []config.FileSubscription
	dryRun, prune, secrets bool
}

// A step creates, changes, leaves or removes one subscription. Programs read the words
// of Action, so never change a word, only add words.
type step struct {
	Action    string   `json:"action"` // create, change, leave or remove
	ID        string   `json:"id,omitempty"`
	Extension string   `json:"extension"`
	URL       string   `json:"url"`
	Fields    []string `json:"fields,omitempty"` // changed ones
	Secret    string   `json:"secret,omitempty"` // generated secret of a new subscription

	body     map[string]any
	position config.Problem
}

// applyPlan compares the file with the subscriptions of the server, applies the steps
// unless dryRun is set, and prints them.
func (a *reconciliation) applyPlan(ctx context.Context, r *apiClient, stdout io.Writer) error {
	had, err := r.listSubscriptions(ctx, url.Values{}, 0)
	if err != nil {
		return err
	}
	steps, err := a.planSteps(had)
	if err != nil {
		return err
	}
	counts := map[string]int{}
	out := terminalOf(stdout)
	for i := range steps {
		s := &steps[i]
		counts[s.Action]++
		if !a.dryRun {
			if err := r.applyStep(ctx, s); err != nil {
				if r.json {
					err = errors.Join(err, writeJSON(stdout, steps[:i]))
				}
				return fmt.Errorf("%s%s %s %s: %w", s.position.PositionPrefix(), s.Action, s.Extension, s.URL, err)
			}
		}
		if !r.json {
			fmt.Fprintln(out, s.formatStep(out))
		}
	}
	if r.json {
		return writeJSON(stdout, append([]step{}, steps...))
	}
	_, err = fmt.Fprintln(out, summarizeCounts(counts, a.dryRun))
	return err
}

// formatStep formats the step for people.
func (s *step) formatStep(out terminal) string {
	text := out.colorize(stateColors[s.Action], padText(s.Action, 6)) + "  "
	if s.ID != "" {
		text += s.ID + "  "
	}
	text += stripControls(s.Extension + "  " + s.URL)
	if len(s.Fields) > 0 {
		text += "  " + out.colorize(dim, "("+strings.Join(s.Fields, ", ")+")")
	}
	if s.Secret != "" {
		text += "\n        secret (shown once): " + s.Secret
	}
	return text
}

// summarizeCounts summarizes the steps in a line, like "1 changed, 9 unchanged".
func summarizeCounts(counts map[string]int, dry bool) string {
	var parts []string
	for _, p := range []struct{ action, done, planned string }{
		{"create", "created", "to create"}, {"change", "changed", "to change"}, {"remove", "removed", "to remove"}, {"leave", "unchanged", "unchanged"},
	} {
		words := p.done
		if dry {
			words = p.planned
		}
		if n := counts[p.action]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, words))
		}
	}
	text := cmp.Or(strings.Join(parts, ", "), "nothing to apply")
	if dry {
		return "dry run: " + text
	}
	return text
}

// applyStep sends the request of a step.
func (r *apiClient) applyStep(ctx context.Context, s *step) error {
	switch s.Action {
	case "create":
		var made notify.Subscription
		if err := r.doRequest(ctx, "POST", "/v1/subscriptions", s.body, &made); err != nil {
			return err
		}
		s.ID = made.ID
		if s.body["secret"] == nil {
			s.Secret = string(made.Secret)
		}
		return nil
	case "change":
		return r.doRequest(ctx, "PATCH", "/v1/subscriptions/"+s.ID, s.body, nil)
	case "remove":
		return r.doRequest(ctx, "DELETE", "/v1/subscriptions/"+s.ID, nil, nil)
	}
	return nil // unchanged
}

// planSteps returns the steps that change the subscriptions of the server (had) into
// those of the file, in the order of the file. With prune, it adds steps that remove the
// subscriptions that are neither in the file nor declared in the server's config. If the
// file cannot be applied, the error lists every problem.
func (a *reconciliation) planSteps(had []notify.Subscription) ([]step, error) {
	if a.prune && len(a.wanted) == 0 {
		return nil, errors.New("the file has no [[subscription]]: --prune would remove every subscription: to do that, use bellhop subscriptions remove")
	}
	pairs, wrong := a.matchSubscriptions(had)
	var steps []step
	kept := map[string]bool{}
	for i, w := range a.wanted {
		old := pairs[i]
		if w.Position.Text = missingValue(&w, old); w.Position.Text != "" {
			wrong = append(wrong, w.Position)
			continue
		}
		if old == nil {
			steps = append(steps, createStep(w))
			continue
		}
		kept[old.ID] = true
		s := a.changeStep(w, *old)
		if old.Declared != "" && s.Action != "leave" {
			w.Position.Text = fmt.Sprintf("the subscription of %s to %s is declared in the server's config (%s): change it there", extensionLabel(*old), old.URL, old.Declared)
			wrong = append(wrong, w.Position)
		}
		steps = append(steps, s)
	}
	if len(wrong) > 0 {
		wrong.Sort()
		return nil, wrong
	}
	if a.prune {
		for _, old := range had {
			if !kept[old.ID] && old.Declared == "" {
				steps = append(steps, step{Action: "remove", ID: old.ID, Extension: extensionLabel(old), URL: old.URL})
			}
		}
	}
	return steps, nil
}

// matchSubscriptions pairs each subscription of the file with an existing one: by id,
// or else by extension, url and types, or else by extension and url. An entry of pairs
// is nil if there is no match. wrong has a problem for each unknown id, and for each
// subscription that matches several existing ones by extension and url only.
func (a *reconciliation) matchSubscriptions(had []notify.Subscription) (pairs []*notify.Subscription, wrong config.Problems) {
	pairs = make([]*notify.Subscription, len(a.wanted))
	taken := map[string]bool{}
	known := make([]string, len(had))
	for i, old := range had {
		known[i] = old.ID
	}
	for i, w := range a.wanted {
		if w.ID == "" {
			continue
		}
		at := slices.Index(known, w.ID)
		if at < 0 {
			w.Position.Text = fmt.Sprintf("no subscription has the id %q: ", w.ID) + cmp.Or(didYouMean(nearestID(w.ID, known)), "remove the id line to create it")
			wrong = append(wrong, w.Position)
			continue
		}
		pairs[i], taken[w.ID] = &had[at], true
	}
	same := func(w config.FileSubscription, types bool) (found []*notify.Subscription) {
		for i := range had {
			old := &had[i]
			if !taken[old.ID] && extensionLabel(*old) == extensionLabel(w.Subscription) && old.URL == w.Subscription.URL && (!types || slices.Equal(old.Types, w.Subscription.Types)) {
				found = append(found, old)
			}
		}
		return found
	}
	for _, types := range []bool{true, false} {
		for i, w := range a.wanted {
			if w.ID != "" || pairs[i] != nil {
				continue
			}
			switch found := same(w, types); {
			case len(found) == 1 || types && len(found) > 1:
				pairs[i], taken[found[0].ID] = found[0], true
			case len(found) > 1:
				w.Position.Text = fmt.Sprintf("%d subscriptions of %s go to %s: add the id of the one you mean", len(found), extensionLabel(w.Subscription), w.Subscription.URL)
				wrong = append(wrong, w.Position)
			}
		}
	}
	return pairs, wrong
}

// didYouMean returns a question that suggests near, or "" if near is empty.
func didYouMean(near string) string {
	if near == "" {
		return ""
	}
	return "did you mean " + near + "?"
}

// jsonFields returns the fields of a subscription as JSON values.
func jsonFields(sub notify.Subscription) map[string]any {
	b, err := json.Marshal(sub)
	if err != nil {
		panic(err) // cannot happen: all fields are text
	}
	var fields map[string]any
	json.Unmarshal(b, &fields)
	return fields
}

// missingValue returns a problem if the value of a header or the tls_key of w is
// neither in the file nor stored. Export leaves out these values. old is the existing
// subscription, or nil if w is new.
func missingValue(w *config.FileSubscription, old *notify.Subscription) string {
	for _, name := range slices.Sorted(maps.Keys(w.Subscription.Headers)) {
		has := false
		if old != nil {
			_, has = old.Headers[name]
		}
		if w.Subscription.Headers[name] == "" && !has {
			return fmt.Sprintf("header %s has no value, and none is stored: set one", name)
		}
	}
	if old == nil && w.Subscription.TLSCert != "" && w.Subscription.TLSKey == "" {
		return "tls_key is missing, and none is stored: set it"
	}
	return ""
}

// createStep returns the step that creates w.
func createStep(w config.FileSubscription) step {
	s := step{Action: "create", Extension: extensionLabel(w.Subscription), URL: w.Subscription.URL, body: map[string]any{}, position: w.Position}
	fields := jsonFields(w.Subscription)
	for _, f := range subscription.Fields {
		if v, ok := fields[f.Name]; ok {
			s.body[f.Name] = v
		}
	}
	return s
}

// changeStep returns the step that changes old into w, or a step that leaves it.
func (a *reconciliation) changeStep(w config.FileSubscription, old notify.Subscription) step {
	s := step{Action: "leave", ID: old.ID, Extension: extensionLabel(w.Subscription), URL: w.Subscription.URL, body: map[string]any{}, position: w.Position}
	want, have := jsonFields(w.Subscription), jsonFields(old)
	for _, f := range subscription.Fields {
		name := f.Name
		was, will := have[name], want[name]
		if f.Secret { // a certificate and its key change together
			if will != nil && (a.secrets || name == "tls_key" && s.body["tls_cert"] != nil) {
				s.setField(name, will, nil)
			}
			continue
		}
		if name == "headers" { // the API shows only their names
			if a.secrets && hasValue(w.Subscription.Headers) || !slices.Equal(sortedKeys(was), sortedKeys(will)) {
				s.setField(name, will, was)
			}
			continue
		}
		if !reflect.DeepEqual(was, will) {
			s.setField(name, will, was)
		}
	}
	if len(s.body) > 0 {
		s.Action = "change"
	}
	return s
}

// setField adds a field with the value v to the request of a step. was is the old value
// of the field. If v is nil, the field is set to the empty value of the type of was.
func (s *step) setField(name string, v, was any) {
	if v == nil {
		v = reflect.Zero(reflect.TypeOf(was)).Interface()
		if reflect.TypeOf(was).Kind() == reflect.Map {
			v = map[string]any{}
		}
	}
	s.body[name] = v
	s.Fields = append(s.Fields, name)
}

// hasValue reports whether any of headers has a value.
func hasValue(headers map[string]string) bool {
	for _, v := range headers {
		if v != "" {
			return true
		}
	}
	return false
}

// sortedKeys returns the keys of a JSON object, sorted.
func sortedKeys(v any) (names []string) {
	m, _ := v.(map[string]any)
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
