package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
)

// A worker is the lanes and what stands around them: the log they are filled
// from, the senders that empty them, the outbox that remembers them. Its
// goroutine owns the lanes; all others talk to it by channels.
type worker struct {
	*Notifier
	lanes *lanes

	log     chan entry
	logLost chan error // why log ends

	todo, done chan *attempt
	under      int // attempts under way
	senders    int // goroutines that make them
	abort      context.CancelFunc
	attempting context.Context

	posting []letter // on their way to the outbox; nil: none
	post    chan []*nats.Msg
	posted  chan []error

	helpers sync.WaitGroup
}

// An entry is an event at its place in the log.
type entry struct {
	seq   uint64
	event *dialog.Event
}

// deliver has every event of the log delivered to those who want it, from where
// it was left, until ctx ends. It returns early only if the store fails.
func (n *Notifier) deliver(ctx context.Context) error {
	w := &worker{
		Notifier: n, lanes: newLanes(n.ended),
		log: make(chan entry, 256), logLost: make(chan error, 1),
		todo: make(chan *attempt, maxSenders), done: make(chan *attempt, maxSenders),
		post: make(chan []*nats.Msg, 1), posted: make(chan []error, 1),
	}
	n.registry.changeAll()
	w.subscribe()
	if err := n.recall(ctx, w.lanes); err != nil {
		return err
	}
	waver, err := newWaver(n.js.Conn())
	if err != nil {
		return fmt.Errorf("write OUTBOX: %w", err)
	}
	defer waver.close()

	ctx, stop := context.WithCancel(ctx)
	w.attempting, w.abort = context.WithCancel(context.WithoutCancel(ctx))
	w.helpers.Go(func() { w.logLost <- n.read(ctx, w.lanes.floor+1, w.log) })
	w.helpers.Go(func() { w.postLetters(waver) })
	defer func() {
		stop()
		w.finish()
		close(w.todo)
		close(w.post)
		w.helpers.Wait()
	}()
	return w.run(ctx)
}

// run does what is due, and waits for the next thing to happen.
func (w *worker) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		w.lanes.tick(now)
		w.send(now)
		w.tell(now)
		w.stats.pending.Store(int64(w.lanes.pending))
		if at, ok := w.lanes.wakeAt(now); ok {
			timer.Reset(at.Sub(now))
		}
		log := w.log
		if w.lanes.full() {
			log = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-w.logLost:
			return err
		case e := <-log:
			w.subscribe() // who subscribed before it was said is told
			w.lanes.add(time.Now(), e.seq, e.event)
		case a := <-w.done:
			w.took(a)
		case errs := <-w.posted:
			w.arrived(errs)
		case <-w.registry.changes:
			w.subscribe()
		case <-timer.C:
		}
	}
}

// subscribe takes the subscriptions that changed.
func (w *worker) subscribe() {
	for _, s := range w.registry.take() {
		w.lanes.subscribe(s)
	}
}

// send hands attempts to the senders until none is ready or all are busy.
func (w *worker) send(now time.Time) {
	for w.under < maxSenders {
		a := w.lanes.next(now)
		if a == nil {
			return
		}
		if w.under++; w.under > w.senders {
			w.senders++
			w.helpers.Go(func() {
				for a := range w.todo {
					w.sender.attempt(w.attempting, w.Notifier, a)
					w.done <- a
				}
			})
		}
		w.todo <- a
	}
}

// took takes an attempt that was made.
func (w *worker) took(a *attempt) {
	w.under--
	if a.outcome == waiting {
		w.stats.failed.Add(1)
		w.Notifier.log.Debug("attempt failed", "subscriber", a.sub.ID, "event", a.seq, "type", a.kind, "err", a.detail)
	}
	if a.outcome == refused {
		w.disable(a)
	}
	before := a.endpoint.failures
	w.lanes.done(time.Now(), a)
	switch after := a.endpoint.failures; {
	case before < ailingAfter && after == ailingAfter:
		w.Notifier.log.Warn("endpoint fails", "endpoint", a.endpoint.key, "err", a.detail)
	case before >= ailingAfter && after == 0:
		w.Notifier.log.Info("endpoint answers again", "endpoint", a.endpoint.key)
	}
}

