package sip

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"sync/atomic"

	"bellhop/dialog/siptext"
)

// This file detects a PBX that is configured so that calls fail or bypass the proxy. No
// single message shows an error, so an operator would not find the cause.

// symptom is a misconfiguration of a PBX that shows in its messages.
type symptom uint8

const (
	pathIgnored          symptom = iota // it stores a binding without our Path
	registerUnchallenged                // it refuses a REGISTER with 404, without a challenge
	inviteUnchallenged                  // it refuses an INVITE of a phone with 404, without a challenge
	unknownPort                         // requests from its address, but from another port, are refused
	strangerAccepted                    // it accepts an unknown source's INVITE without a challenge
	bindingLost                         // it calls a phone at our address, without our Path or Contact
	phoneTakenForPBX                    // it has bellhop's address, and a phone there is taken for it
	edgeListenerUsed                    // requests from its address come to a listener of the edge side
	symptomCount                        // number of symptoms
)

const (
	symptomLogInterval = instant(3600e9)      // shortest time between two log lines for a PBX and symptom
	symptomLifetime    = instant(24 * 3600e9) // how long a symptom counts after it last showed
	maxSubjectLen      = 100                  // bytes of a finding's subject
)

// trunkByAddress is the remedy for an Asterisk that identifies bellhop as a trunk.
const trunkByAddress = "if it is an Asterisk, it takes bellhop's address for a trunk: remove match = with bellhop's address from every type = identify section " +
	"(match_header = X-Bellhop-Trunk: SECRET identifies the trunk), and set endpoint_identifier_order = header,username,auth_username"

// diagnosis is what the messages of one PBX have shown of its configuration. Workers
// share it.
type diagnosis struct {
	findings [symptomCount]atomic.Pointer[finding] // the latest of each symptom; nil: none
	loggedAt [symptomCount]atomic.Int64            // instant of the last log line; 0: none

	registers          atomic.Bool // it registered a phone, or challenged its REGISTER
	challengesRegister atomic.Bool // it challenged a REGISTER
	knowsPath          atomic.Bool // it stated that it stores Path
	usesPath           atomic.Bool // it sent a request along a Path
	challengesInvite   atomic.Bool // it challenged an INVITE
	acceptsInvite      atomic.Bool // it accepted an INVITE of a phone
	acceptsWithoutAuth atomic.Bool // it accepted an INVITE of a registered phone without credentials
}

// finding is the address or user at which a symptom last showed, and the time.
type finding struct {
	subject string
	at      instant
}

// explainSymptom describes a symptom and its remedy to an operator. subject is the
// address or user at which the symptom showed.
func explainSymptom(s symptom, pbx *pbx, subject string) string {
	switch s {
	case pathIgnored:
		return fmt.Sprintf("PBX %s ignores Path: it registered %s without our Path, so its calls to that phone bypass bellhop and cause no events: "+
			"in Asterisk set support_path = yes in every aor; for a PBX without Path set sip.register = \"contact\"", pbx.config, subject)
	case registerUnchallenged:
		return fmt.Sprintf("PBX %s answers the REGISTER of %s with 404 instead of asking for a password: %s", pbx.config, subject, trunkByAddress)
	case inviteUnchallenged:
		return fmt.Sprintf("PBX %s answers an INVITE of the phone at %s with 404 instead of asking for a password: %s", pbx.config, subject, trunkByAddress)
	case unknownPort:
		if pbx.sharesOurAddr() {
			return fmt.Sprintf("requests from %s are taken for a phone's: if PBX %s sends from there too, have it send from that port alone, or give it an address that bellhop does not have, such as 127.0.0.2", subject, pbx.config)
		}
		return fmt.Sprintf("requests from %s are refused as a phone's: if PBX %s sends from there too, as an external profile of FreeSWITCH does, set sip.pbx_sources = [%q]", subject, pbx.config, strings.Trim(subject[:strings.LastIndexByte(subject, ':')], "[]"))
	case phoneTakenForPBX:
		return fmt.Sprintf("a REGISTER from %s is refused because it is taken for one of the PBX %s, which has the same address as bellhop: phones there cannot use TCP: "+
			"give the PBX an address that bellhop does not have, such as 127.0.0.2", subject, pbx.config)
	case edgeListenerUsed:
		return fmt.Sprintf("requests from %s came to a listener with side = \"edge\" and are refused as a phone's: if PBX %s sends them, let it send to the address that bellhop check names for it", subject, pbx.config)
	case strangerAccepted:
		return fmt.Sprintf("PBX %s took a call of %s, which is no [[trunk]] and where no phone has registered, without asking for a password: %s; if it is a carrier, make it a [[trunk]] with a secret", pbx.config, subject, trunkByAddress)
	case bindingLost:
		return fmt.Sprintf("PBX %s calls %s, which is bellhop itself: it has replaced the phone's Contact with bellhop's address and lost the phone's Path: "+
			"in Asterisk set rewrite_contact = no, in FreeSWITCH remove sip-force-contact", pbx.config, subject)
	}
	return ""
}

