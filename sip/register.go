package sip

import (
	"strings"

	msg "github.com/emiago/sipgo/sip"
)

// contactParam is the URI parameter that carries our token in a Contact that
// was rewritten.
const contactParam = "bellhop"

// addBinding makes calls to a phone that registers come back through us: by
// Path (RFC 3327 §5.2), or by a Contact of ours.
func (w *worker) addBinding(p *packet, r *routing) {
	m, s := &p.msg, &w.splice
	fl := r.edge
	if r.byURI {
		fl = flow{}
	}
	switch w.hop.cfg.Register {
	case RegisterNone:
	case RegisterContact:
		aor := w.aor(m)
		w.contacts(m, func(uri span, bare bool) {
			var u msg.Uri
			text := m.text(uri)
			if parseURI(string(text), &u) != nil {
				return
			}
			w.tmp = w.seal.seal(w.tmp[:0], token{flow: fl, use: inContact, text: aor + " " + string(text)})
			user := ""
			if u.User != "" {
				user = string(text[strings.IndexByte(string(text), ':')+1:])
				user = user[:strings.LastIndexByte(user, '@')+1]
			}
			open, shut := "", ""
			if bare {
				open, shut = "<", ">"
			}
			s.replace(uri, open, "sip:", user, r.to.on.uri, ";", contactParam, "=", string(w.tmp), shut)
		})
	default:
		at := m.first(hVia).line.from
		if f := m.first(hPath); f != nil {
			at = f.line.from
		}
		w.tmp = w.seal.seal(w.tmp[:0], token{flow: fl, use: inPath, text: w.aor(m)})
		s.insert(at, "Path: <sip:", string(w.tmp), "@", r.to.on.uri, ";lr>\r\n")
		// A registrar refuses Path from one that does not say it knows it.
		s.insert(m.first(hVia).line.from, "Supported: path\r\n")
	}
}

// restoreContacts gives the phone its own Contact back in the 2xx to its
// REGISTER.
func (w *worker) restoreContacts(p *packet) {
	if w.hop.cfg.Register != RegisterContact {
		return
	}
	m, s := &p.msg, &w.splice
	w.contacts(m, func(uri span, _ bool) {
		var u msg.Uri
		if parseURI(string(m.text(uri)), &u) != nil || !w.ours(&u) {
			return
		}
		if t, ok := w.seal.open(value(&u, contactParam), inContact); ok {
			_, own, _ := strings.Cut(t.text, " ")
			s.replace(uri, own)
		}
	})
}

// contacts calls do with each URI in the Contact fields; bare says that no
// angle brackets stand around it.
func (w *worker) contacts(m *message, do func(uri span, bare bool)) {
	for i := range m.fields {
		f := &m.fields[i]
		if f.name != hContact {
			continue
		}
		for v := f.value; v.from < v.to; {
			end := endOfValue(m.b, v)
			if end < 0 {
				return
			}
			uri, _, ok := nameAddr(m.b, trimmed(m.b, span{v.from, end}))
			if ok && string(m.text(uri)) != "*" {
				do(uri, uri.from == 0 || m.b[uri.from-1] != '<')
			}
			v.from = skipSpace(m.b, end+1, v.to)
		}
	}
}

// aor is user@host of the To of a REGISTER, "" if it has no such URI.
func (w *worker) aor(m *message) string {
	uri, _, ok := nameAddr(m.b, m.to)
	var u msg.Uri
	if !ok || parseURI(string(m.text(uri)), &u) != nil || u.User == "" {
		return ""
	}
	return u.User + "@" + u.Host
}
