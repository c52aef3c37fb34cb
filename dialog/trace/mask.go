package trace

import (
	"strings"

	"bellhop/dialog"
)

// What is masked is who could be impersonated, or listened to, with it:
//
//   - of Digest credentials and challenges, all but what names account, realm,
//     target and way of reckoning; of other schemes that are known, all behind
//     their names; else all
//   - header fields whose names speak of tokens, keys, secrets, passwords, PINs,
//     digits, signatures, cookies or authentication, Identity (RFC 8224), and
//     what has [dialog.CarriesCredentials]
//   - passwords in URIs, and such header fields in them
//   - in SDP the keys of a=crypto, a=key-mgmt and k=, and a=ice-pwd
//   - bodies with [dialog.IsSecretBody], as of keys that were pressed: they may be
//     a PIN
//
// Parts of multipart bodies, and messages in bodies, are masked as messages are.
// A body of which it is in doubt what it is, as its Content-Type is missing,
// malformed or doubled or its boundary is not there, is masked as a whole, and so
// is one that is encoded.

// plain are the Digest parameters that are no secret (RFC 7616, RFC 3310).
var plain = []string{"username", "realm", "uri", "algorithm", "qop", "nc", "stale", "domain", "charset", "userhash"}

// A masker masks a text in place. The text is copied only if there is something
// to mask.
type masker struct {
	text string
	b    []byte // nil: nothing was masked yet
}

// hide masks what is between from and to, but for quotes and line ends.
func (k *masker) hide(from, to int) {
	for from < to && (k.text[from] == ' ' || k.text[from] == '\t') {
		from++
	}
	if from == to {
		return
	}
	if k.b == nil {
		k.b = []byte(k.text)
	}
	for i := from; i < to; i++ {
		if c := k.text[i]; c != '"' && c != '\r' && c != '\n' {
			k.b[i] = 'x'
		}
	}
}

// masked returns a message without its secrets. If there are none and it is
// whole, the memory is the message's.
func masked(head, body string, cut bool) (string, string) {
	h, b := masker{text: head}, masker{text: body}
	content := h.section(0, len(head), true)
	b.entity(content, 0, len(body), 0)
	if h.b == nil && b.b == nil && !cut {
		return head, body
	}
	// Both get memory of their own, or the message's would stay.
	return h.copied(), b.copied()
}

func (k *masker) copied() string {
	if k.b == nil {
		return strings.Clone(k.text)
	}
	return string(k.b)
}

// A content is what a header section says of the body behind it.
type content struct {
	kind    string // the value of Content-Type
	kinds   int    // how many of these there are
	encoded bool   // the body is not as its type is written
}

// section masks the header section between from and to, which begins with a start
// line if first says so.
func (k *masker) section(from, to int, first bool) (c content) {
	for from < to {
		end := from + lineEnd(k.text[from:to])
		for end < to && !first && (k.text[end] == ' ' || k.text[end] == '\t') { // folded
			end += lineEnd(k.text[end:to])
		}
		if colon := strings.IndexByte(k.text[from:end], ':'); colon > 0 && !first {
			k.field(&c, k.text[from:from+colon], from+colon+1, end)
		}
		k.uris(from, end)
		from, first = end, false
	}
	return c
}

// field masks the value, between from and to, of a header field.
func (k *masker) field(c *content, name string, from, to int) {
	if name = strings.Trim(name, " \t"); name == "" {
		k.hide(from, to)
		return
	}
	switch {
	case hasScheme(name):
		k.credentials(from, to)
	case tells(name), is(name, "identity", 'y'), dialog.CarriesCredentials(name):
		k.hide(from, to)
	case is(name, "content-type", 'c'):
		c.kind = k.text[from:to]
		c.kinds++
	case is(name, "content-encoding", 'e'), is(name, "content-transfer-encoding", 0):
		switch value := strings.TrimSpace(k.text[from:to]); {
		case strings.EqualFold(value, "identity"), strings.EqualFold(value, "7bit"), strings.EqualFold(value, "8bit"), strings.EqualFold(value, "binary"):
		default:
			c.encoded = true
		}
	}
}

// maxDepth is how deep bodies may be in each other before all is masked.
const maxDepth = 4

// entity masks the body between from and to.
func (k *masker) entity(c content, from, to, depth int) {
	kind, ok := mediaType(c.kind)
	switch {
	case c.kinds == 0 && begins(k.text[from:to], "v=") && !c.encoded:
		k.body(from, to) // SDP
	case c.kinds != 1, !ok, c.encoded, depth > maxDepth, dialog.IsSecretBody(kind):
		k.hide(from, to)
	case begins(kind, "multipart/"):
		k.multipart(c.kind, from, to, depth)
	case begins(kind, "message/"):
		k.message(from, to, depth, true)
	default:
		k.body(from, to)
	}
}

