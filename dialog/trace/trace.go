// Package trace keeps the messages of the last calls, and draws them as ladders.
//
// A [Recorder] stands before the tracker, and so behind the way of the messages:
// what it shows is what was observed. Each message is kept as bellhop received
// it. What it sends on is the same, but for its own Via, Record-Route and the
// like. Of bellhop's own messages only the answers are seen that it gives in place
// of somebody who gave none. A CANCEL and the ACK of a refusal are drawn to the
// other end, though each hop sends its own.
//
// # Secrets
//
// They are masked before a message is kept: see mask. An x stands for each
// byte, so that lengths are as they were.
//
// # Memory
//
// Calls that are up are kept, [Recorder.Configure] says how many, and as many
// that are over: they make room, the oldest first. While as many are up, new
// ones are not recorded. Calls of which no event was said, which is all that a
// scanner gets, have a room of their own, a quarter as large and of 1 MiB at
// most, and push nobody out. Of a call the first 256 messages are kept, 256 KiB
// of them and 32 ends, and of a message 16 KiB. All together is at most 64 MiB:
// when that is full, those that are over go first, and then messages are left
// out. What is left out is counted.
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
	maxMessages       = 256       // of a call
	maxEnds           = 32        // of a call
	maxCallBytes      = 256 << 10 // bytes of a call
	maxMessageBytes   = 16 << 10  // bytes of a message
	maxBodyBytes      = 8 << 10   // bytes of a body: more are not shown
	maxTotalBytes     = 64 << 20  // in all
	maxEventlessBytes = 1 << 20   // bytes of the calls of which no event was said

	sweepInterval = 10 * time.Second
)

// A Recorder keeps the messages of the last calls. It belongs to the tracker's
// goroutine.
type Recorder struct {
	maxCalls  int                // calls of each kind; 0: nothing is kept
	live      map[string]*record // calls that are up, by id
	ended     *endedCalls
	eventless *endedCalls        // over, and no event was said of them
	byCallID  map[string]*record // all, by the Call-IDs of their legs
	bytes     int
	lastSweep time.Time

	eventlessBytes int // the bytes of the calls in unsaid
	panics         uint64

	// Panicked is told of a panic, after everything was forgotten; nil: nobody is.
	// It belongs to the tracker's goroutine, too.
	OnPanic func(reason any, stack []byte)
}

// A record is a call that is kept. Its times are on the clock of
// [dialog.Message.At] until [Recorder.Call] returns it.
type record struct {
	Call
	list     *endedCalls // nil: it is up
	hasEvent bool        // there was an event of it
	bytes    int
}

// finished are calls that are over, in the order of their ends. They are never
// looked up in a way that would change it.
type endedCalls = simplelru.LRU[string, *record]

// New returns a Recorder of so many calls.
func New(calls int) *Recorder {
	const unbounded = 1 << 30                                    // see fit
	over, _ := simplelru.NewLRU[string, *record](unbounded, nil) // fails only without a size
	unsaid, _ := simplelru.NewLRU[string, *record](unbounded, nil)
	return &Recorder{maxCalls: calls, live: map[string]*record{}, ended: over, eventless: unsaid, byCallID: map[string]*record{}}
}

// Configure changes how many calls are kept; 0: none.
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

// fit forgets calls that are over until there are no more than may be.
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

// forget gives the memory of a call back.
func (r *Recorder) evictCall(c *record) {
	r.removeFromList(c)
	r.bytes -= c.bytes
	for _, l := range c.Legs {
		if r.byCallID[l.CallID] == c {
			delete(r.byCallID, l.CallID)
		}
	}
}

// take takes a call from among those that it is in.
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

// put moves a call to where it belongs.
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

// Observe shows t a message, keeps it if it is a call's, and returns what t
// says.
func (r *Recorder) Observe(t *dialog.Tracker, m dialog.Message) []dialog.Event {
	if r.maxCalls == 0 {
		return t.Observe(m)
	}
	id, _ := t.CallOf(m.CallID)
	said := t.Observe(m)
	r.recoverPanic(func() { r.recordMessage(t, id, &m, said) })
	return said
}

// keep keeps a message, which t has observed and which was of the call with the id
// before.
func (r *Recorder) recordMessage(t *dialog.Tracker, id string, m *dialog.Message, said []dialog.Event) {
	now, up := t.CallOf(m.CallID)
	if now != "" {
		id = now // else it was a call until this message
	}
	if c := r.findOrCreateRecord(t, id, up, m); c != nil {
		r.moveToList(c, true) // or it would make room for its own message
		r.addMessage(t, c, m)
		r.applyEvents(said)
		if len(c.Messages) > 0 {
			r.moveToList(c, up)
		} else {
			r.evictCall(c)
		}
	}
}

// guard calls f. If f panics, it is counted, all that is kept is forgotten, as it
// may be damaged, and Panicked is told. Events and calls are not touched.
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

