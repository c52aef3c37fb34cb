package schedule

import (
	"iter"
	"slices"
	"time"

	"bellhop/dialog"
	"bellhop/notify/subscription"
)

// MaxPending is how many deliveries of one subscription may be pending. Of all
// subscriptions together, ten times as many may be pending before their room shrinks (see
// roomFor).
const MaxPending = 100_000

// pageSize is the maximum number of log positions in a page.
const pageSize = 1024

// A logRead reads a range of the log again for one subscriber. It reads page by page,
// whenever the subscriber has room. There are two kinds:
//
//   - A subscriber lags when it has more pending deliveries than memory should hold. From
//     then on, it gets no event as it is published, until a logRead has caught up.
//   - A replay delivers events again, except those whose delivery is still pending. The
//     deliveries are durable and have queues of their own.
//
// The current form of the subscription decides which events match.
//
//	noRoom ──subscriber has room──▶ dueRead ──▶ reading ──page settled──▶ noRoom, or readEnded
//
// A logRead also ends when its subscription is deleted or disabled. A page is settled
// when each of its deliveries has ended or is in the outbox. Only then is the progress
// written to the outbox, so that a crash loses nothing.
type logRead struct {
	subscriber *subscriber
	name       string      // of its outbox entry: LaggingName, or unique to a replay
	after      uint64      // reading continues after this position; addEvent or earlier pages added the events up to it
	to         uint64      // last position of a replay
	types      []string    // of a replay
	cursorHold *checkpoint // keeps the cursor below its start until the outbox has the entry of the logRead

	state readState
	entry outboxEntry
}

// readState is the state of a logRead; see its diagram.
type readState uint8

const (
	noRoom    readState = iota // its subscriber has too many pending deliveries
	dueRead                    // its next page is to be read
	reading                    // a page is being read, or is not settled
	readEnded                  // all was read, or the subscription is gone
)

// LaggingName names the logRead by which a lagging subscriber catches up. It is stored.
const LaggingName = "behind"

// isReplay reports whether r is a replay.
func (r *logRead) isReplay() bool { return r.name != LaggingName }

// A Page is a part of the log that must be read again for one subscription.
type Page struct {
	From, To uint64 // positions
	read     *logRead
}

// Subscription returns the id of the subscription for which p is read.
func (p *Page) Subscription() string { return p.read.subscriber.sub.ID }

// Wanted reports whether p is still needed. It is not if its subscription was deleted or
// disabled.
func (p *Page) Wanted() bool { return p.read.state != readEnded }

// catchUp reads the log again for subscribers that lag, and for replays.
type catchUp struct {
	*Scheduler
	due     fifo[*logRead] // whose next page is to be read
	lagging int            // subscribers that lag
}

// roomFor returns how many deliveries of sr may be pending: maxPending. If ten times
// maxPending deliveries are pending in all, the subscribers share that number equally,
// and none gets more than maxPending.
func (s *Scheduler) roomFor(sr *subscriber) int {
	if all := 10 * s.maxPending; s.pending >= all {
		return min(s.maxPending, all/len(s.subscribers))
	}
	return s.maxPending
}

// hasReadRoom reports whether a page may be read for sr. It may if at most half of its
// room is taken.
func (u *catchUp) hasReadRoom(sr *subscriber) bool { return sr.pending <= u.roomFor(sr)/2 }

// startLagging makes sr lag from the event of c on, because it has no room for that
// event.
func (u *catchUp) startLagging(sr *subscriber, c *checkpoint) {
	c.unsettled++
	r := &logRead{subscriber: sr, name: LaggingName, after: c.seq - 1, cursorHold: c}
	u.attachRead(r)
	u.enqueueRead(r)
	u.outbox.saveRead(r)
}

// attachRead adds r to its subscriber.
func (u *catchUp) attachRead(r *logRead) {
	sr := r.subscriber
	sr.reads = append(sr.reads, r)
	if !r.isReplay() {
		u.setLag(sr, r)
	}
}

// setLag makes r the logRead by which sr catches up; nil: it has caught up.
func (u *catchUp) setLag(sr *subscriber, r *logRead) {
	if sr.lag = r; r != nil {
		u.lagging++
	} else {
		u.lagging--
	}
	if !sr.gone {
		u.hooks.LagChanged(sr.sub.ID, r != nil, sr.pending)
	}
}

// settledPosition returns the position up to which the log need not be read again for sr.
func (s *Scheduler) settledPosition(sr *subscriber) uint64 {
	if sr.lag != nil {
		return sr.lag.after
	}
	return s.outbox.cursor
}

// enqueueRead enqueues r, if it waits for room and its subscriber has room, so that
// NextPage returns its next page.
func (u *catchUp) enqueueRead(r *logRead) {
	if r.state == noRoom && u.hasReadRoom(r.subscriber) {
		r.state = dueRead
		u.due.push(r)
	}
}

// NextPage returns the page to read next; ok is false if there is none. After reading it,
// the caller must call AddPage.
func (s *Scheduler) NextPage() (p Page, ok bool) {
	for s.catchUp.due.len() > 0 {
		r := s.catchUp.due.pop()
		if r.state == readEnded {
			continue
		}
		if !s.catchUp.hasReadRoom(r.subscriber) {
			r.state = noRoom // endDelivery enqueues it again
			continue
		}
		r.state = reading
		size := min(pageSize, max(1, s.roomFor(r.subscriber)/2))
		return Page{From: r.after + 1, To: min(r.after+uint64(size), s.catchUp.readEnd(r)), read: r}, true
	}
	return p, false
}

