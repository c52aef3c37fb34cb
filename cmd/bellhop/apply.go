package main

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

	"bellhop/notify"
)

// An exported subscription is a [[subscription]] with its id. What has its
// default is not written.
type exported struct {
	ID             string            `toml:"id,omitempty"`
	Extension      string            `toml:"extension,omitempty"`
	ExtensionRegex string            `toml:"extension_regex,omitempty"`
	Types          []string          `toml:"types"`
	URL            string            `toml:"url"`
	Method         string            `toml:"method,omitempty"`
	Dialect        string            `toml:"dialect,omitempty"`
	Active         *bool             `toml:"active,omitempty"`
	Note           string            `toml:"note,omitempty"`
	TLSCA          string            `toml:"tls_ca,omitempty"`
	TLSCert        string            `toml:"tls_cert,omitempty"`
	Extended       bool              `toml:"extended,omitempty"`
	FlowCase       string            `toml:"flow_case,omitempty"`
	StatusWords    string            `toml:"status_words,omitempty"`
	Group          string            `toml:"group,omitempty"`
	FollowURLs     bool              `toml:"follow_urls,omitempty"`
	LiveTTL        string            `toml:"live_ttl,omitempty"`
	Timeout        string            `toml:"timeout,omitempty"`
	MaxInFlight    int               `toml:"max_in_flight,omitzero"`
	Headers        map[string]string `toml:"headers,omitempty"`
}

