// Package trace records the SIP messages of the last calls, and draws each call as a
// ladder diagram.
//
// A [Recorder] gets each message when the tracker observes it, after the proxy has
// handled it. So recording delays no message. Each message is recorded as bellhop
// received it. The forwarded message is the same, except for bellhop's own Via,
// Record-Route and the like. Of the messages that bellhop creates itself, only its own
// responses in place of a silent party are recorded. A CANCEL and the ACK of a rejected
// INVITE are drawn from end to end, although each hop sends its own.
//
// # Secrets
//
// Secrets are masked before a message is stored: see mask.go. Each byte of a secret is
// replaced by an x, so that lengths stay the same.
//
// # Memory
//
// A Recorder holds up to a configured number of live calls. If that many are live, new
// calls are not recorded. It holds up to the same number of ended calls, and evicts the
// oldest first. Calls that ended without any event, such as those of a scanner, are in a
// list of their own. That list holds a quarter as many, and 1 MiB at most, so that they
// evict no other call.
//
// A call has at most 256 messages, 256 KiB and 32 ends; a message has at most 16 KiB. All
// calls together have at most 64 MiB. If that is full, ended calls are evicted first, and
// then messages are left out. A call counts the messages that are left out.
package trace

import (
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"bellhop/dialog"
)

const (
	maxMessages       = 256       // per call
	maxEnds           = 32        // per call, besides the PBX
	maxCallBytes      = 256 << 10 // per call
	maxMessageBytes   = 16 << 10  // per message, head and body
	maxBodyBytes      = 8 << 10   // per body: longer ones are truncated
	maxTotalBytes     = 64 << 20  // of all calls
	maxEventlessBytes = 1 << 20   // of all calls without any event

	sweepInterval = 10 * time.Second
)

// A Recorder records the messages of the last calls. It must be used from the
// tracker's goroutine only.
type Recorder struct {
	maxCalls  int                // live calls, and as many ended ones; 0: nothing is recorded
	live      map[string]*record // by call id
	ended     *endedCalls        // ended calls with events
	eventless *endedCalls        // ended calls without any event
	byCallID  map[string]*record // all calls, by the Call-IDs of their legs
	bytes     int                // memory of all calls
	lastSweep time.Time

	eventlessBytes int // memory of the calls in eventless
	panics         uint64

	// OnPanic, if not nil, is called in the tracker's goroutine after a panic of the
	// Recorder, when all records are discarded.
	OnPanic func(reason any, stack []byte)
}

// A record is a recorded call. Its times are on the clock of [dialog.Message.At]:
// [Recorder.Call] returns a copy with wall clock times.
type record struct {
	Call
	list     *endedCalls // the list that has the call; nil: the call is live
	hasEvent bool        // the tracker has emitted an event of the call
	bytes    int
}

// endedCalls are ended calls in the order in which they ended. Lookups use Peek, because
// it keeps that order.
type endedCalls = simplelru.LRU[string, *record]

// New returns a Recorder of up to calls live calls, and as many ended ones.
func New(calls int) *Recorder {
	const unbounded = 1 << 30                                     // evictExcess bounds the lists
	ended, _ := simplelru.NewLRU[string, *record](unbounded, nil) // an error means a size of 0
	eventless, _ := simplelru.NewLRU[string, *record](unbounded, nil)
	return &Recorder{maxCalls: calls, live: map[string]*record{}, ended: ended, eventless: eventless, byCallID: map[string]*record{}}
}

// Configure sets the number of live calls, and of ended ones, that are recorded. With
// 0, all records are discarded and nothing is recorded.
func (r *Recorder) Configure(calls int) {
	r.maxCalls = calls
	r.evictExcess()
	if calls > 0 {
		return
	}
	for _, c := range r.live {
		r.evictCall(c)
	}
}

// evictExcess evicts ended calls until their lists are within their limits.
func (r *Recorder) evictExcess() {
	for r.ended.Len() > r.maxCalls {
		r.evictOldest(r.ended)
	}
	for r.eventless.Len() > (r.maxCalls+3)/4 || r.eventlessBytes > maxEventlessBytes {
		r.evictOldest(r.eventless)
	}
}

func (r *Recorder) evictOldest(from *endedCalls) {
	_, c, _ := from.GetOldest()
	r.evictCall(c)
}

