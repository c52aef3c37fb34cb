package sip

import (
	"bytes"
	"context"
	"net/netip"
	"time"

	"bellhop/sip/guard"
)

// This file connects the proxy with package guard: which messages it drops, and what it
// learns of sources.

// isFree reports whether a peer of listener l is neither limited nor banned: it is PBX,
// trunk or reverse proxy, or in [guard.Settings].Allow. conn is its connection or nil.
func (px *Proxy) isFree(l *listener, conn *stream, ip netip.Addr) bool {
	return px.peers.trunkOfConn(conn) != nil || px.peers.isConfigured(l, ip) || px.guard.Allows(ip) || px.listeners.trustProxy(ip)
}

// dropsBanned reports whether everything that a peer of listener l sends is dropped,
// because its source is banned. conn is its connection or nil. A peer that isFree is
// never dropped: the PBX may be in the same network as a banned phone.
func (px *Proxy) dropsBanned(l *listener, conn *stream, ip netip.Addr, now instant) bool {
	if !px.guard.IsBanned(ip, time.Duration(now)) || px.isFree(l, conn, ip) {
		return false
	}
	px.guard.CountDrop(guard.DropBanned)
	return true
}

// guardDrops reports whether a request is dropped because of its User-Agent or the rate of
// its source. A new request on a stream beyond the rate is not dropped but refused, because
// its sender would not repeat it. An ACK cannot be refused.
//
// This machine has no rate: nobody else can send from its loopback addresses, and load
// tests run there. CANCEL and requests within a dialog are limited later: see dropsFollowUp.
func (px *Proxy) guardDrops(p *packet) bool {
	m, ip := &p.msg, p.peer.Addr()
	if p.side != edgeSide || !m.isRequest() || px.isFree(p.listener, p.conn, ip) {
		return false
	}
	if f := m.firstField(hUserAgent); f != nil && px.guard.DropsUserAgent(m.text(f.value)) {
		return true
	}
	if !m.initial() || m.isMethod("CANCEL") || ip.IsLoopback() {
		return false
	}
	kind := guard.Datagram
	if p.conn != nil {
		kind = guard.OnStream
	}
	if !px.guard.DropsRequest(ip, kind, time.Duration(p.receivedAt)) {
		return false
	}
	px.recountBindings()
	p.overRate = p.conn != nil && !m.isMethod("ACK")
	return !p.overRate
}

// recountBindings asks runGuard to count the bindings of all sources, because a source that
// has used up its rate may have more bindings by now.
func (px *Proxy) recountBindings() {
	select {
	case px.recount <- struct{}{}:
	default:
	}
}

// dropsFollowUp reports whether a request that belongs to no transaction is dropped because
// of the rate of its source: a CANCEL, or a request within a dialog of an unknown source
// without a Route that the proxy has issued in that dialog. Anybody can make up a To tag.
func (w *worker) dropsFollowUp(now instant, p *packet) bool {
	px, m, ip := w.proxy, &p.msg, p.peer.Addr()
	if p.side != edgeSide || m.initial() && !m.isMethod("CANCEL") || ip.IsLoopback() || px.sources.isKnown(now, p) || px.isFree(p.listener, p.conn, ip) {
		return false
	}
	if !m.initial() && w.router.hasOwnRoute(m) {
		return false
	}
	return px.guard.DropsRequest(ip, guard.FollowUp, time.Duration(now))
}

// judgeCredentials learns from the final response m to a request of the edge side. A
// refusal of credentials is a fault of the source, unless the credentials are stale. A
// datagram counts only if its nonce was sent to its source alone, because that address may
// be forged. A challenge is no fault.
//
// A 2xx clears the faults only of a REGISTER or INVITE: a PBX may accept others, such as
// OPTIONS, without looking at their credentials.
func (t *responseContext) judgeCredentials(now instant, m *message) {
	if t.src != edgeSide || m.status < 200 {
		return
	}
	px, to := t.worker.proxy, t.server.upstream
	ip := to.peer().Addr()
	switch {
	case m.status/100 == 2 && t.hasCredentials && (m.isMethod("REGISTER") || m.isMethod("INVITE")):
		px.guard.ClearPoints(ip)
	case m.status == 401 || m.status == 403 || m.status == 407:
		f := m.firstField(hAuthenticate)
		if t.hasCredentials && !isStale(m, f) && (to.conn != nil || t.usesNonceOf(ip, now)) {
			px.notePoint(now, to.listener, to.conn, ip, guard.BanCredentials)
		}
		for ; f != nil; f = m.fieldAfter(f) {
			px.guard.NoteNonce(ip, authParam(m.text(f.value), "nonce"), time.Duration(now))
		}
	}
}

