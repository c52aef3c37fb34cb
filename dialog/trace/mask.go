package trace

import (
	"strings"

	"bellhop/dialog"
	"bellhop/dialog/body"
	"bellhop/dialog/siptext"
)

// This file masks everything that would let a reader impersonate a party or decrypt its
// media:
//
//   - credentials and challenges of HTTP authentication: the parameters of Digest that
//     are not in publicParams; everything after the scheme of Basic, Bearer, NTLM and
//     Negotiate; the whole value of any other scheme
//   - header fields whose name has a word for tokens, keys, secrets, passwords, PINs,
//     digits, signatures, cookies or authentication; Identity (RFC 8224); the header
//     fields of [dialog.CarriesCredentials]
//   - passwords in URIs, and header fields with such names in URIs
//   - in SDP the keys of a=crypto, a=key-mgmt and k=, and a=ice-pwd
//   - bodies of a [body.IsSecret] type, such as DTMF digits, which may be a PIN
//
// Parts of multipart bodies and messages within bodies are masked like messages. A body
// is masked as a whole if it is encoded, or if its type is in doubt because the
// Content-Type is missing, malformed or repeated or has no boundary. A body without a
// Content-Type that begins with v= is taken as SDP.

// publicParams are the Digest parameters that are not secret (RFC 7616, RFC 3310).
var publicParams = []string{"username", "realm", "uri", "algorithm", "qop", "nc", "stale", "domain", "charset", "userhash"}

// A masker masks ranges of a text. It copies the text only if there is something to
// mask.
type masker struct {
	text   string
	masked []byte // copy of text with secrets masked; nil: nothing is masked yet
}

// maskRange replaces the bytes text[from:to] with x, except leading blanks, quotes and
// line ends.
func (k *masker) maskRange(from, to int) {
	for from < to && (k.text[from] == ' ' || k.text[from] == '\t') {
		from++
	}
	if from == to {
		return
	}
	if k.masked == nil {
		k.masked = []byte(k.text)
	}
	for i := from; i < to; i++ {
		if c := k.text[i]; c != '"' && c != '\r' && c != '\n' {
			k.masked[i] = 'x'
		}
	}
}

// maskMessage returns head and body with secrets masked. truncated says that they are
// parts of a longer message. The results share memory with head and body if there are no
// secrets and the message is not truncated.
func maskMessage(head, body string, truncated bool) (string, string) {
	h, b := masker{text: head}, masker{text: body}
	content := h.maskHeaders(0, len(head), true)
	b.maskEntity(content, 0, len(body), 0)
	if h.masked == nil && b.masked == nil && !truncated {
		return head, body
	}
	// Both are copied: a reference to one would keep the whole message in memory.
	return h.copyText(), b.copyText()
}

// copyText returns the masked text in memory of its own.
func (k *masker) copyText() string {
	if k.masked == nil {
		return strings.Clone(k.text)
	}
	return string(k.masked)
}

// A bodyType is the description of a body in the header section before it.
type bodyType struct {
	contentType string // the value of Content-Type
	count       int    // number of Content-Type fields
	encoded     bool   // the body has a content or transfer encoding
}

// maskHeaders masks the header section text[from:to] and returns the type of the body
// after it. first says that the section begins with a start line.
func (k *masker) maskHeaders(from, to int, first bool) (c bodyType) {
	for from < to {
		end := from + lineLength(k.text[from:to])
		for end < to && !first && (k.text[end] == ' ' || k.text[end] == '\t') { // folded
			end += lineLength(k.text[end:to])
		}
		if colon := strings.IndexByte(k.text[from:end], ':'); colon > 0 && !first {
			k.maskField(&c, k.text[from:from+colon], from+colon+1, end)
		}
		k.maskURIs(from, end)
		from, first = end, false
	}
	return c
}