// evictCall removes a call and all references to it.
func (r *Recorder) evictCall(c *record) {
	r.removeFromList(c)
	r.bytes -= c.bytes
	for _, l := range c.Legs {
		if r.byCallID[l.CallID] == c {
			delete(r.byCallID, l.CallID)
		}
	}
}

// removeFromList removes a call from the live calls or from the list that it is in.
func (r *Recorder) removeFromList(c *record) {
	if c.list == nil {
		delete(r.live, c.ID)
		return
	}
	c.list.Remove(c.ID)
	if c.list == r.eventless {
		r.eventlessBytes -= c.bytes
	}
}

// moveToList moves a call to the live calls if up. Otherwise it moves the call to the
// ended calls with events or to those without.
func (r *Recorder) moveToList(c *record, up bool) {
	to := r.eventless
	switch {
	case up:
		to = nil
	case c.hasEvent:
		to = r.ended
	}
	if to == c.list {
		return
	}
	r.removeFromList(c)
	c.list = to
	if up {
		r.live[c.ID] = c
		return
	}
	to.Add(c.ID, c)
	if to == r.eventless {
		r.eventlessBytes += c.bytes
	}
	r.evictExcess()
}

// Observe passes a message to t, records it if it belongs to a call, and returns the
// events that t emits.
func (r *Recorder) Observe(t *dialog.Tracker, m dialog.Message) []dialog.Event {
	if r.maxCalls == 0 {
		return t.Observe(m)
	}
	id, _ := t.CallOf(m.CallID)
	events := t.Observe(m)
	r.recoverPanic(func() { r.recordMessage(t, id, &m, events) })
	return events
}

// recordMessage records a message that t has observed. id is the call that its Call-ID
// belonged to before t observed it, or "".
func (r *Recorder) recordMessage(t *dialog.Tracker, id string, m *dialog.Message, events []dialog.Event) {
	now, up := t.CallOf(m.CallID)
	if now != "" {
		id = now // else this message has ended the call
	}
	if c := r.findOrCreateRecord(t, id, up, m); c != nil {
		r.moveToList(c, true) // else addMessage could evict the call itself
		r.addMessage(t, c, m)
		r.applyEvents(events)
		if len(c.Messages) > 0 {
			r.moveToList(c, up)
		} else {
			r.evictCall(c)
		}
	}
}

// recoverPanic calls f. If f panics, the panic is counted, all records are discarded,
// as they may be damaged, and OnPanic is called. The tracker and its events are not
// affected.
func (r *Recorder) recoverPanic(f func()) {
	defer func() {
		reason := recover()
		if reason == nil {
			return
		}
		panics, panicked := r.panics+1, r.OnPanic
		*r = *New(r.maxCalls)
		r.panics, r.OnPanic = panics, panicked
		if panicked != nil {
			panicked(reason, debug.Stack())
		}
	}()
	f()
}

// Panics returns the number of panics after which all records were discarded.
func (r *Recorder) Panics() uint64 { return r.panics }

// Advance advances t to now, and returns the events that t emits.
func (r *Recorder) Advance(t *dialog.Tracker, now time.Time) []dialog.Event {
	events := t.Advance(now)
	r.recoverPanic(func() {
		r.applyEvents(events)
		for i := range events {
			if c := r.findRecord(events[i].Call); c != nil {
				r.moveToList(c, c.isLive(t))
			}
		}
	})
	return events
}

// findOrCreateRecord returns the record of the call with the id. If id is "", it returns
// the record that has the Call-ID of m. If there is no record and up is true, because the
// call is up, it creates one. It returns nil if there is none, or no room for a new one.
func (r *Recorder) findOrCreateRecord(t *dialog.Tracker, id string, up bool, m *dialog.Message) *record {
	if id == "" {
		return r.byCallID[m.CallID]
	}
	if c := r.findRecord(id); c != nil || !up {
		return c
	}
	if len(r.live) >= r.maxCalls {
		r.sweepEnded(t, m.At, nil)
	}
	if len(r.live) >= r.maxCalls || !r.makeRoom(t, recordBytes, m.At, nil) {
		return nil
	}
	c := &record{Call: Call{
		ID: strings.Clone(id), Began: m.At,
		Ends: []End{{Name: "pbx", Side: dialog.PBX}}, Messages: make([]Message, 0, initialMessages),
	}}
	c.bytes = recordBytes
	r.bytes += recordBytes
	r.live[c.ID] = c
	return c
}

