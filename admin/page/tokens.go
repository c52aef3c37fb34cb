package page

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"bellhop/admin/access"
)

type tokensView struct{ Tokens []access.Token }

func (p *Page) tokensPage(w http.ResponseWriter, r *http.Request) error {
	return p.showPage(w, r, "tokens", "/tokens", "Tokens", tokensView{p.ops.Tokens()})
}

// tokenFields are the fields of the form that creates a token, as filled in.
type tokenFields struct {
	Note, Scope, Extensions, Expires string

	Errors  map[string]string
	Problem string
}

func (p *Page) tokenForm(w http.ResponseWriter, r *http.Request) error {
	return p.showPart(w, r, http.StatusOK, "token-form", tokenFields{Scope: string(access.Read)})
}

// parseToken returns the token of the form, and sets Errors.
func (f *tokenFields) parseToken() (t access.Token) {
	f.Errors = make(map[string]string)
	t = access.Token{Note: f.Note, Scope: access.Scope(f.Scope)}
	if len(f.Note) > 1000 {
		f.Errors["note"] = "must be at most 1000 bytes long"
	}
	if t.Scope != access.Read && t.Scope != access.Write && t.Scope != access.Admin {
		f.Errors["scope"] = "choose read, write or admin"
	}
	for name := range strings.FieldsFuncSeq(f.Extensions, func(r rune) bool { return r == ',' || r == ' ' }) {
		t.Extensions = append(t.Extensions, name)
	}
	if len(t.Extensions) > 100 {
		f.Errors["extensions"] = "must be at most 100"
	}
	if f.Expires != "" {
		var err error
		if t.Expires, err = time.Parse(time.DateOnly, f.Expires); err != nil {
			f.Errors["expires"] = "must be a day such as 2027-01-31"
		}
	}
	if field, why := t.Validate(); why != "" && f.Errors[field] == "" {
		f.Errors[field] = why
	}
	return t
}

func (p *Page) tokenFromForm(w http.ResponseWriter, r *http.Request) error {
	f := tokenFields{
		Note: r.PostFormValue("note"), Scope: r.PostFormValue("scope"),
		Extensions: r.PostFormValue("extensions"), Expires: strings.TrimSpace(r.PostFormValue("expires")),
	}
	t := f.parseToken()
	if len(f.Errors) == 0 {
		t, err := p.ops.CreateToken(r.Context(), t)
		switch {
		case err == nil:
			return p.showPart(w, r, http.StatusOK, "token-made", t)
		case !errors.Is(err, access.ErrTooMany):
			return err
		}
		f.Problem = err.Error()
	}
	return p.showPart(w, r, http.StatusUnprocessableEntity, "token-form", f)
}

func (p *Page) revokeFromPage(w http.ResponseWriter, r *http.Request) error {
	if err := p.ops.RevokeToken(r.Context(), r.PathValue("id")); err != nil && !errors.Is(err, access.ErrNotFound) {
		return err
	}
	return p.showPart(w, r, http.StatusOK, "tokens", tokensView{p.ops.Tokens()})
}
