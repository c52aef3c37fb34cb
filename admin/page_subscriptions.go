package admin

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"bellhop/dialog"
	"bellhop/notify"
)

// shownTypes are the event types in the order in which the page shows them. The
// first are those that are said to whoever does not ask for more: an extension
// has a row for each, subscribed to or not.
var (
	usualTypes = []string{"dial-in", "dial-out", "answer-in", "answer-out", "hangup", "message-in", "message-out", "voicemail"}
	shownTypes = append(slices.Clone(usualTypes), "ringing", "hold", "resume", "transfer", "registered", "unregistered", "subscription-state")
)

// A table is the subscriptions of an extension, or those with expressions.
type table struct {
	Name     string // of the extension
	Patterns bool   // instead
	Rows     []notify.Subscription
	Missing  []string // usual types that no row has
}

// Query is what a form begins with.
func (t table) Query() string {
	if t.Patterns {
		return "patterns=1"
	}
	return url.Values{"extension": {t.Name}}.Encode()
}

// table reads what who makes the request of ctx sees. Name "" is expressions.
func (s *Server) table(ctx context.Context, name string) table {
	who := accessOf(ctx)
	t := table{Name: name, Patterns: name == ""}
	has := make(map[string]bool)
	for _, sub := range s.config.Notifier.Subscriptions() {
		if sub.Extension != name || !who.sees(sub.Extension) {
			continue
		}
		t.Rows = append(t.Rows, sub)
		for _, typ := range sub.Types {
			has[typ] = true
		}
	}
	for _, typ := range usualTypes {
		if !t.Patterns && !has[typ] && !(has["answer"] && strings.HasPrefix(typ, "answer-")) {
			t.Missing = append(t.Missing, typ)
		}
	}
	return t
}

func (s *Server) extensionPage(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	if !accessOf(r.Context()).sees(name) {
		return errNoPage
	}
	return s.show(w, r, "extension", "/", name, s.table(r.Context(), name))
}

func (s *Server) patternsPage(w http.ResponseWriter, r *http.Request) error {
	return s.show(w, r, "extension", "/", "Expressions", s.table(r.Context(), ""))
}

// A home is the first page.
type home struct {
	Extensions []extensionRow
	Patterns   int // subscriptions with expressions

	First     bool // there is nothing yet
	Listen    []string
	PBX, Curl string // what to copy
}

// An extensionRow is one of it.
type extensionRow struct {
	Name, Kind         string
	Now                string   // state of its call; "": none
	At                 []string // where it is registered
	Subscriptions, Off int
}

// extensionsData are those that are subscribed to, known to the tracker or in a
// call, or to which who looks is bound.
func (s *Server) extensionsData(r *http.Request) (any, error) {
	who := accessOf(r.Context())
	known := make(map[string]*extensionRow)
	of := func(name string) *extensionRow {
		if known[name] == nil {
			known[name] = &extensionRow{Name: name}
		}
		return known[name]
	}
	for _, name := range who.extensions {
		of(name)
	}
	h := home{}
	for _, sub := range s.config.Notifier.Subscriptions() {
		switch {
		case !who.sees(sub.Extension):
			continue
		case sub.Extension == "":
			h.Patterns++
			continue
		}
		e := of(sub.Extension)
		e.Subscriptions++
		if sub.State != notify.StateActive {
			e.Off++
		}
	}
	if err := s.showKnown(r.Context(), of); err != nil {
		return nil, err
	}
	for _, name := range slices.SortedFunc(maps.Keys(known), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
	}) {
		h.Extensions = append(h.Extensions, *known[name])
	}
	if h.First = len(known) == 0 && h.Patterns == 0; h.First {
		s.teach(r, &h)
	}
	return h, nil
}

