package admin

import (
	"errors"
	"net/http"

	"bellhop/admin/access"
	ui "bellhop/admin/page"
	"bellhop/notify"
)

// registerPages adds the routes of the page. Requests without a session are sent to
// /login.
func (s *Server) registerPages(all *access.Mux) {
	s.pages = access.NewMux(writePageError)
	view := func(pattern string, asks access.Permission, h func(http.ResponseWriter, *http.Request) error) {
		s.pages.Handle(pattern, asks, s.pageHandler(h))
	}
	view("GET /{$}", access.PermitRead, s.wholePage("home", "/", "Extensions", s.extensionsData))
	view("GET /extensions/{name}", access.PermitRead, s.extensionPage)
	view("GET /patterns", access.PermitReadAll, s.patternsPage)
	view("GET /subscriptions/new", access.PermitWrite, s.newForm)
	view("POST /subscriptions", access.PermitWrite, s.addFromForm)
	view("GET /subscriptions/{id}", access.PermitWrite, s.changeForm)
	view("POST /subscriptions/{id}", access.PermitWrite, s.changeFromForm)
	view("POST /subscriptions/{id}/toggle", access.PermitWrite, s.toggleActive)
	view("POST /subscriptions/{id}/rotate-secret", access.PermitWrite, s.rotateFromPage)
	view("GET /subscriptions/{id}/replay", access.PermitWrite, s.replayForm)
	view("POST /subscriptions/{id}/replay", access.PermitWrite, s.replayFromForm)
	view("POST /subscriptions/clear", access.PermitWrite, s.clearSelected)
	view("GET /calls", access.PermitRead, s.wholePage("calls", "/calls", "Calls", s.callsData))
	view("GET /calls/{id}", access.PermitRead, s.callPage)
	view("GET /calls/{id}/ladder", access.PermitReadAll, s.showLadder)
	view("GET /events", access.PermitRead, s.wholePage("events", "/events", "Events", s.eventsData))
	view("GET /deliveries", access.PermitRead, s.wholePage("deliveries", "/deliveries", "Deliveries", s.deliveriesData))
	view("GET /deliveries/{id}", access.PermitRead, s.wholePage("delivery", "/deliveries", "Delivery", s.deliveryData))
	view("POST /deliveries/{id}/redeliver", access.PermitWrite, s.redeliverFromPage)
	view("POST /subscriptions/{id}/test", access.PermitWrite, s.testFromPage)
	view("GET /tokens", access.PermitAdmin, s.tokensPage)
	view("GET /tokens/new", access.PermitAdmin, s.tokenForm)
	view("POST /tokens", access.PermitAdmin, s.tokenFromForm)
	view("POST /tokens/{id}/revoke", access.PermitAdmin, s.revokeFromPage)
	view("GET /health", access.PermitReadAll, s.wholePage("health", "/health", "Health", s.healthData))
	view("GET /live/extensions", access.PermitRead, s.livePart("extensions", s.extensionsData))
	view("GET /live/calls", access.PermitRead, s.livePart("calls", s.callsData))
	view("GET /live/events", access.PermitRead, s.livePart("events", s.eventsData))
	view("GET /live/deliveries", access.PermitRead, s.livePart("deliveries", s.deliveriesData))
	view("GET /live/deliveries/{id}", access.PermitRead, s.livePart("delivery", s.deliveryData))
	view("GET /live/health", access.PermitReadAll, s.livePart("health", s.healthData))

	entered := setPageHeaders(s.recoverPanics(writePageError, s.requireSession(s.queueReads(writePageError, s.pages))))
	for pattern := range s.pages.Permissions {
		all.Handle(pattern, access.PermitAll, entered)
	}
	all.Handle("GET /login", access.PermitAll, setPageHeaders(s.recoverPanics(writePageError, http.HandlerFunc(s.loginPage))))
	all.Handle("POST /login", access.PermitAll, setPageHeaders(s.recoverPanics(writePageError, http.HandlerFunc(s.handleLogin))))
	all.Handle("POST /logout", access.PermitAll, setPageHeaders(s.recoverPanics(writePageError, http.HandlerFunc(s.handleLogout))))
	all.Handle("GET /static/{name}", access.PermitAll, setPageHeaders(ui.Static()))
}

