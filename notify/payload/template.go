package payload

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/yosida95/uritemplate/v3"

	"bellhop/dialog"
)

// IsTemplate reports whether a URL is a URI template (RFC 6570). Its variables are the
// fields of the dialect; a field that an event lacks is undefined. With a template, no
// query is appended to the URL of a GET.
func IsTemplate(s string) bool { return strings.ContainsAny(s, "{}") }

// ExpandExample expands the URL template with an example value for every variable, to
// validate it. It refuses a template in which a value from a SIP message could change the
// destination of the callback, could be split, or could be cut. The text of the error
// follows the URL in a sentence: "URL has a variable in its host".
func (f Format) ExpandExample() (string, error) {
	t, err := uritemplate.New(f.URL)
	if err != nil {
		return "", fmt.Errorf("is not an RFC 6570 template: %w", err)
	}
	before, rest, _ := strings.Cut(f.URL, "{")
	if _, host, ok := strings.Cut(before, "://"); !ok || !strings.ContainsAny(host, "/?") && !strings.ContainsAny(rest[:1], "/?") {
		return "", errors.New("has a variable in its scheme, host or port")
	}
	for expr := range templateExpressions(f.URL) {
		switch {
		case strings.ContainsAny(expr[:1], "+#"):
			return "", errors.New("has {" + expr + "}: a value is always escaped, so leave out the " + expr[:1])
		case strings.Contains(expr, ":"):
			return "", errors.New("has {" + expr + "}: a value is always sent whole, so leave out the prefix length")
		}
	}
	known := f.variables()
	for _, name := range t.Varnames() {
		if _, ok := known[name]; !ok {
			return "", fmt.Errorf("has the variable %q, which the dialect %s does not know: it knows %s",
				name, f.Dialect, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
	}
	example, err := t.Expand(known)
	if err != nil {
		return "", fmt.Errorf("cannot be expanded: %w", err)
	}
	return example, nil
}

// templateExpressions yields the texts between the braces of a template.
func templateExpressions(s string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for {
			_, rest, ok := strings.Cut(s, "{")
			if !ok {
				return
			}
			var expr string
			if expr, s, _ = strings.Cut(rest, "}"); !yield(expr) {
				return
			}
		}
	}
}

// variables returns every variable that a template of the format may use, with a value.
func (f Format) variables() uritemplate.Values {
	all := make(uritemplate.Values)
	var e dialog.Event
	fill(reflect.ValueOf(&e).Elem())
	e.Flow = dialog.In
	for _, e.Type = range []dialog.Type{dialog.DialIn, dialog.Answer, dialog.Hangup} {
		v := New(&e, f)
		v.OwnID, v.CalledID, v.CallerID = 1, 1, 1
		v.writeFields(&fieldWriter{values: all})
	}
	return all
}

// fill gives every field of an event a value.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("1")
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(time.Second))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i))
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1, 0)))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	}
}

// expandURL returns the URL of a callback whose subscription has a template. It returns
// an error if the URL has another scheme or host than at.
func (v *View) expandURL(at *url.URL) (*url.URL, error) {
	f := fieldWriter{values: make(uritemplate.Values)}
	v.writeFields(&f)
	whole, err := expandTemplate(v.format.URL, f.values)
	if err != nil {
		return nil, fmt.Errorf("URL template: %w", err)
	}
	u, err := url.Parse(whole)
	if err != nil {
		return nil, fmt.Errorf("URL template: %w", err)
	}
	if u.Scheme != at.Scheme || u.Host != at.Host {
		return nil, fmt.Errorf("URL template leads to %s, not to %s", u.Host, at.Host)
	}
	return u, nil
}

// expandTemplate expands a template. A path segment that values turn into . or .. becomes
// empty, so that no value leads to another path.
func expandTemplate(template string, values uritemplate.Values) (string, error) {
	var b strings.Builder
	query := false // the path has ended
	for i, piece := range splitPath(template) {
		t, err := uritemplate.New(piece)
		if err != nil {
			return "", err
		}
		text, err := t.Expand(values)
		if err != nil {
			return "", err
		}
		if i > 0 {
			b.WriteByte('/')
		}
		path, rest := text, ""
		if end := strings.IndexAny(text, "?#"); end >= 0 {
			path, rest = text[:end], text[end:]
		}
		if !query && strings.Contains(piece, "{") {
			segments := strings.Split(path, "/")
			for i, s := range segments {
				if isDotSegment(s) {
					segments[i] = ""
				}
			}
			path = strings.Join(segments, "/")
		}
		query = query || rest != ""
		b.WriteString(path)
		b.WriteString(rest)
	}
	return b.String(), nil
}

// splitPath splits a template at the slashes outside of its variables.
func splitPath(template string) []string {
	var all []string
	from, braces := 0, false
	for i, c := range []byte(template) {
		switch c {
		case '{', '}':
			braces = c == '{'
		case '/':
			if !braces {
				all, from = append(all, template[from:i]), i+1
			}
		}
	}
	return append(all, template[from:])
}

// isDotSegment reports whether a path segment is . or .., escaped up to three times.
func isDotSegment(segment string) bool {
	for range 4 {
		if segment == "." || segment == ".." {
			return true
		}
		plain, err := url.PathUnescape(segment)
		if err != nil || plain == segment {
			return false
		}
		segment = plain
	}
	return false
}

// variableValue returns a text as the value of a variable. The library writes %E9 for the
// character é, but receivers expect its UTF-8, %C3%A9. So variableValue passes each byte
// of the UTF-8 as a character. A value that consists only of dots becomes empty, because
// it would change the path.
func variableValue(s string) uritemplate.Value {
	if strings.Trim(s, ".") == "" {
		s = ""
	}
	bytes := make([]rune, len(s))
	for i := range len(s) {
		bytes[i] = rune(s[i])
	}
	return uritemplate.String(string(bytes))
}
