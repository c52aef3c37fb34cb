package notify

import (
	"context"
	"fmt"
	"slices"
	"time"

	"bellhop/dialog"
)

// pageSize is how many events of the log are read again at once.
const pageSize = 1024

// A backlog is a part of the log that one target is given by reading the log
// again, a page at a time, as it has room for it. A target is behind with
// one when it is owed more than memory should hold: from there on it is given
// nothing as it is said, until it has caught up. Any other is a replay, which
// somebody asked for: it delivers again, as records and in lanes of their own, what
// does not wait anyway. What is read again is judged by what the subscription is
// then.
//
//	waiting ──target has room──▶ in line ──▶ busy ──page settled──▶ waiting, or over
//
// A page is settled when each of its deliveries is over or in the outbox. Only
// then does the outbox hear how far the backlog has come, so a crash loses nothing.
type logRead struct {
	subscriber *subscriber
	name       string       // its word in the outbox is delivery.<subscription>.<name>
	after      uint64       // what is to be read comes after this; all before is settled, or above the floor
	to         uint64       // of a replay: the last of it; 0: until the target has caught up
	types      []string     // of a replay
	cursorHold *recentEvent // the floor stays below it until the outbox knows of the backlog

	enqueued bool // in the line of those of which a page is to be read
	reading  bool // a page is being read, or is not settled
	ended    bool

	unsaved, saved bool // the outbox must be told; was told
}

// behindName names the backlog that a target is behind with.
const laggingName = "behind"

// room is how many deliveries of t may be pending: its limit or, while all
// together are ten times that, what would be its share.
func (s *scheduler) roomFor(sr *subscriber) int {
	if all := 10 * s.maxPending; s.pending >= all {
		return min(s.maxPending, all/len(s.subscribers))
	}
	return s.maxPending
}

// fallBehind begins the backlog of t, which has no room for y.
func (s *scheduler) startLagging(sr *subscriber, recent *recentEvent) {
	recent.unsettled++
	r := &logRead{subscriber: sr, name: laggingName, after: recent.seq - 1, cursorHold: recent}
	s.attachLogRead(r)
	s.enqueueLogRead(r)
	s.saveLogRead(r)
}

func (s *scheduler) attachLogRead(r *logRead) {
	sr := r.subscriber
	sr.logReads = append(sr.logReads, r)
	if !r.isReplay() {
		sr.lag = r
		s.lagging++
		s.onLagChange(sr)
	}
}

// restoreBacklog takes a backlog from the outbox, after begin and, unless it is a
// replay, before the first restore. One of a subscription that is gone is forgotten.
func (s *scheduler) restoreLogRead(r *logRead) {
	sr := s.subscribers[r.subscriber.sub.ID]
	if sr == nil || r.ended {
		r.ended = true
		s.saveLogRead(r)
		return
	}
	r.subscriber = sr
	s.attachLogRead(r)
	s.continueLogRead(r) // of one that is behind from above the floor on, this is the end: the log is read from the floor on
}

// settled is up to where the log will not be read again for t.
func (s *scheduler) settledPosition(sr *subscriber) uint64 {
	if sr.lag != nil {
		return sr.lag.after
	}
	return s.cursor
}

// stand puts b in line if its target has room for a page: when half of what was
// pending is settled.
func (s *scheduler) enqueueLogRead(r *logRead) {
	if sr := r.subscriber; !r.enqueued && !r.reading && sr.pending <= s.roomFor(sr)/2 {
		r.enqueued = true
		s.dueLogReads.push(r)
	}
}

// nextPage returns the backlog whose turn it is, and what of the log is to be
// read for it; nil if there is none.
func (s *scheduler) nextPage() (r *logRead, from, to uint64) {
	for s.dueLogReads.len() > 0 {
		r := s.dueLogReads.pop()
		r.enqueued = false
		if r.ended || r.subscriber.pending > s.roomFor(r.subscriber)/2 {
			continue // end has it stand again
		}
		r.reading = true
		size := min(pageSize, max(1, s.roomFor(r.subscriber)/2))
		return r, r.after + 1, min(r.after+uint64(size), s.logReadEnd(r))
	}
	return nil, 0, 0
}

// addPage takes a page: what there is of the log from b.after on up to to.
func (s *scheduler) addPage(now time.Time, r *logRead, to uint64, entries []entry) {
	page := &recentEvent{seq: to, logRead: r, unsettled: 1}
	var waits map[uint64]bool
	if r.isReplay() {
		waits = r.subscriber.pendingSeqs()
	}
	for _, e := range entries {
		switch {
		case r.ended:
		case r.isReplay():
			s.addReplayEvent(page, e, waits)
		default:
			s.addCatchUpEvent(now, page, e)
		}
	}
	s.settleOne(page)
}

