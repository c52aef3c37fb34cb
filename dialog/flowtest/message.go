package flowtest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"bellhop/dialog/siptext"
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
	c.fields = slices.Clone(m.fields)
	return &c
}

// sameField reports whether two header field names are the same, ignoring letter case
// and with compact forms expanded.
func sameField(a, b string) bool { return siptext.SameName(siptext.LongName(a), siptext.LongName(b)) }

// fieldValue returns the value of the first header field called name, or "".
func (m *message) fieldValue(name string) string {
	for _, f := range m.fields {
		if sameField(f.name, name) {
			return f.value
		}
	}
	return ""
}

// hasField reports whether there is a header field called name, also one without a value.
func (m *message) hasField(name string) bool {
	return slices.ContainsFunc(m.fields, func(f field) bool { return sameField(f.name, name) })
}

// fieldValues returns all values of a header field. Values in one line are separated by
// commas.
func (m *message) fieldValues(name string) (values []string) {
	for _, f := range m.fields {
		if sameField(f.name, name) {
			values = slices.AppendSeq(values, siptext.List(f.value))
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
		if first := siptext.First(f.value); len(first) < len(f.value) {
			m.fields[i].value = strings.TrimLeft(f.value[len(first):], ", \t\r\n")
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
		_, method, _ := siptext.ParseCSeq(m.fieldValue("CSeq"))
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
	n, _, _ := siptext.ParseCSeq(m.fieldValue("CSeq"))
	return int(n)
}

// branch returns the branch of the topmost Via.
func (m *message) branch() string {
	via, _ := siptext.ParseVia(m.fieldValue("Via"))
	branch, _ := siptext.Param(via.Params, "branch")
	return branch
}

func (m *message) fromTag() string { return addressParam(m.fieldValue("From"), "tag") }
func (m *message) toTag() string   { return addressParam(m.fieldValue("To"), "tag") }

// addressParam returns the value of a parameter after a name-addr or addr-spec, or "".
func addressParam(value, name string) string {
	v, _ := siptext.Param(siptext.ParseNameAddr(value).Params, name)
	return v
}

// addressURI returns the URI of a name-addr or addr-spec.
func addressURI(value string) string { return siptext.ParseNameAddr(value).URI }

// withTag returns a From or To value with its own tag or, if it has none, with tag.
func withTag(value, tag string) string {
	if tag == "" || addressParam(value, "tag") != "" {
		return value
	}
	return value + ";tag=" + tag
}
