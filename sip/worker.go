package sip

import (
	"context"
	"crypto/sha256"
	"hash/maphash"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"bellhop/dialog"

	msg "github.com/emiago/sipgo/sip"
)

// Bounds of what may wait for a worker: messages, and the bytes of their
// buffers. A tenth is kept for what is within a dialog, so that a flood takes no
// BYE's place. New requests of strangers have a queue of their own, which is
// served when the other is empty, and half of the bytes.
const (
	maxQueuedItems     = 8192
	maxQueuedStrangers = 8192
	maxQueuedBytes     = 16 << 20
	maxPooledBuffer    = 4 << 10 // larger buffers do not go back to the pool
)

// A rank says what waits longer, and is dropped first.
type priority uint8

const (
	inDialog     priority = iota // a response, or a request of a known source within a dialog
	fromKnown                    // its new request, or a stranger's that says it is within a dialog
	fromStranger                 // any other
)

// maxHeld is how much memory the transactions of all workers may hold for each
// worker, of which there are counted at least two: that of 2,500 calls a second
// and processor. See [worker.admit].
const maxHeldPerWorker = 96 << 20

// A worker owns the transactions of the calls whose Call-ID hashes to it, and
// does one thing at a time.
//
// What waits in its queue the goroutine of run does. To wake it costs as much
// as to forward a message: so a reader that finds neither work before its
// message nor behind it has the worker do it at once (see [worker.atOnce]).
// Whoever has the turn has all state below it.
type worker struct {
	proxy          *Proxy
	index          int
	queue          chan workItem
	strangerQueue  chan workItem // the new requests of strangers
	queuedBytes    atomic.Int64  // bytes of the inputs that are queued or were taken out and not done
	shedding       atomic.Bool   // strangers' new requests are shed
	blockedStreams atomic.Int32  // streams that wait for room in the queue
	roomFreed      chan struct{} // wakes one of them

	mu sync.Mutex // only run ever waits for it

	serverTxs    shrinkingMap[serverKey, *serverTx]
	clientTxs    shrinkingMap[uint64, *clientTx]
	cancelTxs    shrinkingMap[uint64, *clientTx] // the CANCELs, by the id of their INVITE
	lastTxID     uint64
	heldBytes    int     // bytes under the transactions
	maxHeldBytes int     // bound of held
	shedLoggedAt instant // when it was logged last that new requests are shed
	wheel        wheel
	timer        *time.Timer
	timerSetTo   instant // what timer is set to; 0: not

	oldDialogs      oldDialogs
	answeredRequest []byte // the request, as sent, whose final response is handled; nil: none is

	// Scratch, good until the next message.
	sealer      *sealer
	hash        maphash.Hash
	edits       splice
	scratch     message
	routeValues []routeValue
	outBuf      []byte
	tmpBuf      []byte
	tagBuf      [16]byte
	keyBuf      []byte
	branchBuf   []byte

	freeBuffers [maxFreeBuffer / bufferStep][][]byte // memory that messages were kept in, by its size
	freeBytes   int
}

// An input is what a worker is told: a message came, or one could not be sent.
type workItem struct {
	packet   *packet
	failedTx uint64 // id of the client transaction; packet is nil
}

// A packet is a message that came, and how it did. Its buffer goes back to a
// pool after the worker is done: who keeps bytes of it copies them.
type packet struct {
	msg        message
	buf        []byte
	listener   *listener
	conn       *stream // nil over UDP
	peer       netip.AddrPort
	side       dialog.Side
	receivedAt instant
	endsStream bool // the stream cannot be read behind this message: it ends

	requeued bool // a CANCEL that was put behind the new requests of strangers
}

var packetPool = sync.Pool{New: func() any { return new(packet) }}

// newPacket copies b into a packet from the pool.
func newPacket(b []byte) *packet {
	p := packetPool.Get().(*packet)
	p.buf = append(p.buf[:0], b...)
	return p
}

