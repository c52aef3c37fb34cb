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
type backlog struct {
	target *target
	name   string   // its word in the outbox is delivery.<subscription>.<name>
	after  uint64   // what is to be read comes after this; all before is settled, or above the floor
	to     uint64   // of a replay: the last of it; 0: until the target has caught up
	types  []string // of a replay
	hold   *young   // the floor stays below it until the outbox knows of the backlog

	lined bool // in the line of those of which a page is to be read
	busy  bool // a page is being read, or is not settled
	over  bool

	dirty, told bool // the outbox must be told; was told
}

// behindName names the backlog that a target is behind with.
const behindName = "behind"

// room is how many deliveries of t may be pending: its limit or, while all
// together are ten times that, what would be its share.
func (q *lanes) room(t *target) int {
	if all := 10 * q.limit; q.pending >= all {
		return min(q.limit, all/len(q.targets))
	}
	return q.limit
}

// fallBehind begins the backlog of t, which has no room for y.
func (q *lanes) fallBehind(t *target, y *young) {
	y.open++
	b := &backlog{target: t, name: behindName, after: y.seq - 1, hold: y}
	q.begun(b)
	q.stand(b)
	q.tellOf(b)
}

func (q *lanes) begun(b *backlog) {
	t := b.target
	t.backlogs = append(t.backlogs, b)
	if !b.replay() {
		t.behind = b
		q.behind++
		q.lagged(t)
	}
}

// restoreBacklog takes a backlog from the outbox, after begin and, unless it is a
// replay, before the first restore. One of a subscription that is gone is forgotten.
func (q *lanes) restoreBacklog(b *backlog) {
	t := q.targets[b.target.sub.ID]
	if t == nil || b.over {
		b.over = true
		q.tellOf(b)
		return
	}
	b.target = t
	q.begun(b)
	q.goOn(b) // of one that is behind from above the floor on, this is the end: the log is read from the floor on
}

// settled is up to where the log will not be read again for t.
func (q *lanes) settled(t *target) uint64 {
	if t.behind != nil {
		return t.behind.after
	}
	return q.floor
}

// stand puts b in line if its target has room for a page: when half of what was
// pending is settled.
func (q *lanes) stand(b *backlog) {
	if t := b.target; !b.lined && !b.busy && t.pending <= q.room(t)/2 {
		b.lined = true
		q.backlogs.push(b)
	}
}

// nextPage returns the backlog whose turn it is, and what of the log is to be
// read for it; nil if there is none.
func (q *lanes) nextPage() (b *backlog, from, to uint64) {
	for q.backlogs.len() > 0 {
		b := q.backlogs.pop()
		b.lined = false
		if b.over || b.target.pending > q.room(b.target)/2 {
			continue // end has it stand again
		}
		b.busy = true
		most := min(pageSize, max(1, q.room(b.target)/2))
		return b, b.after + 1, min(b.after+uint64(most), q.last(b))
	}
	return nil, 0, 0
}

// addPage takes a page: what there is of the log from b.after on up to to.
func (q *lanes) addPage(now time.Time, b *backlog, to uint64, entries []entry) {
	page := &young{seq: to, page: b, open: 1}
	var waits map[uint64]bool
	if b.replay() {
		waits = b.target.waits()
	}
	for _, e := range entries {
		switch {
		case b.over:
		case b.replay():
			q.replay(page, e, waits)
		default:
			q.addAgain(now, page, e)
		}
	}
	q.close(page)
}

// addAgain adds an event to the one target that it is read again for. What
// is too old is over at once.
func (q *lanes) addAgain(now time.Time, page *young, e entry) {
	t := page.page.target
	if t.wants&typeBit(e.event) == 0 || !t.names(e.event.Extension) {
		return
	}
	if here := (place{e.seq, t.sub.ID}); q.moved[here] {
		delete(q.moved, here)
		return
	}
	d := newDelivery(e.seq, e.event, page)
	name := laneOf(e.event)
	d.lane = &lane{target: t, name: name}
	if d.tooOld(now) {
		t.follow(d)
		t.concludes(d, expired)
		q.ended(d, expired)
		d.state, d.outcome = over, expired
		return
	}
	q.joinAgain(page, name, d)
}

// joinAgain puts a delivery of a page into its lane, and has the outbox told of
// it and of what is before it there.
func (q *lanes) joinAgain(page *young, name string, d *delivery) {
	page.open++
	q.join(page.page.target, name, d)
	queue := d.lane.queue
	if n := len(queue) - 1; n > 0 && queue[n-1].young != nil && !queue[n-1].dirty && !queue[n-1].telling {
		q.dirtiedLane(d.lane) // in their order
	}
	q.dirtied(d)
}

