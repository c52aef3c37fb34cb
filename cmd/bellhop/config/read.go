package config

import (
	"cmp"
	"encoding"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"bellhop/notify"
)

// A Problem is an error in a config file, with its position.
type Problem struct {
	File   string `json:"file"`
	Line   int    `json:"line"`   // counts from 1
	Column int    `json:"column"` // in characters, counts from 1
	Key    string `json:"key,omitempty"`
	Text   string `json:"problem"`

	path string // like Key, but with array indices
}

func (p Problem) String() string {
	if p.Key == "" {
		return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Text)
	}
	return fmt.Sprintf("%s:%d:%d: %s: %s", p.File, p.Line, p.Column, p.Key, p.Text)
}

// Problems are all errors in a config file, from top to bottom.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

func (ps Problems) Sort() {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.path, b.path))
	})
}

// A decoder decodes a parsed TOML document into a Config. It continues after a problem.
// A value that cannot be decoded keeps its default, or is zero if it is an element of
// an array.
type decoder struct {
	file     string
	where    positions
	problems Problems
}

var indices = regexp.MustCompile(`\[\d+\]`)

// addProblem reports a problem with the value at path. Only the first problem of a path
// is kept, because it is nearest to the cause.
func (r *decoder) addProblem(path, format string, args ...any) {
	r.addProblemAt(r.where.valuePosition(path), path, fmt.Sprintf(format, args...))
}

// addProblemAt reports a problem with the value at path. at is the position to show.
func (r *decoder) addProblemAt(at position, path, text string) {
	if slices.ContainsFunc(r.problems, func(p Problem) bool { return p.path == path }) {
		return
	}
	r.problems = append(r.problems, Problem{r.file, at.line, at.column, indices.ReplaceAllString(path, ""), text, path})
}

// decodeTable decodes doc into the struct dst.
func (r *decoder) decodeTable(path string, doc map[string]any, dst reflect.Value) {
	fields := map[string]int{}
	for i := range dst.NumField() {
		if name, _ := tomlKey(dst.Type().Field(i)); name != "" {
			fields[name] = i
		}
	}
	for key, v := range doc {
		path := joinPath(path, key)
		i, ok := fields[key]
		if !ok {
			r.addProblemAt(r.where.keyPosition(path), path, "unknown key: "+suggestKey(key, dst.Type()))
			continue
		}
		if _, isRef := tomlKey(dst.Type().Field(i)); isRef {
			v = r.resolveStrings(path, v)
		}
		r.decodeValue(path, v, dst.Field(i))
	}
}

// tomlKey returns the key of a field in a config file, or "" if the field has none.
// isRef reports that the field has the option ref: its value, or each value of its
// table, may be a reference that [Resolve] resolves.
func tomlKey(f reflect.StructField) (key string, isRef bool) {
	key, option, _ := strings.Cut(f.Tag.Get("toml"), ",")
	return key, option == "ref"
}

// resolveStrings returns v with each reference replaced by the value that it refers to.
// A reference that cannot be resolved is reported as a problem and replaced by "".
func (r *decoder) resolveStrings(path string, v any) any {
	switch v := v.(type) {
	case string:
		text, err := Resolve(v)
		if err != nil {
			r.addProblem(path, "%v", err)
		}
		return text
	case map[string]any:
		for key, value := range v {
			v[key] = r.resolveStrings(joinPath(path, key), value)
		}
	}
	return v
}

// decodeValue decodes v into dst.
func (r *decoder) decodeValue(path string, v any, dst reflect.Value) {
	if u, ok := dst.Addr().Interface().(encoding.TextUnmarshaler); ok {
		r.decodeText(path, v, u)
		return
	}
	switch dst.Kind() {
	case reflect.Pointer:
		p := reflect.New(dst.Type().Elem())
		if r.decodeText(path, v, p.Interface().(encoding.TextUnmarshaler)) {
			dst.Set(p)
		}
	case reflect.Struct, reflect.Map:
		doc, ok := v.(map[string]any)
		switch {
		case !ok:
			r.addProblem(path, "must be a table, not %s: use [%s] on its own line", describeType(v), path)
		case dst.Kind() == reflect.Struct:
			r.decodeTable(path, doc, dst)
		default:
			r.decodeMap(path, doc, dst)
		}
	case reflect.Slice:
		r.decodeArray(path, v, dst)
	case reflect.String:
		if s, ok := v.(string); ok {
			dst.SetString(s)
			return
		}
		r.addProblem(path, "must be a string, not %s", describeType(v))
	case reflect.Bool:
		if b, ok := v.(bool); ok {
			dst.SetBool(b)
			return
		}
		r.addProblem(path, "must be true or false, not %s", describeType(v))
	case reflect.Int:
		if n, ok := v.(int64); ok {
			dst.SetInt(n)
			return
		}
		r.addProblem(path, "must be a whole number, not %s", describeType(v))
	default:
		panic("config has a field of unknown kind: " + path)
	}
}