// done ends the stream if it cannot be read further, and gives the packet
// back; one that was very large is left to the collector.
func (p *packet) release() {
	if p.endsStream {
		p.conn.closeWhenWritten()
	}
	if cap(p.buf) > maxPooledBuffer {
		return
	}
	*p = packet{buf: p.buf, msg: message{fields: p.msg.fields}}
	packetPool.Put(p)
}

func newWorker(h *Proxy, index int) *worker {
	w := &worker{
		proxy:         h,
		index:         index,
		queue:         make(chan workItem, maxQueuedItems),
		strangerQueue: make(chan workItem, maxQueuedStrangers),
		roomFreed:     make(chan struct{}, 1),
		maxHeldBytes:  maxHeldPerWorker * max(h.cfg.Workers, 2) / h.cfg.Workers,
		sealer:        newSealer(h.cfg.Key),
		timer:         time.NewTimer(time.Hour),
	}
	w.hash.SetSeed(h.hashSeed)
	return w
}

func (w *worker) now() instant { return w.proxy.now() }

// run handles messages and timers until ctx ends.
func (w *worker) run(ctx context.Context) {
	defer w.timer.Stop()
	w.mu.Lock()
	w.startProbes()
	w.resetTimer()
	w.mu.Unlock()
	for {
		select {
		case in := <-w.queue:
			w.handleQueued(in)
		case <-w.timer.C:
			w.handleDueTimers()
		case <-ctx.Done():
			return
		default:
			select {
			case in := <-w.queue:
				w.handleQueued(in)
			case in := <-w.strangerQueue:
				w.handleQueued(in)
			case <-w.timer.C:
				w.handleDueTimers()
			case <-ctx.Done():
				return
			}
		}
	}
}

// take does an input of a queue.
func (w *worker) handleQueued(in workItem) {
	cost := in.queuedSize()
	w.mu.Lock()
	w.handleItem(in)
	w.resetTimer()
	w.mu.Unlock()
	w.queuedBytes.Add(-cost)
	if w.blockedStreams.Load() > 0 {
		w.wakeBlocked()
	}
}

// tick does what is due.
func (w *worker) handleDueTimers() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timerSetTo = 0
	w.fireTimers()
	w.updateShedding(w.now())
	w.resetTimer()
}

// atOnce does an input on the goroutine of the caller, and reports false if
// the worker has other work. It never waits.
func (w *worker) tryInline(in workItem) bool {
	if w.queuedBytes.Load() > 0 || !w.mu.TryLock() {
		return false
	}
	defer w.mu.Unlock()
	w.handleItem(in)
	w.resetTimer()
	return true
}

// cost is how much memory an input takes up in a queue.
func (in workItem) queuedSize() int64 {
	if in.packet == nil {
		return 1
	}
	return int64(max(cap(in.packet.buf), 1))
}

// queue puts an input behind the others of its rank, and reports false if there
// is no room.
func (w *worker) enqueue(in workItem, r priority) bool {
	cost := in.queuedSize()
	bytes, count := w.queuedBytes.Add(cost), len(w.queue)+len(w.strangerQueue)
	if bytes > maxQueuedBytes/8 || count >= maxQueuedItems/8 {
		w.proxy.signalBacklog()
	}
	q, room := w.queue, bytes <= maxQueuedBytes
	switch r {
	case fromKnown:
		room = bytes <= maxQueuedBytes/10*9 && len(q) < maxQueuedItems/10*9
	case fromStranger:
		q, room = w.strangerQueue, bytes <= maxQueuedBytes/2
	}
	if room {
		select {
		case q <- in:
			return true
		default:
		}
	}
	w.queuedBytes.Add(-cost)
	return false
}

// wait queues an input as soon as there is room, and reports false if done is
// closed first.
func (w *worker) enqueueWaiting(in workItem, r priority, done <-chan struct{}) bool {
	w.blockedStreams.Add(1)
	defer w.blockedStreams.Add(-1)
	for !w.enqueue(in, r) {
		select {
		case <-w.roomFreed:
		case <-done:
			return false
		}
	}
	return true
}