// pageSettled goes on to the next page.
func (q *lanes) pageSettled(page *young) {
	b := page.page
	b.busy = false
	if b.over {
		return
	}
	b.after = page.seq
	q.tellOf(b)
	q.goOn(b)
}

// last is where b ends, as far as is known.
func (q *lanes) last(b *backlog) uint64 {
	if b.replay() {
		return b.to
	}
	return q.read
}

// goOn has b wait for its next page, or end.
func (q *lanes) goOn(b *backlog) {
	if b.after >= q.last(b) {
		q.drop(b)
		return
	}
	q.stand(b)
}

// drop ends a backlog: its target has caught up, or is gone.
func (q *lanes) drop(b *backlog) {
	t := b.target
	b.over = true
	t.backlogs = slices.DeleteFunc(t.backlogs, func(other *backlog) bool { return other == b })
	if !b.replay() {
		t.behind = nil
		q.behind--
		q.lagged(t)
		q.letGo(b)
	}
	q.tellOf(b)
}

// letGo lets the floor rise over where b began.
func (q *lanes) letGo(b *backlog) {
	if y := b.hold; y != nil {
		b.hold = nil
		q.close(y)
	}
}

// tellOf has the outbox told of b.
func (q *lanes) tellOf(b *backlog) {
	if !b.dirty {
		b.dirty = true
		q.words.push(b)
	}
}

// wordsOfBacklogs returns what the outbox must be told of backlogs.
func (q *lanes) wordsOfBacklogs() (letters []letter) {
	for len(letters) < waveSize && q.words.len() > 0 {
		b := q.words.pop()
		b.dirty = false
		if b.over && !b.told {
			continue // it never heard of it
		}
		letters = append(letters, letter{backlog: b, gone: b.over})
	}
	return letters
}

// postedBacklog takes a letter of a backlog that was sent; one that failed is
// sent again, unless the same target has fallen behind again.
func (q *lanes) postedBacklog(l letter, err error) {
	b := l.backlog
	if err != nil {
		b.told = true // it may have: the answer may be what was lost
		if t := q.targets[b.target.sub.ID]; b.replay() || t == nil || t.behind == nil || t.behind == b {
			q.tellOf(b)
		}
		return
	}
	if b.told = !l.gone; b.told {
		q.letGo(b)
	}
}

// names reports whether t is about an extension.
func (t *target) names(e dialog.Extension) bool {
	if t.regex != nil {
		return t.regex.MatchString(e.User) || t.regex.MatchString(e.String())
	}
	return e.Is(t.sub.Extension)
}

// A page is a part of the log that is read again.
type page struct {
	backlog  *backlog
	from, to uint64
	entries  []entry
	err      error
}

// readAgain has the next page read, one at a time.
func (w *worker) readAgain(ctx context.Context) {
	if w.paging {
		return
	}
	b, from, to := w.lanes.nextPage()
	if b == nil {
		return
	}
	w.paging = true
	newest := w.lanes.read
	w.helpers.Go(func() {
		p := page{backlog: b, from: from, to: to}
		p.err = w.readPage(ctx, &p, newest)
		w.pages <- p
	})
}

// readPage reads a page. If the log begins after it, it reaches up to there.
func (n *Notifier) readPage(ctx context.Context, p *page, newest uint64) error {
	p.entries = n.collect(ctx, p.from, p.to)
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
func (w *worker) turned(now time.Time, p page) error {
	w.paging = false
	if p.err != nil {
		return p.err
	}
	if lost := p.to - p.from + 1 - uint64(len(p.entries)); lost > 0 && !p.backlog.over {
		w.stats.lost.Add(lost)
		w.log.Warn("events left the log before a subscription that is behind was told of them",
			"subscriber", p.backlog.target.sub.ID, "events", lost, "from", p.from, "to", p.to)
	}
	w.subscribe()
	w.lanes.addPage(now, p.backlog, p.to, p.entries)
	return nil
}

// lagged has it known that a target is behind, or no longer is.
func (w *worker) lagged(t *target) {
	w.stats.behind.Store(int64(w.lanes.behind))
	switch {
	case t.gone:
	case t.behind != nil:
		w.log.Warn("subscription is behind: it is given the rest from the log as deliveries end", "subscriber", t.sub.ID, "pending", t.pending)
	default:
		w.log.Info("subscription has caught up", "subscriber", t.sub.ID)
	}
}
