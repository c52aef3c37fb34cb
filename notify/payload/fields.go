package payload

import (
	"net/url"
	"strconv"

	"github.com/yosida95/uritemplate/v3"

	"bellhop/dialog"
	"bellhop/notify/jsontext"
)

// fieldWriter writes the fields of an event as a form, as the members of a JSON object,
// or as template variables.
type fieldWriter struct {
	b          []byte
	json       bool
	writeEmpty bool               // write empty texts too
	values     uritemplate.Values // nil: no template
}

// writeName writes the name of a field and the separator before and after it.
func (f *fieldWriter) writeName(s string) {
	if f.json {
		if last := f.b[len(f.b)-1]; last != '{' {
			f.b = append(f.b, ',')
		}
		f.b = append(jsontext.AppendHTML(f.b, s), ':')
		return
	}
	if len(f.b) > 0 {
		f.b = append(f.b, '&')
	}
	f.b = append(appendForm(f.b, s), '=')
}

// writeText writes a text, unless it is empty and empty texts are left out.
func (f *fieldWriter) writeText(name, s string) {
	if s == "" && !f.writeEmpty {
		return
	}
	if f.values != nil {
		f.values.Set(name, variableValue(s))
		return
	}
	f.writeName(name)
	if f.json {
		f.b = jsontext.AppendHTML(f.b, s)
	} else {
		f.b = appendForm(f.b, s)
	}
}

// writeNumber writes a number.
func (f *fieldWriter) writeNumber(name string, n int64) {
	if f.values != nil {
		f.values.Set(name, uritemplate.String(strconv.FormatInt(n, 10)))
		return
	}
	f.writeName(name)
	f.b = strconv.AppendInt(f.b, n, 10)
}

// writeNonZero writes n unless it is 0, which means unknown.
func (f *fieldWriter) writeNonZero(name string, n int64) {
	if n != 0 {
		f.writeNumber(name, n)
	}
}

// writeBool writes true or false.
func (f *fieldWriter) writeBool(name string, b bool) {
	if f.values != nil {
		f.values.Set(name, uritemplate.String(strconv.FormatBool(b)))
		return
	}
	f.writeName(name)
	f.b = strconv.AppendBool(f.b, b)
}

// writeIfTrue writes true if b is true, and nothing otherwise.
func (f *fieldWriter) writeIfTrue(name string, b bool) {
	if b {
		f.writeBool(name, b)
	}
}

// writeYes writes "yes" if b is true, and nothing otherwise.
func (f *fieldWriter) writeYes(name string, b bool) {
	if b {
		f.writeText(name, "yes")
	}
}

// writeYesNo writes "yes" or "no", or nothing if b is nil.
func (f *fieldWriter) writeYesNo(name string, b *bool) {
	switch {
	case b == nil:
	case *b:
		f.writeText(name, "yes")
	default:
		f.writeText(name, "no")
	}
}

// writeList writes a text for each extension. In a form, each text is a field name[]. In
// a template, the variable is a list, or a single value if there is only one.
func (f *fieldWriter) writeList(name string, extensions []dialog.Extension, text func(*dialog.Extension) string) {
	var values []string
	for i := range extensions {
		if s := text(&extensions[i]); f.values == nil {
			f.writeText(name+"[]", s)
		} else if s != "" {
			values = append(values, variableValue(s).String())
		}
	}
	switch {
	case len(values) == 1:
		f.writeText(name, text(&extensions[0]))
	case len(values) > 1:
		f.values.Set(name, uritemplate.List(values...))
	}
}

// writePairs sets an associative template variable.
func (f *fieldWriter) writePairs(name string, pairs [][2]string) {
	var kv []string
	for _, p := range pairs {
		kv = append(kv, url.QueryEscape(dialog.Clean(p[0], dialog.MaxText)), variableValue(dialog.Clean(p[1], dialog.MaxText)).String())
	}
	f.values.Set(name, uritemplate.KV(kv...))
}

// openObject begins a JSON object. The caller must end it.
func (f *fieldWriter) openObject(name string) {
	f.writeName(name)
	f.b = append(f.b, '{')
}

// appendForm escapes s as application/x-www-form-urlencoded.
func appendForm(b []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' && c != '.' && c != '~' {
			return append(b, url.QueryEscape(s)...)
		}
	}
	return append(b, s...)
}
