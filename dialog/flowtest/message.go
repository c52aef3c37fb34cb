package flowtest

import (
	"fmt"
	"strconv"
	"strings"
)

// A message is a SIP message, or the part of one in a flow file.
type message struct {
	start  string
	fields []field
	body   string
}

type field struct{ name, value string }

// parseMessage parses a SIP message, or the part of one in a section of a flow. Lines end
// with LF or CRLF.
func parseMessage(text string) (*message, error) {
	text = strings.ReplaceAll(text, "\r\n", "\n")
	head, body, _ := strings.Cut(text, "\n\n")
	m := &message{body: strings.ReplaceAll(body, "\n", "\r\n")}
	for i, line := range strings.Split(strings.TrimRight(head, "\n"), "\n") {
		if i == 0 {
			m.start = line
			continue
		}
		if line[0] == ' ' || line[0] == '\t' {
			if len(m.fields) == 0 {
				return nil, fmt.Errorf("parse message: %q continues no header field", line)
			}
			m.fields[len(m.fields)-1].value += "\r\n" + line
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("parse message: header field %q has no colon", line)
		}
		m.fields = append(m.fields, field{strings.TrimSpace(name), strings.TrimSpace(value)})
	}
	if m.start == "" {
		return nil, fmt.Errorf("parse message: no start line")
	}
	return m, nil
}

// bytes returns the message as sent on the wire.
func (m *message) bytes() []byte {
	var b strings.Builder
	b.WriteString(m.start + "\r\n")
	for _, f := range m.fields {
		b.WriteString(f.name + ": " + f.value + "\r\n")
	}
	b.WriteString("\r\n" + m.body)
	return []byte(b.String())
}

// clone returns a copy of m that can be changed without changing m.
func (m *message) clone() *message {
	c := *m
	c.fields = append([]field(nil), m.fields...)
	return &c
}

// compactNames are the long names of header fields by their compact forms.
var compactNames = map[string]string{
	"c": "content-type", "f": "from", "i": "call-id", "k": "supported", "l": "content-length", "m": "contact",
	"r": "refer-to", "s": "subject", "t": "to", "v": "via", "x": "session-expires",
}

// sameField reports whether two header field names are the same, ignoring letter case
// and with compact forms expanded.
func sameField(a, b string) bool {
	a, b = strings.ToLower(a), strings.ToLower(b)
	if long, ok := compactNames[a]; ok {
		a = long
	}
	if long, ok := compactNames[b]; ok {
		b = long
	}
	return a == b
}

// fieldValue returns the value of the first header field called name, or "".
func (m *message) fieldValue(name string) string {
	for _, f := range m.fields {
		if sameField(f.name, name) {
			return f.value
		}
	}
	return ""
}

func (m *message) hasField(name string) bool { return len(m.fieldValues(name)) > 0 }

// fieldValues returns all values of a header field. Values in one line are separated by
// commas.
func (m *message) fieldValues(name string) (values []string) {
	for _, f := range m.fields {
		if sameField(f.name, name) {
			for v := range strings.SplitSeq(f.value, ",") {
				values = append(values, strings.TrimSpace(v))
			}
		}
	}
	return values
}

// setField replaces the value of the first header field called name, or adds one.
func (m *message) setField(name, value string) {
	for i, f := range m.fields {
		if sameField(f.name, name) {
			m.fields[i].value = value
			return
		}
	}
	m.addField(name, value)
}

func (m *message) addField(name string, values ...string) {
	for _, v := range values {
		m.fields = append(m.fields, field{name, v})
	}
}

// prependField inserts a header field before all others.
func (m *message) prependField(name, value string) {
	m.fields = append([]field{{name, value}}, m.fields...)
}

// removeFirstValue removes the first of the values of a header field.
func (m *message) removeFirstValue(name string) {
	for i, f := range m.fields {
		if !sameField(f.name, name) {
			continue
		}
		if _, rest, more := strings.Cut(f.value, ","); more {
			m.fields[i].value = strings.TrimSpace(rest)
		} else {
			m.fields = append(m.fields[:i], m.fields[i+1:]...)
		}
		return
	}
}

// status returns the status of a response, and 0 for a request.
func (m *message) status() int {
	rest, ok := strings.CutPrefix(m.start, "SIP/2.0 ")
	if !ok {
		return 0
	}
	code, _, _ := strings.Cut(rest, " ")
	n, _ := strconv.Atoi(code)
	return n
}

// method returns the method of a request, or the CSeq method of a response.
func (m *message) method() string {
	if m.status() != 0 {
		_, method, _ := strings.Cut(m.fieldValue("CSeq"), " ")
		return method
	}
	method, _, _ := strings.Cut(m.start, " ")
	return method
}

// requestURI returns the Request-URI, or "" if there is none.
func (m *message) requestURI() string {
	words := strings.Fields(m.start)
	if m.status() != 0 || len(words) < 2 {
		return ""
	}
	return words[1]
}

// cseq returns the CSeq number.
func (m *message) cseq() int {
	number, _, _ := strings.Cut(m.fieldValue("CSeq"), " ")
	n, _ := strconv.Atoi(number)
	return n
}

// branch returns the branch of the topmost Via.
func (m *message) branch() string { return headerParam(m.fieldValue("Via"), "branch") }

func (m *message) fromTag() string { return headerParam(m.fieldValue("From"), "tag") }
func (m *message) toTag() string   { return headerParam(m.fieldValue("To"), "tag") }

// headerParam returns the value of a parameter in a header field value, or "".
func headerParam(value, name string) string {
	if _, after, ok := strings.Cut(value, ">"); ok {
		value = after
	}
	for p := range strings.SplitSeq(value, ";") {
		if k, v, _ := strings.Cut(strings.TrimSpace(p), "="); strings.EqualFold(k, name) {
			return v
		}
	}
	return ""
}

// addressURI returns the URI of a name-addr or addr-spec.
func addressURI(value string) string {
	if _, after, ok := strings.Cut(value, "<"); ok {
		uri, _, _ := strings.Cut(after, ">")
		return uri
	}
	uri, _, _ := strings.Cut(value, ";")
	return strings.TrimSpace(uri)
}

// userHost returns the user and the host with port of a SIP URI.
func userHost(uri string) (user, host string) {
	_, rest, _ := strings.Cut(uri, ":")
	rest, _, _ = strings.Cut(rest, ";")
	if u, h, ok := strings.Cut(rest, "@"); ok {
		return u, h
	}
	return "", rest
}

// withTag returns a From or To value with its own tag or, if it has none, with tag.
func withTag(value, tag string) string {
	if tag == "" || headerParam(value, "tag") != "" {
		return value
	}
	return value + ";tag=" + tag
}