// noteSymptom records that a symptom showed at subject, and logs it at most once an
// hour.
func (px *Proxy) noteSymptom(now instant, pbx *pbx, s symptom, subject string) {
	d := &pbx.diagnosis
	subject = strings.Clone(cmp.Or(subject[:min(len(subject), maxSubjectLen)], "a phone"))
	d.findings[s].Store(&finding{subject, now})
	last := d.loggedAt[s].Load()
	if last != 0 && now-instant(last) < symptomLogInterval || !d.loggedAt[s].CompareAndSwap(last, int64(max(now, 1))) {
		return
	}
	px.log.Warn("PBX misconfigured", "pbx", pbx.config.String(), "why", explainSymptom(s, pbx, subject))
}

// setOnce stores true if b is false. It writes only once, because workers share the
// cache line.
func setOnce(b *atomic.Bool) {
	if !b.Load() {
		b.Store(true)
	}
}

// clearSymptom removes a symptom if it last showed at subject; "" stands for any
// subject.
func (d *diagnosis) clearSymptom(s symptom, subject string) {
	if p := d.findings[s].Load(); p != nil && (subject == "" || p.subject == subject[:min(len(subject), maxSubjectLen)]) {
		d.findings[s].CompareAndSwap(p, nil)
	}
}

// Degraded returns a sentence for each detected misconfiguration of a PBX, with its
// remedy. It is empty if there is none. It may be called from any goroutine at any time.
func (px *Proxy) Degraded() (why []string) {
	for _, pbx := range px.peers.configured() {
		d := &pbx.diagnosis
		for s := range symptomCount {
			if f := d.findings[s].Load(); f != nil && px.now()-f.at < symptomLifetime {
				why = append(why, explainSymptom(s, pbx, f.subject))
			}
		}
	}
	return why
}

// diagnose examines a response of a PBX to a request of a phone.
func (px *Proxy) diagnose(now instant, t *responseContext, m *message) {
	if m.status == 100 || t.src != edgeSide || t.dst != pbxSide || t.trunk != "" {
		return
	}
	if m.status == 403 || m.status == 404 || m.status == 482 {
		px.diagnoseSource(now, t.server.upstream.listener, t.server.upstream.peer(), m.status == 482)
	}
	register := m.isMethod("REGISTER")
	if !register && !t.server.invite {
		return
	}
	pbx := px.peers.pbxAt(t.client.nextHop.peer())
	if pbx == nil {
		return
	}
	if register {
		px.diagnoseRegister(now, t, m, pbx)
	} else {
		px.diagnoseInvite(now, t, m, pbx)
	}
}

// diagnoseRegister looks in the response to a REGISTER for signs of a wrong PBX
// configuration: a 404 to a REGISTER without credentials, from a PBX that has neither
// challenged nor accepted one; and a 2xx that ignores our Path.
func (px *Proxy) diagnoseRegister(now instant, t *responseContext, m *message, pbx *pbx) {
	d := &pbx.diagnosis
	switch {
	case m.status/100 == 2, m.status == 401, m.status == 407:
		setOnce(&d.registers)
		if m.status >= 400 {
			setOnce(&d.challengesRegister)
		}
		d.clearSymptom(registerUnchallenged, "")
	case m.status == 404 && !t.hasCredentials && !d.registers.Load():
		px.noteSymptom(now, pbx, registerUnchallenged, m.registeredAOR())
	}
	if m.status/100 != 2 {
		return
	}
	px.sources.phones.add(t.server.upstream.peer().Addr(), now)
	if !t.hasOurPath {
		return
	}
	switch {
	case m.hasField(hPath) || m.supports("path"):
		setOnce(&d.knowsPath)
		if d.findings[pathIgnored].Load() != nil {
			d.clearSymptom(pathIgnored, m.registeredAOR())
		}
	case !d.usesPath.Load() || d.knowsPath.Load():
		px.noteSymptom(now, pbx, pathIgnored, m.registeredAOR())
	}
}

