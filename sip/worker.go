package sip

import (
	"context"
	"crypto/sha256"
	"hash/maphash"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"bellhop/dialog"
	"bellhop/dialog/siptext"
)

// Limits of a worker's queues, in messages and in bytes of their buffers.
//
// A tenth is reserved for requests within a dialog and for responses, so that a flood
// displaces no BYE. New requests of unknown sources have a queue of their own, which is
// served while the other is empty and may take half of the bytes.
const (
	maxQueuedItems     = 8192
	maxQueuedStrangers = 8192
	maxQueuedBytes     = 16 << 20
	maxPooledBuffer    = 4 << 10 // larger buffers do not go back to the pool
)

// priority is the order of work under load: a higher value waits longer and is dropped
// first.
type priority uint8

const (
	inDialog     priority = iota // a response, or a request of a known source within a dialog
	fromKnown                    // a new request of a known source, or an unknown source's request with a To tag
	fromStranger                 // a new request of an unknown source
)

// maxHeldPerWorker times the number of workers is the limit of the bytes that the
// transactions of all workers hold together; a single worker counts as two. It is the
// memory of 2,500 calls a second on each processor. See [worker.admitRequest].
const maxHeldPerWorker = 96 << 20

// worker owns the transactions of the calls whose Call-ID hashes to it. It handles one
// message or timer at a time.
//
// The goroutine of run handles queued work items. To wake it costs as much as to forward
// a message. A reader that finds no queued work, and reads no backlog from its socket,
// therefore handles its message inline (see [worker.tryInline]).
//
// mu guards the fields below it.
type worker struct {
	proxy          *Proxy
	index          int
	queue          chan workItem
	strangerQueue  chan workItem // new requests of unknown sources
	queuedBytes    atomic.Int64  // bytes of work items that are queued or being handled
	shedding       atomic.Bool   // new requests of unknown sources are dropped
	blockedStreams atomic.Int32  // streams that wait for room in the queue
	roomFreed      chan struct{} // wakes one blocked stream

	mu sync.Mutex // only run waits for it; readers use TryLock

	serverTxs    shrinkingMap[serverKey, *serverTx]
	clientTxs    shrinkingMap[uint64, *clientTx]
	cancelTxs    shrinkingMap[uint64, *clientTx] // CANCEL transactions, by the id of their INVITE
	lastTxID     uint64
	heldBytes    int     // bytes that the transactions hold
	maxHeldBytes int     // limit of heldBytes
	shedLoggedAt instant // time of the last log line about shed requests
	wheel        wheel
	timer        *time.Timer
	timerSetTo   instant // when timer fires; 0: it is not set

	oldDialogs      oldDialogs
	answeredRequest []byte // request, as sent, whose final response is being handled; else nil

	// Scratch memory, valid until the next message.
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

	freeBuffers [maxFreeBuffer / bufferStep][][]byte // released buffers for reuse, by size
	freeBytes   int
}

// workItem is one unit of work: a received message, or a request that could not be sent.
type workItem struct {
	packet   *packet
	failedTx uint64 // id of the client transaction whose request failed; packet is nil
}

// packet is a received message and its origin. Its buffer returns to packetPool when the
// worker has handled it; bytes that are kept longer must be copied.
type packet struct {
	msg        message
	buf        []byte
	listener   *listener
	conn       *stream // nil over UDP
	peer       netip.AddrPort
	side       dialog.Side
	receivedAt instant
	endsStream bool // the stream cannot be read after this message and is closed

	requeued bool // a CANCEL that was moved after the new requests of unknown sources
}

var packetPool = sync.Pool{New: func() any { return new(packet) }}

// newPacket copies b into a packet from the pool.
func newPacket(b []byte) *packet {
	p := packetPool.Get().(*packet)
	p.buf = append(p.buf[:0], b...)
	return p
}

// release returns the packet to the pool, and closes the stream if the packet ends it. A
// packet with a large buffer is left to the garbage collector.
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

// newWorker returns the worker with that index. Its goroutine is started by Run.
func newWorker(px *Proxy, index int) *worker {
	w := &worker{
		proxy:         px,
		index:         index,
		queue:         make(chan workItem, maxQueuedItems),
		strangerQueue: make(chan workItem, maxQueuedStrangers),
		roomFreed:     make(chan struct{}, 1),
		maxHeldBytes:  maxHeldPerWorker * max(px.cfg.Workers, 2) / px.cfg.Workers,
		sealer:        newSealer(px.cfg.Key),
		timer:         time.NewTimer(time.Hour),
	}
	w.hash.SetSeed(px.hashSeed)
	return w
}

func (w *worker) now() instant { return w.proxy.now() }