// decodeMap adds the entries of doc to the map dst.
func (r *decoder) decodeMap(path string, doc map[string]any, dst reflect.Value) {
	if dst.IsNil() {
		dst.Set(reflect.MakeMap(dst.Type()))
	}
	for key, v := range doc {
		path := joinPath(path, key)
		k, e := reflect.New(dst.Type().Key()), reflect.New(dst.Type().Elem())
		if u, ok := k.Interface().(encoding.TextUnmarshaler); !ok {
			k.Elem().SetString(key)
		} else if err := u.UnmarshalText([]byte(key)); err != nil {
			r.addProblemAt(r.where.keyPosition(path), path, err.Error())
			continue
		}
		r.decodeValue(path, v, e.Elem())
		dst.SetMapIndex(k.Elem(), e.Elem())
	}
}

// decodeText decodes v into dst, and reports whether v is a string that dst accepts.
func (r *decoder) decodeText(path string, v any, dst encoding.TextUnmarshaler) bool {
	s, ok := v.(string)
	if !ok {
		r.addProblem(path, "must be a string, not %s", describeType(v))
		return false
	}
	if err := dst.UnmarshalText([]byte(s)); err != nil {
		r.addProblem(path, "%v", err)
		return false
	}
	return true
}

// decodeArray decodes v into the slice dst.
func (r *decoder) decodeArray(path string, v any, dst reflect.Value) {
	var elems []any
	switch v := v.(type) {
	case []any:
		elems = v
	case []map[string]any:
		for _, t := range v {
			elems = append(elems, t)
		}
	case string:
		r.addProblem(path, "must be an array, not a string: use [%q]", v)
		return
	default:
		if isTable(dst.Type().Elem()) {
			r.addProblem(path, "must be an array of tables, not %s: use [[%s]]", describeType(v), path)
			return
		}
		r.addProblem(path, "must be an array, not %s", describeType(v))
		return
	}
	s := reflect.MakeSlice(dst.Type(), len(elems), len(elems))
	for i, e := range elems {
		if d, ok := s.Index(i).Addr().Interface().(*notify.Subscription); ok {
			*d = notify.NewSubscription()
		}
		r.decodeValue(indexPath(path, i), e, s.Index(i))
	}
	dst.Set(s)
}

// describeType returns the type of a TOML value in words.
func describeType(v any) string {
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

// isTable reports whether values of t are written as a table. Other structs are written
// as a string.
func isTable(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// suggestKey suggests the key that is meant by the unknown key of a table. If none is
// similar, it lists the known keys.
func suggestKey(key string, table reflect.Type) string {
	var names []string
	for i := range table.NumField() {
		if name, _ := tomlKey(table.Field(i)); name != "" {
			names = append(names, name)
		}
	}
	nearest := slices.MinFunc(names, func(a, b string) int {
		return cmp.Compare(EditDistance(key, a), EditDistance(key, b))
	})
	if EditDistance(key, nearest) <= max(2, len(nearest)/3) {
		return fmt.Sprintf("did you mean %q?", nearest)
	}
	root := reflect.TypeFor[Config]()
	for i := range root.NumField() {
		t := root.Field(i)
		if !isTable(t.Type) {
			continue
		}
		for j := range t.Type.NumField() {
			if name := t.Type.Field(j).Tag.Get("toml"); EditDistance(key, name) <= len(name)/4 {
				return fmt.Sprintf("did you mean %q of [%s]?", name, t.Tag.Get("toml"))
			}
		}
	}
	return "known keys are " + strings.Join(names, ", ")
}

// EditDistance returns the number of bytes to insert, delete, replace or swap with
// their neighbor to turn a into b.
func EditDistance(a, b string) int {
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

// ReadPrivate reads a file. It returns an error if other users than the owner may
// access the file.
func ReadPrivate(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s is accessible to other users: check its content, then chmod 600 it", path)
	}
	return os.ReadFile(path)
}