// Panics returns how often the Recorder has forgotten everything because of a bug.
func (r *Recorder) Panics() uint64 { return r.panics }

// Advance has t do what is due, and returns what t says.
func (r *Recorder) Advance(t *dialog.Tracker, now time.Time) []dialog.Event {
	said := t.Advance(now)
	r.recoverPanic(func() {
		r.applyEvents(said)
		for i := range said {
			if c := r.findRecord(said[i].Call); c != nil {
				r.moveToList(c, c.isLive(t))
			}
		}
	})
	return said
}

// record returns the record of the call with the id, or of one that had the
// message's Call-ID. Of a call that is up it makes one, if there is room.
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

// sweep looks for calls that ended without a message, but for one: their time
// was over.
func (r *Recorder) sweepEnded(t *dialog.Tracker, now time.Time, but *record) {
	if now.Sub(r.lastSweep) < sweepInterval {
		return
	}
	r.lastSweep = now
	for _, c := range r.live {
		if c != but && !c.isLive(t) {
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

// room makes room for n bytes, and reports false if there is none. One call does
// not make room: it is for that.
func (r *Recorder) makeRoom(t *dialog.Tracker, n int, now time.Time, but *record) bool {
	for r.bytes+n > maxTotalBytes {
		if r.eventless.Len() == 0 && r.ended.Len() == 0 {
			r.sweepEnded(t, now, but)
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

// Memory that is counted beside a text: of a message twice its size, as the
// list of them grows ahead; of a leg with its end likewise; and what the maps
// take.
const (
	recordBytes     = int(unsafe.Sizeof(record{})) + initialMessages*messageBytes + 512
	initialMessages = 8 // messages that a call has room for from the start
	messageBytes    = 2 * int(unsafe.Sizeof(Message{}))
	legBytes        = 2*int(unsafe.Sizeof(Leg{})+unsafe.Sizeof(End{})) + 256
)

// add keeps a message of a call.
func (r *Recorder) addMessage(t *dialog.Tracker, c *record, m *dialog.Message) {
	head, body := m.Head, m.Body
	cut := len(head)+len(body) > maxMessageBytes || len(body) >= maxBodyBytes
	if cut {
		head = head[:min(len(head), maxMessageBytes)]
		body = body[:min(len(body), maxMessageBytes-len(head))]
	}
	// An allocation is up to an eighth larger than what was asked for.
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

// leg finds the leg of a message: its Call-ID, and the end that is not the PBX.
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

// far is the address of the end of m that is not the PBX; if neither is, of who
// is called; if both are, it is none.
func edgeAddress(m *dialog.Message) netip.AddrPort {
	switch {
	case m.Src == dialog.PBX && m.Dst == dialog.PBX:
		return netip.AddrPort{}
	case m.Dst == dialog.Edge && (m.Src == dialog.PBX || m.Request()):
		return m.To
	}
	return m.From
}

// asker is the address of who sent the request.
func requestSender(m *dialog.Message) netip.AddrPort {
	if m.Request() {
		return m.From
	}
	return m.To
}

func (c *record) addLeg(m *dialog.Message) int {
	l := Leg{CallID: strings.Clone(m.CallID), Origin: m.Origin()}
	if at := edgeAddress(m); at.IsValid() {
		l.End = c.findEdgeEnd(m.Trunk, at, at == requestSender(m))
		e := &c.Ends[l.End]
		if e.Name == "" {
			e.Name = initialName(m, at == requestSender(m))
		}
	}
	c.Legs = append(c.Legs, l)
	return len(c.Legs) - 1
}

// end returns the end of a call where somebody on a side is.
func (c *record) findEnd(m *dialog.Message, side dialog.Side, at netip.AddrPort) int {
	if side == dialog.PBX {
		if e := &c.Ends[0]; !e.Address.IsValid() {
			e.Address = at
		}
		return 0
	}
	if at != edgeAddress(m) {
		return c.findEdgeEnd("", at, at == requestSender(m))
	}
	return c.findEdgeEnd(m.Trunk, at, at == requestSender(m))
}

// endAt returns the end with a trunk's name, or with an address on the edge
// side.
func (c *record) findEdgeEnd(trunk string, at netip.AddrPort, calls bool) int {
	for i := range c.Ends[1:] {
		if c.Ends[i+1].matches(trunk, at) {
			return i + 1
		}
	}
	c.Ends = append(c.Ends, End{Name: trunk, Trunk: trunk, Address: at, Side: dialog.Edge, Calls: calls})
	return len(c.Ends) - 1
}

// hear notes which calls there were events of, and takes the names of
// extensions from them: of who calls from a dial-out, and of who is called from a
// dial-in, which is said of the newest leg.
func (r *Recorder) applyEvents(said []dialog.Event) {
	for i := range said {
		e := &said[i]
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

// Call returns what is kept of a call. It shares no memory that will change.
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
	// Workers do not wait for each other: those of two legs may have crossed.
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