func (r *Recorder) findRecord(id string) *record {
	if c := r.live[id]; c != nil {
		return c
	}
	if c, ok := r.ended.Peek(id); ok {
		return c
	}
	c, _ := r.eventless.Peek(id)
	return c
}

// sweepEnded moves calls that ended at a deadline, without a message, from the live calls
// to the ended ones. It does not move the call except. It does nothing if it ran less
// than sweepInterval ago.
func (r *Recorder) sweepEnded(t *dialog.Tracker, now time.Time, except *record) {
	if now.Sub(r.lastSweep) < sweepInterval {
		return
	}
	r.lastSweep = now
	for _, c := range r.live {
		if c != except && !c.isLive(t) {
			r.moveToList(c, false)
		}
	}
}

func (c *record) isLive(t *dialog.Tracker) bool {
	return slices.ContainsFunc(c.Legs, func(l Leg) bool {
		id, up := t.CallOf(l.CallID)
		return up && id == c.ID
	})
}

// makeRoom evicts ended calls until there is room for n bytes, and reports whether there
// is. except, if not nil, is the call that the room is for; it is not evicted.
func (r *Recorder) makeRoom(t *dialog.Tracker, n int, now time.Time, except *record) bool {
	for r.bytes+n > maxTotalBytes {
		if r.eventless.Len() == 0 && r.ended.Len() == 0 {
			r.sweepEnded(t, now, except)
		}
		switch {
		case r.eventless.Len() > 0:
			r.evictOldest(r.eventless)
		case r.ended.Len() > 0:
			r.evictOldest(r.ended)
		default:
			return false
		}
	}
	return true
}

// Memory that is counted besides the texts, in bytes. A message, and a leg with its end,
// count twice their size, because append grows a slice ahead of need. 512 and 256 are for
// entries of maps.
const (
	recordBytes     = int(unsafe.Sizeof(record{})) + initialMessages*messageBytes + 512
	initialMessages = 8 // capacity for messages in a new record
	messageBytes    = 2 * int(unsafe.Sizeof(Message{}))
	legBytes        = 2*int(unsafe.Sizeof(Leg{})+unsafe.Sizeof(End{})) + 256
)

// addMessage adds a message to a call, or counts it as left out if a limit is reached.
func (r *Recorder) addMessage(t *dialog.Tracker, c *record, m *dialog.Message) {
	head, body := m.Head, m.Body
	cut := len(head)+len(body) > maxMessageBytes || len(body) >= maxBodyBytes
	if cut {
		head = head[:min(len(head), maxMessageBytes)]
		body = body[:min(len(body), maxMessageBytes-len(head))]
	}
	// An allocation is up to an eighth larger than requested.
	n := (len(head)+len(body))*9/8 + messageBytes
	leg, known := c.findLeg(m)
	if !known {
		n += legBytes + len(m.CallID) + maxName
	}
	if len(c.Messages) >= maxMessages || !known && len(c.Ends) > maxEnds || c.bytes+n > maxCallBytes || !r.makeRoom(t, n, m.At, c) {
		c.LeftOut++
		return
	}
	if !known {
		leg = c.addLeg(m)
		r.byCallID[c.Legs[leg].CallID] = c
	}
	c.bytes += n
	r.bytes += n
	k := Message{
		At: m.At, Leg: leg, Method: methodName(m.Method), Status: m.Status,
		Own: m.Own, Absorbed: m.Status == 100 && !m.Own, Truncated: cut,
		From: m.From, To: m.To, Local: m.Local, Stream: m.Stream,
	}
	k.Sender, k.Receiver = c.findEnd(m, m.Src, m.From), c.findEnd(m, m.Dst, m.To)
	k.Head, k.Body = maskMessage(head, body, cut)
	c.Messages = append(c.Messages, k)
}

// findLeg returns the leg of a message: the leg that has the same Call-ID and the same
// end besides the PBX. known is false if there is none.
func (c *record) findLeg(m *dialog.Message) (leg int, known bool) {
	at := edgeAddress(m)
	for i := range c.Legs {
		l := &c.Legs[i]
		within := l.End == 0 && !at.IsValid() // the PBX
		if l.CallID == m.CallID && (within || l.End != 0 && c.Ends[l.End].matches(m.Trunk, at)) {
			return i, true
		}
	}
	return 0, false
}