// wake has one stream that waits for room look again. It is called after each
// input, so one at a time is enough.
func (w *worker) wakeBlocked() {
	select {
	case w.roomFreed <- struct{}{}:
	default:
	}
}

// arm sets the one real timer to the wheel's next tick.
func (w *worker) resetTimer() {
	at, ok := w.wheel.next()
	if !ok || w.timerSetTo != 0 && w.timerSetTo <= at {
		return
	}
	w.timerSetTo = at
	w.timer.Reset(time.Duration(at - w.now()))
}

func (w *worker) handleItem(in workItem) {
	now := w.now()
	if w.wheel.count == 0 {
		w.wheel.advance(now)
	}
	if in.packet == nil {
		w.handleSendFailure(now, in.failedTx)
		return
	}
	w.handleMessage(now, in.packet)
	w.updateShedding(now)
}

// message handles one message. A panic costs this message only.
func (w *worker) handleMessage(now instant, p *packet) {
	defer func() {
		if r := recover(); r != nil {
			w.logPanic("message", r)
		}
		p.release()
	}()
	if p.msg.isRequest() {
		w.handleRequest(now, p)
	} else {
		w.handleResponse(now, p)
	}
}

// timers does what is due. A panic costs the timer that caused it: the others
// of its tick are still due.
func (w *worker) fireTimers() {
	defer func() {
		if r := recover(); r != nil {
			w.logPanic("timer", r)
			w.wheel.firedUntil -= tickLength
		}
	}()
	w.wheel.advance(w.now())
}

// failed takes the news that a request did not go out.
func (w *worker) handleSendFailure(now instant, id uint64) {
	defer func() {
		if r := recover(); r != nil {
			w.logPanic("failure", r)
		}
	}()
	if c := w.clientTxs.m[id]; c != nil && w.endsTransaction(c) {
		c.fail(now, unreachable)
	}
}

// final reports whether the transport's word that the request of c did not arrive
// ends c. That of a stream does. An ICMP error does not: whoever restarts is there
// before Timer B, so the datagram counts as lost, and is repeated as Timers A and E
// say. It ends a probe, though, and a new request if another PBX answers: its sender
// is told at once that it may try again.
func (w *worker) endsTransaction(c *clientTx) bool {
	if _, proxied := c.user.(*responseContext); c.nextHop.reliable() || !proxied {
		return true
	}
	w.scratch.index(c.request, false)
	if !w.scratch.initial() {
		return false
	}
	var here, others bool
	for _, p := range w.proxy.pbx {
		if p.addr.Proto == UDP && p.addr.AddrPort == c.nextHop.addr {
			here = true
		} else if !p.down.Load() {
			others = true
		}
	}
	return here && others
}

func (w *worker) logPanic(what string, r any) { w.proxy.logPanic(what, r) }

// request handles a request: one seen before, an ACK, a CANCEL, or one to
// send on.
func (w *worker) handleRequest(now instant, p *packet) {
	m := &p.msg
	if m.fault != nil {
		w.proxy.stats.malformed.Add(1)
		w.refuseRequest(p, m.fault, "")
		return
	}
	key := w.makeServerKey(m, m.methodName())
	if s := w.serverTxs.m[key]; s != nil {
		if !m.isMethod("ACK") {
			s.handleRetransmission(p)
			return
		}
		w.proveByACK(now, s, p)
		if t := s.context; s.handleACK(now) {
			w.observe(p, &routeDecision{dst: t.dst, nextHop: t.client.nextHop}, t.trunk)
			return
		}
	}
	switch {
	case m.isMethod("ACK"):
		w.forwardACK(now, p)
	case m.isMethod("CANCEL"):
		w.handleCancel(now, p, key)
	default:
		if f, ok := w.admitRequest(now, p); !ok {
			w.proxy.stats.shed.Add(1)
			if f != nil {
				w.refuseRequest(p, f, "Retry-After: 5\r\n")
			}
			return
		}
		w.forwardRequest(now, p, key)
	}
}

