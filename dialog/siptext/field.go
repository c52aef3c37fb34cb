package siptext

import (
	"iter"
	"strings"
)

// Fields ranges over the header fields of a message in order. head is the start line and
// the header section. Compact names are expanded ([LongName]); other names keep their case.
// Values have no white space at their ends, and folded lines are joined with one blank (RFC
// 3261 §7.3.1). Lines end with CRLF or LF; one without a colon is skipped.
func Fields(head string) iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		_, section, _ := strings.Cut(head, "\n")
		eachField(section, yield)
	}
}

// PartFields is [Fields] for a section without a start line, such as that of a MIME part.
func PartFields(section string) iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) { eachField(section, yield) }
}

// eachField calls yield with each header field of a section until yield returns false. It
// is a function of its own, so that the compiler inlines the iterators and they allocate
// nothing.
func eachField(section string, yield func(name, value string) bool) {
	for rest := section; rest != ""; {
		line, next, _ := strings.Cut(rest, "\n")
		folded := false
		for next != "" && (next[0] == ' ' || next[0] == '\t') {
			folded = true
			more, after, _ := strings.Cut(next, "\n")
			line, next = rest[:len(line)+1+len(more)], after
		}
		rest = next
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		value = TrimSpace(value)
		if folded {
			value = unfold(value)
		}
		if !yield(LongName(strings.TrimRight(name, " \t")), value) {
			return
		}
	}
}

// Field returns the value of the first header field of a message with a long name, or "".
func Field(head, name string) string {
	for n, v := range Fields(head) {
		if SameName(n, name) {
			return v
		}
	}
	return ""
}

// PartField returns the value of the first header field with a long name in a section
// without a start line, or "".
func PartField(section, name string) string {
	for n, v := range PartFields(section) {
		if SameName(n, name) {
			return v
		}
	}
	return ""
}

// unfold replaces each line end in a value, with the blanks around it, with one blank.
func unfold(value string) string {
	if strings.IndexByte(value, '\n') < 0 {
		return value
	}
	var b strings.Builder
	for {
		line, next, more := strings.Cut(value, "\n")
		if !more {
			b.WriteString(value)
			return b.String()
		}
		b.WriteString(strings.TrimRight(line, " \t\r"))
		b.WriteByte(' ')
		value = strings.TrimLeft(next, " \t")
	}
}

// SameName reports whether two header field names in long form are the same, ignoring
// case.
func SameName(a, b string) bool { return len(a) == len(b) && EqualFold(a, b) }

// LongName returns the long form of a compact header field name (RFC 3261 §7.3.3 and the
// registry of header fields). It returns any other name unchanged.
func LongName(name string) string {
	if len(name) != 1 {
		return name
	}
	if long := longNames[name[0]]; long != "" {
		return long
	}
	return name
}

var longNames = func() (names [256]string) {
	for short, long := range map[byte]string{
		'a': "Accept-Contact", 'b': "Referred-By", 'c': "Content-Type", 'd': "Request-Disposition",
		'e': "Content-Encoding", 'f': "From", 'i': "Call-ID", 'j': "Reject-Contact", 'k': "Supported",
		'l': "Content-Length", 'm': "Contact", 'n': "Identity-Info", 'o': "Event", 'r': "Refer-To",
		's': "Subject", 't': "To", 'u': "Allow-Events", 'v': "Via", 'x': "Session-Expires", 'y': "Identity",
	} {
		names[short], names[short-'a'+'A'] = long, long
	}
	return names
}()
