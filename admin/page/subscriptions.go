package page

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

	"bellhop/admin/access"
	"bellhop/admin/ops"
	"bellhop/dialog"
	"bellhop/notify"
)

// defaultTypes are the event types that are published even if no subscription names
// them. The page of an extension has a row for each, even without a subscription.
// shownTypes are all types, in the order of the page.
var defaultTypes, shownTypes = func() (published, all []string) {
	var optIn []string
	for _, t := range dialog.Types {
		word := string(t.Type)
		switch {
		case t.ByFlow:
			published = append(published, word+"-in", word+"-out")
		case t.OptIn:
			optIn = append(optIn, word)
		default:
			published = append(published, word)
		}
	}
	return published, slices.Concat(published, optIn)
}()

// subscriptionTable lists the subscriptions to an extension, or those with a pattern
// (extension_regex).
type subscriptionTable struct {
	Name     string // the extension
	Patterns bool   // subscriptions with a pattern instead
	Rows     []notify.Subscription
	Missing  []string // defaultTypes without a subscription
}

// Query returns the query of the URL of the form for a new subscription.
func (t subscriptionTable) Query() string {
	if t.Patterns {
		return "patterns=1"
	}
	return url.Values{"extension": {t.Name}}.Encode()
}

// readTable returns the subscriptions to the extension name that the client of ctx may
// see. If name is "", it returns those with a pattern.
func (p *Page) readTable(ctx context.Context, name string) subscriptionTable {
	t := subscriptionTable{Name: name, Patterns: name == ""}
	has := make(map[string]bool)
	for _, sub := range p.ops.Subscriptions(ctx) {
		if sub.Extension != name {
			continue
		}
		t.Rows = append(t.Rows, sub)
		for _, typ := range sub.Types {
			has[typ] = true
		}
	}
	for _, typ := range defaultTypes {
		if !t.Patterns && !has[typ] && !(has["answer"] && strings.HasPrefix(typ, "answer-")) {
			t.Missing = append(t.Missing, typ)
		}
	}
	return t
}

func (p *Page) extensionPage(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	if !access.ClientOf(r.Context()).CanSee(name) {
		return errNoPage
	}
	return p.showPage(w, r, "extension", "/", name, p.readTable(r.Context(), name))
}

func (p *Page) patternsPage(w http.ResponseWriter, r *http.Request) error {
	return p.showPage(w, r, "extension", "/", "Patterns", p.readTable(r.Context(), ""))
}

// homeView is the start page.
type homeView struct {
	Extensions []extensionRow
	Patterns   int // number of subscriptions with a pattern

	First     bool // show the first steps, because there are no extensions and patterns
	Listen    []string
	PBX, Curl string // texts of the first steps, to copy
}

// extensionRow is a row of the start page.
type extensionRow struct {
	Name, Kind         string
	Now                string   // state of its live call; "": none
	At                 []string // registered contacts
	Subscriptions, Off int
}

// extensionsData returns a homeView. An extension has a row if it has a subscription, the
// tracker knows it, it is in a live call, or the client's token is bound to it.
func (p *Page) extensionsData(r *http.Request) (any, error) {
	client := access.ClientOf(r.Context())
	known := make(map[string]*extensionRow)
	of := func(name string) *extensionRow {
		if known[name] == nil {
			known[name] = &extensionRow{Name: name}
		}
		return known[name]
	}
	for _, name := range client.Extensions {
		of(name)
	}
	h := homeView{}
	for _, sub := range p.ops.Subscriptions(r.Context()) {
		if sub.Extension == "" {
			h.Patterns++
			continue
		}
		e := of(sub.Extension)
		e.Subscriptions++
		if sub.State != notify.StateActive {
			e.Off++
		}
	}
	if err := p.addKnownRows(r.Context(), of); err != nil {
		return nil, err
	}
	for _, name := range slices.SortedFunc(maps.Keys(known), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
	}) {
		h.Extensions = append(h.Extensions, *known[name])
	}
	if h.First = len(known) == 0 && h.Patterns == 0; h.First {
		p.addFirstSteps(r, &h)
	}
	return h, nil
}

