// Package body reads the bodies of SIP messages: the parts of multipart bodies (RFC
// 2046), and the text of a MESSAGE, which may be wrapped in CPIM (RFC 3862).
//
// All results share the memory of the body, unless they were decoded. Invalid bodies are
// no error: a part that cannot be found is empty.
package body

import (
	"cmp"
	"encoding/base64"
	"io"
	"iter"
	"mime/quotedprintable"
	"strings"
	"unicode/utf8"

	"bellhop/dialog/siptext"
)

// Part returns the part of a body that has the type kind: the body itself, or the first
// such part of a multipart body (RFC 2046 §5.1). It returns "" if there is none.
func Part(contentType, body, kind string) string {
	switch got, _ := siptext.MediaType(contentType); {
	case got == kind:
		return body
	case !strings.HasPrefix(got, "multipart/"):
		return ""
	}
	for head, text := range bodyParts(contentType, body) {
		if got, _ := siptext.MediaType(siptext.PartField(head, "Content-Type")); got == kind {
			return text
		}
	}
	return ""
}

// bodyParts ranges over the parts of a multipart body: their header fields, in the form
// that siptext.PartField parses, and their text (RFC 2046 §5.1).
func bodyParts(contentType, body string) iter.Seq2[string, string] {
	return func(yield func(head, text string) bool) {
		_, params := siptext.MediaType(contentType)
		boundary, _ := siptext.Param(params, "boundary")
		if boundary == "" {
			return
		}
		between := "--" + boundary
		for rest := "\n" + body; ; {
			_, after, ok := strings.Cut(rest, "\n"+between)
			if !ok || strings.HasPrefix(after, "--") {
				return
			}
			rest = after
			part, _, _ := strings.Cut(after, "\n"+between)
			_, part, _ = strings.Cut(part, "\n") // skip the rest of the boundary line
			head, text := splitEntity(part)
			if !yield(head, text) {
				return
			}
		}
	}
}

// splitEntity splits a MIME entity into header fields and body, at the first empty line.
func splitEntity(s string) (head, body string) {
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

// IsReport reports whether a body of that type is no message but a report, for example
// that somebody is typing (RFC 3994) or that a message was delivered (RFC 5438).
func IsReport(contentType string) bool {
	switch kind, _ := siptext.MediaType(contentType); kind {
	case "application/im-iscomposing+xml", "message/imdn+xml":
		return true
	}
	return false
}

// maxWrapped is how many layers of CPIM or multipart are removed from the text of a
// MESSAGE.
const maxWrapped = 4

// Text returns the text of a MESSAGE and its type. If the body is CPIM (RFC 3862 §3),
// this is the text of the inner message. If it is multipart, it is the part that textPart
// chooses. Text whose type is ISO 8859-1 is converted to UTF-8.
func Text(contentType, body string) (kind, text string) {
	kind, text = unwrapText(contentType, body)
	if utf8.ValidString(text) {
		return kind, text
	}
	_, params := siptext.MediaType(kind)
	if charset, _ := siptext.Param(params, "charset"); strings.EqualFold(charset, "iso-8859-1") {
		runes := make([]rune, len(text))
		for i := range len(text) {
			runes[i] = rune(text[i]) // ISO 8859-1 is the start of Unicode
		}
		text = string(runes)
	}
	return kind, text
}

// unwrapText returns the text of a MESSAGE and its type, without converting its character
// set.
func unwrapText(contentType, body string) (kind, text string) {
	kind, text = contentType, body
	for range maxWrapped {
		switch got, _ := siptext.MediaType(kind); {
		case got == "message/cpim":
			kind, text = unwrapCPIM(text)
		case strings.HasPrefix(got, "multipart/"):
			within, plain, ok := textPart(kind, text)
			if !ok {
				return kind, text
			}
			kind, text = within, plain
		default:
			return kind, text
		}
	}
	return kind, text
}

// textPart chooses one part of a multipart body for the event: the first plain text, else
// the first text of another kind, else the first part that wraps a text, else the first
// report or secret, whose text the caller leaves out. ok is false if there is none of
// these.
func textPart(contentType, body string) (kind, text string, ok bool) {
	best := 0
	for head, part := range bodyParts(contentType, body) {
		one, rank := siptext.PartField(head, "Content-Type"), 0
		switch got, _ := siptext.MediaType(one); {
		case got == "text/plain" || one == "":
			rank = 4
		case strings.HasPrefix(got, "text/"):
			rank = 3
		case strings.HasPrefix(got, "multipart/"), got == "message/cpim":
			rank = 2
		case IsReport(one), IsSecret(one):
			rank = 1
		}
		if rank > best {
			best, kind = rank, cmp.Or(one, "text/plain")
			text = decodeTransfer(siptext.PartField(head, "Content-Transfer-Encoding"), strings.TrimSuffix(part, "\r"))
		}
	}
	return kind, text, best > 0
}

// unwrapCPIM returns the text in a CPIM message and its type.
func unwrapCPIM(body string) (kind, text string) {
	_, content := splitEntity(strings.TrimLeft(body, "\r\n"))
	head, text := splitEntity(content)
	if kind = siptext.PartField(head, "Content-Type"); kind == "" {
		if first := strings.ToLower(strings.TrimSpace(head)); text == "" || first != "" && !strings.HasPrefix(first, "content-") {
			text = content // the text has no header fields
		}
		return "text/plain", text
	}
	return kind, decodeTransfer(siptext.PartField(head, "Content-Transfer-Encoding"), text)
}

// decodeTransfer decodes the transfer encoding of a text (RFC 2045 §6). Invalid text is
// returned unchanged.
func decodeTransfer(encoding, text string) string {
	var r io.Reader = strings.NewReader(text)
	switch strings.ToLower(encoding) {
	case "base64":
		r = base64.NewDecoder(base64.StdEncoding, r)
	case "quoted-printable":
		r = quotedprintable.NewReader(r)
	default:
		return text
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		return text
	}
	return string(plain)
}