// A serverKey names a server transaction: 128 bits of a SHA-256 over a secret
// of the process and what RFC 3261 §17.2.3 compares. Nobody finds two requests
// with one key but by some 2^64 tries against this process, and what a
// transaction keeps does not grow with what its request is named.
type serverKey [16]byte

// serverKey makes the key of the server transaction that a request with this
// method belongs to. ACK belongs to the INVITE; CANCEL is on its own.
func (w *worker) makeServerKey(m *message, method []byte) serverKey {
	k := append(w.keyBuf[:0], w.proxy.serverKeySecret[:]...)
	if m.via.hasCookie(m.b) {
		k = append(k, m.text(m.via.branch)...)
		k = append(k, 0)
		k = append(k, m.text(m.via.host)...)
		k = append(k, byte(m.via.port>>8), byte(m.via.port))
	} else {
		k = append(k, m.text(m.via.value)...)
		k = append(k, 0)
		k = append(k, m.text(m.uri)...)
		k = append(k, 0)
		k = append(k, m.text(m.callID)...)
		k = append(k, 0)
		k = append(k, m.text(m.fromTag)...)
		k = append(k, byte(m.cseq>>24), byte(m.cseq>>16), byte(m.cseq>>8), byte(m.cseq))
	}
	k = append(k, 0)
	if string(method) == "ACK" {
		k = append(k, "INVITE"...)
	} else {
		k = append(k, method...)
	}
	w.keyBuf = k
	sum := sha256.Sum256(k)
	return serverKey(sum[:16])
}

// proxy sends a new request on, RFC 3261 §16.3–16.6.
func (w *worker) forwardRequest(now instant, p *packet, key serverKey) {
	m := &p.msg
	if m.isMethod("OPTIONS") && w.asksUs(m) {
		w.sendOwnResponse(p, 200, "OK", "Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, REGISTER, SUBSCRIBE, NOTIFY, REFER, MESSAGE, INFO, UPDATE, PRACK, PUBLISH\r\n")
		return
	}
	if m.maxForwards == 0 {
		w.refuseRequest(p, &fault{483, "Too Many Hops"}, "")
		return
	}
	if tags := unsupportedTags(m); tags != "" {
		w.refuseRequest(p, &fault{420, "Bad Extension"}, "Unsupported: "+tags+"\r\n")
		return
	}
	if w.proxy.draining.Load() && m.initial() && m.isMethod("INVITE") {
		w.refuseRequest(p, &fault{503, "Going Down"}, "Retry-After: 5\r\n")
		return
	}
	hash := w.loopHash(m)
	if w.isLoop(m, hash) {
		w.refuseRequest(p, &fault{482, "Loop Detected"}, "")
		return
	}
	r, f := w.routeRequest(p)
	if f != nil {
		w.refuseTowards(p, r.dst, f, "")
		return
	}
	id := w.newTxID()
	w.branchBuf = w.appendBranch(w.branchBuf[:0], id, hash)
	out := w.rewriteRequest(p, &r, w.branchBuf)

	t := &responseContext{worker: w, src: p.side, dst: r.dst, trunk: w.trunkName(p, &r), hasCredentials: m.hasField(hAuthorization), inDialog: !m.initial()}
	t.hasOurPath = w.proxy.cfg.addsPath() && r.dst == pbxSide && m.isMethod("REGISTER") && m.makesBinding()
	t.server.context = t
	t.server.start(w, key, w.responseDestination(p), m.isMethod("INVITE"), len(p.buf))
	if w.proxy.cfg.Observations != nil {
		t.branch = string(m.text(m.via.branch))
	}
	t.client = clientTx{worker: w, user: t, id: id, loopHash: hash, nextHop: r.nextHop, invite: t.server.invite, request: w.retainCopy(nil, out)}
	if t.server.invite {
		w.wheel.start(&t.server.timer, now+tryingDelay)
	}
	w.observe(p, &r, t.trunk)
	t.client.start(now)
}

