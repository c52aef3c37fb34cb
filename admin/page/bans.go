package page

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"bellhop/admin/ops"
	"bellhop/notify"
)

// maxShownBans is the maximum number of bans on the page.
const maxShownBans = 200

type bansView struct {
	Bans []ops.Ban // newest first
	More int       // bans that are not shown
}

func (p *Page) bansData(*http.Request) (any, error) {
	bans := p.ops.Bans()
	slices.Reverse(bans)
	shown := bans[:min(len(bans), maxShownBans)]
	return bansView{shown, len(bans) - len(shown)}, nil
}

// banFields are the fields of the form that bans a source, as filled in.
type banFields struct {
	Source, Length string

	Errors map[string]string
}

func (p *Page) banForm(w http.ResponseWriter, r *http.Request) error {
	return p.showPart(w, r, http.StatusOK, "ban-form", banFields{})
}

func (p *Page) banFromForm(w http.ResponseWriter, r *http.Request) error {
	f := banFields{Source: strings.TrimSpace(r.PostFormValue("source")), Length: strings.TrimSpace(r.PostFormValue("until")), Errors: make(map[string]string)}
	var until time.Time
	if f.Length != "" {
		d, err := time.ParseDuration(f.Length)
		if err != nil || d <= 0 {
			f.Errors["until"] = "must be a length of time such as 30m or 24h"
			return p.showPart(w, r, http.StatusUnprocessableEntity, "ban-form", f)
		}
		until = time.Now().Add(d)
	}
	b, err := p.ops.AddBan(r.Context(), f.Source, until)
	var invalid *notify.Invalid
	switch {
	case err == nil:
		return p.showPart(w, r, http.StatusOK, "ban-made", b)
	case !errors.As(err, &invalid):
		return err
	}
	f.Errors[invalid.Field] = invalid.Why
	return p.showPart(w, r, http.StatusUnprocessableEntity, "ban-form", f)
}

func (p *Page) removeBanFromPage(w http.ResponseWriter, r *http.Request) error {
	if err := p.ops.RemoveBan(r.Context(), r.PathValue("source")); err != nil && !errors.Is(err, ops.ErrNoBan) {
		return err
	}
	d, err := p.bansData(r)
	if err != nil {
		return err
	}
	return p.showPart(w, r, http.StatusOK, "bans", d)
}
