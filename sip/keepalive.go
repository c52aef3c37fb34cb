package sip

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"

	"bellhop/dialog"
	"bellhop/dialog/siptext"
)

const (
	// maxKeepAlives limits the clients that one worker keeps reachable. It is the size of the
	// table of bindings.
	maxKeepAlives = bindingBuckets * bindingWays

	// optionsTimeout is how long an OPTIONS of the proxy waits for its response. Within that
	// time it is sent four times over UDP.
	optionsTimeout = instant(4 * time.Second)

	// maxOptionsURI is the length of the longest Contact that becomes a Request-URI.
	maxOptionsURI = 256
)

// keepAlives sends OPTIONS to the UDP clients behind a NAT that have registered by a
// worker. The response of a client keeps the NAT open for calls to that client. A datagram
// from outside alone would not do so with every NAT.
//
// The worker that handled the last REGISTER of a binding owns its keepAlive. Bindings of
// an earlier process have none until their clients register again.
type keepAlives struct {
	worker   *worker
	interval instant // 0: no OPTIONS are sent
	byID     shrinkingMap[bindingID, *keepAlive]
}

// keepAlive sends OPTIONS to the client of one binding, once in each interval. The time
// within the interval is given by the id of the binding, which is a hash. So the OPTIONS
// to many clients are spread evenly, even after all have registered at once.
type keepAlive struct {
	all     *keepAlives
	binding *binding
	uri     string // Request-URI of the OPTIONS
	timer   timer
	awaited *clientTx // OPTIONS without a response so far, or nil
}

// start keeps the client of a binding reachable if it is behind a NAT: if contact, the
// Contact URI that it wrote, does not have the address and port from which it sends. The
// transport does not matter, because a phone over UDP may ask to be called over TCP.
func (ks *keepAlives) start(now instant, b *binding, contact []byte) {
	if ks.interval <= 0 || b.flow.proto != UDP || b.byURI {
		return // the peer is a proxy in front of the client, which keeps the client reachable itself
	}
	var u siptext.URI
	uri := string(contact)
	valid := parseURI(uri, &u) == nil
	if a, ok := uriAddr(&u); valid && ok && a.AddrPort == b.flow.peer {
		ks.stop(b.id)
		return
	}
	if !valid || u.Scheme != "sip" || len(uri) > maxOptionsURI {
		uri = "sip:" + b.flow.peer.String()
	}
	k := ks.byID.m[b.id]
	if k == nil {
		if len(ks.byID.m) >= maxKeepAlives {
			return
		}
		k = &keepAlive{all: ks}
		k.timer.owner = k
		ks.byID.put(b.id, k)
	}
	k.binding, k.uri = b, uri
	if !k.timer.running() {
		k.schedule(now)
	}
}

// stop ends the keepAlive of a binding, if there is one.
func (ks *keepAlives) stop(id bindingID) {
	k := ks.byID.m[id]
	if k == nil {
		return
	}
	k.endWait()
	ks.worker.wheel.stop(&k.timer)
	ks.byID.remove(id)
}

// schedule sets the time of the next OPTIONS.
func (k *keepAlive) schedule(now instant) {
	interval := k.all.interval
	offset := instant(binary.BigEndian.Uint64(k.binding.id[:]) % uint64(interval))
	wait := (offset - now%interval + interval) % interval
	if wait == 0 {
		wait = interval
	}
	k.all.worker.wheel.start(&k.timer, now+wait)
}

// handleTimer sends the next OPTIONS, unless the PBX has sent one to the client within the
// interval. It ends the keepAlive if the binding has expired, or has been replaced by a
// REGISTER that another worker handled.
func (k *keepAlive) handleTimer(now instant) {
	w, b := k.all.worker, k.binding
	if k.awaited != nil {
		k.endWait()
		k.schedule(now)
		return
	}
	if w.proxy.bindings.newest(b.id, now) != b {
		k.all.byID.remove(b.id)
		return
	}
	if next := instant(b.qualifiedAt.Load()) + k.all.interval; next > now && next > k.all.interval {
		w.wheel.start(&k.timer, next)
		return
	}
	to := destination{listener: w.proxy.listeners.findForFlow(b.flow, nil), addr: b.flow.peer}
	if to.listener != nil {
		to.local = to.listener.localAddr(b.flow.local)
	}
	if to.listener == nil || w.proxy.listeners.haveAddr(to.addr) || w.proxy.draining.Load() {
		k.schedule(now)
		return
	}
	k.awaited = w.newOptions(k, to, edgeSide, k.uri, "")
	w.wheel.start(&k.timer, now+min(optionsTimeout, k.all.interval/2))
	k.awaited.start(now)
}

// handleResponse handles a response to an OPTIONS. Any final response has kept the NAT
// open. Its transaction absorbs repetitions and then ends by itself.
func (k *keepAlive) handleResponse(now instant, p *packet) {
	if p.msg.status >= 200 {
		k.awaited = nil
		k.schedule(now)
	}
}

func (k *keepAlive) handleFailure(now instant, why failureReason) {
	k.awaited = nil
	k.schedule(now)
}

// endWait ends the transaction of the OPTIONS that has no response so far.
func (k *keepAlive) endWait() {
	if k.awaited != nil {
		k.awaited.terminate()
		k.awaited = nil
	}
}

// newOptions returns the transaction of an OPTIONS of the proxy itself to a peer on a
// side. It is not observed. fields are further header field lines.
func (w *worker) newOptions(user transactionUser, to destination, side dialog.Side, uri, fields string) *clientTx {
	name := to.ownName(side)
	c := &clientTx{worker: w, user: user, id: w.newTxID(), loopHash: rand.Uint32(), nextHop: to}
	w.branchBuf = w.proxy.branchSalt.appendBranch(w.branchBuf[:0], c.id, c.loopHash)
	c.sent = w.memory.retainCopy(nil, fmt.Appendf(w.composer.outBuf[:0], "OPTIONS %s SIP/2.0\r\nVia: SIP/2.0/%s %s;branch=%s\r\nMax-Forwards: 70\r\n"+
		"From: <sip:%s>;tag=%x\r\nTo: <%s>\r\nCall-ID: options-%08x-%x\r\nCSeq: 1 OPTIONS\r\n%sContent-Length: 0\r\n\r\n",
		uri, to.listener.proto.viaName(), name.sentBy, w.branchBuf, name.sentBy, c.id, uri, w.proxy.branchSalt, c.id, fields))
	return c
}