// message masks a header section and the body behind it.
func (k *masker) message(from, to, depth int, startLine bool) {
	head := from
	for head < to && (head == from || k.text[head-1] != '\n' || k.text[head] != '\r' && k.text[head] != '\n') {
		head += lineEnd(k.text[head:to])
	}
	if startLine { // or a header field: it may be a part of a message
		line := k.text[from : from+lineEnd(k.text[from:to])]
		name, _, _ := strings.Cut(line, ":")
		startLine = strings.ContainsAny(strings.TrimRight(name, " \t"), " \t")
	}
	c := k.section(from, head, startLine)
	if head < to {
		k.entity(c, head+lineEnd(k.text[head:to]), to, depth+1)
	}
}

// multipart masks the parts of a body (RFC 2046 §5.1). What is before the first
// and behind the last is masked too.
func (k *masker) multipart(kind string, from, to, depth int) {
	boundary, ok := boundaryOf(kind)
	if !ok {
		k.hide(from, to)
		return
	}
	part := -1 // where one begins; -1: in none
	for at := from; at < to; {
		end := at + lineEnd(k.text[at:to])
		rest, found := strings.CutPrefix(k.text[at:end], boundary)
		closes := strings.HasPrefix(rest, "--")
		if rest = strings.TrimRight(strings.TrimPrefix(rest, "--"), " \t\r\n"); found && rest == "" {
			if part >= 0 {
				k.part(part, at, depth)
			}
			if part = end; closes {
				k.hide(end, to)
				return
			}
		} else if part < 0 {
			k.hide(at, end)
		}
		at = end
	}
	if part >= 0 {
		k.part(part, to, depth)
	}
}

// part masks a part of a multipart body: one that begins with an empty line has
// no header section.
func (k *masker) part(from, to, depth int) {
	if line := k.text[from : from+lineEnd(k.text[from:to])]; strings.TrimRight(line, "\r\n") == "" {
		k.entity(content{}, from+len(line), to, depth+1)
		return
	}
	k.message(from, to, depth, false)
}

// mediaType is the type and subtype that a Content-Type names, and whether it is
// well-formed.
func mediaType(value string) (kind string, ok bool) {
	kind, _, _ = strings.Cut(value, ";")
	kind = strings.TrimSpace(kind)
	if strings.ContainsAny(kind, " \t\r\n") {
		kind = strings.Join(strings.Fields(kind), "") // RFC 3261 allows it around the slash
	}
	first, second, _ := strings.Cut(kind, "/")
	return kind, isToken(first) && isToken(second)
}

func isToken(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`()<>@,;:\"/[]?={}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// boundaryOf is what each part begins with, and whether a Content-Type says so,
// once and without escapes.
func boundaryOf(value string) (boundary string, ok bool) {
	_, params, _ := strings.Cut(value, ";")
	for param := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(param, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "boundary") {
			continue
		}
		value = strings.TrimSpace(value)
		if inner, quoted := strings.CutPrefix(value, `"`); quoted {
			if value, quoted = strings.CutSuffix(inner, `"`); !quoted {
				return "", false
			}
		}
		if boundary != "" || value == "" || len(value) > 70 || strings.ContainsAny(value, "\"\\\r\n") {
			return "", false
		}
		boundary = "--" + value
	}
	return boundary, boundary != ""
}

// is reports whether a header field is called name, or, for short, by one letter.
func is(field, name string, short byte) bool {
	if field[0]|0x20 != name[0] && field[0]|0x20 != short {
		return false
	}
	field = strings.TrimRight(field, " \t")
	return strings.EqualFold(field, name) || len(field) == 1 && field[0]|0x20 == short
}

// lineEnd returns the length of the line that t begins with, with its end.
func lineEnd(t string) int {
	if n := strings.IndexByte(t, '\n'); n >= 0 {
		return n + 1
	}
	return len(t)
}

// hasScheme reports whether the value of a header field begins with the name of an
// authentication scheme (RFC 3261 §22).
func hasScheme(name string) bool {
	return len(name) > 12 && (is(name, "authorization", 0) || is(name, "proxy-authorization", 0) || is(name, "www-authenticate", 0) || is(name, "proxy-authenticate", 0))
}

