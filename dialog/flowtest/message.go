package flowtest

import (
	"fmt"
	"strconv"
	"strings"
)

// A message is a SIP message as text.
type message struct {
	start  string
	fields []field
	body   string
}

type field struct{ name, value string }

// parse reads a message, or the part of one that a section gives. Lines end
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
				return nil, fmt.Errorf("%q continues nothing", line)
			}
			m.fields[len(m.fields)-1].value += "\r\n" + line
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("%q is no header field", line)
		}
		m.fields = append(m.fields, field{strings.TrimSpace(name), strings.TrimSpace(value)})
	}
	if m.start == "" {
		return nil, fmt.Errorf("no start line")
	}
	return m, nil
}

func (m *message) bytes() []byte {
	var b strings.Builder
	b.WriteString(m.start + "\r\n")
	for _, f := range m.fields {
		b.WriteString(f.name + ": " + f.value + "\r\n")
	}
	b.WriteString("\r\n" + m.body)
	return []byte(b.String())
}

// clone copies m, so that changing the copy leaves m as it is.
func (m *message) clone() *message {
	c := *m
	c.fields = append([]field(nil), m.fields...)
	return &c
}

var compactNames = map[string]string{
	"c": "content-type", "f": "from", "i": "call-id", "k": "supported", "l": "content-length", "m": "contact",
	"r": "refer-to", "s": "subject", "t": "to", "v": "via", "x": "session-expires",
}

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

// get returns the first value of a header field, or "".
func (m *message) fieldValue(name string) string {
	for _, f := range m.fields {
		if sameField(f.name, name) {
			return f.value
		}
	}
	return ""
}

func (m *message) hasField(name string) bool { return len(m.fieldValues(name)) > 0 }

// all returns the values of a header field, those in one line apart.
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

// set replaces the first value of a header field.
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

// push puts a header field in front of all others.
func (m *message) prependField(name, value string) {
	m.fields = append([]field{{name, value}}, m.fields...)
}

// pop removes the first value of a header field.
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

// method returns the method of a request, and the CSeq's of a response.
func (m *message) method() string {
	if m.status() != 0 {
		_, method, _ := strings.Cut(m.fieldValue("CSeq"), " ")
		return method
	}
	method, _, _ := strings.Cut(m.start, " ")
	return method
}

// uri returns the Request-URI, and "" if there is none.
func (m *message) requestURI() string {
	words := strings.Fields(m.start)
	if m.status() != 0 || len(words) < 2 {
		return ""
	}
	return words[1]
}

func (m *message) cseq() int {
	number, _, _ := strings.Cut(m.fieldValue("CSeq"), " ")
	n, _ := strconv.Atoi(number)
	return n
}

// branch returns the branch of the topmost Via.
func (m *message) branch() string { return headerParam(m.fieldValue("Via"), "branch") }

func (m *message) fromTag() string { return headerParam(m.fieldValue("From"), "tag") }
func (m *message) toTag() string   { return headerParam(m.fieldValue("To"), "tag") }

// param returns a header field parameter.
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

// address returns the URI of a name-addr or addr-spec.
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

// tagged returns value with a tag: its own, or else the one given.
func withTag(value, tag string) string {
	if tag == "" || headerParam(value, "tag") != "" {
		return value
	}
	return value + ";tag=" + tag
}