// maskField masks the value text[from:to] of the header field called name. If the field
// describes the body, maskField records that in c.
func (k *masker) maskField(c *bodyType, name string, from, to int) {
	if name = siptext.LongName(strings.Trim(name, " \t")); name == "" {
		k.maskRange(from, to)
		return
	}
	switch {
	case isAuthField(name):
		k.maskCredentials(from, to)
	case isSecretName(name), siptext.SameName(name, "Identity"), dialog.CarriesCredentials(name):
		k.maskRange(from, to)
	case siptext.SameName(name, "Content-Type"):
		c.contentType = k.text[from:to]
		c.count++
	case siptext.SameName(name, "Content-Encoding"), siptext.SameName(name, "Content-Transfer-Encoding"):
		switch value := strings.TrimSpace(k.text[from:to]); {
		case strings.EqualFold(value, "identity"), strings.EqualFold(value, "7bit"), strings.EqualFold(value, "8bit"), strings.EqualFold(value, "binary"):
		default:
			c.encoded = true
		}
	}
}

// maxDepth is how deeply bodies may be nested; deeper ones are masked as a whole.
const maxDepth = 4

// maskEntity masks the body text[from:to] of the type c.
func (k *masker) maskEntity(c bodyType, from, to, depth int) {
	kind, params := siptext.MediaType(c.contentType)
	first, second, _ := strings.Cut(kind, "/")
	switch {
	case c.count == 0 && hasPrefixFold(k.text[from:to], "v=") && !c.encoded:
		k.maskBody(from, to) // SDP
	case c.count != 1, !siptext.IsToken(first), !siptext.IsToken(second), c.encoded, depth > maxDepth, body.IsSecret(kind):
		k.maskRange(from, to)
	case first == "multipart":
		k.maskMultipart(params, from, to, depth)
	case first == "message":
		k.maskNestedMessage(from, to, depth, true)
	default:
		k.maskBody(from, to)
	}
}

// maskNestedMessage masks a header section and the body after it. startLine says that
// a start line may come first.
func (k *masker) maskNestedMessage(from, to, depth int, startLine bool) {
	head := from
	for head < to && (head == from || k.text[head-1] != '\n' || k.text[head] != '\r' && k.text[head] != '\n') {
		head += lineLength(k.text[head:to])
	}
	if startLine { // a message/sipfrag may lack the start line
		line := k.text[from : from+lineLength(k.text[from:to])]
		name, _, _ := strings.Cut(line, ":")
		startLine = strings.ContainsAny(strings.TrimRight(name, " \t"), " \t")
	}
	c := k.maskHeaders(from, head, startLine)
	if head < to {
		k.maskEntity(c, head+lineLength(k.text[head:to]), to, depth+1)
	}
}

// maskMultipart masks the parts of a multipart body (RFC 2046 §5.1). The preamble
// before the first part and the epilogue after the last are masked as a whole. params are
// the parameters of its Content-Type.
func (k *masker) maskMultipart(params string, from, to, depth int) {
	boundary, ok := readBoundary(params)
	if !ok {
		k.maskRange(from, to)
		return
	}
	part := -1 // start of the current part; -1: none
	for at := from; at < to; {
		end := at + lineLength(k.text[at:to])
		rest, found := strings.CutPrefix(k.text[at:end], boundary)
		closes := strings.HasPrefix(rest, "--")
		if rest = strings.TrimRight(strings.TrimPrefix(rest, "--"), " \t\r\n"); found && rest == "" {
			if part >= 0 {
				k.maskPart(part, at, depth)
			}
			if part = end; closes {
				k.maskRange(end, to)
				return
			}
		} else if part < 0 {
			k.maskRange(at, end)
		}
		at = end
	}
	if part >= 0 {
		k.maskPart(part, to, depth)
	}
}

// maskPart masks a part of a multipart body. A part that begins with an empty line has
// no header section.
func (k *masker) maskPart(from, to, depth int) {
	if line := k.text[from : from+lineLength(k.text[from:to])]; strings.TrimRight(line, "\r\n") == "" {
		k.maskEntity(bodyType{}, from+len(line), to, depth+1)
		return
	}
	k.maskNestedMessage(from, to, depth, false)
}