// addAgain adds an event to the one target that it is read again for. What
// is too old is over at once.
func (s *scheduler) addCatchUpEvent(now time.Time, page *recentEvent, e entry) {
	sr := page.logRead.subscriber
	if sr.typeMask&eventBit(e.event) == 0 || !sr.matchesExtension(e.event.Extension) {
		return
	}
	if key := (deliveryKey{e.seq, sr.sub.ID}); s.inOutbox[key] {
		delete(s.inOutbox, key)
		return
	}
	d := newDelivery(e.seq, e.event, page)
	name := queueName(e.event)
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

// joinAgain puts a delivery of a page into its lane, and has the outbox told of
// it and of what is before it there.
func (s *scheduler) enqueueFromPage(page *recentEvent, name string, d *delivery) {
	page.unsettled++
	s.enqueueDelivery(page.logRead.subscriber, name, d)
	queue := d.queue.deliveries
	if n := len(queue) - 1; n > 0 && queue[n-1].recent != nil && !queue[n-1].unsaved && !queue[n-1].saving {
		s.saveQueue(d.queue) // in their order
	}
	s.saveDelivery(d)
}

// pageSettled goes on to the next page.
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

// last is where b ends, as far as is known.
func (s *scheduler) logReadEnd(r *logRead) uint64 {
	if r.isReplay() {
		return r.to
	}
	return s.lastRead
}

// goOn has b wait for its next page, or end.
func (s *scheduler) continueLogRead(r *logRead) {
	if r.after >= s.logReadEnd(r) {
		s.endLogRead(r)
		return
	}
	s.enqueueLogRead(r)
}

// drop ends a backlog: its target has caught up, or is gone.
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

// letGo lets the floor rise over where b began.
func (s *scheduler) releaseCursor(r *logRead) {
	if recent := r.cursorHold; recent != nil {
		r.cursorHold = nil
		s.settleOne(recent)
	}
}

// tellOf has the outbox told of b.
func (s *scheduler) saveLogRead(r *logRead) {
	if !r.unsaved {
		r.unsaved = true
		s.unsavedLogReads.push(r)
	}
}

// wordsOfBacklogs returns what the outbox must be told of backlogs.
func (s *scheduler) logReadUpdates() (updates []outboxUpdate) {
	for len(updates) < batchSize && s.unsavedLogReads.len() > 0 {
		r := s.unsavedLogReads.pop()
		r.unsaved = false
		if r.ended && !r.saved {
			continue // it never heard of it
		}
		updates = append(updates, outboxUpdate{logRead: r, ended: r.ended})
	}
	return updates
}

// postedBacklog takes a letter of a backlog that was sent; one that failed is
// sent again, unless the same target has fallen behind again.
func (s *scheduler) finishLogReadUpdate(u outboxUpdate, err error) {
	r := u.logRead
	if err != nil {
		r.saved = true // it may have: the answer may be what was lost
		if sr := s.subscribers[r.subscriber.sub.ID]; r.isReplay() || sr == nil || sr.lag == nil || sr.lag == r {
			s.saveLogRead(r)
		}
		return
	}
	if r.saved = !u.ended; r.saved {
		s.releaseCursor(r)
	}
}

// names reports whether t is about an extension.
func (sr *subscriber) matchesExtension(e dialog.Extension) bool {
	if sr.regex != nil {
		return sr.regex.MatchString(e.User) || sr.regex.MatchString(e.String())
	}
	return e.Is(sr.sub.Extension)
}

// A page is a part of the log that is read again.
type page struct {
	logRead  *logRead
	from, to uint64
	entries  []entry
	err      error
}

// readAgain has the next page read, one at a time.
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

// readPage reads a page. If the log begins after it, it reaches up to there.
func (n *Notifier) readLogPage(ctx context.Context, p *page, newest uint64) error {
	p.entries = n.collectRange(ctx, p.from, p.to)
	if len(p.entries) == 0 {
		info, err := n.events.Info(ctx)
		if err != nil {
			return fmt.Errorf("read bellhop_events: %w", err)
		}
		p.to = max(p.to, min(info.State.FirstSeq-1, newest))
	}
	return ctx.Err() // what ends early is not all
}

// turned takes a page that was read.
func (l *deliveryLoop) takePage(now time.Time, p page) error {
	l.readingPage = false
	if p.err != nil {
		return p.err
	}
	if lost := p.to - p.from + 1 - uint64(len(p.entries)); lost > 0 && !p.logRead.ended {
		l.stats.lost.Add(lost)
		l.log.Warn("events left the log before a subscription that is behind was told of them",
			"subscriber", p.logRead.subscriber.sub.ID, "events", lost, "from", p.from, "to", p.to)
	}
	l.applySubscriptions()
	l.scheduler.addPage(now, p.logRead, p.to, p.entries)
	return nil
}

// lagged has it known that a target is behind, or no longer is.
func (l *deliveryLoop) reportLag(sr *subscriber) {
	l.stats.lagging.Store(int64(l.scheduler.lagging))
	switch {
	case sr.gone:
	case sr.lag != nil:
		l.log.Warn("subscription is behind: it is given the rest from the log as deliveries end", "subscriber", sr.sub.ID, "pending", sr.pending)
	default:
		l.log.Info("subscription has caught up", "subscriber", sr.sub.ID)
	}
}
