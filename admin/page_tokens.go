package admin

import (
	"errors"
	"net/http"
	"strings"
	"time"
)

type tokensView struct{ Tokens []Token }

func (s *Server) tokensPage(w http.ResponseWriter, r *http.Request) error {
	return s.showPage(w, r, "tokens", "/tokens", "Tokens", tokensView{s.tokens.all()})
}

// tokenFields are the fields of the form that creates a token, as filled in.
type tokenFields struct {
	Note, Scope, Extensions, Expires string

	Errors  map[string]string
	Problem string
}

func (s *Server) tokenForm(w http.ResponseWriter, r *http.Request) error {
	return s.showPart(w, r, http.StatusOK, "token-form", tokenFields{Scope: string(Read)})
}

// parseToken returns the token of the form, and sets Errors.
func (f *tokenFields) parseToken() (t Token) {
	f.Errors = make(map[string]string)
	t = Token{Note: f.Note, Scope: Scope(f.Scope)}
	if len(f.Note) > 1000 {
		f.Errors["note"] = "must be at most 1000 bytes long"
	}
	if t.Scope != Read && t.Scope != Write && t.Scope != Admin {
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
	if field, why := t.validate(); why != "" && f.Errors[field] == "" {
		f.Errors[field] = why
	}
	return t
}

func (s *Server) tokenFromForm(w http.ResponseWriter, r *http.Request) error {
	f := tokenFields{
		Note: r.PostFormValue("note"), Scope: r.PostFormValue("scope"),
		Extensions: r.PostFormValue("extensions"), Expires: strings.TrimSpace(r.PostFormValue("expires")),
	}
	t := f.parseToken()
	if len(f.Errors) == 0 {
		t, err := s.issueToken(r.Context(), t)
		switch {
		case err == nil:
			return s.showPart(w, r, http.StatusOK, "token-made", t)
		case !errors.Is(err, errManyTokens):
			return err
		}
		f.Problem = err.Error()
	}
	return s.showPart(w, r, http.StatusUnprocessableEntity, "token-form", f)
}

func (s *Server) revokeFromPage(w http.ResponseWriter, r *http.Request) error {
	if err := s.withdrawToken(r.Context(), r.PathValue("id")); err != nil && !errors.Is(err, errNoToken) {
		return err
	}
	return s.showPart(w, r, http.StatusOK, "tokens", tokensView{s.tokens.all()})
}
