// Package page is how bellhop's page looks: templates, styles and scripts, all in
// the binary. What is on it, and for whom, package admin knows.
//
// Of others are htmx (static/htmx.min.js, 2.0.11) and its extension for
// server-sent events (static/htmx-sse.min.js, 2.2.4), both as published, under
// the licenses beside them.
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

// A View is what a template is shown.
type View struct {
	Title   string
	At      string // the entry of the navigation
	Who     Viewer
	Version string
	Data    any
}

// A Viewer is who looks, and what there may be on the page.
type Viewer struct {
	Name  string
	Write bool // buttons that change subscriptions, or send
	Admin bool // tokens
	All   bool // is bound to no extension
}

// views are the templates by the names of their files: each with the layout, and
// with all parts, which can be shown alone.
var views map[string]*template.Template

func init() { views = parse() } // templates show parts, by what views has

func parse() map[string]*template.Template {
	shared := template.Must(template.New("").Funcs(functions).ParseFS(files, "templates/layout.html", "templates/part-*.html"))
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

// Whole returns a view with all that is around it. It panics if there is none of
// that name, or if it does not fit v.
func Whole(name string, v View) []byte { return execute(views[name], "layout", v) }

// Part returns a part of a view, as Whole does.
func Part(name string, v View) []byte { return execute(views[""], name, v) }

// Tag stands for what is shown: who has a part with the same tag needs no other.
func Tag(html []byte) string {
	sum := sha256.Sum256(html)
	return hex.EncodeToString(sum[:8])
}

// live is the attributes of an element whose content is a part that is sent anew
// whenever it changes.
func live(part, path string, v View) template.HTMLAttr {
	return template.HTMLAttr(`hx-ext="sse" sse-connect="` + template.HTMLEscapeString(path) + `" sse-swap="part" data-tag="` + Tag(Part(part, v)) + `"`)
}

func execute(t *template.Template, name string, v View) []byte {
	var b bytes.Buffer
	if err := t.ExecuteTemplate(&b, name, v); err != nil {
		panic(err)
	}
	return harmless(b.Bytes())
}

// harmless replaces what comes off the wire, or over the API, and would turn text
// around, see [dialog.IsControl].
func harmless(html []byte) []byte {
	return bytes.Map(func(r rune) rune {
		if dialog.IsControl(r) && r != '\n' && r != '\t' && r != '\r' {
			return '\uFFFD'
		}
		return r
	}, html)
}

var functions = template.FuncMap{
	"asset":   asset,
	"live":    live,
	"segment": url.PathEscape,
	"link":    func(path, query string) template.URL { return template.URL(path + "?" + query) }, // which is escaped already
	"since":   func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) },
	"clock":   func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") + " UTC" },
	"lasted":  lasted,
	"join":    strings.Join,
	"brief":   brief,
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

// maxBrief is how many characters are shown of a text off the wire.
const maxBrief = 500

// brief cuts a text off the wire: its whole is in the API.
func brief(s string) string {
	n := 0
	for i := range s {
		if n++; n > maxBrief {
			return s[:i] + "…"
		}
	}
	return s
}

// lasted writes a duration as a person reads it.
func lasted(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%d:%02d:%02d", int(d.Hours()), int(d.Minutes())%60, int(d.Seconds())%60)
}

// tags are the beginnings of the SHA-256 of the files under static, by name.
var tags = func() map[string]string {
	all := make(map[string]string)
	entries, _ := files.ReadDir("static")
	for _, e := range entries {
		b, _ := files.ReadFile("static/" + e.Name())
		sum := sha256.Sum256(b)
		all[e.Name()] = hex.EncodeToString(sum[:8])
	}
	return all
}()

// asset is the path of a file under static, which changes with its content.
func asset(name string) string { return "/static/" + name + "?v=" + tags[name] }

// Static serves the files under /static/.
func Static() http.Handler {
	served := http.FileServerFS(files)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/static/")
		tag, ok := tags[name]
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