// AddPage enqueues deliveries of the events of a page. events are all events that the log
// has from p.From to p.To, each with its position. The caller may have moved p.To to a
// later position.
func (s *Scheduler) AddPage(now time.Time, p Page, events iter.Seq2[uint64, *dialog.Event]) {
	r := p.read
	c := &checkpoint{seq: p.To, read: r, unsettled: 1}
	var pending map[uint64]bool
	if r.isReplay() {
		pending = r.subscriber.pendingSeqs()
	}
	for seq, e := range events {
		switch {
		case r.state == readEnded:
		case r.isReplay():
			s.catchUp.addReplayEvent(c, seq, e, pending)
		default:
			s.catchUp.addCatchUpEvent(now, c, seq, e)
		}
	}
	s.settle(c)
}

// addCatchUpEvent enqueues an event of a page for the subscriber that catches up by it. A
// live event that is too old expires at once.
func (u *catchUp) addCatchUpEvent(now time.Time, page *checkpoint, seq uint64, e *dialog.Event) {
	sr := page.read.subscriber
	if !sr.filter.Matches(e) || u.outbox.takeRestored(seq, sr) {
		return
	}
	d := newDelivery(seq, e, page)
	k := queueKey{order: e.OrderKey()}
	d.queue = &queue{queueKey: k, subscriber: sr}
	if d.expired(now) {
		sr.linkNewCall(d)
		sr.noteEnd(d, Expired)
		u.hooks.Ended(d.end(Expired))
		d.state, d.outcome = ended, Expired
		return
	}
	u.enqueueFromPage(page, sr.queueOf(k), d)
}

// addReplayEvent enqueues an event of a replay, unless the event is owed to the
// subscriber anyway: its position is in pending, or the subscriber has yet to get the
// event from the log.
func (u *catchUp) addReplayEvent(page *checkpoint, seq uint64, e *dialog.Event, pending map[uint64]bool) {
	r := page.read
	sr, bit := r.subscriber, subscription.EventMask(e)
	unread := seq > u.lastRead || sr.lag != nil && seq > sr.lag.after
	if subscription.MaskOf(r.types...)&bit == 0 || !sr.filter.Covers(e.Extension) || pending[seq] || unread && sr.filter.Types&bit != 0 {
		return
	}
	u.enqueueFromPage(page, sr.queueOf(queueKey{e.OrderKey(), true}), newDelivery(seq, e, page))
}

// enqueueFromPage appends d, a delivery of a page, to q. It enqueues d, and the
// deliveries before it in q, to be written to the outbox.
func (u *catchUp) enqueueFromPage(page *checkpoint, q *queue, d *delivery) {
	page.unsettled++
	u.enqueueDelivery(q, d)
	if n := len(q.deliveries) - 1; n > 0 && q.deliveries[n-1].checkpoint != nil && q.deliveries[n-1].entry.state == upToDate {
		u.outbox.saveQueue(q) // in their order
	}
	u.outbox.saveDelivery(d)
}

// finishPage records that a page is settled, and continues with the next one.
func (u *catchUp) finishPage(page *checkpoint) {
	r := page.read
	if r.state == readEnded {
		return
	}
	r.state, r.after = noRoom, page.seq
	u.outbox.saveRead(r)
	u.continueRead(r)
}

// readEnd returns the last position that r must read. For a lagging subscriber, that is
// the last event added so far.
func (u *catchUp) readEnd(r *logRead) uint64 {
	if r.isReplay() {
		return r.to
	}
	return u.lastRead
}

// continueRead enqueues r for its next page, or ends r if it has read all.
func (u *catchUp) continueRead(r *logRead) {
	if r.after >= u.readEnd(r) {
		u.endRead(r)
		return
	}
	u.enqueueRead(r)
}

// endRead ends r, because its subscriber has caught up, the replay is complete, or the
// subscription is no longer active.
func (u *catchUp) endRead(r *logRead) {
	sr := r.subscriber
	r.state = readEnded
	sr.reads = slices.DeleteFunc(sr.reads, func(other *logRead) bool { return other == r })
	if !r.isReplay() {
		u.setLag(sr, nil)
		u.releaseCursor(r)
	}
	u.outbox.saveRead(r)
}

// releaseCursor lets the cursor move past the start of r.
func (u *catchUp) releaseCursor(r *logRead) {
	if c := r.cursorHold; c != nil {
		r.cursorHold = nil
		u.settle(c)
	}
}

// finishReadUpdate applies the result of a write of r. A write that failed is repeated,
// unless the subscriber lags with a newer logRead, whose entry has the same name.
func (u *catchUp) finishReadUpdate(r *logRead, gone bool, err error) {
	if err == nil {
		if !gone {
			u.releaseCursor(r)
		}
		return
	}
	if sr := u.subscribers[r.subscriber.sub.ID]; r.isReplay() || sr == nil || sr.lag == nil || sr.lag == r {
		u.outbox.saveRead(r)
	}
}
