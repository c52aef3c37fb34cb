package notify

import (
	"context"
	"slices"
	"time"

	"bellhop/notify/eventlog"
	"bellhop/notify/stream"
)

// pageSize is how many positions of the log a page has at most.
const pageSize = 1024

// A logRead is a range of the log that is read again for one subscriber, page by page, as
// it has room. A subscriber lags when it has more pending deliveries than memory should
// hold: from there on it gets no event as it is published, until its logRead has caught up.
// Any other logRead is a replay: it delivers events again, as durable ones and in queues of
// their own, unless their delivery is pending anyway. The subscription as it is now decides
// which events match.
//
//	waiting ──subscriber has room──▶ enqueued ──▶ reading ──page settled──▶ waiting, or ended
//
// A page is settled when each of its deliveries has ended or is in the outbox. Only then
// the progress is written to the outbox, so a crash loses nothing.
type logRead struct {
	subscriber *subscriber
	name       string       // its subject in the outbox is bellhop.delivery.<subscription>.<name>
	after      uint64       // reading goes on after this position; earlier events are settled, or above the cursor
	to         uint64       // of a replay: its last position; 0: until the subscriber has caught up
	types      []string     // of a replay
	cursorHold *recentEvent // keeps the cursor below its start until it is in the outbox

	enqueued bool // in dueLogReads
	reading  bool // a page is being read, or is not settled
	ended    bool

	unsaved, saved bool // the outbox must be updated; has it
}

// laggingName names the logRead by which a lagging subscriber catches up. It is stored.
const laggingName = "behind"

// roomFor returns how many deliveries of sr may be pending: maxPending. While ten times
// maxPending are pending in all, it is an equal share of these, if that is less.
func (s *scheduler) roomFor(sr *subscriber) int {
	if all := 10 * s.maxPending; s.pending >= all {
		return min(s.maxPending, all/len(s.subscribers))
	}
	return s.maxPending
}

// startLagging makes sr lag from the event recent on, for which it has no room.
func (s *scheduler) startLagging(sr *subscriber, recent *recentEvent) {
	recent.unsettled++
	r := &logRead{subscriber: sr, name: laggingName, after: recent.seq - 1, cursorHold: recent}
	s.attachLogRead(r)
	s.enqueueLogRead(r)
	s.saveLogRead(r)
}

// attachLogRead adds r to its subscriber.
func (s *scheduler) attachLogRead(r *logRead) {
	sr := r.subscriber
	sr.logReads = append(sr.logReads, r)
	if !r.isReplay() {
		sr.lag = r
		s.lagging++
		s.onLagChange(sr)
	}
}

// restoreLogRead restores a logRead of the outbox, and deletes one without a subscriber. It
// must be called after startFrom and, unless r is a replay, before restoreDelivery.
func (s *scheduler) restoreLogRead(r *logRead) {
	sr := s.subscribers[r.subscriber.sub.ID]
	if sr == nil || r.ended {
		r.ended = true
		s.saveLogRead(r)
		return
	}
	r.subscriber = sr
	s.attachLogRead(r)
	s.continueLogRead(r) // ends a lag that begins above the cursor: addEvent adds the events from the cursor on
}

// settledPosition returns the position up to which the log is not read again for sr.
func (s *scheduler) settledPosition(sr *subscriber) uint64 {
	if sr.lag != nil {
		return sr.lag.after
	}
	return s.cursor
}

// enqueueLogRead has the next page of r read if at most half of the room of its subscriber
// is taken.
func (s *scheduler) enqueueLogRead(r *logRead) {
	if sr := r.subscriber; !r.enqueued && !r.reading && sr.pending <= s.roomFor(sr)/2 {
		r.enqueued = true
		s.dueLogReads.push(r)
	}
}

