package admin

import (
	"errors"
	"net/http"

	ui "bellhop/admin/page"
	"bellhop/notify"
)

// registerPages adds the routes of the page. Requests without a session are sent to
// /login.
func (s *Server) registerPages(all *permissionMux) {
	s.pages = &permissionMux{http.NewServeMux(), make(map[string]permission), writePageError}
	view := func(pattern string, asks permission, h func(http.ResponseWriter, *http.Request) error) {
		s.pages.handle(pattern, asks, s.pageHandler(h))
	}
	view("GET /{$}", permitRead, s.wholePage("home", "/", "Extensions", s.extensionsData))
	view("GET /extensions/{name}", permitRead, s.extensionPage)
	view("GET /patterns", permitReadAll, s.patternsPage)
	view("GET /subscriptions/new", permitWrite, s.newForm)
	view("POST /subscriptions", permitWrite, s.addFromForm)
	view("GET /subscriptions/{id}", permitWrite, s.changeForm)
	view("POST /subscriptions/{id}", permitWrite, s.changeFromForm)
	view("POST /subscriptions/{id}/toggle", permitWrite, s.toggleActive)
	view("POST /subscriptions/{id}/rotate-secret", permitWrite, s.rotateFromPage)
	view("GET /subscriptions/{id}/replay", permitWrite, s.replayForm)
	view("POST /subscriptions/{id}/replay", permitWrite, s.replayFromForm)
	view("POST /subscriptions/clear", permitWrite, s.clearSelected)
	view("GET /calls", permitRead, s.wholePage("calls", "/calls", "Calls", s.callsData))
	view("GET /calls/{id}", permitRead, s.callPage)
	view("GET /calls/{id}/ladder", permitReadAll, s.showLadder)
	view("GET /events", permitRead, s.wholePage("events", "/events", "Events", s.eventsData))
	view("GET /deliveries", permitRead, s.wholePage("deliveries", "/deliveries", "Deliveries", s.deliveriesData))
	view("GET /deliveries/{id}", permitRead, s.wholePage("delivery", "/deliveries", "Delivery", s.deliveryData))
	view("POST /deliveries/{id}/redeliver", permitWrite, s.redeliverFromPage)
	view("POST /subscriptions/{id}/test", permitWrite, s.testFromPage)
	view("GET /tokens", permitAdmin, s.tokensPage)
	view("GET /tokens/new", permitAdmin, s.tokenForm)
	view("POST /tokens", permitAdmin, s.tokenFromForm)
	view("POST /tokens/{id}/revoke", permitAdmin, s.revokeFromPage)
	view("GET /health", permitReadAll, s.wholePage("health", "/health", "Health", s.healthData))
	view("GET /live/extensions", permitRead, s.livePart("extensions", s.extensionsData))
	view("GET /live/calls", permitRead, s.livePart("calls", s.callsData))
	view("GET /live/events", permitRead, s.livePart("events", s.eventsData))
	view("GET /live/deliveries", permitRead, s.livePart("deliveries", s.deliveriesData))
	view("GET /live/deliveries/{id}", permitRead, s.livePart("delivery", s.deliveryData))
	view("GET /live/health", permitReadAll, s.livePart("health", s.healthData))

	entered := setPageHeaders(s.recoverPanics(writePageError, s.requireSession(s.queueReads(writePageError, s.pages))))
	for pattern := range s.pages.permissions {
		all.handle(pattern, permitAll, entered)
	}
	all.handle("GET /login", permitAll, setPageHeaders(s.recoverPanics(writePageError, http.HandlerFunc(s.loginPage))))
	all.handle("POST /login", permitAll, setPageHeaders(s.recoverPanics(writePageError, http.HandlerFunc(s.handleLogin))))
	all.handle("POST /logout", permitAll, setPageHeaders(s.recoverPanics(writePageError, http.HandlerFunc(s.handleLogout))))
	all.handle("GET /static/{name}", permitAll, setPageHeaders(ui.Static()))
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
	case errors.Is(err, notify.ErrNotFound), errors.Is(err, notify.ErrNoDelivery), errors.Is(err, errNoToken), errors.Is(err, errNoPage), errors.Is(err, errNoTrace):
		return http.StatusNotFound, err.Error()
	case errors.Is(err, errNotBound):
		return http.StatusForbidden, err.Error()
	case errors.Is(err, notify.ErrDeclared), errors.Is(err, notify.ErrEventGone), errors.Is(err, errNoReceiver), errors.Is(err, notify.ErrConflict), errors.Is(err, errManyTokens), errors.Is(err, notify.ErrLimit):
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

// writePageError is the [errorWriter] of the page.
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
	client := accessOf(r.Context())
	name := client.id
	if name == configID {
		name = "admin"
	} else if t, err := s.tokens.get(client.id); err == nil && t.Note != "" {
		name = t.Note
	}
	return ui.View{
		Title: title, At: at, Version: s.config.Version, Data: data,
		Who: ui.Viewer{Name: name, Write: client.permits(permitWrite), Admin: client.permits(permitAdmin), All: client.permits(permitReadAll)},
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