// diagnoseInvite looks in the response to an INVITE without credentials for signs of a
// wrong PBX configuration: a 404 to an address from which a phone has registered, and an
// accepted call from any other address. Both are signs only from a PBX that challenges
// other requests. A PBX that challenges nobody answers a wrong number with 404, and
// accepts the calls of everybody.
func (px *Proxy) diagnoseInvite(now instant, t *responseContext, m *message, pbx *pbx) {
	d, ip := &pbx.diagnosis, t.server.upstream.peer().Addr()
	switch {
	case t.inDialog:
		return // a restarted PBX does not know the dialog
	case m.status == 404:
		if !t.hasCredentials && (d.challengesInvite.Load() || d.challengesRegister.Load() && !d.acceptsInvite.Load()) && px.sources.phones.has(ip, now) {
			px.noteSymptom(now, pbx, inviteUnchallenged, ip.String())
		}
		return
	case m.status == 401 || m.status == 407:
		setOnce(&d.challengesInvite)
	case acceptsCall(m.status):
		setOnce(&d.acceptsInvite)
		known := px.sources.phones.has(ip, now)
		switch {
		case t.hasCredentials:
		case known:
			setOnce(&d.acceptsWithoutAuth)
			if d.challengesInvite.Load() {
				d.clearSymptom(strangerAccepted, ip.String())
			} else {
				d.clearSymptom(strangerAccepted, "") // it challenges no caller
			}
		case d.challengesInvite.Load() || d.challengesRegister.Load() && !d.acceptsWithoutAuth.Load():
			px.noteSymptom(now, pbx, strangerAccepted, ip.String())
		}
	}
	if d.findings[inviteUnchallenged].Load() != nil {
		d.clearSymptom(inviteUnchallenged, ip.String())
	}
}

// acceptsCall reports whether a response to an INVITE shows that the PBX has called
// somebody.
func acceptsCall(status int) bool {
	return 180 <= status && status < 300 || status == 486 || status == 600 || status == 603
}

// notePathUse notes that a PBX sent a request along our Path. So the PBX stores Path,
// even if it does not state so in its 2xx as RFC 3327 §5.3 demands.
func (px *Proxy) notePathUse(p *packet) {
	pbx := px.peers.pbxAt(p.peer)
	if pbx == nil {
		return
	}
	d := &pbx.diagnosis
	setOnce(&d.usesPath)
	if !d.knowsPath.Load() {
		d.clearSymptom(pathIgnored, "")
	}
}

// noteCallToUs notes that a PBX calls our own address, which names no phone.
func (px *Proxy) noteCallToUs(p *packet) {
	m := &p.msg
	if pbx := px.peers.pbxAt(p.peer); pbx != nil && m.initial() && m.isMethod("INVITE") && px.cfg.Register != RegisterNone {
		px.noteSymptom(p.receivedAt, pbx, bindingLost, string(m.text(m.uri)))
	}
}

// diagnoseSource is called for a refused request that was taken for a phone's. If it
// comes from the IP address of a PBX, the PBX may have sent it, and diagnoseSource notes
// the symptom unknownPort or edgeListenerUsed. l is the listener that received the
// request.
//
// sure reports that no phone sends such a request. If sure is false, a phone at the
// address of the PBX may have sent it: diagnoseSource notes nothing if a phone has
// registered from that address, or if bellhop has that address too.
func (px *Proxy) diagnoseSource(now instant, l *listener, source netip.AddrPort, sure bool) {
	s := unknownPort
	if !l.serves(pbxSide) {
		s = edgeListenerUsed
	}
	for _, pbx := range px.peers.configured() {
		if pbx.hasIP(source.Addr()) && (sure || !pbx.sharesOurAddr() && !px.sources.phones.has(source.Addr(), now)) {
			px.noteSymptom(now, pbx, s, source.String())
			return
		}
	}
}

// diagnosePhone is called for a refused REGISTER that was taken for the PBX's. If the PBX
// has the same IP address as bellhop, a phone at that address must have sent the
// REGISTER, and diagnosePhone notes phoneTakenForPBX.
func (px *Proxy) diagnosePhone(p *packet) {
	for _, pbx := range px.peers.configured() {
		if pbx.sharesOurAddr() && pbx.hasIP(p.peer.Addr()) && pbx.isSource(p.listener.proto, p.peer) {
			px.noteSymptom(p.receivedAt, pbx, phoneTakenForPBX, p.peer.Addr().String())
			return
		}
	}
}

// supports reports whether a Supported lists an option tag.
func (m *message) supports(tag string) bool {
	for list := m.listValues(hSupported); list.next(); {
		if siptext.EqualFold(m.text(list.value), tag) {
			return true
		}
	}
	return false
}

// makesBinding reports whether a REGISTER makes or renews a binding. One that queries or
// removes bindings does not.
func (m *message) makesBinding() bool {
	isZero := func(v span) bool {
		n, ok := parseNumber(m.text(v), math.MaxInt32)
		return ok && n == 0
	}
	for i := range m.fields {
		if f := &m.fields[i]; f.name == hExpires && isZero(f.value) {
			return false
		}
	}
	for list := m.listValues(hContact); list.next(); {
		uri, params, _ := splitNameAddr(m.b, list.value)
		if expires, ok := findParam(m.b, params, "expires"); string(m.text(uri)) == "*" || ok && isZero(expires) {
			return false
		}
	}
	return m.hasField(hContact)
}
