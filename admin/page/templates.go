package page

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"time"

	"bellhop/dialog"
)

//go:embed static templates
var files embed.FS

// View is the data of a template.
type View struct {
	Title   string
	At      string // path of the current navigation entry
	Who     Viewer
	Version string
	Data    any
}

// Viewer is the person who looks at a page, and what the page may offer.
type Viewer struct {
	Name  string
	Write bool // may change subscriptions and send callbacks
	Admin bool // may manage tokens
	All   bool // is not bound to extensions
}

// templates are the templates by file name, each with the layout and all parts. The
// template "" has only the layout and the parts.
var templates map[string]*template.Template

func init() { templates = parseTemplates() } // templateFuncs uses templates through liveAttrs

func parseTemplates() map[string]*template.Template {
	shared := template.Must(template.New("").Funcs(templateFuncs).ParseFS(files, "templates/layout.html", "templates/part-*.html"))
	all := map[string]*template.Template{"": shared}
	names, _ := fs.Glob(files, "templates/*.html")
	for _, name := range names {
		base := strings.TrimSuffix(strings.TrimPrefix(name, "templates/"), ".html")
		if base == "layout" || strings.HasPrefix(base, "part-") {
			continue
		}
		all[base] = template.Must(template.Must(shared.Clone()).ParseFS(files, name))
	}
	return all
}

// Whole renders a whole page: the template with a name, in the layout. It panics if there
// is no such template, or if v does not fit it.
func Whole(name string, v View) []byte { return executeTemplate(templates[name], "layout", v) }

// Part renders the part of a page with a name. It panics if there is no such part, or if
// v does not fit it.
func Part(name string, v View) []byte { return executeTemplate(templates[""], name, v) }

// Tag returns a short hash of HTML. A part whose tag has not changed need not be sent
// again.
func Tag(html []byte) string {
	sum := sha256.Sum256(html)
	return hex.EncodeToString(sum[:8])
}

// liveAttrs returns attributes of an HTML element. They make the browser replace the
// content of the element with the parts that path streams, see livePart.
func liveAttrs(part, path string, v View) template.HTMLAttr {
	return template.HTMLAttr(`hx-ext="sse" sse-connect="` + template.HTMLEscapeString(path) + `" sse-swap="part" data-tag="` + Tag(Part(part, v)) + `"`)
}

func executeTemplate(t *template.Template, name string, v View) []byte {
	var b bytes.Buffer
	if err := t.ExecuteTemplate(&b, name, v); err != nil {
		panic(err)
	}
	return replaceSteering(b.Bytes())
}

// replaceSteering replaces control characters and characters that change the direction
// of text (see [dialog.IsControl]). They may come from SIP messages and from the API.
func replaceSteering(html []byte) []byte {
	return bytes.Map(func(r rune) rune {
		if dialog.IsControl(r) && r != '\n' && r != '\t' && r != '\r' {
			return '\uFFFD'
		}
		return r
	}, html)
}

var templateFuncs = template.FuncMap{
	"asset":   assetPath,
	"live":    liveAttrs,
	"segment": url.PathEscape,
	"link":    func(path, query string) template.URL { return template.URL(path + "?" + query) }, // the query is escaped already
	"since":   func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) },
	"clock":   func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") + " UTC" },
	"lasted":  formatDuration,
	"millis":  func(micros int64) string { return fmt.Sprintf("%.1f", float64(micros)/1000) },
	"join":    strings.Join,
	"brief":   truncateText,
	"entry": func(v View, href, text string) map[string]any {
		return map[string]any{"Href": href, "Text": text, "Here": v.At == href}
	},
	"row": func(v View, row any) map[string]any {
		return map[string]any{"Who": v.Who, "Row": row}
	},
	"field": func(errors map[string]string, name, label, value, hint string) map[string]string {
		return map[string]string{"Name": name, "Label": label, "Value": value, "Hint": hint, "Error": errors[name]}
	},
}

// maxShownRunes is the maximum number of characters that are shown of a text of a SIP
// message.
const maxShownRunes = 500

// truncateText shortens a text of a SIP message. The API returns the whole text.
func truncateText(s string) string {
	n := 0
	for i := range s {
		if n++; n > maxShownRunes {
			return s[:i] + "…"
		}
	}
	return s
}

// formatDuration formats a duration for people.
func formatDuration(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%d:%02d:%02d", int(d.Hours()), int(d.Minutes())%60, int(d.Seconds())%60)
}

// assetTags are short SHA-256 hashes of the files under static, by name.
var assetTags = func() map[string]string {
	all := make(map[string]string)
	entries, _ := files.ReadDir("static")
	for _, e := range entries {
		b, _ := files.ReadFile("static/" + e.Name())
		sum := sha256.Sum256(b)
		all[e.Name()] = hex.EncodeToString(sum[:8])
	}
	return all
}()

// assetPath returns the URL path of a file under static. A file with other content has
// another path, so that browsers may cache it for long.
func assetPath(name string) string { return "/static/" + name + "?v=" + assetTags[name] }

// Static serves the files under /static/.
func Static() http.Handler {
	served := http.FileServerFS(files)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/static/")
		tag, ok := assetTags[name]
		if !ok {
			http.NotFound(w, r)
			return
		}
		if r.URL.Query().Get("v") == tag {
			w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		}
		w.Header().Set("ETag", `"`+tag+`"`)
		served.ServeHTTP(w, r)
	})
}