// forUs reports whether an OPTIONS asks about the hop itself. One to a Contact that we
// have rewritten asks about a phone, also if the phone's Contact has no user.
func (w *worker) asksUs(m *message) bool {
	var u msg.Uri
	return parseURI(string(m.text(m.uri)), &u) == nil && u.User == "" && w.namesUs(&u) && !hasParam(&u, contactParam) && !m.hasField(hRoute)
}

// unsupported lists every tag of Proxy-Require: we know none (RFC 3261 §16.3 item 5).
// A Proxy-Require without a tag asks for nothing.
func unsupportedTags(m *message) string {
	var tags []string
	for i := range m.fields {
		if f := &m.fields[i]; f.name == hProxyRequire {
			for tag := range strings.SplitSeq(string(m.text(f.value)), ",") {
				if tag = strings.TrimSpace(tag); tag != "" {
					tags = append(tags, tag)
				}
			}
		}
	}
	return strings.Join(tags, ", ")
}

// forwardACK sends on the ACK of a 2xx, which is a request without a
// transaction (RFC 3261 §17.1, §13.2.2.4). The ACK of a response that we made
// and forgot is ours; nobody is told of one that cannot go on.
func (w *worker) forwardACK(now instant, p *packet) {
	m := &p.msg
	if m.maxForwards == 0 || string(m.text(m.toTag)) == string(w.ownTag(m)) {
		return
	}
	hash := w.loopHash(m)
	if w.isLoop(m, hash) {
		return
	}
	r, f := w.routeRequest(p)
	if f != nil {
		return
	}
	w.proveByRoute(now, p)
	w.forwardStateless(p, &r, hash)
}

// stateless sends a request on without a transaction. Its branch follows from
// the one it came with, so that retransmissions get the same (RFC 3261 §16.11).
func (w *worker) forwardStateless(p *packet, r *routeDecision, hash uint32) {
	m := &p.msg
	w.hash.Reset()
	w.hash.Write(m.text(m.via.value))
	w.hash.Write(m.text(m.callID))
	w.branchBuf = w.appendBranch(w.branchBuf[:0], w.hash.Sum64()&(1<<48-1), hash)
	w.observe(p, r, w.trunkName(p, r))
	w.sendMessage(r.nextHop, w.rewriteRequest(p, r, w.branchBuf), 0)
}

// cancel answers a CANCEL and takes it to the INVITE it is for, RFC 3261
// §9.2, §16.10. One that is for none goes on without state.
func (w *worker) handleCancel(now instant, p *packet, key serverKey) {
	m := &p.msg
	s := w.serverTxs.m[w.makeServerKey(m, []byte("INVITE"))]
	if s == nil {
		if m.maxForwards == 0 || w.requeueCancel(p) {
			return
		}
		r, f := w.routeRequest(p)
		if f != nil {
			w.refuseTowards(p, r.dst, f, "")
			return
		}
		w.forwardStateless(p, &r, w.loopHash(m))
		return
	}
	k := &serverTx{}
	k.start(w, key, w.responseDestination(p), false, len(p.buf))
	k.sendResponse(now, 200, w.makeResponse(p, 200, "OK", ""))
	if t := s.context; t != nil {
		w.observe(p, &routeDecision{dst: t.dst, nextHop: t.client.nextHop}, t.trunk)
		t.cancelInvite(now, m)
	}
}

