package main

import (
	"cmp"
	"encoding"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A problem is one thing wrong with a config file, and where.
type problem struct {
	File   string `json:"file"`
	Line   int    `json:"line"`   // from 1
	Column int    `json:"column"` // in characters, from 1
	Key    string `json:"key,omitempty"`
	Text   string `json:"problem"`

	path string // Key with the indices of arrays
}

func (p problem) String() string {
	if p.Key == "" {
		return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Text)
	}
	return fmt.Sprintf("%s:%d:%d: %s: %s", p.File, p.Line, p.Column, p.Key, p.Text)
}

// problems is everything wrong with a config file, top to bottom.
type problems []problem

func (ps problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

func (ps problems) sort() {
	slices.SortStableFunc(ps, func(a, b problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.path, b.path))
	})
}

// A reader moves what the TOML parser read into a config. It does not stop at
// a problem: what cannot be read keeps its default, or is zero in an array.
type reader struct {
	file     string
	where    where
	problems problems
}

var indices = regexp.MustCompile(`\[\d+\]`)

// problem notes a problem with the value at path, unless it has one already:
// the first is nearest to the cause.
func (r *reader) problem(path, format string, args ...any) {
	r.note(r.where.value(path), path, fmt.Sprintf(format, args...))
}

func (r *reader) note(at position, path, text string) {
	if slices.ContainsFunc(r.problems, func(p problem) bool { return p.path == path }) {
		return
	}
	r.problems = append(r.problems, problem{r.file, at.line, at.column, indices.ReplaceAllString(path, ""), text, path})
}

// table moves doc into the struct dst.
func (r *reader) table(path string, doc map[string]any, dst reflect.Value) {
	fields := map[string]int{}
	for i := range dst.NumField() {
		fields[dst.Type().Field(i).Tag.Get("toml")] = i
	}
	for key, v := range doc {
		path := join(path, key)
		i, ok := fields[key]
		if !ok {
			r.note(r.where.key(path), path, "unknown key: "+suggest(key, dst.Type()))
			continue
		}
		r.value(path, v, dst.Field(i))
	}
}

// value moves v into dst.
func (r *reader) value(path string, v any, dst reflect.Value) {
	if u, ok := dst.Addr().Interface().(encoding.TextUnmarshaler); ok {
		r.text(path, v, u)
		return
	}
	switch dst.Kind() {
	case reflect.Pointer:
		p := reflect.New(dst.Type().Elem())
		if r.text(path, v, p.Interface().(encoding.TextUnmarshaler)) {
			dst.Set(p)
		}
	case reflect.Struct:
		if doc, ok := v.(map[string]any); ok {
			r.table(path, doc, dst)
			return
		}
		r.problem(path, "must be a table, not %s: use [%s] on its own line", describe(v), path)
	case reflect.Map:
		doc, ok := v.(map[string]any)
		if !ok {
			r.problem(path, "must be a table, not %s: use [%s] on its own line", describe(v), path)
			return
		}
		if dst.IsNil() {
			dst.Set(reflect.MakeMap(dst.Type()))
		}
		for key, v := range doc {
			path := join(path, key)
			k, e := reflect.New(dst.Type().Key()), reflect.New(dst.Type().Elem())
			if err := k.Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(key)); err != nil {
				r.note(r.where.key(path), path, err.Error())
				continue
			}
			r.value(path, v, e.Elem())
			dst.SetMapIndex(k.Elem(), e.Elem())
		}
	case reflect.Slice:
		r.array(path, v, dst)
	case reflect.String:
		if s, ok := v.(string); ok {
			dst.SetString(s)
			return
		}
		r.problem(path, "must be a string, not %s", describe(v))
	case reflect.Bool:
		if b, ok := v.(bool); ok {
			dst.SetBool(b)
			return
		}
		r.problem(path, "must be true or false, not %s", describe(v))
	case reflect.Int:
		if n, ok := v.(int64); ok {
			dst.SetInt(n)
			return
		}
		r.problem(path, "must be a whole number, not %s", describe(v))
	default:
		panic("config has a field of unknown kind: " + path)
	}
}

// text moves v into dst if it is a string that dst takes.
func (r *reader) text(path string, v any, dst encoding.TextUnmarshaler) bool {
	s, ok := v.(string)
	if !ok {
		r.problem(path, "must be a string, not %s", describe(v))
		return false
	}
	if err := dst.UnmarshalText([]byte(s)); err != nil {
		r.problem(path, "%v", err)
		return false
	}
	return true
}

func (r *reader) array(path string, v any, dst reflect.Value) {
	var elems []any
	switch v := v.(type) {
	case []any:
		elems = v
	case []map[string]any:
		for _, t := range v {
			elems = append(elems, t)
		}
	case string:
		r.problem(path, "must be an array, not a string: use [%q]", v)
		return
	default:
		if isTable(dst.Type().Elem()) {
			r.problem(path, "must be an array of tables, not %s: use [[%s]]", describe(v), path)
			return
		}
		r.problem(path, "must be an array, not %s", describe(v))
		return
	}
	s := reflect.MakeSlice(dst.Type(), len(elems), len(elems))
	for i, e := range elems {
		if d, ok := s.Index(i).Addr().Interface().(interface{ defaults() }); ok {
			d.defaults()
		}
		r.value(index(path, i), e, s.Index(i))
	}
	dst.Set(s)
}

// describe names the type of a TOML value as a person would.
func describe(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case bool:
		return "true or false"
	case int64:
		return "a number"
	case float64:
		return "a fraction"
	case time.Time:
		return "a date"
	case map[string]any:
		return "a table"
	}
	return "an array"
}

// isTable reports whether values of t are written as a table, not as a string.
func isTable(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// suggest says what may have been meant by key, which the table has not.
func suggest(key string, table reflect.Type) string {
	var names []string
	for i := range table.NumField() {
		names = append(names, table.Field(i).Tag.Get("toml"))
	}
	nearest := slices.MinFunc(names, func(a, b string) int {
		return cmp.Compare(distance(key, a), distance(key, b))
	})
	if distance(key, nearest) <= max(2, len(nearest)/3) {
		return fmt.Sprintf("did you mean %q?", nearest)
	}
	root := reflect.TypeFor[config]()
	for i := range root.NumField() {
		t := root.Field(i)
		if !isTable(t.Type) {
			continue
		}
		for j := range t.Type.NumField() {
			if name := t.Type.Field(j).Tag.Get("toml"); distance(key, name) <= len(name)/4 {
				return fmt.Sprintf("did you mean %q of [%s]?", name, t.Tag.Get("toml"))
			}
		}
	}
	return "known keys are " + strings.Join(names, ", ")
}

// distance is the number of characters to insert, delete, replace or swap with
// their neighbor to make b of a.
func distance(a, b string) int {
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			same := 1
			if a[i-1] == b[j-1] {
				same = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+same)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}