// readBoundary returns the line before each part of a multipart body, from the parameters
// of its Content-Type. It reports false if receivers may find another boundary, because
// the parameter is missing or too long, its name occurs twice, or the parameters have
// escapes.
func readBoundary(params string) (line string, ok bool) {
	boundary, _ := siptext.Param(params, "boundary")
	if boundary == "" || len(boundary) > 70 || strings.ContainsAny(boundary, "\"\r\n") ||
		strings.Contains(params, `\`) || strings.Count(strings.ToLower(params), "boundary") > 1 {
		return "", false
	}
	return "--" + boundary, true
}

// lineLength returns the length of the first line of t, including its line end.
func lineLength(t string) int {
	if n := strings.IndexByte(t, '\n'); n >= 0 {
		return n + 1
	}
	return len(t)
}

// isAuthField reports whether the value of the header field called name begins with an
// authentication scheme (RFC 3261 §22).
func isAuthField(name string) bool {
	return siptext.SameName(name, "Authorization") || siptext.SameName(name, "Proxy-Authorization") ||
		siptext.SameName(name, "WWW-Authenticate") || siptext.SameName(name, "Proxy-Authenticate")
}

// secretWords are words in the names of header fields that hold a secret, by first
// letter. A word of up to three letters counts only at the start or the end of a word of
// the name, a longer one anywhere.
var secretWords = [128][]string{
	'a': {"auth", "api-key", "apikey"},
	'b': {"bearer"},
	'c': {"cookie", "credential", "cvv", "cvc"},
	'd': {"digit", "dtmf"},
	'h': {"hmac"},
	'j': {"jwt"},
	'k': {"kpml", "key"},
	'n': {"nonce"},
	'o': {"otp"},
	'p': {"pass", "pincode", "pin", "pwd"},
	's': {"secret", "signature", "sig"},
	't': {"token"},
}

// isSecretName reports whether the header field called name holds a secret.
func isSecretName(name string) bool {
	for i := range len(name) {
		if name[i] >= 128 {
			continue
		}
		for _, word := range secretWords[name[i]|0x20] {
			rest := name[i:]
			if hasPrefixFold(rest, word) && (len(word) > 3 || i == 0 || !isLetter(name[i-1]) || len(rest) == len(word) || !isLetter(rest[len(word)])) {
				return true
			}
		}
	}
	return false
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// hasPrefixFold reports whether s begins with prefix, ignoring letter case. prefix is in
// lower case and has two bytes or more.
func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && s[0]|0x20 == prefix[0] && s[1]|0x20 == prefix[1] && strings.EqualFold(s[:len(prefix)], prefix)
}

// maskCredentials masks the value text[from:to] of a header field with credentials or a
// challenge. Of Digest it masks the secret parameters, of another known scheme everything
// after the scheme, and of an unknown scheme the whole value.
func (k *masker) maskCredentials(from, to int) {
	for from < to && (k.text[from] == ' ' || k.text[from] == '\t') {
		from++
	}
	scheme, _, _ := strings.Cut(k.text[from:to], " ")
	rest := from + len(scheme)
	switch {
	case strings.EqualFold(scheme, "Digest"):
		k.maskDigest(rest, to)
	case strings.EqualFold(scheme, "Basic"), strings.EqualFold(scheme, "Bearer"), strings.EqualFold(scheme, "NTLM"), strings.EqualFold(scheme, "Negotiate"):
		k.maskRange(rest, to)
	default:
		k.maskRange(from, to)
	}
}

// maskDigest masks the secret parameters in text[from:to]. Everything after a malformed
// parameter is masked, because an apparent name may be part of a value.
func (k *masker) maskDigest(from, to int) {
	t := k.text
	for from < to {
		end := from
		for quoted := false; end < to && (quoted || t[end] != ','); end++ {
			switch t[end] {
			case '\\':
				if quoted && end+1 < to {
					end++
				}
			case '"':
				quoted = !quoted
			}
		}
		name, value, ok := strings.Cut(t[from:end], "=")
		switch {
		case !ok:
			k.maskRange(from, end)
		case !isPublicParam(strings.TrimSpace(name)):
			k.maskRange(end-len(value), end)
		case !isSingleValue(strings.TrimSpace(value)):
			k.maskRange(end-len(value), to)
			return
		}
		from = end + 1
	}
}

// isSingleValue reports whether the value of a parameter is one quoted string or one
// token. It reports false if a missing quote may have joined two parameters.
func isSingleValue(value string) bool {
	inner, quoted := strings.CutPrefix(value, `"`)
	if !quoted {
		return strings.IndexByte(value, '"') < 0
	}
	for i := 0; i < len(inner); i++ {
		switch inner[i] {
		case '\\':
			i++
		case '"':
			return i == len(inner)-1 && !(strings.Contains(inner, ",") && strings.Contains(inner, "="))
		}
	}
	return false
}

func isPublicParam(name string) bool {
	for _, p := range publicParams {
		if strings.EqualFold(p, name) {
			return true
		}
	}
	return false
}

// maskURIs masks passwords, between the user and the @, and secret header fields in all
// URIs in text[from:to]. Within angle brackets, it takes all characters as part of the
// URI, also those that a URI may not have.
func (k *masker) maskURIs(from, to int) {
	for from < to {
		at := strings.IndexAny(k.text[from:to], "@?")
		if at < 0 {
			return
		}
		at += from
		angled := false
		start := at
		if lt := strings.LastIndexByte(k.text[from:at], '<'); lt >= 0 && strings.IndexByte(k.text[from+lt:at], '>') < 0 {
			start, angled = from+lt+1, true
		}
		for start > from && !angled && !isDelimiter(k.text[start-1]) {
			start--
		}
		end := at
		for end < to && !(angled && k.text[end] == '>') && (angled || !isDelimiter(k.text[end])) {
			end++
		}
		k.maskURI(start, end)
		from = max(end, at+1)
	}
}

// maskURI masks the secrets of the URI, or of several joined ones, in text[from:to].
func (k *masker) maskURI(from, to int) {
	text := k.text[from:to]
	if scheme := findSchemeEnd(text); scheme >= 0 {
		if at := strings.LastIndexByte(text, '@'); at > scheme {
			if colon := strings.IndexByte(text[scheme:at], ':'); colon >= 0 {
				k.maskRange(from+scheme+colon+1, from+at)
			}
		}
	}
	q := strings.IndexByte(text, '?')
	for q >= 0 {
		field := text[q+1:]
		next := strings.IndexByte(field, '&')
		if next >= 0 {
			field = field[:next]
		}
		if name, value, ok := strings.Cut(field, "="); ok && (isSecretName(name) || strings.IndexByte(name, '%') >= 0) {
			k.maskRange(from+q+1+len(field)-len(value), from+q+1+len(field))
		}
		if next < 0 {
			return
		}
		q += 1 + next
	}
}

// findSchemeEnd returns the index after the scheme and colon of the first URI in text
// whose scheme allows a password, or -1.
func findSchemeEnd(text string) int {
	for i := 0; i < len(text); i++ {
		colon := strings.IndexByte(text[i:], ':')
		if colon < 0 {
			return -1
		}
		i += colon
		for _, scheme := range [...]string{"sip", "sips", "http", "https", "ws", "wss", "ftp"} {
			if n := i - len(scheme); n >= 0 && strings.EqualFold(text[n:i], scheme) && (n == 0 || !isLetter(text[n-1])) {
				return i + 1
			}
		}
	}
	return -1
}

// isDelimiter reports whether c ends a URI that is not in angle brackets.
func isDelimiter(c byte) bool {
	switch c {
	case '<', '>', '"', ' ', '\t', '\r', '\n':
		return true
	}
	return false
}

// maskBody masks keys in lines of SDP, DTMF digits in lines of "Signal=", and secrets in
// URIs, anywhere in the body text[from:to]. A body that contains "kpml" is masked as a
// whole.
func (k *masker) maskBody(from, to int) {
	t := k.text
	if strings.Contains(t[from:to], "kpml") {
		k.maskRange(from, to)
		return
	}
	for from < to {
		end := from + lineLength(t[from:to])
		line := t[from:end]
		if trimmed := strings.TrimLeft(line, " \t"); trimmed != line {
			from, line = end-len(trimmed), trimmed
		}
		switch {
		case hasPrefixFold(line, "k="):
			k.maskRange(from+len("k="), end)
		case hasPrefixFold(line, "signal") && strings.HasPrefix(strings.TrimLeft(line[len("signal"):], " \t"), "="):
			k.maskRange(from+strings.IndexByte(line, '=')+1, end)
		case !hasPrefixFold(line, "a="):
		case hasPrefixFold(line[2:], "crypto:"):
			at := len("a=crypto:")
			if i := strings.Index(line, "inline:"); i > 0 {
				at = i + len("inline:")
			}
			k.maskRange(from+at, end)
		case hasPrefixFold(line[2:], "ice-pwd:"), hasPrefixFold(line[2:], "key-mgmt:"):
			k.maskRange(from+strings.IndexByte(line, ':')+1, end)
		}
		k.maskURIs(from, end)
		from = end
	}
}