func export(w io.Writer, subs []notify.Subscription, ids bool) error {
	var b bytes.Buffer
	for i, sub := range subs {
		e := exported{
			ID: sub.ID, Extension: sub.Extension, ExtensionRegex: sub.ExtensionRegex, Types: sub.Types, URL: sub.URL,
			Method: sub.Method, Dialect: string(sub.Dialect), Note: sub.Note, TLSCA: sub.TLSCA, TLSCert: sub.TLSCert,
			Extended: sub.Extended, FlowCase: sub.FlowCase, StatusWords: sub.StatusWords, Group: sub.Group, FollowURLs: sub.FollowURLs,
			MaxInFlight: sub.MaxInFlight, Headers: sub.Headers,
		}
		usual := notify.NewSubscription()
		if e.Method == usual.Method {
			e.Method = ""
		}
		if e.Dialect == string(usual.Dialect) {
			e.Dialect = ""
		}
		if !sub.Active {
			e.Active = &sub.Active
		}
		if sub.LiveTTL != 0 {
			e.LiveTTL = sub.LiveTTL.String()
		}
		if sub.Timeout != 0 {
			e.Timeout = sub.Timeout.String()
		}
		if !ids {
			e.ID = ""
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		enc := toml.NewEncoder(&b)
		enc.Indent = ""
		if err := enc.Encode(map[string][]exported{"subscription": {e}}); err != nil {
			return err
		}
	}
	_, err := w.Write(escapeSteering(b.Bytes()))
	return err
}

// A wanted subscription is a [[subscription]] of a file to apply.
type wanted struct {
	id    string
	sub   notify.Subscription // with its secrets
	place problem             // where it is in the file; the text is empty
}

// readSubscriptions reads the [[subscription]] of a file. An error about what is
// in it is a [problems], which has them all.
func readSubscriptions(file, text string) ([]wanted, error) {
	doc, r, err := decode(file, text)
	if err != nil {
		return nil, err
	}
	ids := r.takeIDs(doc)
	var dst struct {
		Subscription []subscriptionConfig `toml:"subscription"`
	}
	r.table("", doc, reflect.ValueOf(&dst).Elem())
	all := make([]wanted, len(dst.Subscription))
	for i, c := range dst.Subscription {
		path := index("subscription", i)
		sub := c.subscription(i)
		sub.Declared = ""
		cert := sub.TLSCert
		if sub.TLSKey == "" {
			sub.TLSCert = "" // which export writes without its key
		}
		for err := range sub.Invalid() {
			r.problem(path+"."+err.Field, "%s", err.Why)
		}
		sub.Validate() // which makes it as it is stored
		sub.TLSCert = cert
		if sub.OldSecret != "" {
			r.problem(path+".old_secret", "cannot be set over the API: leave it out; a new secret is a rotation")
		}
		if ids[i] != "" && slices.Contains(ids[:i], ids[i]) {
			r.problem(path+".id", "is used by another [[subscription]] above")
		}
		at := r.where.key(path)
		all[i] = wanted{id: ids[i], sub: sub, place: problem{File: file, Line: at.line, Column: at.column}}
	}
	if len(r.problems) > 0 {
		r.problems.sort()
		return nil, r.problems
	}
	return all, nil
}

// takeIDs takes the ids out of the [[subscription]] of a document.
func (r *reader) takeIDs(doc map[string]any) []string {
	var tables []map[string]any
	switch v := doc["subscription"].(type) { // of anything else, the reader will say
	case []map[string]any:
		tables = v
	case []any: // subscription = [{…}]
		for _, t := range v {
			table, _ := t.(map[string]any)
			tables = append(tables, table)
		}
	}
	ids := make([]string, len(tables))
	for i, t := range tables {
		var ok bool
		if ids[i], ok = t["id"].(string); t["id"] != nil && (!ok || ids[i] == "") {
			r.problem(index("subscription", i)+".id", "must be the id of a subscription: leave it out to create one")
		}
		delete(t, "id")
	}
	return ids
}

// An applying is what apply was asked to do.
type applying struct {
	wanted              []wanted
	dry, prune, secrets bool
}

// A step is what is done about one subscription. The words of Action are for
// programs: never change one, only add.
type step struct {
	Action    string   `json:"action"` // create, change, leave or remove
	ID        string   `json:"id,omitempty"`
	Extension string   `json:"extension"`
	URL       string   `json:"url"`
	Fields    []string `json:"fields,omitempty"` // that change
	Secret    string   `json:"secret,omitempty"` // of one that is new and had none

	body  map[string]any
	place problem
}

func (a *applying) apply(ctx context.Context, r *remote, stdout io.Writer) error {
	had, err := r.subscriptions(ctx, url.Values{}, 0)
	if err != nil {
		return err
	}
	steps, err := a.plan(had)
	if err != nil {
		return err
	}
	counts := map[string]int{}
	out := screenOf(stdout)
	for i := range steps {
		s := &steps[i]
		counts[s.Action]++
		if !a.dry {
			if err := r.take(ctx, s); err != nil {
				if r.json {
					err = errors.Join(err, writeJSON(stdout, steps[:i]))
				}
				return fmt.Errorf("%s%s %s %s: %w", s.place.at(), s.Action, s.Extension, s.URL, err)
			}
		}
		if !r.json {
			fmt.Fprintln(out, s.line(out))
		}
	}
	if r.json {
		return writeJSON(stdout, append([]step{}, steps...))
	}
	_, err = fmt.Fprintln(out, counted(counts, a.dry))
	return err
}

// at is where something stands, before what is said of it.
func (p problem) at() string {
	if p.File == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d: ", p.File, p.Line)
}

// line is a step as a person reads it.
func (s *step) line(out screen) string {
	text := out.paint(tints[s.Action], pad(s.Action, 6)) + "  "
	if s.ID != "" {
		text += s.ID + "  "
	}
	text += printable(s.Extension + "  " + s.URL)
	if len(s.Fields) > 0 {
		text += "  " + out.paint(dim, "("+strings.Join(s.Fields, ", ")+")")
	}
	if s.Secret != "" {
		text += "\n        secret (shown once): " + s.Secret
	}
	return text
}

// counted summarizes the steps in a line, like "1 changed, 9 unchanged".
func counted(counts map[string]int, dry bool) string {
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

// take does a step.
func (r *remote) take(ctx context.Context, s *step) error {
	switch s.Action {
	case "create":
		var made notify.Subscription
		if err := r.do(ctx, "POST", "/v1/subscriptions", s.body, &made); err != nil {
			return err
		}
		s.ID = made.ID
		if s.body["secret"] == nil {
			s.Secret = string(made.Secret)
		}
		return nil
	case "change":
		return r.do(ctx, "PATCH", "/v1/subscriptions/"+s.ID, s.body, nil)
	case "remove":
		return r.do(ctx, "DELETE", "/v1/subscriptions/"+s.ID, nil, nil)
	}
	return nil // it is as it should be
}

// plan says what is to be done, given what there is, in the order of the file.
func (a *applying) plan(had []notify.Subscription) ([]step, error) {
	if a.prune && len(a.wanted) == 0 {
		return nil, errors.New("the file has no [[subscription]]: --prune would remove every subscription: to do that, use bellhop subscriptions remove")
	}
	pairs, wrong := a.match(had)
	var steps []step
	kept := map[string]bool{}
	for i, w := range a.wanted {
		old := pairs[i]
		if w.place.Text = w.lacks(old); w.place.Text != "" {
			wrong = append(wrong, w.place)
			continue
		}
		if old == nil {
			steps = append(steps, create(w))
			continue
		}
		kept[old.ID] = true
		s := a.change(w, *old)
		if old.Declared != "" && s.Action != "leave" {
			w.place.Text = fmt.Sprintf("the subscription of %s to %s is declared in the server's config (%s): change it there", whose(*old), old.URL, old.Declared)
			wrong = append(wrong, w.place)
		}
		steps = append(steps, s)
	}
	if len(wrong) > 0 {
		wrong.sort()
		return nil, wrong
	}
	if a.prune {
		for _, old := range had {
			if !kept[old.ID] && old.Declared == "" {
				steps = append(steps, step{Action: "remove", ID: old.ID, Extension: whose(old), URL: old.URL})
			}
		}
	}
	return steps, nil
}

// match finds which of those there are each of the wanted is: nil, none is.
func (a *applying) match(had []notify.Subscription) (pairs []*notify.Subscription, wrong problems) {
	pairs = make([]*notify.Subscription, len(a.wanted))
	taken := map[string]bool{}
	known := make([]string, len(had))
	for i, old := range had {
		known[i] = old.ID
	}
	for i, w := range a.wanted {
		if w.id == "" {
			continue
		}
		at := slices.Index(known, w.id)
		if at < 0 {
			w.place.Text = fmt.Sprintf("no subscription has the id %q: ", w.id) + cmp.Or(suggested(nearest(w.id, known)), "remove the id line to create it")
			wrong = append(wrong, w.place)
			continue
		}
		pairs[i], taken[w.id] = &had[at], true
	}
	same := func(w wanted, types bool) (found []*notify.Subscription) {
		for i := range had {
			old := &had[i]
			if !taken[old.ID] && whose(*old) == whose(w.sub) && old.URL == w.sub.URL && (!types || slices.Equal(old.Types, w.sub.Types)) {
				found = append(found, old)
			}
		}
		return found
	}
	for _, types := range []bool{true, false} {
		for i, w := range a.wanted {
			if w.id != "" || pairs[i] != nil {
				continue
			}
			switch found := same(w, types); {
			case len(found) == 1 || types && len(found) > 1:
				pairs[i], taken[found[0].ID] = found[0], true
			case len(found) > 1:
				w.place.Text = fmt.Sprintf("%d subscriptions of %s go to %s: add the id of the one you mean", len(found), whose(w.sub), w.sub.URL)
				wrong = append(wrong, w.place)
			}
		}
	}
	return pairs, wrong
}

func suggested(near string) string {
	if near == "" {
		return ""
	}
	return "did you mean " + near + "?"
}

// settable are the fields that a request may set and anybody may read, but for
// headers, of which they may read the names.
var settable = []string{
	"extension", "extension_regex", "types", "url", "method", "dialect", "active", "note", "headers", "tls_ca", "tls_cert",
	"extended", "flow_case", "status_words", "group", "follow_urls", "live_ttl", "timeout", "max_in_flight",
}

// withheldFields are those that nobody may read.
var withheldFields = []string{"secret", "tls_key"}

// fieldsOf are the fields of a subscription as a request says them.
func fieldsOf(sub notify.Subscription) map[string]any {
	b, err := json.Marshal(sub)
	if err != nil {
		panic(err) // it is made of text
	}
	var fields map[string]any
	json.Unmarshal(b, &fields)
	return fields
}

// lacks says what export could not write of a subscription, and nobody has: old
// is what it is now, or nil.
func (w *wanted) lacks(old *notify.Subscription) string {
	for _, name := range slices.Sorted(maps.Keys(w.sub.Headers)) {
		has := false
		if old != nil {
			_, has = old.Headers[name]
		}
		if w.sub.Headers[name] == "" && !has {
			return fmt.Sprintf("header %s has no value, and none is stored: set one", name)
		}
	}
	if old == nil && w.sub.TLSCert != "" && w.sub.TLSKey == "" {
		return "tls_key is missing, and none is stored: set it"
	}
	return ""
}

// create is the step that makes a subscription.
func create(w wanted) step {
	s := step{Action: "create", Extension: whose(w.sub), URL: w.sub.URL, body: map[string]any{}, place: w.place}
	fields := fieldsOf(w.sub)
	for _, name := range slices.Concat(settable, withheldFields) {
		if v, ok := fields[name]; ok {
			s.body[name] = v
		}
	}
	return s
}

// change is the step that makes old what is wanted, or leaves it.
func (a *applying) change(w wanted, old notify.Subscription) step {
	s := step{Action: "leave", ID: old.ID, Extension: whose(w.sub), URL: w.sub.URL, body: map[string]any{}, place: w.place}
	want, have := fieldsOf(w.sub), fieldsOf(old)
	for _, name := range settable {
		was, will := have[name], want[name]
		if name == "headers" {
			if a.secrets && hasValue(w.sub.Headers) || !slices.Equal(sortedKeys(was), sortedKeys(will)) {
				s.set(name, will, was)
			}
			continue
		}
		if !reflect.DeepEqual(was, will) {
			s.set(name, will, was)
		}
	}
	// A certificate and its key change together.
	for _, name := range withheldFields {
		if v, ok := want[name]; ok && (a.secrets || name == "tls_key" && s.body["tls_cert"] != nil) {
			s.set(name, v, nil)
		}
	}
	if len(s.body) > 0 {
		s.Action = "change"
	}
	return s
}

// set has the request set a field; what has no value is what was, emptied.
func (s *step) set(name string, v, was any) {
	if v == nil {
		v = reflect.Zero(reflect.TypeOf(was)).Interface()
		if reflect.TypeOf(was).Kind() == reflect.Map {
			v = map[string]any{}
		}
	}
	s.body[name] = v
	s.Fields = append(s.Fields, name)
}

func hasValue(headers map[string]string) bool {
	for _, v := range headers {
		if v != "" {
			return true
		}
	}
	return false
}

func sortedKeys(v any) (names []string) {
	m, _ := v.(map[string]any)
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