// addKnownRows adds the extensions of the tracker and of live calls to the rows. It calls
// of, which returns the row with a name, and adds the row if it is missing.
func (p *Page) addKnownRows(ctx context.Context, of func(name string) *extensionRow) error {
	client := access.ClientOf(ctx)
	row := func(e dialog.Extension) *extensionRow {
		if client.CanSee(e.User) {
			return of(e.User)
		}
		return of(e.String()) // the token is bound to user@domain
	}
	known, err := p.ops.TrackedExtensions(ctx)
	if err != nil {
		return err
	}
	for _, k := range known {
		e := row(k.Extension)
		if k.Kind != dialog.Phone {
			e.Kind = string(k.Kind)
		}
		for _, c := range k.Contacts {
			e.At = append(e.At, c.URI)
		}
	}
	calls, err := p.ops.Calls(ctx)
	for _, c := range calls {
		for _, p := range c.Parties {
			if !p.Over {
				row(p.Extension).Now = c.State
			}
		}
	}
	return err
}

// addFirstSteps adds the texts of the first steps.
func (p *Page) addFirstSteps(r *http.Request, h *homeView) {
	if p.listen != nil {
		h.Listen = p.listen()
	}
	h.PBX = "[sip]\npbx = [\"udp://192.0.2.10:5060\"]   # your PBX"
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	h.Curl = `curl --json '{"extension": "101", "types": ["dial-in", "answer", "hangup"], "url": "https://crm.example/call"}' \` + "\n" +
		`  -H "Authorization: Bearer $BELLHOP_TOKEN" ` + scheme + r.Host + "/v1/subscriptions"
}

// subscriptionForm is the form that creates or changes a subscription.
type subscriptionForm struct {
	Sub      notify.Subscription
	Revision string
	Pattern  bool // the subscription gets a pattern
	Errors   map[string]string
	Problem  string // error that belongs to no field
}

type choice struct {
	Name string
	On   bool
}

// Types returns the event types of the form. answer, which stands for answer-in and
// answer-out, is among them only if the subscription has it.
func (f subscriptionForm) Types() []choice {
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

// Methods and Dialects return the choices of the form.
func (subscriptionForm) Methods() []string { return []string{"GET", "POST", "PUT"} }
func (subscriptionForm) Dialects() []notify.Dialect {
	return []notify.Dialect{notify.JSON, notify.CloudEvents, notify.Unified, notify.Telphin, notify.CTI}
}

func (p *Page) newForm(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	f := subscriptionForm{Sub: notify.NewSubscription(), Pattern: q.Get("patterns") != ""}
	f.Sub.Extension = q.Get("extension")
	f.Sub.Types = q["type"]
	return p.showPart(w, r, http.StatusOK, "form", f)
}

func (p *Page) changeForm(w http.ResponseWriter, r *http.Request) error {
	sub, err := p.ops.Subscription(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return p.showPart(w, r, http.StatusOK, "form", subscriptionForm{Sub: sub, Revision: strconv.FormatUint(sub.Revision, 10)})
}

// readForm sets the fields of a subscription to those of the form in a request.
func readForm(r *http.Request, sub *notify.Subscription) {
	sub.Types = r.PostForm["types"]
	sub.URL = strings.TrimSpace(r.PostFormValue("url"))
	sub.Method = r.PostFormValue("method")
	sub.Dialect = notify.Dialect(r.PostFormValue("dialect"))
	sub.Note = r.PostFormValue("note")
	sub.Active = r.PostFormValue("active") == "true"
}

// setErrors sets f.Errors to the errors of a subscription. The first error of a field
// that is not in the form becomes f.Problem.
func (f *subscriptionForm) setErrors(sub notify.Subscription) {
	f.Errors = make(map[string]string)
	for e := range ops.InvalidFields(sub) {
		switch e.Field {
		case "extension", "extension_regex", "types", "url", "method", "dialect", "note":
			f.Errors[e.Field] = cmp.Or(f.Errors[e.Field], e.Field+" "+e.Why)
		default:
			f.Problem = cmp.Or(f.Problem, e.Field+" "+e.Why)
		}
	}
}

// explainError sets err in the form, or returns it if the form cannot explain it.
func (p *Page) explainError(f *subscriptionForm, err error) error {
	var invalid *notify.Invalid
	switch {
	case errors.As(err, &invalid):
		f.setErrors(f.Sub)
	case ops.KindOf(err) == ops.Limit, ops.KindOf(err) == ops.NotBound:
		f.Errors = map[string]string{"extension": err.Error()}
	case errors.Is(err, notify.ErrConflict):
		f.Problem = err.Error() + ": close this form and open it again"
	case errors.Is(err, notify.ErrDeclared):
		f.Problem = err.Error()
	default:
		return err
	}
	if why := f.Errors["extension"]; f.Pattern && why != "" { // a form for a pattern has no field extension
		f.Errors["extension_regex"] = why
	}
	return nil
}

func (p *Page) addFromForm(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return errBadForm
	}
	f := subscriptionForm{Sub: notify.NewSubscription()}
	readForm(r, &f.Sub)
	f.Sub.Extension = strings.TrimSpace(r.PostFormValue("extension"))
	if f.Pattern = r.PostForm.Has("extension_regex"); f.Pattern {
		f.Sub.ExtensionRegex = r.PostFormValue("extension_regex")
	}
	sub, err := p.ops.CreateSubscription(r.Context(), f.Sub)
	if err != nil {
		if err := p.explainError(&f, err); err != nil {
			return err
		}
		return p.showPart(w, r, http.StatusUnprocessableEntity, "form", f)
	}
	back := "/patterns"
	if sub.Extension != "" {
		back = "/extensions/" + url.PathEscape(sub.Extension)
	}
	return p.showPart(w, r, http.StatusOK, "created", map[string]any{"Secret": string(sub.Secret), "Back": back})
}

func (p *Page) changeFromForm(w http.ResponseWriter, r *http.Request) error {
	revision, err := strconv.ParseUint(r.PostFormValue("revision"), 10, 64)
	if err != nil || revision == 0 {
		return errBadForm
	}
	f := subscriptionForm{Revision: r.PostFormValue("revision")}
	sub, err := p.ops.ChangeSubscription(r.Context(), r.PathValue("id"), revision, func(sub *notify.Subscription) error {
		readForm(r, sub)
		f.Sub = *sub
		return nil
	})
	if err != nil {
		if f.Sub.ID == "" { // the edit failed before the form was applied
			f.Sub = sub
			readForm(r, &f.Sub)
		}
		if err := p.explainError(&f, err); err != nil {
			return err
		}
		w.Header().Set("HX-Retarget", "#pop-up")
		w.Header().Set("HX-Reswap", "innerHTML")
		return p.showPart(w, r, http.StatusUnprocessableEntity, "form", f)
	}
	w.Header().Set("HX-Trigger", "saved")
	return p.showPart(w, r, http.StatusOK, "subscriptions", p.readTable(r.Context(), sub.Extension))
}

// toggleActive switches a subscription on or off, and answers with its row.
func (p *Page) toggleActive(w http.ResponseWriter, r *http.Request) error {
	active, err := strconv.ParseBool(r.PostFormValue("active"))
	if err != nil {
		return errBadForm
	}
	sub, err := p.ops.ChangeSubscription(r.Context(), r.PathValue("id"), 0, func(sub *notify.Subscription) error {
		sub.Active = active
		return nil
	})
	if err != nil {
		return err
	}
	return p.showPart(w, r, http.StatusOK, "one-row", sub)
}

// rotateFromPage rotates the secret of a subscription, and shows the new secret. It is
// not shown again.
func (p *Page) rotateFromPage(w http.ResponseWriter, r *http.Request) error {
	sub, err := p.ops.RotateSecret(r.Context(), r.PathValue("id"), 0)
	if err != nil {
		return err
	}
	return p.showPart(w, r, http.StatusOK, "rotated", string(sub.Secret))
}

// clearSelected deletes the selected subscriptions, and answers with the rest of the
// table.
func (p *Page) clearSelected(w http.ResponseWriter, r *http.Request) error {
	of := r.PostFormValue("of")
	if !access.ClientOf(r.Context()).CanSee(of) {
		return errNoPage
	}
	for _, id := range r.PostForm["id"] {
		if err := p.ops.DeleteSubscription(r.Context(), id, 0); err != nil && !errors.Is(err, notify.ErrNotFound) {
			return err
		}
	}
	return p.showPart(w, r, http.StatusOK, "subscriptions", p.readTable(r.Context(), of))
}
