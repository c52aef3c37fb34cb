package admin

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"bellhop/admin/access"
	"bellhop/notify"
)

// telphinUser is the user of a token. bellhop has one client and no users: their ids
// are 1.
type telphinUser struct {
	ID       uint64 `json:"id"`
	ClientID uint64 `json:"client_id"`
	Login    string `json:"login"` // the client_id that gets access tokens
}

func telphinUserOf(client *access.Client) telphinUser {
	u := telphinUser{1, 1, client.ID}
	if client.ID == access.ConfigID {
		u.Login = "admin"
	}
	return u
}

// telphinExtension is a known extension. Label is always empty and Status always
// active: only the PBX knows these.
type telphinExtension struct {
	ID       uint64 `json:"id"`
	ClientID uint64 `json:"client_id"`
	Name     string `json:"name"`
	Type     string `json:"type"` // phone, queue, ivr or conference
	Label    string `json:"label"`
	Status   string `json:"status"`
	Domain   string `json:"domain"`
}

// telphinExtensionOf returns an extension with its number, which it allots if there is
// none.
func (s *Server) telphinExtensionOf(ctx context.Context, e *Extension) (telphinExtension, error) {
	id, err := s.config.Notifier.NumberExtension(ctx, e.Extension)
	return telphinExtension{id, 1, e.Extension, e.Kind, "", "active", e.Domain}, err
}

// answerTelphinExtension answers /client/{client_id}/extension and the paths below it.
// It ignores the client_id: there is one client.
func (s *Server) answerTelphinExtension(r *http.Request, rest []string) (any, error) {
	if len(rest) == 0 {
		return s.listTelphinExtensions(r.Context(), r.URL.Query())
	}
	name, err := s.resolveTelphinExtension(r.Context(), rest[0])
	if err != nil {
		return nil, err
	}
	e, err := s.knownExtension(r.Context(), name)
	switch {
	case err != nil:
		return nil, err
	case e == nil:
		return nil, &telphinError{http.StatusNotFound, "no such extension"}
	}
	return s.telphinExtensionOf(r.Context(), e)
}

// listTelphinExtensions returns a page of the known extensions, by name. It ignores
// unknown query parameters.
func (s *Server) listTelphinExtensions(ctx context.Context, q url.Values) ([]telphinExtension, error) {
	page, ok := parseIntParam(q, "page", 1, 1<<30, 1)
	if !ok {
		return nil, &telphinError{http.StatusBadRequest, "page must be a number, at least 1"}
	}
	size, ok := parseIntParam(q, "per_page", 1, 1<<30, maxPerPage)
	if !ok {
		return nil, &telphinError{http.StatusBadRequest, "per_page must be a number, at least 1"}
	}
	size = min(size, maxPerPage)
	all, err := s.knownExtensions(ctx)
	if err != nil {
		return nil, err
	}
	name, kind := q.Get("name"), q.Get("type")
	all = slices.DeleteFunc(all, func(e *Extension) bool {
		return name != "" && e.Extension != name || kind != "" && !strings.EqualFold(e.Kind, kind)
	})
	first := min((page-1)*size, len(all))
	shown := make([]telphinExtension, 0, min(size, len(all)-first))
	for _, e := range all[first:min(first+size, len(all))] {
		x, err := s.telphinExtensionOf(ctx, e)
		if err != nil {
			return nil, err
		}
		shown = append(shown, x)
	}
	return shown, nil
}

// maxPerPage is the maximum and default number of extensions on a page of the Telphin
// dialect.
const maxPerPage = 1000

// errTwoEvents refuses a number that two events of an extension share. Its probability
// is 1 in 2^27.
var errTwoEvents = &telphinError{http.StatusConflict, "two events have this id: use /v1/subscriptions instead"}

// soleEvent returns the only event of es. Without one it returns notify.ErrNotFound.
func soleEvent(es []dialectEvent) (dialectEvent, error) {
	switch len(es) {
	case 0:
		return dialectEvent{}, notify.ErrNotFound
	case 1:
		return es[0], nil
	}
	return dialectEvent{}, errTwoEvents
}