// The words of telling are in the names of header fields that hold a secret, by
// their first letters: anywhere, or if short only where a word of the name begins
// or ends.
var telling = [128][]string{
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

// tells reports whether a header field of that name holds a secret.
func tells(name string) bool {
	for i := range len(name) {
		if name[i] >= 128 {
			continue
		}
		for _, word := range telling[name[i]|0x20] {
			rest := name[i:]
			if begins(rest, word) && (len(word) > 3 || i == 0 || !isLetter(name[i-1]) || len(rest) == len(word) || !isLetter(rest[len(word)])) {
				return true
			}
		}
	}
	return false
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// begins reports whether s begins with prefix, which is lower case, in any case.
func begins(s, prefix string) bool {
	return len(s) >= len(prefix) && s[0]|0x20 == prefix[0] && s[1]|0x20 == prefix[1] && strings.EqualFold(s[:len(prefix)], prefix)
}

// credentials masks the value between from and to: all behind the name of a
// scheme that is known; of Digest, the values of the parameters that are not plain.
func (k *masker) credentials(from, to int) {
	for from < to && (k.text[from] == ' ' || k.text[from] == '\t') {
		from++
	}
	scheme, _, _ := strings.Cut(k.text[from:to], " ")
	rest := from + len(scheme)
	switch {
	case strings.EqualFold(scheme, "Digest"):
		k.digest(rest, to)
	case strings.EqualFold(scheme, "Basic"), strings.EqualFold(scheme, "Bearer"), strings.EqualFold(scheme, "NTLM"), strings.EqualFold(scheme, "Negotiate"):
		k.hide(rest, to)
	default:
		k.hide(from, to)
	}
}

// digest masks the parameters between from and to. Behind one that is malformed,
// all is masked: what seems to be a name may be a value.
func (k *masker) digest(from, to int) {
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
			k.hide(from, end)
		case !isPlain(strings.TrimSpace(name)):
			k.hide(end-len(value), end)
		case !isWhole(strings.TrimSpace(value)):
			k.hide(end-len(value), to)
			return
		}
		from = end + 1
	}
}

// isWhole reports whether the value of a parameter is one quoted string or a token,
// and no two parameters that a lost quote has joined.
func isWhole(value string) bool {
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

func isPlain(name string) bool {
	for _, p := range plain {
		if strings.EqualFold(p, name) {
			return true
		}
	}
	return false
}

// uris masks in URIs what stands between the user and the @, and header fields
// that hold a secret. A URI in angle brackets may have what no URI has.
func (k *masker) uris(from, to int) {
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
		for start > from && !angled && !delimits(k.text[start-1]) {
			start--
		}
		end := at
		for end < to && !(angled && k.text[end] == '>') && (angled || !delimits(k.text[end])) {
			end++
		}
		k.uri(start, end)
		from = max(end, at+1)
	}
}

// uri masks the secrets of the URI between from and to, or of several.
func (k *masker) uri(from, to int) {
	text := k.text[from:to]
	if scheme := schemeEnd(text); scheme >= 0 {
		if at := strings.LastIndexByte(text, '@'); at > scheme {
			if colon := strings.IndexByte(text[scheme:at], ':'); colon >= 0 {
				k.hide(from+scheme+colon+1, from+at)
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
		if name, value, ok := strings.Cut(field, "="); ok && (tells(name) || strings.IndexByte(name, '%') >= 0) {
			k.hide(from+q+1+len(field)-len(value), from+q+1+len(field))
		}
		if next < 0 {
			return
		}
		q += 1 + next
	}
}

// schemeEnd is where the first URI with a scheme that may have a password goes on
// behind that; -1: there is none.
func schemeEnd(text string) int {
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

// delimits reports whether c stands around URIs, and not in them.
func delimits(c byte) bool {
	switch c {
	case '<', '>', '"', ' ', '\t', '\r', '\n':
		return true
	}
	return false
}

// body masks the keys in SDP, wherever in a body between from and to it stands, and
// keys that were pressed. A body that speaks of KPML is masked as a whole.
func (k *masker) body(from, to int) {
	t := k.text
	if strings.Contains(t[from:to], "kpml") {
		k.hide(from, to)
		return
	}
	for from < to {
		end := from + lineEnd(t[from:to])
		line := t[from:end]
		if trimmed := strings.TrimLeft(line, " \t"); trimmed != line {
			from, line = end-len(trimmed), trimmed
		}
		switch {
		case begins(line, "k="):
			k.hide(from+len("k="), end)
		case begins(line, "signal") && strings.HasPrefix(strings.TrimLeft(line[len("signal"):], " \t"), "="):
			k.hide(from+strings.IndexByte(line, '=')+1, end)
		case !begins(line, "a="):
		case begins(line[2:], "crypto:"):
			at := len("a=crypto:")
			if i := strings.Index(line, "inline:"); i > 0 {
				at = i + len("inline:")
			}
			k.hide(from+at, end)
		case begins(line[2:], "ice-pwd:"), begins(line[2:], "key-mgmt:"):
			k.hide(from+strings.IndexByte(line, ':')+1, end)
		}
		k.uris(from, end)
		from = end
	}
}
