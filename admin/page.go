package admin

import (
	"errors"
	"net/http"

	look "bellhop/admin/page"
	"bellhop/notify"
)

// registerPage adds what people look at. Who has no session is sent to sign in.
func (s *Server) registerPage(all *routes) {
	s.pages = &routes{http.NewServeMux(), make(map[string]right), refusePage}
	view := func(pattern string, asks right, h func(http.ResponseWriter, *http.Request) error) {
		s.pages.handle(pattern, asks, s.page(h))
	}
	view("GET /{$}", toRead, s.whole("home", "/", "Extensions", s.extensionsData))
	view("GET /extensions/{name}", toRead, s.extensionPage)
	view("GET /patterns", toReadAll, s.patternsPage)
	view("GET /subscriptions/new", toWrite, s.newForm)
	view("POST /subscriptions", toWrite, s.addFromForm)
	view("GET /subscriptions/{id}", toWrite, s.changeForm)
	view("POST /subscriptions/{id}", toWrite, s.changeFromForm)
	view("POST /subscriptions/{id}/toggle", toWrite, s.toggle)
	view("POST /subscriptions/{id}/rotate-secret", toWrite, s.rotateFromPage)
	view("GET /subscriptions/{id}/replay", toWrite, s.replayForm)
	view("POST /subscriptions/{id}/replay", toWrite, s.replayFromForm)
	view("POST /subscriptions/clear", toWrite, s.clearSelected)
	view("GET /calls", toRead, s.whole("calls", "/calls", "Calls", s.callsData))
	view("GET /calls/{id}", toRead, s.callPage)
	view("GET /calls/{id}/ladder", toReadAll, s.ladder)
	view("GET /events", toRead, s.whole("events", "/events", "Events", s.eventsData))
	view("GET /deliveries", toRead, s.whole("deliveries", "/deliveries", "Deliveries", s.deliveriesData))
	view("GET /deliveries/{id}", toRead, s.whole("delivery", "/deliveries", "Delivery", s.deliveryData))
	view("POST /deliveries/{id}/redeliver", toWrite, s.redeliverFromPage)
	view("POST /subscriptions/{id}/test", toWrite, s.testFromPage)
	view("GET /tokens", toAdminister, s.tokensPage)
	view("GET /tokens/new", toAdminister, s.tokenForm)
	view("POST /tokens", toAdminister, s.tokenFromForm)
	view("POST /tokens/{id}/revoke", toAdminister, s.revokeFromPage)
	view("GET /health", toReadAll, s.whole("health", "/health", "Health", s.healthData))
	view("GET /live/extensions", toRead, s.live("extensions", s.extensionsData))
	view("GET /live/calls", toRead, s.live("calls", s.callsData))
	view("GET /live/events", toRead, s.live("events", s.eventsData))
	view("GET /live/deliveries", toRead, s.live("deliveries", s.deliveriesData))
	view("GET /live/deliveries/{id}", toRead, s.live("delivery", s.deliveryData))
	view("GET /live/health", toReadAll, s.live("health", s.healthData))

	entered := secured(s.recovered(refusePage, s.entered(s.inTurn(refusePage, s.pages))))
	for pattern := range s.pages.rights {
		all.handle(pattern, open, entered)
	}
	all.handle("GET /login", open, secured(s.recovered(refusePage, http.HandlerFunc(s.loginPage))))
	all.handle("POST /login", open, secured(s.recovered(refusePage, http.HandlerFunc(s.login))))
	all.handle("POST /logout", open, secured(s.recovered(refusePage, http.HandlerFunc(s.logout))))
	all.handle("GET /static/{name}", open, secured(look.Static()))
}

// secured has the browser take nothing from elsewhere, and be nobody's frame.
func secured(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
		header.Set("Referrer-Policy", "same-origin")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		header.Set("Cache-Control", "no-store")
		h.ServeHTTP(w, r)
	})
}

// page makes a handler of a function that writes its answer, or returns why it
// does not.
func (s *Server) page(h func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			status, detail := s.refusal(err)
			refusePage(w, status, detail)
		}
	})
}

// refusal says to a person what err means, as problem does to a program.
func (s *Server) refusal(err error) (status int, detail string) {
	switch {
	case errors.Is(err, notify.ErrNotFound), errors.Is(err, notify.ErrNoDelivery), errors.Is(err, errNoToken), errors.Is(err, errNoPage), errors.Is(err, errNoTrace):
		return http.StatusNotFound, err.Error()
	case errors.Is(err, errNotYours):
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
	if failed(err) {
		s.log.Error("page request failed", "err", err)
	}
	return http.StatusServiceUnavailable, "The store is not writable, or bellhop is too busy; see /readyz."
}

var (
	errNoPage  = errors.New("no such page")
	errBadForm = errors.New("the form is malformed: reload the page and try again")
)

// refusePage is a [refusal] that a person reads.
func refusePage(w http.ResponseWriter, status int, detail string) {
	if detail == "" {
		detail = "This page cannot be shown."
	}
	writePage(w, status, look.Whole("refused", look.View{Title: http.StatusText(status), Data: detail}))
}

func writePage(w http.ResponseWriter, status int, html []byte) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	w.Write(html) // who is gone needs no more
}

// viewOf is what is shown to who makes a request.
func (s *Server) viewOf(r *http.Request, at, title string, data any) look.View {
	who := accessOf(r.Context())
	name := who.id
	if name == configID {
		name = "admin"
	} else if t, err := s.tokens.get(who.id); err == nil && t.Note != "" {
		name = t.Note
	}
	return look.View{
		Title: title, At: at, Version: s.config.Version, Data: data,
		Who: look.Viewer{Name: name, Write: who.may(toWrite), Admin: who.may(toAdminister), All: who.may(toReadAll)},
	}
}

// show answers with a whole page.
func (s *Server) show(w http.ResponseWriter, r *http.Request, name, at, title string, data any) error {
	writePage(w, http.StatusOK, look.Whole(name, s.viewOf(r, at, title, data)))
	return nil
}

// showPart answers with a part of a page.
func (s *Server) showPart(w http.ResponseWriter, r *http.Request, status int, name string, data any) error {
	writePage(w, status, look.Part(name, s.viewOf(r, "", "", data)))
	return nil
}