// requeue puts a CANCEL for no INVITE behind the new requests of strangers, once,
// and reports whether it has: its INVITE may wait there, as its source was no
// known one yet when that came.
func (w *worker) requeueCancel(p *packet) bool {
	if p.requeued || len(w.strangerQueue) == 0 {
		return false
	}
	q := newPacket(p.buf)
	q.msg.index(q.buf, p.conn != nil)
	q.listener, q.conn, q.peer, q.side, q.receivedAt, q.requeued = p.listener, p.conn, p.peer, p.side, p.receivedAt, true
	if w.enqueue(workItem{packet: q}, fromStranger) {
		return true
	}
	q.release()
	return false
}

// response takes a response to the client transaction it is for. One that is
// for none is dropped (RFC 6026 §8.9, RFC 3261 §18.1.2).
func (w *worker) handleResponse(now instant, p *packet) {
	m := &p.msg
	if m.fault != nil {
		w.proxy.stats.malformed.Add(1)
		return
	}
	id, hash, _ := w.proxy.openBranch(m.text(m.via.branch))
	c := w.clientTxs.m[id]
	if m.isMethod("CANCEL") {
		c = w.cancelTxs.m[id]
	}
	if c == nil || c.loopHash != hash || m.isMethod("INVITE") != (c.invite) && !c.cancel {
		w.proxy.stats.stray.Add(1)
		return
	}
	c.handleResponse(now, m, p)
}

// refuse answers a request that is not sent on, without state: a repetition is
// refused again, and the ACK is known by the To tag. One within a dialog is observed
// all the same: with a BYE its sender has left (RFC 3261 §15.1.1), whether or not it
// finds its way. So is a CANCEL, which may be all that is heard of a call that rang when
// bellhop restarted. A stranger's is not: it ends nothing unless the PBX accepts it.
func (w *worker) refuseRequest(p *packet, f *fault, extra string) { w.refuseTowards(p, 0, f, extra) }

// refuseTo refuses a request that was to go to the side dst; 0: it is not known.
func (w *worker) refuseTowards(p *packet, dst dialog.Side, f *fault, extra string) {
	m := &p.msg
	if !m.answerable() {
		return
	}
	if !m.ambiguous && (!m.initial() || m.isMethod("CANCEL")) && (w.proxy.isKnown(p.receivedAt, p) || w.hasOwnRoute(m)) {
		w.observeRefused(p, dst, f, extra)
	}
	if f.status == 403 && p.side == edgeSide {
		w.proxy.diagnoseSource(p.receivedAt, p.peer, true)
	}
	if p.side == pbxSide && m.isMethod("REGISTER") {
		w.proxy.diagnosePhone(p)
	}
	w.sendOwnResponse(p, f.status, f.phrase, extra)
}

// hasRoute reports whether a Route of m has a token that we gave out in its dialog: its
// sender is no stranger there, however long the call lasts.
func (w *worker) hasOwnRoute(m *message) bool {
	rs, f := w.readRoutes(m)
	if f != nil {
		return false
	}
	for i := range rs {
		if u := &rs[i].uri; u.User != "" && w.namesUs(u) {
			if t, ok := w.sealer.openRouteToken(u.User, m); ok && (!t.unbound || w.oldDialogs.contains(m)) {
				return true
			}
		}
	}
	return false
}

// answer sends a response of our own. To an INVITE of a source that has not
// proved to be there it sends none that is larger than the INVITE.
func (w *worker) sendOwnResponse(p *packet, status int, phrase, extra string) {
	to, b := w.responseDestination(p), w.makeResponse(p, status, phrase, extra)
	if p.msg.isMethod("INVITE") && len(b) > len(p.buf) && !w.isProven(to) {
		w.proxy.stats.withheld.Add(1)
		return
	}
	w.sendMessage(to, b, 0)
}

// back is the way of the responses to p: on its connection, or to where it came
// from, at the port that rport or sent-by says (RFC 3261 §18.2.2, RFC 3581 §4).
func (w *worker) responseDestination(p *packet) destination {
	v := &p.msg.via
	to := p.peer
	if !v.hasRport || p.conn != nil {
		port := v.port
		if port == 0 {
			port = 5060
		}
		to = netip.AddrPortFrom(p.peer.Addr(), uint16(port))
	}
	return destination{listener: p.listener, addr: to, conn: p.conn}
}