// run handles messages and timers until ctx ends. New requests of unknown sources wait
// until the other queue is empty.
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

// handleQueued handles a work item from a queue.
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

// handleDueTimers fires the due timers and sets the next one.
func (w *worker) handleDueTimers() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timerSetTo = 0
	w.fireTimers()
	w.updateShedding(w.now())
	w.resetTimer()
}

// tryInline handles a work item on the goroutine of the caller. It never waits: it
// returns false if the worker has queued work or is busy.
func (w *worker) tryInline(in workItem) bool {
	if w.queuedBytes.Load() > 0 || !w.mu.TryLock() {
		return false
	}
	defer w.mu.Unlock()
	w.handleItem(in)
	w.resetTimer()
	return true
}

// queuedSize returns the bytes that a work item takes up in a queue, at least 1.
func (in workItem) queuedSize() int64 {
	if in.packet == nil {
		return 1
	}
	return int64(max(cap(in.packet.buf), 1))
}

// enqueue adds a work item to the queue of its priority, and returns false if there is
// no room.
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

// enqueueWaiting adds a work item to the queue as soon as there is room. It returns
// false if done is closed first.
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

// wakeBlocked wakes one stream that waits for room in the queue. It is called after each
// work item, so one stream at a time is enough.
func (w *worker) wakeBlocked() {
	select {
	case w.roomFreed <- struct{}{}:
	default:
	}
}

// resetTimer sets the worker's timer to the next tick at which a timer of the wheel is
// due.
func (w *worker) resetTimer() {
	at, ok := w.wheel.next()
	if !ok || w.timerSetTo != 0 && w.timerSetTo <= at {
		return
	}
	w.timerSetTo = at
	w.timer.Reset(time.Duration(at - w.now()))
}

// handleItem handles a work item. The caller holds mu.
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

// handleMessage handles one message and releases its packet. A panic is logged and costs
// this message only.
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

// fireTimers fires the due timers. A panic costs the timer that caused it: the others of
// its tick stay due.
func (w *worker) fireTimers() {
	defer func() {
		if r := recover(); r != nil {
			w.logPanic("timer", r)
			w.wheel.firedUntil -= tickLength
		}
	}()
	w.wheel.advance(w.now())
}

// handleSendFailure handles a transport error of the request of a client transaction.
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

