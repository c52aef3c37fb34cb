package sip_test

import (
	"fmt"
	"strconv"
	"strings"
)

// text is a SIP message as it is on the wire.
type text string

// start is the start line.
func (m text) startLine() string {
	l, _, _ := strings.Cut(string(m), "\r\n")
	return l
}

// body is what stands behind the header section.
func (m text) body() string {
	_, b, _ := strings.Cut(string(m), "\r\n\r\n")
	return b
}

func (m text) headerLines() []string {
	head, _, _ := strings.Cut(string(m), "\r\n\r\n")
	return strings.Split(head, "\r\n")[1:]
}

// all returns the values of a header field, one string for each line.
func (m text) fieldValues(name string) (values []string) {
	for _, l := range m.headerLines() {
		if n, v, ok := strings.Cut(l, ":"); ok && strings.EqualFold(strings.TrimSpace(n), name) {
			values = append(values, strings.TrimSpace(v))
		}
	}
	return values
}

// one returns the first value of a header field, "" if there is none.
func (m text) fieldValue(name string) string {
	if v := m.fieldValues(name); len(v) > 0 {
		return v[0]
	}
	return ""
}

// uri is the Request-URI.
func (m text) requestURI() string { return strings.Split(m.startLine(), " ")[1] }

func (m text) method() string {
	_, method, _ := strings.Cut(m.fieldValue("CSeq"), " ")
	return method
}

// branch is the branch of the topmost Via.
func (m text) viaBranch() string {
	_, v, _ := strings.Cut(m.fieldValue("Via"), ";branch=")
	v, _, _ = strings.Cut(v, ";")
	return v
}

// toTag is the tag in To, "" if it has none.
func (m text) toTag() string {
	_, v, _ := strings.Cut(m.fieldValue("To"), ";tag=")
	return v
}

// with is m with one occurrence of old replaced, which must be there.
func (m text) replaced(old, new string) text {
	if !strings.Contains(string(m), old) {
		panic(fmt.Sprintf("%q is not in\n%s", old, m))
	}
	return text(strings.Replace(string(m), old, new, 1))
}

// compose writes a message: start line, the fields by default, and lines. A
// line takes the place of the default of its name; one without a value takes
// the default away. Behind an empty line stands the body.
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

// bracketed is the URI in a name-addr.
func bracketedURI(v string) string {
	_, v, _ = strings.Cut(v, "<")
	v, _, _ = strings.Cut(v, ">")
	return v
}