// nextPage returns the logRead whose page is to be read next, and its positions; nil if
// there is none.
func (s *scheduler) nextPage() (r *logRead, from, to uint64) {
	for s.dueLogReads.len() > 0 {
		r := s.dueLogReads.pop()
		r.enqueued = false
		if r.ended || r.subscriber.pending > s.roomFor(r.subscriber)/2 {
			continue // endDelivery enqueues it again
		}
		r.reading = true
		size := min(pageSize, max(1, s.roomFor(r.subscriber)/2))
		return r, r.after + 1, min(r.after+uint64(size), s.logReadEnd(r))
	}
	return nil, 0, 0
}

// addPage queues the events of a page: all that the log has after r.after and up to to.
func (s *scheduler) addPage(now time.Time, r *logRead, to uint64, entries []eventlog.Entry) {
	page := &recentEvent{seq: to, logRead: r, unsettled: 1}
	var pending map[uint64]bool
	if r.isReplay() {
		pending = r.subscriber.pendingSeqs()
	}
	for _, e := range entries {
		switch {
		case r.ended:
		case r.isReplay():
			s.addReplayEvent(page, e, pending)
		default:
			s.addCatchUpEvent(now, page, e)
		}
	}
	s.settleOne(page)
}

// addCatchUpEvent queues an event for the one subscriber that catches up. A live event that
// is too old expires at once.
func (s *scheduler) addCatchUpEvent(now time.Time, page *recentEvent, e eventlog.Entry) {
	sr := page.logRead.subscriber
	if !sr.filter.Matches(e.Event) {
		return
	}
	if key := (deliveryKey{e.Seq, sr.sub.ID}); s.inOutbox[key] {
		delete(s.inOutbox, key)
		return
	}
	d := newDelivery(e.Seq, e.Event, page)
	name := eventlog.QueueName(e.Event)
	d.queue = &deliveryQueue{subscriber: sr, name: name}
	if d.expired(now) {
		sr.linkNewCall(d)
		sr.noteEnd(d, expired)
		s.onEnd(d, expired)
		d.state, d.outcome = ended, expired
		return
	}
	s.enqueueFromPage(page, name, d)
}

// enqueueFromPage appends a delivery of a page to its queue, and has it and those before it
// written to the outbox.
func (s *scheduler) enqueueFromPage(page *recentEvent, name string, d *delivery) {
	page.unsettled++
	s.enqueueDelivery(page.logRead.subscriber, name, d)
	queue := d.queue.deliveries
	if n := len(queue) - 1; n > 0 && queue[n-1].recent != nil && !queue[n-1].unsaved && !queue[n-1].saving {
		s.saveQueue(d.queue) // in their order
	}
	s.saveDelivery(d)
}

// finishPage records that a page is settled, and continues with the next one.
func (s *scheduler) finishPage(page *recentEvent) {
	r := page.logRead
	r.reading = false
	if r.ended {
		return
	}
	r.after = page.seq
	s.saveLogRead(r)
	s.continueLogRead(r)
}

// logReadEnd returns the last position of r, as far as it is known.
func (s *scheduler) logReadEnd(r *logRead) uint64 {
	if r.isReplay() {
		return r.to
	}
	return s.lastRead
}

// continueLogRead has r read its next page, or ends it.
func (s *scheduler) continueLogRead(r *logRead) {
	if r.after >= s.logReadEnd(r) {
		s.endLogRead(r)
		return
	}
	s.enqueueLogRead(r)
}

// endLogRead ends r: its subscriber has caught up, or is gone, or the replay is complete.
func (s *scheduler) endLogRead(r *logRead) {
	sr := r.subscriber
	r.ended = true
	sr.logReads = slices.DeleteFunc(sr.logReads, func(other *logRead) bool { return other == r })
	if !r.isReplay() {
		sr.lag = nil
		s.lagging--
		s.onLagChange(sr)
		s.releaseCursor(r)
	}
	s.saveLogRead(r)
}