// endsTransaction reports whether a transport error of the request of c ends c.
//
// An error of a stream does. An ICMP error does not: a next hop that restarts is back
// before Timer B, so the datagram counts as lost, and Timers A and E retransmit it. An
// ICMP error does end a probe, and a new request while another PBX answers: its sender
// gets a failure at once and can try again.
func (w *worker) endsTransaction(c *clientTx) bool {
	if _, forwarded := c.user.(*responseContext); c.nextHop.reliable() || !forwarded {
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

// handleRequest handles a request: a retransmission, an ACK, a CANCEL, or a new request
// to forward.
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

// serverKey identifies a server transaction: 128 bits of a SHA-256 over a secret of the
// process and the fields that RFC 3261 §17.2.3 compares. Its size does not depend on the
// request. To find two requests with the same key takes about 2^64 tries against this
// process.
type serverKey [16]byte

// makeServerKey returns the key of the server transaction that a request with the given
// method belongs to. An ACK belongs to its INVITE. A CANCEL has a transaction of its
// own.
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

// forwardRequest forwards a new request (RFC 3261 §16.3–16.6), or answers it itself.
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

// asksUs reports whether an OPTIONS is addressed to the proxy itself. One to a Contact
// that the proxy has rewritten is addressed to a phone, even if the phone's Contact has
// no user.
func (w *worker) asksUs(m *message) bool {
	var u siptext.URI
	return parseURI(string(m.text(m.uri)), &u) == nil && u.User == "" && w.namesUs(&u) && !hasParam(&u, contactParam) && !m.hasField(hRoute)
}

// unsupportedTags lists every option tag of Proxy-Require: the proxy supports none (RFC
// 3261 §16.3 item 5). A Proxy-Require without a tag requires nothing.
func unsupportedTags(m *message) string {
	var tags []string
	for i := range m.fields {
		if f := &m.fields[i]; f.name == hProxyRequire {
			tags = slices.AppendSeq(tags, siptext.List(string(m.text(f.value))))
		}
	}
	return strings.Join(tags, ", ")
}

// forwardACK forwards the ACK of a 2xx, which has no transaction (RFC 3261 §17.1,
// §13.2.2.4). The ACK of a final response that the proxy made without state is absorbed.
// An ACK that cannot be routed is dropped: an ACK is never answered.
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

// forwardStateless forwards a request without a transaction. Its branch is a function of
// the Via it came with, so that retransmissions get the same branch (RFC 3261 §16.11).
func (w *worker) forwardStateless(p *packet, r *routeDecision, hash uint32) {
	m := &p.msg
	w.hash.Reset()
	w.hash.Write(m.text(m.via.value))
	w.hash.Write(m.text(m.callID))
	w.branchBuf = w.appendBranch(w.branchBuf[:0], w.hash.Sum64()&(1<<48-1), hash)
	w.observe(p, r, w.trunkName(p, r))
	w.sendMessage(r.nextHop, w.rewriteRequest(p, r, w.branchBuf), 0)
}

// handleCancel answers a CANCEL and cancels its INVITE (RFC 3261 §9.2, §16.10). A CANCEL
// without an INVITE is forwarded without state.
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

// requeueCancel moves a CANCEL without an INVITE after the new requests of unknown
// sources, once, and reports whether it did. The INVITE may wait there: its source may
// have become known only after it came.
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

// handleResponse passes a response to its client transaction. A response without one is
// dropped (RFC 6026 §8.9, RFC 3261 §18.1.2).
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

// refuseRequest answers a request that is not forwarded. It keeps no state: a
// retransmission is refused again, and the ACK is recognized by its To tag. See
// refuseTowards.
func (w *worker) refuseRequest(p *packet, f *fault, extra string) { w.refuseTowards(p, 0, f, extra) }

// refuseTowards refuses a request that was to go to the side dst; 0 is unknown.
//
// A refused request within a dialog is observed: the sender of a BYE has left the dialog
// even if the BYE reaches nobody (RFC 3261 §15.1.1). A refused CANCEL is observed too:
// it may be the only trace of a call that rang when bellhop restarted. Requests of
// unknown sources are not observed: they end nothing unless the PBX accepts them.
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

// hasOwnRoute reports whether a Route of m carries a token that the proxy issued in the
// dialog of m. The sender of such a request is known in that dialog, however long the
// call lasts.
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

// sendOwnResponse sends a response that the proxy makes itself, without state. To an
// INVITE of a source that has not proved its address it sends no response that is larger
// than the INVITE.
func (w *worker) sendOwnResponse(p *packet, status int, phrase, extra string) {
	to, b := w.responseDestination(p), w.makeResponse(p, status, phrase, extra)
	if p.msg.isMethod("INVITE") && len(b) > len(p.buf) && !w.isProven(to) {
		w.proxy.stats.withheld.Add(1)
		return
	}
	w.sendMessage(to, b, 0)
}

// responseDestination returns where responses to p go: to its connection, or to its
// source address, at the port that rport or sent-by names (RFC 3261 §18.2.2, RFC 3581
// §4).
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

// sendMessage sends b and reports whether the transport accepted it. tx is the id of the
// client transaction that gets a later transport error; 0 is none.
//
// If the stream is closed, another one is opened to the same address. For a response
// that is the source address of its request, at the port of sent-by, and no other (RFC
// 3261 §18.2.2).
func (w *worker) sendMessage(to destination, b []byte, tx uint64) bool {
	if to.conn == nil {
		return to.listener.writeDatagram(b, to.addr) == nil
	}
	return to.conn.queueMessage(b, tx) || w.proxy.streams.openTo(to.addr, to.listener).queueMessage(b, tx)
}

// Limits of the buffers that a worker keeps for reuse. Their sizes are multiples of
// bufferStep up to maxFreeBuffer. Larger buffers, and those beyond maxFreeBytes in all,
// are left to the garbage collector. A worker without transactions keeps none.
const (
	bufferStep    = 256
	maxFreeBuffer = 4 << 10
	maxFreeBytes  = 1 << 20
)

// retainCopy copies b into old, if old is large enough and not wastefully large, else
// into a free or new buffer. Messages that transactions keep are retained here: their
// bytes count in heldBytes until releaseCopy.
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

// releaseCopy frees a buffer of retainCopy. It always returns nil.
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

// trunkName returns the name of the trunk that a request comes from or goes to, or "".
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

// newTxID returns the next id of a client transaction. The id modulo the number of
// workers is the index of the worker.
func (w *worker) newTxID() uint64 {
	w.lastTxID++
	return (w.lastTxID*uint64(len(w.proxy.workers)) + uint64(w.index)) & (1<<48 - 1)
}

// transactionSize is about the bytes that a server or client transaction takes up,
// without the messages it retains.
const transactionSize = 384

// addClientTx puts c into its table and counts its memory.
func (w *worker) addClientTx(c *clientTx) {
	w.heldBytes += transactionSize
	if c.cancel {
		w.cancelTxs.put(c.id, c)
		return
	}
	w.clientTxs.put(c.id, c)
}

// removeClientTx removes c, unless its id belongs to another transaction by now.
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