// showKnown adds to the rows what the tracker knows.
func (s *Server) showKnown(ctx context.Context, of func(name string) *extensionRow) error {
	who := accessOf(ctx)
	row := func(e dialog.Extension) *extensionRow {
		if who.sees(e.User) {
			return of(e.User)
		}
		return of(e.String()) // it is bound to that in its domain
	}
	var known []dialog.ExtensionInfo
	var err error
	if s.config.Extensions != nil {
		if known, err = s.config.Extensions(ctx); err != nil {
			return err
		}
	}
	for _, k := range known {
		if !who.sees(k.Extension.String()) {
			continue
		}
		e := row(k.Extension)
		if k.Kind != dialog.Phone {
			e.Kind = string(k.Kind)
		}
		for _, c := range k.Contacts {
			e.At = append(e.At, c.URI)
		}
	}
	calls, err := s.liveCalls(ctx)
	for _, c := range calls {
		for _, p := range c.Parties {
			if !p.Over {
				row(p.Extension).Now = c.State
			}
		}
	}
	return err
}

// teach says what to do first.
func (s *Server) teach(r *http.Request, h *home) {
	h.Listen = s.config.Listen
	h.PBX = "[sip]\npbx = [\"udp://192.0.2.10:5060\"]   # your PBX"
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	h.Curl = `curl --json '{"extension": "101", "types": ["dial-in", "answer", "hangup"], "url": "https://crm.example/call"}' \` + "\n" +
		`  -H "Authorization: Bearer $BELLHOP_TOKEN" ` + scheme + r.Host + "/v1/subscriptions"
}

// A form is a pop-up in which a subscription is made or changed.
type form struct {
	Sub      notify.Subscription
	Revision string
	Pattern  bool // it is to have an expression
	Errors   map[string]string
	Problem  string // what no field is to blame for
}

type choice struct {
	Name string
	On   bool
}

// Types are the event types of the form: "answer" is both of its kinds.
func (f form) Types() []choice {
	types := shownTypes
	if slices.Contains(f.Sub.Types, "answer") {
		types = append([]string{"answer"}, shownTypes...)
	}
	var all []choice
	for _, t := range types {
		all = append(all, choice{t, slices.Contains(f.Sub.Types, t)})
	}
	return all
}

// Methods and Dialects are what may be chosen.
func (form) Methods() []string { return []string{"GET", "POST", "PUT"} }
func (form) Dialects() []notify.Dialect {
	return []notify.Dialect{notify.JSON, notify.CloudEvents, notify.Unified, notify.Telphin, notify.CTI}
}

func (s *Server) newForm(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	f := form{Sub: notify.NewSubscription(), Pattern: q.Get("patterns") != ""}
	f.Sub.Extension = q.Get("extension")
	f.Sub.Types = q["type"]
	return s.showPart(w, r, http.StatusOK, "form", f)
}

func (s *Server) changeForm(w http.ResponseWriter, r *http.Request) error {
	sub, err := s.subscription(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return s.showPart(w, r, http.StatusOK, "form", form{Sub: sub, Revision: strconv.FormatUint(sub.Revision, 10)})
}

// read takes from a form what it has of a subscription.
func readForm(r *http.Request, sub *notify.Subscription) {
	sub.Types = r.PostForm["types"]
	sub.URL = strings.TrimSpace(r.PostFormValue("url"))
	sub.Method = r.PostFormValue("method")
	sub.Dialect = notify.Dialect(r.PostFormValue("dialect"))
	sub.Note = r.PostFormValue("note")
	sub.Active = r.PostFormValue("active") == "true"
}

// faults are all that is wrong with a subscription, by field. What the form does
// not show is at no field.
func (f *form) faults(sub notify.Subscription) {
	f.Errors = make(map[string]string)
	for e := range sub.Invalid() {
		switch e.Field {
		case "extension", "extension_regex", "types", "url", "method", "dialect", "note":
			f.Errors[e.Field] = cmp.Or(f.Errors[e.Field], e.Field+" "+e.Why)
		default:
			f.Problem = cmp.Or(f.Problem, e.Field+" "+e.Why)
		}
	}
}

// blame has the form say what an error means.
func (s *Server) blame(f *form, err error) error {
	var invalid *notify.Invalid
	switch {
	case errors.As(err, &invalid):
		f.faults(f.Sub)
	case errors.Is(err, notify.ErrLimit), errors.Is(err, errNotYours):
		f.Errors = map[string]string{"extension": err.Error()}
	case errors.Is(err, notify.ErrConflict):
		f.Problem = err.Error() + " meanwhile: close this, and look again"
	case errors.Is(err, notify.ErrDeclared):
		f.Problem = err.Error()
	default:
		return err
	}
	if why := f.Errors["extension"]; f.Pattern && why != "" { // its form asks for no other
		f.Errors["extension_regex"] = why
	}
	return nil
}

func (s *Server) addFromForm(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return errBadForm
	}
	f := form{Sub: notify.NewSubscription()}
	readForm(r, &f.Sub)
	f.Sub.Extension = strings.TrimSpace(r.PostFormValue("extension"))
	if f.Pattern = r.PostForm.Has("extension_regex"); f.Pattern {
		f.Sub.ExtensionRegex = r.PostFormValue("extension_regex")
	}
	sub, err := s.subscribe(r.Context(), f.Sub)
	if err != nil {
		if err := s.blame(&f, err); err != nil {
			return err
		}
		return s.showPart(w, r, http.StatusUnprocessableEntity, "form", f)
	}
	back := "/patterns"
	if sub.Extension != "" {
		back = "/extensions/" + url.PathEscape(sub.Extension)
	}
	return s.showPart(w, r, http.StatusOK, "created", map[string]any{"Secret": string(sub.Secret), "Back": back})
}

func (s *Server) changeFromForm(w http.ResponseWriter, r *http.Request) error {
	revision, err := strconv.ParseUint(r.PostFormValue("revision"), 10, 64)
	if err != nil || revision == 0 {
		return errBadForm
	}
	f := form{Revision: r.PostFormValue("revision")}
	sub, err := s.edit(r.Context(), r.PathValue("id"), revision, func(sub *notify.Subscription) error {
		readForm(r, sub)
		f.Sub = *sub
		return nil
	})
	if err != nil {
		if f.Sub.ID == "" { // it came to no change
			f.Sub = sub
			readForm(r, &f.Sub)
		}
		if err := s.blame(&f, err); err != nil {
			return err
		}
		w.Header().Set("HX-Retarget", "#pop-up")
		w.Header().Set("HX-Reswap", "innerHTML")
		return s.showPart(w, r, http.StatusUnprocessableEntity, "form", f)
	}
	w.Header().Set("HX-Trigger", "saved")
	return s.showPart(w, r, http.StatusOK, "subscriptions", s.table(r.Context(), sub.Extension))
}

// toggle switches a subscription on or off, and answers with its row.
func (s *Server) toggle(w http.ResponseWriter, r *http.Request) error {
	active, err := strconv.ParseBool(r.PostFormValue("active"))
	if err != nil {
		return errBadForm
	}
	sub, err := s.edit(r.Context(), r.PathValue("id"), 0, func(sub *notify.Subscription) error {
		sub.Active = active
		return nil
	})
	if err != nil {
		return err
	}
	return s.showPart(w, r, http.StatusOK, "one-row", sub)
}

// rotateFromPage makes a new secret, and shows it this once.
func (s *Server) rotateFromPage(w http.ResponseWriter, r *http.Request) error {
	sub, err := s.rotate(r.Context(), r.PathValue("id"), 0)
	if err != nil {
		return err
	}
	return s.showPart(w, r, http.StatusOK, "rotated", string(sub.Secret))
}

// clearSelected removes the selected subscriptions, and answers with what is
// left of the table.
func (s *Server) clearSelected(w http.ResponseWriter, r *http.Request) error {
	of := r.PostFormValue("of")
	if !accessOf(r.Context()).sees(of) {
		return errNoPage
	}
	for _, id := range r.PostForm["id"] {
		if err := s.unsubscribe(r.Context(), id, 0); err != nil && !errors.Is(err, notify.ErrNotFound) {
			return err
		}
	}
	return s.showPart(w, r, http.StatusOK, "subscriptions", s.table(r.Context(), of))
}