// usesNonceOf reports whether the credentials of the request whose final response is being
// handled have a nonce that was sent to the source ip, and to no other.
func (t *responseContext) usesNonceOf(ip netip.Addr, now instant) bool {
	c := &t.worker.composer
	if c.answeredRequest == nil {
		return false
	}
	sent := &c.scratch
	sent.index(c.answeredRequest, false)
	for f := sent.firstField(hAuthorization); f != nil; f = sent.fieldAfter(f) {
		if nonce := authParam(sent.text(f.value), "nonce"); len(nonce) > 0 && t.worker.proxy.guard.ProvesSource(ip, nonce, time.Duration(now)) {
			return true
		}
	}
	return false
}

// isStale reports whether a challenge in m says that the nonce was too old and the
// password may be right (RFC 7616 §3.3). f is the field of the first challenge of m, or
// nil.
func isStale(m *message, f *field) bool {
	for ; f != nil; f = m.fieldAfter(f) {
		if bytes.EqualFold(authParam(m.text(f.value), "stale"), []byte("true")) {
			return true
		}
	}
	return false
}

// authParam returns a parameter of a challenge or of credentials without its quotes, or
// nil.
func authParam(v []byte, name string) []byte {
	for len(v) > 0 {
		part := v
		quoted := false
		for i, c := range v {
			if c == '"' {
				quoted = !quoted
			}
			if c == ',' && !quoted {
				part = v[:i]
				break
			}
		}
		v = v[min(len(part)+1, len(v)):]
		key, value, ok := bytes.Cut(part, []byte("="))
		if i := bytes.LastIndexAny(bytes.TrimSpace(key), " \t\r\n"); i >= 0 {
			key = bytes.TrimSpace(key)[i+1:] // after "Digest"
		}
		if ok && bytes.EqualFold(bytes.TrimSpace(key), []byte(name)) {
			return bytes.Trim(bytes.TrimSpace(value), `"`)
		}
	}
	return nil
}

// A suspect is a source that may have enough points to be banned.
type suspect struct {
	ip     netip.Addr
	reason guard.BanReason
}

const (
	maxSuspects     = 64                   // further ones wait for their next fault
	recountInterval = instant(time.Second) // shortest time between two counts of all bindings
)

// notePoint counts a fault of a peer of listener l whose address is not forged. conn is its
// connection or nil.
func (px *Proxy) notePoint(now instant, l *listener, conn *stream, ip netip.Addr, reason guard.BanReason) {
	if px.isFree(l, conn, ip) || !px.guard.AddPoint(ip, time.Duration(now)) {
		return
	}
	select {
	case px.suspects <- suspect{ip, reason}:
	default:
	}
}

// runGuard does the work of the guard that takes too long for the path of a message: it
// counts the bindings behind each address, and bans suspects. It runs until ctx ends.
func (px *Proxy) runGuard(ctx context.Context) {
	var countedAt instant
	count := func() {
		if now := px.now(); countedAt == 0 || now-countedAt >= recountInterval {
			px.guard.SetBindings(px.bindings.countBySource(now))
			countedAt = now
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-px.recount:
			count()
		case s := <-px.suspects:
			count()
			if b, ok := px.guard.BanIfDue(s.ip, s.reason, time.Duration(px.now())); ok {
				px.enforceBan(b)
			}
		}
	}
}

// countBySource counts the live bindings behind each address.
func (bs *bindings) countBySource(now instant) guard.BindingCounts {
	counts := guard.BindingCounts{}
	for i := range bs.tables[byID] {
		if b := bs.tables[byID][i].Load(); b != nil && b.expires > now {
			counts.Add(b.flow.peer.Addr())
		}
	}
	return counts
}

// enforceBan logs a ban and closes the connections of its source. The line is stable,
// because tools such as fail2ban read it: the source comes first, and nothing in it was
// sent by the source.
func (px *Proxy) enforceBan(b guard.Ban) {
	px.log.Warn("source banned", "source", guard.SourceText(b.Source), "reason", b.Reason.String(), "for", (b.Until - b.Since).String(), "times", b.Times)
	px.streams.closeFrom(b.Source)
}

// closeFrom closes the streams whose peer is in a banned network, after the messages queued
// for them are written.
func (ss *streamTable) closeFrom(p netip.Prefix) {
	ss.byPeer.Range(func(_, v any) bool {
		if s := v.(*stream); p.Contains(s.peer.Addr()) && !ss.proxy.isFree(s.listener, s, s.peer.Addr()) {
			s.closeWhenWritten()
		}
		return true
	})
}

// ConfigureGuard replaces the limits of [Config.Guard], and of connections. Bans stay, but
// for those of sources that are allowed now.
func (px *Proxy) ConfigureGuard(s guard.Settings, connections, allConnections int) {
	px.guard.Configure(s)
	px.streams.mu.Lock()
	defer px.streams.mu.Unlock()
	px.cfg.Connections, px.cfg.AllConnections = connections, allConnections
}

// Guard returns what the proxy knows of sources. It may be used from any goroutine.
func (px *Proxy) Guard() *guard.Guard { return px.guard }
