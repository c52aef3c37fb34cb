package notify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
)

// maxRecent and maxRecentBytes bound the last events that are in memory while
// somebody tails the log. A tail that is farther behind reads the log for itself.
const (
	maxRecent      = 4096
	maxRecentBytes = 16 << 20
)

// maxBatch is how many bytes of events a tail is given at once: so much is what a
// reader that is slow keeps from being freed. One event may be larger.
const maxBatch = 256 << 10

// tails is the one reading of the log's end that all tails share.
type tails struct {
	turn chan struct{} // has room for one: who reads the log for himself

	mu     sync.Mutex
	open   int     // how many share it
	recent *recent // nil: nobody does
}

// A recent is the end of the log in memory. It is kept up by a reader of its own,
// from the first tail's beginning to the last one's end.
type recent struct {
	stop  context.CancelFunc
	ended chan struct{} // closed when the reader has ended
	rumor chan struct{} // has room for one: heard has risen

	mu      sync.Mutex
	heard   uint64  // place of the last event that is known to be in the log
	entries []entry // all that the log has after from and up to the place to
	bytes   int     // of these, as weight has it
	dead    int     // bytes of those that were evicted, but that the array of entries may hold
	from    uint64
	to      uint64
	news    chan struct{} // closed when to rises
}

// share returns what all tails share. The log goes as far as end.
func (n *Notifier) share(end uint64) *recent {
	n.tails.mu.Lock()
	defer n.tails.mu.Unlock()
	n.tails.open++
	if n.tails.recent == nil {
		ctx, stop := context.WithCancel(context.Background())
		r := &recent{
			stop: stop, ended: make(chan struct{}), rumor: make(chan struct{}, 1),
			heard: end, from: end, to: end, news: make(chan struct{}),
		}
		n.tails.recent = r
		go func() {
			defer close(r.ended)
			n.restarted(ctx, "tail", func(ctx context.Context) error { return n.keepUp(ctx, r) })
		}()
	}
	return n.tails.recent
}

// unshare says that a tail has ended.
func (n *Notifier) unshare() {
	n.tails.mu.Lock()
	r := n.tails.recent
	n.tails.open--
	last := n.tails.open == 0
	if last {
		n.tails.recent = nil
	}
	n.tails.mu.Unlock()
	if last {
		r.stop()
		<-r.ended
	}
}

// keepUp reads what any node says, until ctx ends.
func (n *Notifier) keepUp(ctx context.Context, r *recent) error {
	sub, err := n.hearSaid(r.hear)
	if err != nil {
		n.log.Warn("who follows the log hears of events late", "err", err)
	} else {
		defer sub.Unsubscribe()
	}
	look := time.NewTicker(logLook)
	defer look.Stop()
	for place := r.to; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-r.rumor:
		case <-look.C:
			if info, err := n.events.Info(ctx); err == nil {
				r.hear(info.State.LastSeq)
			} else if ctx.Err() == nil {
				n.log.Warn("it is not known how far the log goes", "err", err)
			}
		}
		for end := r.end(); place < end && ctx.Err() == nil; {
			var entries []entry
			entries, place = n.part(ctx, place, end)
			r.add(entries, place)
		}
	}
}

// begin waits for the turn to read the log: one does at a time, so that many do
// not take the machine from the calls. Who has begun must end.
func (t *tails) begin(ctx context.Context) error {
	select {
	case t.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t *tails) end() { <-t.turn }

// part reads the log after a place, up to another or less, and returns how far
// it has come.
func (n *Notifier) part(ctx context.Context, from, to uint64) (entries []entry, place uint64) {
	to = min(to, from+partSize)
	entries = n.collect(ctx, from+1, to)
	if ctx.Err() != nil {
		return nil, from // what ends early is not all
	}
	return entries, to
}

// batch returns the first of some entries, so many as a tail is given at once.
func batch(entries []entry) []entry {
	bytes := 0
	for i, e := range entries {
		if bytes += weight(e.event); i == partSize || i > 0 && bytes > maxBatch {
			return entries[:i:i]
		}
	}
	return entries
}

// weight is about how many bytes of memory an event takes.
func weight(e *dialog.Event) int {
	n := 1024 + len(e.MessageText) + len(e.ContentType) + len(e.UserAgent) + len(e.SipReason) + len(e.Diversion) +
		len(e.CallerNum) + len(e.CallerName) + len(e.CalledNumber) + len(e.CalledDID) + len(e.RemoteNumber) + len(e.ANI) +
		len(e.CallerNumRaw) + len(e.CalledNumberRaw) +
		len(e.CallAPIID) + len(e.ClientAPIID) + len(e.CallBackID) + len(e.RecID) + len(e.Tag) +
		len(e.Extension.User) + len(e.Extension.Domain)
	for _, h := range e.Headers {
		n += len(h[0]) + len(h[1])
	}
	return n
}

// hear learns that the log goes as far as seq, or farther.
func (r *recent) hear(seq uint64) {
	r.mu.Lock()
	r.heard = max(r.heard, seq)
	r.mu.Unlock()
	wake(r.rumor)
}

// end is how far the log is known to go.
func (r *recent) end() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.heard
}