// releaseCursor lets the cursor move over the start of r.
func (s *scheduler) releaseCursor(r *logRead) {
	if recent := r.cursorHold; recent != nil {
		r.cursorHold = nil
		s.settleOne(recent)
	}
}

// saveLogRead has the outbox entry of r updated.
func (s *scheduler) saveLogRead(r *logRead) {
	if !r.unsaved {
		r.unsaved = true
		s.unsavedLogReads.push(r)
	}
}

// logReadUpdates returns the writes to the outbox that logReads need.
func (s *scheduler) logReadUpdates() (updates []outboxUpdate) {
	for len(updates) < stream.BatchSize && s.unsavedLogReads.len() > 0 {
		r := s.unsavedLogReads.pop()
		r.unsaved = false
		if r.ended && !r.saved {
			continue // the outbox never had it
		}
		updates = append(updates, outboxUpdate{logRead: r, ended: r.ended})
	}
	return updates
}

// finishLogReadUpdate applies the result of a write to the outbox. A failed one is
// repeated, unless the subscriber lags with a newer logRead under the same name.
func (s *scheduler) finishLogReadUpdate(u outboxUpdate, err error) {
	r := u.logRead
	if err != nil {
		r.saved = true // the message may be stored: perhaps only its acknowledgement was lost
		if sr := s.subscribers[r.subscriber.sub.ID]; r.isReplay() || sr == nil || sr.lag == nil || sr.lag == r {
			s.saveLogRead(r)
		}
		return
	}
	if r.saved = !u.ended; r.saved {
		s.releaseCursor(r)
	}
}

// A page is a range of the log that is read again.
type page struct {
	logRead  *logRead
	from, to uint64
	entries  []eventlog.Entry
	err      error
}

// startPageRead has the next page read in the background, one page at a time.
func (l *deliveryLoop) startPageRead(ctx context.Context) {
	if l.readingPage {
		return
	}
	r, from, to := l.scheduler.nextPage()
	if r == nil {
		return
	}
	l.readingPage = true
	newest := l.scheduler.lastRead
	l.helpers.Go(func() {
		p := page{logRead: r, from: from, to: to}
		p.err = l.readLogPage(ctx, &p, newest)
		l.pages <- p
	})
}

// readLogPage reads the events of a page. If the log begins after the page, the page is
// extended up to the first event.
func (n *Notifier) readLogPage(ctx context.Context, p *page, newest uint64) error {
	first, _, err := n.events.Bounds(ctx)
	if err != nil {
		return err
	}
	p.entries = n.events.Read(ctx, max(p.from, first), p.to)
	if first > p.to {
		p.to = min(first-1, newest)
	}
	return ctx.Err() // the events are incomplete if ctx has ended
}

// takePage queues the events of a page that was read, and counts events that the log no
// longer has.
func (l *deliveryLoop) takePage(now time.Time, p page) error {
	l.readingPage = false
	if p.err != nil {
		return p.err
	}
	if lost := p.to - p.from + 1 - uint64(len(p.entries)); lost > 0 && !p.logRead.ended {
		l.stats.lost.Add(lost)
		l.log.Warn("events lost: they left the log before the lagging subscription had read them",
			"subscriber", p.logRead.subscriber.sub.ID, "events", lost, "from", p.from, "to", p.to)
	}
	l.applySubscriptions()
	l.scheduler.addPage(now, p.logRead, p.to, p.entries)
	return nil
}

// reportLag counts and logs that a subscriber begins to lag, or has caught up.
func (l *deliveryLoop) reportLag(sr *subscriber) {
	l.stats.lagging.Store(int64(l.scheduler.lagging))
	switch {
	case sr.gone:
	case sr.lag != nil:
		l.log.Warn("subscription lagging: further events are read from the log as deliveries end", "subscriber", sr.sub.ID, "pending", sr.pending)
	default:
		l.log.Info("subscription caught up", "subscriber", sr.sub.ID)
	}
}
