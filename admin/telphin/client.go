package telphin

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"bellhop/admin/access"
	"bellhop/admin/dialect"
	"bellhop/admin/ops"
	"bellhop/notify"
)

// user is what the dialect shows as the user of a token. bellhop has no users and only
// one client, so that both ids are always 1.
type user struct {
	ID       uint64 `json:"id"`
	ClientID uint64 `json:"client_id"`
	Login    string `json:"login"` // the client_id that gets access tokens
}

func userOf(client *access.Client) user {
	u := user{1, 1, client.ID}
	if client.ID == access.ConfigID {
		u.Login = "admin"
	}
	return u
}

// extension is a known extension. Label is always empty and Status always active,
// because only the PBX knows their values.
type extension struct {
	ID       uint64 `json:"id"`
	ClientID uint64 `json:"client_id"`
	Name     string `json:"name"`
	Type     string `json:"type"` // phone, queue, ivr or conference
	Label    string `json:"label"`
	Status   string `json:"status"`
	Domain   string `json:"domain"`
}

// extensionOf returns an extension with its number. If the extension has no number yet,
// extensionOf allots one.
func (a *API) extensionOf(ctx context.Context, e *ops.Extension) (extension, error) {
	id, err := a.ops.NumberExtension(ctx, e.Extension)
	return extension{id, 1, e.Extension, e.Kind, "", "active", e.Domain}, err
}

// answerExtension answers /client/{client_id}/extension and the paths below it.
// It ignores the client_id, because there is only one client.
func (a *API) answerExtension(r *http.Request, rest []string) (any, error) {
	if len(rest) == 0 {
		return a.listExtensions(r.Context(), r.URL.Query())
	}
	name, err := a.resolveExtension(r.Context(), rest[0])
	if err != nil {
		return nil, err
	}
	e, err := a.ops.Extension(r.Context(), name)
	if err != nil {
		return nil, err
	}
	return a.extensionOf(r.Context(), e)
}

// listExtensions returns a page of the known extensions, sorted by name. It ignores
// unknown query parameters.
func (a *API) listExtensions(ctx context.Context, q url.Values) ([]extension, error) {
	page, ok := dialect.IntParam(q, "page", 1, 1<<30, 1)
	if !ok {
		return nil, &apiError{http.StatusBadRequest, "page must be a number, at least 1"}
	}
	size, ok := dialect.IntParam(q, "per_page", 1, 1<<30, maxPerPage)
	if !ok {
		return nil, &apiError{http.StatusBadRequest, "per_page must be a number, at least 1"}
	}
	size = min(size, maxPerPage)
	all, err := a.ops.Extensions(ctx)
	if err != nil {
		return nil, err
	}
	name, kind := q.Get("name"), q.Get("type")
	all = slices.DeleteFunc(all, func(e *ops.Extension) bool {
		return name != "" && e.Extension != name || kind != "" && !strings.EqualFold(e.Kind, kind)
	})
	first := min((page-1)*size, len(all))
	shown := make([]extension, 0, min(size, len(all)-first))
	for _, e := range all[first:min(first+size, len(all))] {
		x, err := a.extensionOf(ctx, e)
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

// errTwoEvents refuses a number that two events of an extension share. Two given
// subscriptions share their numbers with a probability of 1 in 2^27.
var errTwoEvents = &apiError{http.StatusConflict, "two events have this id: use /v1/subscriptions instead"}

// soleEvent returns the only event of es. If there is none, it returns
// [notify.ErrNotFound]; if there are several, errTwoEvents.
func soleEvent(es []dialect.Event) (dialect.Event, error) {
	switch len(es) {
	case 0:
		return dialect.Event{}, notify.ErrNotFound
	case 1:
		return es[0], nil
	}
	return dialect.Event{}, errTwoEvents
}
