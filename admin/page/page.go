// Package page is bellhop's page, rendered on the server from templates that are embedded
// in the binary, with styles and scripts.
//
// People sign in with a token, and their session has its permissions. The live parts of
// an open page are rendered again and again, and a part is sent when its HTML has
// changed. Text from SIP messages and from the API is escaped, so that it never becomes
// HTML.
//
// Third-party files are htmx (static/htmx.min.js, 2.0.11) and its extension for
// server-sent events (static/htmx-sse.min.js, 2.2.4), both as published, with their
// licenses beside them.
package page

import (
	"errors"
	"log/slog"
	"net/http"

	"bellhop/admin/access"
	"bellhop/admin/limit"
	"bellhop/admin/ops"
)

// Page serves the routes of people who have signed in; RequireSession keeps others out.
// Its methods ShowLogin, Login and Logout serve the routes for signing in and out.
type Page struct {
	*access.Mux // the context of each request has its client

	ops     *ops.Operations
	auth    *access.Authenticator
	streams *limit.Streams
	log     *slog.Logger
	listen  func() []string
	guides  []guide
	renders chan struct{} // slots of parts that are being rendered
}

// New returns a page that calls the operations o. listen returns the addresses at which
// phones reach bellhop, or is nil; the first steps show them. guides are the texts of the help.
func New(o *ops.Operations, auth *access.Authenticator, streams *limit.Streams, listen func() []string, guides []Guide, log *slog.Logger) *Page {
	p := &Page{
		Mux: access.NewMux(WriteError), ops: o, auth: auth, streams: streams, log: log, listen: listen, guides: guidesOf(guides),
		renders: make(chan struct{}, maxRenders),
	}
	view := func(pattern string, asks access.Permission, h func(http.ResponseWriter, *http.Request) error) {
		p.Handle(pattern, asks, p.pageHandler(h))
	}
	view("GET /{$}", access.PermitRead, p.wholePage("home", "/", "Extensions", p.extensionsData))
	view("GET /extensions/{name}", access.PermitRead, p.extensionPage)
	view("GET /patterns", access.PermitReadAll, p.patternsPage)
	view("GET /subscriptions/new", access.PermitWrite, p.newForm)
	view("POST /subscriptions", access.PermitWrite, p.addFromForm)
	view("GET /subscriptions/{id}", access.PermitWrite, p.changeForm)
	view("POST /subscriptions/{id}", access.PermitWrite, p.changeFromForm)
	view("POST /subscriptions/{id}/toggle", access.PermitWrite, p.toggleActive)
	view("POST /subscriptions/{id}/rotate-secret", access.PermitWrite, p.rotateFromPage)
	view("GET /subscriptions/{id}/replay", access.PermitWrite, p.replayForm)
	view("POST /subscriptions/{id}/replay", access.PermitWrite, p.replayFromForm)
	view("POST /subscriptions/clear", access.PermitWrite, p.clearSelected)
	view("GET /calls", access.PermitRead, p.wholePage("calls", "/calls", "Calls", p.callsData))
	view("GET /calls/{id}", access.PermitRead, p.callPage)
	view("GET /calls/{id}/ladder", access.PermitReadAll, p.showLadder)
	view("GET /events", access.PermitRead, p.wholePage("events", "/events", "Events", p.eventsData))
	view("GET /deliveries", access.PermitRead, p.wholePage("deliveries", "/deliveries", "Deliveries", p.deliveriesData))
	view("GET /deliveries/{id}", access.PermitRead, p.wholePage("delivery", "/deliveries", "Delivery", p.deliveryData))
	view("POST /deliveries/{id}/redeliver", access.PermitWrite, p.redeliverFromPage)
	view("POST /subscriptions/{id}/test", access.PermitWrite, p.testFromPage)
	view("GET /tokens", access.PermitAdmin, p.tokensPage)
	view("GET /tokens/new", access.PermitAdmin, p.tokenForm)
	view("POST /tokens", access.PermitAdmin, p.tokenFromForm)
	view("POST /tokens/{id}/revoke", access.PermitAdmin, p.revokeFromPage)
	view("GET /bans", access.PermitReadAll, p.wholePage("bans", "/bans", "Bans", p.bansData))
	view("GET /bans/new", access.PermitAdmin, p.banForm)
	view("POST /bans", access.PermitAdmin, p.banFromForm)
	view("POST /bans/{source}/remove", access.PermitAdmin, p.removeBanFromPage)
	view("GET /health", access.PermitReadAll, p.wholePage("health", "/health", "Health", p.healthData))
	view("GET /help", access.PermitRead, p.showHelp)
	view("GET /help/{name}", access.PermitRead, p.showGuide)
	view("GET /live/extensions", access.PermitRead, p.livePart("extensions", p.extensionsData))
	view("GET /live/calls", access.PermitRead, p.livePart("calls", p.callsData))
	view("GET /live/events", access.PermitRead, p.livePart("events", p.eventsData))
	view("GET /live/deliveries", access.PermitRead, p.livePart("deliveries", p.deliveriesData))
	view("GET /live/deliveries/{id}", access.PermitRead, p.livePart("delivery", p.deliveryData))
	view("GET /live/bans", access.PermitReadAll, p.livePart("bans", p.bansData))
	view("GET /live/health", access.PermitReadAll, p.livePart("health", p.healthData))
	return p
}

