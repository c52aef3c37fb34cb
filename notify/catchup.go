package notify

import (
	"context"
	"iter"
	"time"

	"bellhop/dialog"
	"bellhop/notify/eventlog"
	"bellhop/notify/schedule"
)

// A page is a range of the log that is read again, for a lagging subscription or a
// replay.
type page struct {
	schedule.Page
	entries []eventlog.Entry
	err     error
}

// eachEvent yields the events of entries with their positions.
func eachEvent(entries []eventlog.Entry) iter.Seq2[uint64, *dialog.Event] {
	return func(yield func(uint64, *dialog.Event) bool) {
		for _, e := range entries {
			if !yield(e.Seq, e.Event) {
				return
			}
		}
	}
}

// startPageRead starts reading the next page in the background, unless a page is already
// being read.
func (l *deliveryLoop) startPageRead(ctx context.Context) {
	if l.readingPage {
		return
	}
	next, ok := l.scheduler.NextPage()
	if !ok {
		return
	}
	l.readingPage = true
	newest := l.scheduler.LastRead()
	l.helpers.Go(func() {
		p := page{Page: next}
		p.err = l.readLogPage(ctx, &p, newest)
		l.pages <- p
	})
}

// readLogPage reads the events of a page. If all of them have left the log, the page is
// extended up to the first event of the log, at most to newest, so that all lost events
// are counted at once.
func (n *Notifier) readLogPage(ctx context.Context, p *page, newest uint64) error {
	first, _, err := n.EventLog.Bounds(ctx)
	if err != nil {
		return err
	}
	p.entries = n.EventLog.Read(ctx, max(p.From, first), p.To)
	if first > p.To {
		p.To = min(first-1, newest)
	}
	return ctx.Err() // the events are incomplete if ctx has ended
}

// takePage adds the events of a page to the scheduler, and counts those that had left the
// log before they were read.
func (l *deliveryLoop) takePage(now time.Time, p page) error {
	l.readingPage = false
	if p.err != nil {
		return p.err
	}
	if lost := p.To - p.From + 1 - uint64(len(p.entries)); lost > 0 && p.Wanted() {
		l.stats.lost.Add(lost)
		l.log.Warn("events lost: they left the log before the lagging subscription had read them",
			"subscriber", p.Subscription(), "events", lost, "from", p.From, "to", p.To)
	}
	l.applySubscriptions()
	l.scheduler.AddPage(now, p.Page, eachEvent(p.entries))
	return nil
}

// reportLag logs that a subscription begins to lag, or has caught up.
func (l *deliveryLoop) reportLag(subscription string, lagging bool, pending int) {
	if lagging {
		l.log.Warn("subscription lagging: further events are read from the log as deliveries end", "subscriber", subscription, "pending", pending)
		return
	}
	l.log.Info("subscription caught up", "subscriber", subscription)
}