// setPageHeaders lets the browser load from this origin only, and forbids frames.
func setPageHeaders(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
		header.Set("Referrer-Policy", "same-origin")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		header.Set("Cache-Control", "no-store")
		h.ServeHTTP(w, r)
	})
}

// pageHandler returns a handler for a function that writes a page or returns an error.
func (s *Server) pageHandler(h func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			status, detail := s.pageError(err)
			writePageError(w, status, detail)
		}
	})
}

// pageError returns the status and text of an error for a person, as apiError does for
// a program.
func (s *Server) pageError(err error) (status int, detail string) {
	switch {
	case errors.Is(err, notify.ErrNotFound), errors.Is(err, notify.ErrNoDelivery), errors.Is(err, access.ErrNotFound), errors.Is(err, errNoPage), errors.Is(err, errNoTrace):
		return http.StatusNotFound, err.Error()
	case errors.Is(err, errNotBound):
		return http.StatusForbidden, err.Error()
	case errors.Is(err, notify.ErrDeclared), errors.Is(err, notify.ErrEventGone), errors.Is(err, errNoReceiver), errors.Is(err, notify.ErrConflict), errors.Is(err, access.ErrTooMany), errors.Is(err, notify.ErrLimit):
		return http.StatusConflict, err.Error()
	case errors.Is(err, errBadForm), errors.Is(err, notify.ErrCursor):
		return http.StatusBadRequest, err.Error()
	case errors.Is(err, errManyTests):
		return http.StatusTooManyRequests, err.Error()
	case errors.Is(err, errManyStreams):
		return http.StatusServiceUnavailable, err.Error()
	}
	if isFailure(err) {
		s.log.Error("page request failed", "err", err)
	}
	return http.StatusServiceUnavailable, "The store is not writable, or bellhop is too busy; see /readyz."
}

var (
	errNoPage  = errors.New("no such page")
	errBadForm = errors.New("the form is malformed: reload the page and try again")
)

// writePageError is the [access.ErrorWriter] of the page.
func writePageError(w http.ResponseWriter, status int, detail string) {
	if detail == "" {
		detail = "This page cannot be shown."
	}
	writeHTML(w, status, ui.Whole("refused", ui.View{Title: http.StatusText(status), Data: detail}))
}

func writeHTML(w http.ResponseWriter, status int, html []byte) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	w.Write(html) // an error means that the client has left
}

// viewOf returns the view of a page for the person who sent a request.
func (s *Server) viewOf(r *http.Request, at, title string, data any) ui.View {
	client := access.ClientOf(r.Context())
	name := client.ID
	if name == access.ConfigID {
		name = "admin"
	} else if t, err := s.auth.Tokens.Get(client.ID); err == nil && t.Note != "" {
		name = t.Note
	}
	return ui.View{
		Title: title, At: at, Version: s.config.Version, Data: data,
		Who: ui.Viewer{Name: name, Write: client.Permits(access.PermitWrite), Admin: client.Permits(access.PermitAdmin), All: client.Permits(access.PermitReadAll)},
	}
}

// showPage answers with a whole page.
func (s *Server) showPage(w http.ResponseWriter, r *http.Request, name, at, title string, data any) error {
	writeHTML(w, http.StatusOK, ui.Whole(name, s.viewOf(r, at, title, data)))
	return nil
}

// showPart answers with a part of a page.
func (s *Server) showPart(w http.ResponseWriter, r *http.Request, status int, name string, data any) error {
	writeHTML(w, status, ui.Part(name, s.viewOf(r, "", "", data)))
	return nil
}
