package sip_test

import (
	"fmt"
	"strconv"
	"strings"
)

// text is a SIP message as bytes on the wire.
type text string

// startLine returns the start line.
func (m text) startLine() string {
	l, _, _ := strings.Cut(string(m), "\r\n")
	return l
}

// body returns the bytes after the header section.
func (m text) body() string {
	_, b, _ := strings.Cut(string(m), "\r\n\r\n")
	return b
}

func (m text) headerLines() []string {
	head, _, _ := strings.Cut(string(m), "\r\n\r\n")
	return strings.Split(head, "\r\n")[1:]
}

// fieldValues returns the values of a header field, one string for each line.
func (m text) fieldValues(name string) (values []string) {
	for _, l := range m.headerLines() {
		if n, v, ok := strings.Cut(l, ":"); ok && strings.EqualFold(strings.TrimSpace(n), name) {
			values = append(values, strings.TrimSpace(v))
		}
	}
	return values
}

// fieldValue returns the first value of a header field, or "".
func (m text) fieldValue(name string) string {
	if v := m.fieldValues(name); len(v) > 0 {
		return v[0]
	}
	return ""
}

// requestURI returns the Request-URI.
func (m text) requestURI() string { return strings.Split(m.startLine(), " ")[1] }

func (m text) method() string {
	_, method, _ := strings.Cut(m.fieldValue("CSeq"), " ")
	return method
}

// viaBranch returns the branch of the topmost Via.
func (m text) viaBranch() string {
	_, v, _ := strings.Cut(m.fieldValue("Via"), ";branch=")
	v, _, _ = strings.Cut(v, ";")
	return v
}

// toTag returns the tag in To, or "".
func (m text) toTag() string {
	_, v, _ := strings.Cut(m.fieldValue("To"), ";tag=")
	return v
}

// replaced returns m with the first old replaced by new. It panics if m does not contain
// old.
func (m text) replaced(old, new string) text {
	if !strings.Contains(string(m), old) {
		panic(fmt.Sprintf("%q is not in\n%s", old, m))
	}
	return text(strings.Replace(string(m), old, new, 1))
}

// composeMessage returns a message of a start line, the default header fields, and
// lines. A line replaces the default of its name; a line without a value removes it.
// Lines after an empty one are the body.
func composeMessage(start string, defaults []string, lines []string) text {
	var b strings.Builder
	b.WriteString(start + "\r\n")
	body := ""
	for i, l := range lines {
		if l == "" {
			body = strings.Join(lines[i+1:], "\r\n")
			lines = lines[:i]
			break
		}
	}
	name := func(l string) string {
		n, _, _ := strings.Cut(l, ":")
		return strings.ToLower(strings.TrimSpace(n))
	}
	given := map[string]bool{}
	for _, l := range lines {
		given[name(l)] = true
	}
	write := func(l string) {
		if _, v, ok := strings.Cut(l, ":"); !ok || strings.TrimSpace(v) != "" {
			b.WriteString(l + "\r\n")
		}
	}
	said := map[string]bool{}
	for _, d := range defaults {
		if !given[name(d)] {
			b.WriteString(d + "\r\n")
			continue
		}
		if said[name(d)] {
			continue
		}
		said[name(d)] = true
		for _, l := range lines {
			if name(l) == name(d) {
				write(l)
			}
		}
	}
	for _, l := range lines {
		if !said[name(l)] {
			write(l)
		}
	}
	if !given["content-length"] {
		b.WriteString("Content-Length: " + strconv.Itoa(len(body)) + "\r\n")
	}
	return text(b.String() + "\r\n" + body)
}

// bracketedURI returns the URI in a name-addr.
func bracketedURI(v string) string {
	_, v, _ = strings.Cut(v, "<")
	v, _, _ = strings.Cut(v, ">")
	return v
}
