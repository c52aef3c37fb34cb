package trace

import "strings"

// What is masked is who could be impersonated, or listened to, with it:
//
//   - of Digest credentials and challenges, all but what names account, realm,
//     target and way of reckoning; of any other scheme, all behind its name
//   - header fields whose names speak of tokens, keys, secrets, passwords,
//     cookies or authentication, and Identity (RFC 8224)
//   - passwords in SIP URIs
//   - in SDP the keys of a=crypto, a=key-mgmt and k=, and a=ice-pwd
//   - bodies of keys that were pressed (application/dtmf and dtmf-relay): they
//     may be a PIN

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
	dtmf := h.head()
	if dtmf {
		b.hide(0, len(body))
	} else {
		b.body()
	}
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

// head masks a start line and header section, and reports whether the body is
// of keys that were pressed.
func (k *masker) head() (dtmf bool) {
	t := k.text
	for from := 0; from < len(t); {
		to := from + lineEnd(t[from:])
		for to < len(t) && (t[to] == ' ' || t[to] == '\t') && from > 0 { // folded
			to += lineEnd(t[to:])
		}
		line := t[from:to]
		colon := strings.IndexByte(line, ':')
		if from > 0 && colon > 0 {
			value := from + colon + 1
			switch name := line[:colon]; {
			case tells(name):
				k.credentials(value, to)
			case is(name, "identity", 'y'):
				k.hide(value, to)
			case is(name, "content-type", 'c'):
				dtmf = dtmf || begins(strings.TrimSpace(t[value:to]), "application/dtmf")
			}
		}
		k.passwords(from, to)
		from = to
	}
	return dtmf
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

// tells reports whether a header field of that name holds a secret.
func tells(name string) bool {
	for i := range len(name) {
		rest := name[i:]
		switch name[i] | 0x20 {
		case 'a':
			if begins(rest, "auth") || begins(rest, "api-key") || begins(rest, "apikey") {
				return true
			}
		case 'c':
			if begins(rest, "cookie") || begins(rest, "credential") {
				return true
			}
		case 'p':
			if begins(rest, "passw") {
				return true
			}
		case 's':
			if begins(rest, "secret") {
				return true
			}
		case 't':
			if begins(rest, "token") {
				return true
			}
		}
	}
	return false
}

// begins reports whether s begins with prefix, which is lower case, in any case.
func begins(s, prefix string) bool {
	return len(s) >= len(prefix) && s[1]|0x20 == prefix[1] && strings.EqualFold(s[:len(prefix)], prefix)
}

// credentials masks the value between from and to: all behind the name of a
// scheme; of Digest, the values of the parameters that are not plain.
func (k *masker) credentials(from, to int) {
	for from < to && (k.text[from] == ' ' || k.text[from] == '\t') {
		from++
	}
	scheme, _, found := strings.Cut(k.text[from:to], " ")
	rest := from + len(scheme)
	switch {
	case !found || strings.ContainsAny(scheme, `=",`): // no scheme
		k.hide(from, to)
	case strings.EqualFold(scheme, "Digest"):
		k.digest(rest, to)
	default:
		k.hide(rest, to)
	}
}

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
		}
		from = end + 1
	}
}

func isPlain(name string) bool {
	for _, p := range plain {
		if strings.EqualFold(p, name) {
			return true
		}
	}
	return false
}

// passwords masks what stands between the user and the @ of SIP URIs.
func (k *masker) passwords(from, to int) {
	for from < to {
		at := strings.IndexByte(k.text[from:to], '@')
		if at < 0 {
			return
		}
		start, end, colons := from+at, from+at, 0
		for start > from && !delimits(k.text[start-1]) {
			if start--; k.text[start] == ':' {
				colons++
			}
		}
		for end < to && !delimits(k.text[end]) {
			end++
		}
		if uri := k.text[start:end]; colons > 1 && (begins(uri, "sip:") || begins(uri, "sips:")) {
			_, rest, _ := strings.Cut(uri, ":")
			user, _, _ := strings.Cut(rest, ":")
			k.hide(end-len(rest)+len(user)+1, start+strings.LastIndexByte(uri, '@'))
		}
		from = end
	}
}

// delimits reports whether c stands around URIs, and not in them.
func delimits(c byte) bool {
	switch c {
	case '<', '>', '"', ' ', '\t', '\r', '\n':
		return true
	}
	return false
}

// body masks the keys in SDP, wherever in a body it stands.
func (k *masker) body() {
	t := k.text
	for from := 0; from < len(t); {
		to := from + lineEnd(t[from:])
		line := t[from:to]
		switch {
		case begins(line, "k="):
			k.hide(from+len("k="), to)
		case !begins(line, "a="):
		case begins(line[2:], "crypto:"):
			at := len("a=crypto:")
			if i := strings.Index(line, "inline:"); i > 0 {
				at = i + len("inline:")
			}
			k.hide(from+at, to)
		case begins(line[2:], "ice-pwd:"), begins(line[2:], "key-mgmt:"):
			k.hide(from+strings.IndexByte(line, ':')+1, to)
		}
		from = to
	}
}
