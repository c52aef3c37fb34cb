package sip

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
)

// This file finds signs that a PBX is set up so that calls fail, or go past the hop:
// none of it is an error of one message, and nobody would see why.

// A symptom is a misconfiguration that shows in what a PBX answers.
type symptom uint8

const (
	pathIgnored          symptom = iota // a binding is kept without our Path
	registerUnchallenged                // a REGISTER is refused with 404, without a challenge
	inviteUnchallenged                  // an INVITE of a phone is
	unknownPort                         // what comes from the PBX's host, but not from its port, is refused
	strangerAccepted                    // a stranger's INVITE is accepted without a challenge
	bindingLost                         // it calls a phone at our address, without our Path or Contact
	phoneTakenForPBX                    // a phone at its address and bellhop's is taken for it
	symptomCount                        // how many there are
)

const (
	symptomLogInterval = instant(3600e9)      // least time between two log lines of a PBX and symptom
	symptomLifetime    = instant(24 * 3600e9) // how long one counts after it showed last
	maxSubjectLen      = 100                  // bytes of whom it showed at
)

const trunkByAddress = "if it is an Asterisk, it takes bellhop's address for a trunk: leave match = with bellhop's address out of every type = identify section " +
	"(match_header = X-Bellhop-Trunk: SECRET knows the trunk), and set endpoint_identifier_order = header,username,auth_username"

// A diagnosis is what is known of the setup of one PBX. Workers share it.
type diagnosis struct {
	findings [symptomCount]atomic.Pointer[finding] // the last one; nil: none
	loggedAt [symptomCount]atomic.Int64            // instant; 0: never

	registers          atomic.Bool // it registered a phone, or asked one for its password
	challengesRegister atomic.Bool // it asked for the password of a REGISTER
	knowsPath          atomic.Bool // it has said that it stores Path
	usesPath           atomic.Bool // a request came along a Path
	challengesInvite   atomic.Bool // it asked for the password of an INVITE
	acceptsInvite      atomic.Bool // it took the call of a phone
	acceptsUnproved    atomic.Bool // it took that of a phone which had not sent a password
}

// A finding says at whom a symptom showed, and when.
type finding struct {
	subject string
	at      instant
}

// explain says what a symptom means, and what to do.
func explainSymptom(s symptom, pbx *pbx, who string) string {
	switch s {
	case pathIgnored:
		return fmt.Sprintf("PBX %s ignores Path: it registered %s without, so its calls to that phone go past bellhop and cause no events: "+
			"in Asterisk set support_path = yes in every aor; with a PBX that knows no Path set sip.register = \"contact\"", pbx.addr, who)
	case registerUnchallenged:
		return fmt.Sprintf("PBX %s answers the REGISTER of %s with 404 and asks for no password: %s", pbx.addr, who, trunkByAddress)
	case inviteUnchallenged:
		return fmt.Sprintf("PBX %s answers an INVITE of the phone at %s with 404 and asks for no password: %s", pbx.addr, who, trunkByAddress)
	case unknownPort:
		if pbx.sharesOurAddr {
			return fmt.Sprintf("requests from %s are taken for a phone's: if the PBX %s sends from there too, have it send from that port alone, or give it an address that bellhop does not have, such as 127.0.0.2", who, pbx.addr)
		}
		return fmt.Sprintf("requests from %s are refused as a phone's: if the PBX %s sends from there too, as an external profile of FreeSWITCH does, set sip.pbx_sources = [%q]", who, pbx.addr, pbx.addr.Addr())
	case phoneTakenForPBX:
		return fmt.Sprintf("a REGISTER from %s is refused because it is taken for one of the PBX %s, which has the same address as bellhop: phones there cannot use TCP: "+
			"give the PBX an address that bellhop does not have, such as 127.0.0.2", who, pbx.addr)
	case strangerAccepted:
		return fmt.Sprintf("PBX %s took a call of %s, which is no [[trunk]] and where no phone has registered, without asking for a password: %s; if it is a carrier, make it a [[trunk]] with a secret", pbx.addr, who, trunkByAddress)
	case bindingLost:
		return fmt.Sprintf("PBX %s calls %s, which is bellhop itself: it has put bellhop's address into the phone's Contact and forgotten its Path: "+
			"in Asterisk leave rewrite_contact off, in FreeSWITCH leave out sip-force-contact", pbx.addr, who)
	}
	return ""
}