// edgeAddress returns the address of the end of m that is not the PBX. If both ends are
// the PBX, it returns the zero AddrPort. If neither is, it returns the address of the
// receiver of the request.
func edgeAddress(m *dialog.Message) netip.AddrPort {
	switch {
	case m.Src == dialog.PBX && m.Dst == dialog.PBX:
		return netip.AddrPort{}
	case m.Dst == dialog.Edge && (m.Src == dialog.PBX || m.Request()):
		return m.To
	}
	return m.From
}

func (c *record) addLeg(m *dialog.Message) int {
	l := Leg{CallID: strings.Clone(m.CallID), Origin: m.Origin()}
	if at := edgeAddress(m); at.IsValid() {
		calls := at == m.Originator()
		l.End = c.findEdgeEnd(m.Trunk, at, calls)
		if e := &c.Ends[l.End]; e.Name == "" {
			e.Name = initialName(m, calls)
		}
	}
	c.Legs = append(c.Legs, l)
	return len(c.Legs) - 1
}

// findEnd returns the index of the end that sent or received m on side with the address
// at. It adds a missing end.
func (c *record) findEnd(m *dialog.Message, side dialog.Side, at netip.AddrPort) int {
	if side == dialog.PBX {
		if e := &c.Ends[0]; !e.Address.IsValid() {
			e.Address = at
		}
		return 0
	}
	trunk := m.Trunk
	if at != edgeAddress(m) {
		trunk = ""
	}
	return c.findEdgeEnd(trunk, at, at == m.Originator())
}

// findEdgeEnd returns the index of the end of a trunk or, if trunk is "", of an address
// on the edge side. It adds a missing one.
func (c *record) findEdgeEnd(trunk string, at netip.AddrPort, calls bool) int {
	for i := range c.Ends[1:] {
		if c.Ends[i+1].matches(trunk, at) {
			return i + 1
		}
	}
	c.Ends = append(c.Ends, End{Name: trunk, Trunk: trunk, Address: at, Side: dialog.Edge, Calls: calls})
	return len(c.Ends) - 1
}

// applyEvents marks the calls that have events. It also names ends after the extensions
// in the events: the caller's end after the extension of a dial-out, the callee's end
// after that of a dial-in.
func (r *Recorder) applyEvents(events []dialog.Event) {
	for i := range events {
		e := &events[i]
		c := r.findRecord(e.Call)
		if c == nil {
			continue
		}
		c.hasEvent = true
		switch e.Type {
		case dialog.DialOut:
			c.nameEnd(e, dialog.Edge)
		case dialog.DialIn:
			c.nameEnd(e, dialog.PBX)
		}
	}
}

// nameEnd names the end of a leg after the extension of e. The leg is the newest one with
// the Call-ID of e that began on the side origin. Trunks keep their names.
func (c *record) nameEnd(e *dialog.Event, origin dialog.Side) {
	for _, l := range slices.Backward(c.Legs) {
		if l.CallID == e.Leg.CallID && l.Origin == origin && l.End != 0 {
			if end := &c.Ends[l.End]; end.Trunk == "" {
				end.Name = truncateName(e.Extension.User)
			}
			return
		}
	}
}

// Call returns a recorded call. The Call shares no memory that will change.
func (r *Recorder) Call(t *dialog.Tracker, id string) (out Call, ok bool) {
	r.recoverPanic(func() { out, ok = r.copyCall(t, id) })
	return out, ok
}

func (r *Recorder) copyCall(t *dialog.Tracker, id string) (out Call, ok bool) {
	c := r.findRecord(id)
	if c == nil {
		return Call{}, false
	}
	out = c.Call
	out.Up = c.isLive(t)
	out.Ends, out.Legs, out.Messages = slices.Clone(c.Ends), slices.Clone(c.Legs), slices.Clone(c.Messages)
	// The workers of two legs run in parallel, so messages may be observed out of order.
	slices.SortStableFunc(out.Messages, func(a, b Message) int { return a.At.Compare(b.At) })
	var first time.Time
	for i := range out.Messages {
		m := &out.Messages[i]
		if i == 0 {
			first = m.At
		}
		m.At, m.After = t.Wall(m.At), m.At.Sub(first)
	}
	out.Began = t.Wall(out.Began)
	return out, true
}