// SetHeaders adds header fields to the responses of h: the browser loads only from this
// origin, shows the page in no frame, and does not cache it.
func SetHeaders(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
		header.Set("Referrer-Policy", "same-origin")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		header.Set("Cache-Control", "no-store")
		h.ServeHTTP(w, r)
	})
}

// pageHandler returns a handler that calls h, and answers with a page about the error if
// h returns one.
func (p *Page) pageHandler(h func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			status, detail := p.refuse(err)
			WriteError(w, status, detail)
		}
	})
}

// refuse returns the HTTP status of an error, and its text for people.
func (p *Page) refuse(err error) (status int, detail string) {
	switch {
	case errors.Is(err, errNoPage):
		return http.StatusNotFound, err.Error()
	case errors.Is(err, errBadForm):
		return http.StatusBadRequest, err.Error()
	case errors.Is(err, errManyStreams):
		return http.StatusServiceUnavailable, err.Error()
	}
	refused := p.ops.Explain(ops.Page, err)
	if refused.Kind == ops.Failed {
		refused.Text = "The store is not writable, or bellhop is too busy; see /readyz."
	}
	return refused.Status, refused.Text
}

var (
	errNoPage  = errors.New("no such page")
	errBadForm = errors.New("the form is malformed: reload the page and try again")
)

// WriteError is the [access.ErrorWriter] of the page.
func WriteError(w http.ResponseWriter, status int, detail string) {
	if detail == "" {
		detail = "This page cannot be shown."
	}
	writeHTML(w, status, Whole("refused", View{Title: http.StatusText(status), Data: detail}))
}

func writeHTML(w http.ResponseWriter, status int, html []byte) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	w.Write(html) // an error means that the client has left
}

// viewOf returns the view of a page for the person who sent a request.
func (p *Page) viewOf(r *http.Request, at, title string, data any) View {
	client := access.ClientOf(r.Context())
	name := client.ID
	if name == access.ConfigID {
		name = "admin"
	} else if t, err := p.ops.Token(client.ID); err == nil && t.Note != "" {
		name = t.Note
	}
	return View{
		Title: title, At: at, Version: p.ops.Version(), Data: data,
		Who: Viewer{Name: name, Write: client.Permits(access.PermitWrite), Admin: client.Permits(access.PermitAdmin), All: client.Permits(access.PermitReadAll)},
	}
}

// showPage answers with a whole page.
func (p *Page) showPage(w http.ResponseWriter, r *http.Request, name, at, title string, data any) error {
	writeHTML(w, http.StatusOK, Whole(name, p.viewOf(r, at, title, data)))
	return nil
}

// showPart answers with a part of a page.
func (p *Page) showPart(w http.ResponseWriter, r *http.Request, status int, name string, data any) error {
	writeHTML(w, status, Part(name, p.viewOf(r, "", "", data)))
	return nil
}