// note records that a symptom showed at who, and logs it at most once an hour.
func (h *Proxy) noteSymptom(now instant, pbx *pbx, s symptom, who string) {
	d := &pbx.diagnosis
	who = strings.Clone(cmp.Or(who[:min(len(who), maxSubjectLen)], "a phone"))
	d.findings[s].Store(&finding{who, now})
	last := d.loggedAt[s].Load()
	if last != 0 && now-instant(last) < symptomLogInterval || !d.loggedAt[s].CompareAndSwap(last, int64(max(now, 1))) {
		return
	}
	h.log.Warn("PBX misconfigured", "pbx", pbx.addr.String(), "why", explainSymptom(s, pbx, who))
}

// set stores true, once: workers share the cache line.
func setOnce(b *atomic.Bool) {
	if !b.Load() {
		b.Store(true)
	}
}

// clear takes a symptom back if it showed last at who; "" is whoever it was.
func (d *diagnosis) clearSymptom(s symptom, who string) {
	if p := d.findings[s].Load(); p != nil && (who == "" || p.subject == who[:min(len(who), maxSubjectLen)]) {
		d.findings[s].CompareAndSwap(p, nil)
	}
}

// Degraded returns what seems wrong with the setup of the PBXs, in sentences that say
// what to do: with it calls fail, or cause no events. It may be called at any time.
func (h *Proxy) Degraded() (why []string) {
	for _, pbx := range h.pbx {
		d := &pbx.diagnosis
		for s := range symptomCount {
			if f := d.findings[s].Load(); f != nil && h.now()-f.at < symptomLifetime {
				why = append(why, explainSymptom(s, pbx, f.subject))
			}
		}
	}
	return why
}

// diagnose looks at a response of a PBX to a request of a phone.
func (w *worker) diagnose(now instant, t *responseContext, m *message) {
	if m.status == 100 || t.src != edgeSide || t.dst != pbxSide || t.trunk != "" {
		return
	}
	if m.status == 403 || m.status == 404 || m.status == 482 {
		w.proxy.diagnoseSource(now, t.server.upstream.peer(), m.status == 482)
	}
	register := m.isMethod("REGISTER")
	if !register && !t.server.invite {
		return
	}
	pbx := w.proxy.pbxAt(t.client.nextHop.peer())
	if pbx == nil {
		return
	}
	if register {
		w.diagnoseRegister(now, t, m, pbx)
	} else {
		w.diagnoseInvite(now, t, m, pbx)
	}
}

// diagnoseRegister: one that knows its users asks each for a password, or registers it.
func (w *worker) diagnoseRegister(now instant, t *responseContext, m *message, pbx *pbx) {
	d := &pbx.diagnosis
	switch {
	case m.status/100 == 2, m.status == 401, m.status == 407:
		setOnce(&d.registers)
		if m.status >= 400 {
			setOnce(&d.challengesRegister)
		}
		d.clearSymptom(registerUnchallenged, "")
	case m.status == 404 && !t.hasCredentials && !d.registers.Load():
		w.proxy.noteSymptom(now, pbx, registerUnchallenged, w.registeredAOR(m))
	}
	if m.status/100 != 2 {
		return
	}
	w.proxy.phoneSources.add(t.server.upstream.peer().Addr(), now)
	if !t.hasOurPath {
		return
	}
	switch {
	case m.hasField(hPath) || listsPath(m.b[:m.headLen]):
		setOnce(&d.knowsPath)
		if d.findings[pathIgnored].Load() != nil {
			d.clearSymptom(pathIgnored, w.registeredAOR(m))
		}
	case !d.usesPath.Load() || d.knowsPath.Load():
		w.proxy.noteSymptom(now, pbx, pathIgnored, w.registeredAOR(m))
	}
}

// diagnoseInvite: one that takes calls and asks no phone for a password is free to say
// 404 to a wrong number. So it is to who is no registered phone's address.
func (w *worker) diagnoseInvite(now instant, t *responseContext, m *message, pbx *pbx) {
	d, ip := &pbx.diagnosis, t.server.upstream.peer().Addr()
	switch {
	case t.inDialog:
		return // a PBX that restarted
	case m.status == 404:
		if !t.hasCredentials && (d.challengesInvite.Load() || d.challengesRegister.Load() && !d.acceptsInvite.Load()) && w.proxy.phoneSources.has(ip, now) {
			w.proxy.noteSymptom(now, pbx, inviteUnchallenged, ip.String())
		}
		return
	case m.status == 401 || m.status == 407:
		setOnce(&d.challengesInvite)
	case acceptsCall(m.status):
		setOnce(&d.acceptsInvite)
		known := w.proxy.phoneSources.has(ip, now)
		switch {
		case t.hasCredentials:
		case known:
			setOnce(&d.acceptsUnproved)
			if d.challengesInvite.Load() {
				d.clearSymptom(strangerAccepted, ip.String())
			} else {
				d.clearSymptom(strangerAccepted, "") // it asks nobody who calls
			}
		case d.challengesInvite.Load() || d.challengesRegister.Load() && !d.acceptsUnproved.Load():
			w.proxy.noteSymptom(now, pbx, strangerAccepted, ip.String())
		}
	}
	if d.findings[inviteUnchallenged].Load() != nil {
		d.clearSymptom(inviteUnchallenged, ip.String())
	}
}

