package dialog

import (
	"mime"
	"strings"
)

// mediaType returns the type of a Content-Type in lower case, without parameters.
func mediaType(contentType string) string {
	kind, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(kind))
}

// partOf returns the part of a body that has the type kind: the body itself, or the
// first such part of one that has several (RFC 2046 §5.1). "" if there is none.
func partOf(contentType, body, kind string) string {
	switch got := mediaType(contentType); {
	case got == kind:
		return body
	case !strings.HasPrefix(got, "multipart/"):
		return ""
	}
	_, params, err := mime.ParseMediaType(contentType)
	if err != nil || params["boundary"] == "" {
		return ""
	}
	between := "--" + params["boundary"]
	for rest := "\n" + body; ; {
		_, after, ok := strings.Cut(rest, "\n"+between)
		if !ok || strings.HasPrefix(after, "--") {
			return ""
		}
		rest = after
		part, _, _ := strings.Cut(after, "\n"+between)
		_, part, _ = strings.Cut(part, "\n") // the rest of the boundary's line
		head, text := entity(part)
		if mediaType(header("\n"+head, "Content-Type")) == kind {
			return text
		}
	}
}

// entity parts the header fields of a MIME entity from its body, at the first empty
// line.
func entity(s string) (head, body string) {
	for i := 0; i < len(s); {
		n := strings.IndexByte(s[i:], '\n')
		if n < 0 {
			break
		}
		if strings.TrimRight(s[i:i+n], "\r") == "" {
			return s[:i], s[i+n+1:]
		}
		i += n + 1
	}
	return s, ""
}
