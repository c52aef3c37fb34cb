package v1

import (
	"encoding/json"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"bellhop/admin/dialect"
	"bellhop/dialog"
)

// WriteError writes a problem of RFC 9457. It is the access.ErrorWriter of /v1.
func WriteError(w http.ResponseWriter, status int, detail string) {
	writeProblemModel(w, huma.ErrorModel{Status: status, Title: http.StatusText(status), Detail: detail})
}

// writeProblemModel writes a problem of RFC 9457.
func writeProblemModel(w http.ResponseWriter, p huma.ErrorModel) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p)
}

// limitNames answers 404 if a segment of the path is longer than dialog.MaxName bytes,
// and 422 if a value in the query is longer. A segment or value may be the name of an
// extension, call, event or subscription, which becomes a subject or key of the store.
func limitNames(next http.Handler) http.Handler {
	long := func(name string) bool { return len(name) > dialog.MaxName }
	const detail = "name too long: at most 256 bytes"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if slices.ContainsFunc(dialect.Path(r.URL), long) {
			WriteError(w, http.StatusNotFound, detail)
			return
		}
		for key, values := range r.URL.Query() {
			if slices.ContainsFunc(values, long) {
				writeProblemModel(w, huma.ErrorModel{
					Status: http.StatusUnprocessableEntity, Title: http.StatusText(http.StatusUnprocessableEntity), Detail: "validation failed",
					Errors: []*huma.ErrorDetail{{Location: "query." + key, Message: detail}},
				})
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// newConfig returns huma's configuration for /v1.
func newConfig(version string) huma.Config {
	c := huma.DefaultConfig("bellhop", version)
	c.Info.Description = "Manage webhook subscriptions to the extensions of a PBX, and read calls, events and deliveries."
	c.Info.License = &huma.License{Name: "Apache 2.0", Identifier: "Apache-2.0"}
	c.Info.Contact = &huma.Contact{Name: "Guide to this API: bellhop help api", URL: "/help/api"}
	c.Servers = []*huma.Server{{URL: "/"}} // the server that serves the description
	c.OpenAPIPath, c.DocsPath, c.SchemasPath, c.CreateHooks = "", "", "", nil
	c.RejectUnknownQueryParameters = true // a misspelt filter must not select everything
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer", Description: "Token of POST /v1/tokens, of the command bellhop token create, or the first one in the file admin.token of the store"}}
	c.Security = []map[string][]string{{"token": {}}}
	c.Transformers = []huma.Transformer{dropErrorValues}
	return c
}

// dropErrorValues removes from a problem the values that the client has sent, because
// they may be secret.
func dropErrorValues(_ huma.Context, _ string, v any) (any, error) {
	if m, ok := v.(*huma.ErrorModel); ok {
		for _, e := range m.Errors {
			e.Value = nil
		}
	}
	return v, nil
}