// disable switches a subscription off whose receiver answered 410.
func (w *worker) disable(a *attempt) {
	id, url := a.sub.ID, a.sub.URL
	w.Notifier.log.Warn("subscription disabled: its receiver answered 410", "subscriber", id)
	w.helpers.Go(func() {
		for w.attempting.Err() == nil {
			ctx, cancel := context.WithTimeout(w.attempting, waveTimeout)
			err := w.Notifier.disable(ctx, id, url, "the receiver answered 410 Gone")
			cancel()
			if err == nil {
				return
			}
			w.Notifier.log.Error("subscription cannot be disabled", "subscriber", id, "err", err)
			pause(w.attempting, errorPause)
		}
	})
}

// tell sends the outbox what it must be told, a wave at a time.
func (w *worker) tell(now time.Time) {
	if w.posting != nil {
		return
	}
	if w.posting = w.lanes.letters(now); w.posting == nil {
		return
	}
	msgs := make([]*nats.Msg, len(w.posting))
	for i, l := range w.posting {
		msgs[i] = l.message()
	}
	w.post <- msgs
}

// arrived takes what became of the letters.
func (w *worker) arrived(errs []error) {
	for i, l := range w.posting {
		w.lanes.posted(l, errs[i])
	}
	w.posting = nil
}

// postLetters writes letters to the outbox until there are no more.
func (w *worker) postLetters(waver *waver) {
	for msgs := range w.post {
		errs := waver.write(w.attempting, msgs)
		for _, err := range errs {
			if err != nil {
				w.Notifier.log.Warn("the store does not take deliveries", "err", err)
				pause(w.attempting, errorPause)
				break
			}
		}
		w.posted <- errs
	}
}

// finish hears the attempts under way out, for five seconds, and tells the
// outbox what came of them. What was aborted is made again after a restart.
func (w *worker) finish() {
	timer := time.AfterFunc(5*time.Second, w.abort)
	defer timer.Stop()
	for w.under > 0 {
		a := <-w.done
		if w.attempting.Err() != nil {
			w.under--
			continue
		}
		w.took(a)
	}
	for range 2 { // what is on its way, and what has not been
		if w.posting != nil {
			w.arrived(<-w.posted)
		}
		w.lanes.cursorDue = time.Time{}
		w.tell(time.Now())
	}
	if w.posting != nil {
		w.arrived(<-w.posted)
	}
	w.abort()
}

// read passes the log on from a place until ctx ends.
func (n *Notifier) read(ctx context.Context, from uint64, log chan<- entry) error {
	c, err := n.events.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:   from,
	})
	if err != nil {
		return fmt.Errorf("read EVENTS: %w", err)
	}
	msgs, err := c.Messages()
	if err != nil {
		return fmt.Errorf("read EVENTS: %w", err)
	}
	defer msgs.Stop()
	for {
		m, err := msgs.Next(jetstream.NextContext(ctx))
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read EVENTS: %w", err)
		}
		e, err := toEntry(m)
		if err != nil {
			n.log.Error("an event cannot be read", "subject", m.Subject(), "err", err)
			continue
		}
		select {
		case log <- e:
		case <-ctx.Done():
			return nil
		}
	}
}

func toEntry(m jetstream.Msg) (entry, error) {
	meta, err := m.Metadata()
	if err != nil {
		return entry{}, err
	}
	e := entry{meta.Sequence.Stream, new(dialog.Event)}
	return e, json.Unmarshal(m.Data(), e.event)
}

// ended counts and logs how a delivery ended.
func (n *Notifier) ended(d *delivery, o outcome) {
	n.stats.ended[o].Add(1)
	if o == expired || o == refused {
		n.log.Warn("delivery "+o.String(), "subscriber", d.lane.target.sub.ID, "call", d.lane.name, "type", d.kind, "attempts", d.attempts)
	}
}