// takes reports whether a PBX that gives an INVITE this status has called somebody.
func acceptsCall(status int) bool {
	return 180 <= status && status < 300 || status == 486 || status == 600 || status == 603
}

// cameAlongPath notes that a request of a PBX had our Path: it stores it, though it
// may not say so, as RFC 3327 §5.3 wants.
func (h *Proxy) notePathUse(p *packet) {
	pbx := h.pbxAt(p.peer)
	if pbx == nil {
		return
	}
	d := &pbx.diagnosis
	setOnce(&d.usesPath)
	if !d.knowsPath.Load() {
		d.clearSymptom(pathIgnored, "")
	}
}

// calledUs notes that a PBX calls our own address: it names no phone.
func (h *Proxy) noteCallToUs(p *packet) {
	m := &p.msg
	if pbx := h.pbxAt(p.peer); pbx != nil && m.initial() && m.isMethod("INVITE") && h.cfg.Register != RegisterNone {
		h.noteSymptom(p.receivedAt, pbx, bindingLost, string(m.text(m.uri)))
	}
}

// pbxAt returns the PBX at an address: of several the one at its port; nil if none is.
func (h *Proxy) pbxAt(a netip.AddrPort) (found *pbx) {
	if len(h.pbx) == 1 {
		return h.pbx[0] // whatever address of its own it uses
	}
	for _, p := range h.pbx {
		if p.addr.AddrPort == a {
			return p
		}
		if found == nil && p.addr.Addr() == a.Addr() {
			found = p
		}
	}
	return found
}

// diagnoseSource looks at a request of a phone that is refused: it may be the PBX's, if
// it comes from its address, but not from its port. sure says that no phone would be
// refused so; else it may as well be one, where phones have registered from that
// address, or bellhop is at it.
func (h *Proxy) diagnoseSource(now instant, source netip.AddrPort, sure bool) {
	for _, pbx := range h.pbx {
		if pbx.addr.Addr() == source.Addr() && (sure || !pbx.sharesOurAddr && !h.phoneSources.has(source.Addr(), now)) {
			h.noteSymptom(now, pbx, unknownPort, source.String())
			return
		}
	}
}

// diagnosePhone looks at a REGISTER of a PBX that leads nowhere: where the PBX is known
// by bellhop's own address it is a phone's.
func (h *Proxy) diagnosePhone(p *packet) {
	for _, pbx := range h.pbx {
		if pbx.sharesOurAddr && pbx.addr.Addr() == p.peer.Addr() && pbx.isSource(p.listener.proto, p.peer) {
			h.noteSymptom(p.receivedAt, pbx, phoneTakenForPBX, p.peer.Addr().String())
			return
		}
	}
}

// paths reports whether REGISTERs get our Path.
func (c *Config) addsPath() bool { return c.Register == RegisterPath || c.Register == "" }

// fieldNamed returns the values of the header fields of a message with one of these
// names, which are in lower case. It is for fields that the index does not know.
func fieldValues(head []byte, names ...string) (values [][]byte) {
	if end := bytes.Index(head, crlfcrlf); end >= 0 {
		head = head[:end]
	}
	for line := range bytes.Lines(head) {
		n, v, found := bytes.Cut(line, []byte(":"))
		if !found {
			continue
		}
		for _, name := range names {
			if equalFold(bytes.TrimRight(n, " \t"), name) {
				values = append(values, bytes.TrimSpace(v))
			}
		}
	}
	return values
}

// listsPath reports whether the sender of a response says that it knows Path.
func listsPath(head []byte) bool {
	for _, v := range fieldValues(head, "supported", "k") {
		for tag := range bytes.SplitSeq(v, []byte(",")) {
			if equalFold(bytes.TrimSpace(tag), "path") {
				return true
			}
		}
	}
	return false
}

// binds reports whether a REGISTER makes or renews a binding: none does that asks for
// the bindings, or ends them.
func (m *message) makesBinding() bool {
	if !m.hasField(hContact) {
		return false
	}
	for _, v := range fieldValues(m.b[:m.headLen], "expires") {
		if string(v) == "0" {
			return false
		}
	}
	for i := range m.fields {
		if f := &m.fields[i]; f.name == hContact {
			if v := m.text(f.value); string(v) == "*" || bytes.Contains(bytes.ToLower(v), []byte("expires=0")) {
				return false
			}
		}
	}
	return true
}