// add adds what the log has up to a place.
func (r *recent) add(entries []entry, to uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range entries {
		r.bytes += weight(e.event)
	}
	r.entries = append(r.entries, entries...)
	for len(r.entries) > maxRecent || r.bytes > maxRecentBytes {
		r.from = r.entries[0].seq
		r.bytes -= weight(r.entries[0].event)
		r.dead += weight(r.entries[0].event)
		r.entries = r.entries[1:]
	}
	if r.dead > maxRecentBytes {
		r.entries, r.dead = slices.Clone(r.entries), 0
	}
	r.to = to
	close(r.news)
	r.news = make(chan struct{})
}

// after returns what is in memory of the events after a place. Those from there
// up to the place missed are not; news is closed when there are more.
func (r *recent) after(place uint64) (entries []entry, missed uint64, news <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, _ := slices.BinarySearchFunc(r.entries, place+1, func(e entry, seq uint64) int {
		return int(int64(e.seq - seq))
	})
	return r.entries[i:len(r.entries):len(r.entries)], r.from, r.news
}

// A Tail reads the log as it grows: every event that it asks for once, in the
// order of the log, whichever node said it. It belongs to one goroutine.
//
// All tails of a node share one reading of the log; one that is thousands of
// events behind catches up by a reading of its own. Nobody waits for a tail.
type Tail struct {
	n      *Notifier
	query  Query
	recent *recent
	place  uint64 // of the last event that was looked at
	step   uint64 // how many places of the log it reads at once
}

// Tail returns a Tail that begins where the query says: without After and Since,
// and if Since is yet to come, it begins now. Limit is ignored. The caller closes
// it.
func (n *Notifier) Tail(ctx context.Context, q Query) (*Tail, error) {
	info, err := n.events.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("event log bellhop_events: %w", err)
	}
	end := info.State.LastSeq
	place := end
	switch {
	case q.After != "":
		place, err = n.placeOfAfter(ctx, q)
	case !q.Since.IsZero():
		place, err = n.placeBefore(ctx, q.Since, end)
	}
	if err != nil {
		return nil, err
	}
	return &Tail{n: n, query: q, recent: n.share(end), place: place, step: partSize}, nil
}

// placeBefore is the place before the first event that was said at a time or
// later, or else the end.
func (n *Notifier) placeBefore(ctx context.Context, since time.Time, end uint64) (place uint64, err error) {
	place = end
	c := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &since}
	err = readAll(ctx, n.events, c, func(m jetstream.Msg) error {
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		place = meta.Sequence.Stream - 1
		return errEnough
	})
	if err != nil && !errors.Is(err, errEnough) {
		return 0, fmt.Errorf("read bellhop_events: %w", err)
	}
	return place, nil
}

// Next returns the next events: at least one, and some hundreds or 256 KiB of them
// at most. It waits
// for them until ctx ends, and may be called again then: nothing is missed. The
// events belong to all who read them: nobody changes one.
func (t *Tail) Next(ctx context.Context) ([]*dialog.Event, error) {
	for ctx.Err() == nil {
		entries, missed, news := t.recent.after(t.place)
		switch {
		case t.place < missed:
			if err := t.n.tails.begin(ctx); err != nil {
				return nil, err
			}
			var place uint64
			entries, place = t.n.part(ctx, t.place, min(missed, t.place+t.step))
			t.n.tails.end()
			t.step = min(2*t.step, partSize)
			if some := batch(entries); len(some) < len(entries) {
				t.step = uint64(len(some)) // to read no more in vain
				entries, place = slices.Clone(some), some[len(some)-1].seq
			}
			t.place = place
		case len(entries) > 0:
			entries = batch(entries)
			t.place = entries[len(entries)-1].seq
		default:
			select {
			case <-news:
			case <-ctx.Done():
			}
		}
		if events := t.query.of(entries); len(events) > 0 {
			return events, nil
		}
	}
	return nil, ctx.Err()
}

// Close ends a Tail.
func (t *Tail) Close() { t.n.unshare() }

// of returns the events that the query asks for.
func (q Query) of(entries []entry) []*dialog.Event {
	user, _, _ := strings.Cut(q.Extension, "@")
	var events []*dialog.Event
	for _, e := range entries {
		if (user == "" || e.event.Extension.User == user) && (q.Call == "" || e.event.Call == q.Call) && q.matches(e.event) {
			events = append(events, e.event)
		}
	}
	return events
}
