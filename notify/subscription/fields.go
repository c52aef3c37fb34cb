package subscription

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
)

// A Field is a field of a [Subscription] that a request, a config file or the command
// line may set. The tags of Subscription are the only list of these fields. The tag toml
// names the field; its option ref allows a config file to refer to the value. The tag set
// describes the field in a request if the tag doc does not fit. A set tag of "-" means
// that only a config file may set the field.
type Field struct {
	Name   string // in JSON and TOML
	Doc    string // description in a request
	Secret bool   // the API never returns it
	reflect.StructField
}

// Fields are the fields that a request may set, in the order of Subscription.
var Fields = func() (fields []Field) {
	for f := range reflect.TypeFor[Subscription]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
		doc, own := f.Tag.Lookup("set")
		if !own {
			doc = f.Tag.Get("doc")
		}
		if name == "" || doc == "-" {
			continue
		}
		secret := f.Type == reflect.TypeFor[Secret]() || f.Type == reflect.TypeFor[PrivateKey]()
		fields = append(fields, Field{name, doc, secret, f})
	}
	return fields
}()

// Value returns the value of the field in s.
func (f *Field) Value(s *Subscription) reflect.Value {
	return reflect.ValueOf(s).Elem().FieldByIndex(f.Index)
}

// A Change holds the fields that a request sets, by their JSON names. The request creates
// a subscription, or is a merge patch (RFC 7396) of an existing one.
type Change map[string]json.RawMessage

// UnmarshalJSON accepts the names of fields in any case, as [json.Unmarshal] does for
// structs.
func (c *Change) UnmarshalJSON(b []byte) error {
	var given map[string]json.RawMessage
	if err := json.Unmarshal(b, &given); err != nil {
		return err
	}
	*c = make(Change, len(given))
	for _, name := range slices.Sorted(maps.Keys(given)) {
		i := slices.IndexFunc(Fields, func(f Field) bool { return strings.EqualFold(f.Name, name) })
		if i < 0 {
			return fmt.Errorf("unknown field %q", name)
		}
		(*c)[Fields[i].Name] = given[name]
	}
	return nil
}

// ApplyTo sets the fields of c in s. A field that is absent or null does not change. An
// empty secret changes nothing, an empty duration sets the default, a header field
// without a value keeps its value in s, and an empty tls_cert removes tls_key. The error
// is an [*Invalid].
func (c Change) ApplyTo(s *Subscription) error {
	for _, f := range Fields {
		raw, given := c[f.Name]
		if !given || string(raw) == "null" {
			continue
		}
		to := f.Value(s)
		old := to.Interface()
		to.SetZero()
		isDuration := f.Type == reflect.TypeFor[Duration]()
		if isDuration && string(raw) == `""` {
			continue
		}
		if err := json.Unmarshal(raw, to.Addr().Interface()); err != nil {
			if isDuration {
				return &Invalid{f.Name, "is not a duration: use a value such as 500ms or 30s"}
			}
			return &Invalid{f.Name, "has a wrong type: " + err.Error()}
		}
		switch f.Name {
		case "headers":
			s.Headers.keepValues(old.(Headers))
		case "secret":
			if s.Secret == "" {
				s.Secret = old.(Secret)
			}
		case "tls_cert":
			if s.TLSCert == "" {
				s.TLSKey = "" // unless the change sets it, which follows
			}
		}
	}
	return nil
}

// Headers are HTTP header fields by name. Their values are never printed.
type Headers map[string]string

func (h Headers) String() string   { return fmt.Sprint(slices.Sorted(maps.Keys(h))) }
func (h Headers) GoString() string { return h.String() }

// keepValues sets each field that has no value to its value in old.
func (h Headers) keepValues(old Headers) {
	for name, value := range h {
		if value == "" {
			h[name] = old[http.CanonicalHeaderKey(name)]
		}
	}
}