// send writes b and reports whether the transport took it. id names the client
// transaction to tell when it turns out later that it did not go. When the
// stream is gone, another is opened: a response then goes to where its request
// came from, at the port of sent-by, and nowhere else (RFC 3261 §18.2.2).
func (w *worker) sendMessage(to destination, b []byte, id uint64) bool {
	if to.conn == nil {
		return to.listener.writeDatagram(b, to.addr) == nil
	}
	return to.conn.queueMessage(b, id) || w.proxy.streams.openTo(to.addr, to.listener).queueMessage(b, id)
}

// Memory that messages were kept in serves for others: sizes are multiples of
// spareStep, up to maxSpareBuffer; a larger message has memory of its own, which
// is left to the collector, as is what is beyond maxSpareBytes in all. A worker
// without a transaction has none.
const (
	bufferStep    = 256
	maxFreeBuffer = 4 << 10
	maxFreeBytes  = 1 << 20
)

// keep copies b into old, if that is large enough and no waste, or into memory
// that was kept in before. What a transaction keeps is from here, and goes back
// with forget: it is counted.
func (w *worker) retainCopy(old, b []byte) []byte {
	if c := cap(old); old != nil && len(b) <= c && c <= max(2*len(b), bufferStep) {
		return append(old[:0], b...)
	}
	w.releaseCopy(old)
	size := max(len(b), 1)
	if size <= maxFreeBuffer {
		size = (size + bufferStep - 1) / bufferStep * bufferStep
		if s := &w.freeBuffers[size/bufferStep-1]; len(*s) > 0 {
			old = (*s)[len(*s)-1]
			*s = (*s)[:len(*s)-1]
			w.freeBytes -= size
			w.heldBytes += size
			return append(old[:0], b...)
		}
	}
	w.heldBytes += size
	return append(make([]byte, 0, size), b...)
}

// forget takes the memory of a kept message back. It returns nil.
func (w *worker) releaseCopy(b []byte) []byte {
	size := cap(b)
	w.heldBytes -= size
	if w.heldBytes == 0 {
		clear(w.freeBuffers[:])
		w.freeBytes = 0
		return nil
	}
	if 0 < size && size <= maxFreeBuffer && w.freeBytes+size <= maxFreeBytes {
		s := &w.freeBuffers[size/bufferStep-1]
		*s = append(*s, b)
		w.freeBytes += size
	}
	return nil
}

// trunkOf is the name of the trunk that a request comes from or goes to, "" if none.
func (w *worker) trunkName(p *packet, r *routeDecision) string {
	t := r.trunk
	if r.dst == edgeSide {
		t = w.proxy.trunkAt(r.nextHop.addr.Addr())
	} else if p.side == pbxSide {
		t = w.proxy.trunkAt(p.peer.Addr())
	}
	if t == nil {
		return ""
	}
	return t.Name
}

// newID numbers client transactions so that the id tells the worker.
func (w *worker) newTxID() uint64 {
	w.lastTxID++
	return (w.lastTxID*uint64(len(w.proxy.workers)) + uint64(w.index)) & (1<<48 - 1)
}

// transactionSize is about what a server or client transaction takes up beside
// the messages it keeps.
const transactionSize = 384

func (w *worker) addClientTx(c *clientTx) {
	w.heldBytes += transactionSize
	if c.cancel {
		w.cancelTxs.put(c.id, c)
		return
	}
	w.clientTxs.put(c.id, c)
}

func (w *worker) removeClientTx(c *clientTx) {
	t := &w.clientTxs
	if c.cancel {
		t = &w.cancelTxs
	}
	if t.m[c.id] == c {
		t.remove(c.id)
		w.heldBytes -= transactionSize
	}
}
