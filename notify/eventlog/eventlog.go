// Package eventlog is the event log: the JetStream stream of all events that the nodes of a
// store publish.
//
// A [Log] buffers events until the stream has acknowledged them, and reads them.
// Appending never blocks. Each event has its own subject and is published on the
// condition that this subject has no message. So the stream never stores an event twice,
// however late it is published again.
//
// # Order
//
// The events of one call are in the log in the order in which they were appended, because
// a batch has at most one event of a call, and a batch is written only after the results
// of the one before are known.
//
// # Memory
//
// At most 10,000 events wait to be published. If more are appended, the oldest live ones
// are dropped and counted. The cache holds the last 4,096 events of the log, and as many
// older ones that pages have read last. Delivery, tails and pages read cached events
// without the store. The cache is divided into blocks of 256 positions.
//
// # What a crash loses
//
// Kill -9 loses the events that the stream has not acknowledged: those of the last 2 ms
// (40 ms above 2,000 events a second), and those of the batch that is being written. A
// regular stop writes unpublished events to the [Spool], and the next start publishes
// them first.
package eventlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
)

// Config holds the settings of a Log, and the functions that the Log calls.
type Config struct {
	Retention     time.Duration // how long events are kept
	Replicas      int           // copies of the stream
	Shared        bool          // other nodes publish too
	PublishAtOnce bool          // do not wait 2 to 40 ms to gather a batch
	Spool         Spool         // nil: events that are unpublished when Run ends are lost
	Log           *slog.Logger

	// Wanted reports whether an event is published at all.
	Wanted func(*dialog.Event) bool

	// MonotonicTime converts a time of the wall clock into one of the monotonic clock.
	MonotonicTime func(time.Time) time.Time

	// RecoverPanic is deferred where outside input is handled. It must call recover.
	RecoverPanic func(part string)
}

// An Entry is an event and its position in the log. Readers share events and must not
// change them.
type Entry struct {
	Seq   uint64
	Event *dialog.Event
}

// A Log is the event log. Its methods may be called from any goroutine unless they say
// otherwise.
type Log struct {
	config Config
	log    *slog.Logger
	js     jetstream.JetStream
	events jetstream.Stream

	publisher publisher
	cache     cache
	readSlot  chan struct{} // capacity 1: held by a tail or query while it reads from the store

	releasedRaised chan struct{} // capacity 1: released may have risen
	endRaised      chan struct{} // capacity 1: end may have risen; used only if the log is shared

	mu       sync.Mutex
	end      uint64      // position of the last event known to be in the log
	released uint64      // position of the last event that may be delivered
	tails    int         // how many tails are open
	reader   *tailReader // nil: no tail is open
}

// Open opens the log, creates it if it is missing, and buffers the events of the Spool
// for publishing.
func Open(ctx context.Context, js jetstream.JetStream, c Config) (*Log, error) {
	l := &Log{
		config: c, log: c.Log, js: js, publisher: newPublisher(), cache: newCache(),
		readSlot: make(chan struct{}, 1), releasedRaised: make(chan struct{}, 1), endRaised: make(chan struct{}, 1),
	}
	// The retention policy is limits, not work queue, because replay and the page read
	// events after their deliveries have ended.
	var err error
	l.events, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:        "bellhop_events",
		Subjects:    []string{"bellhop.event.>"}, // bellhop.event.<extension>.<call>.<event id>
		Storage:     jetstream.FileStorage,
		MaxAge:      c.Retention,
		Replicas:    c.Replicas,
		AllowDirect: true, // any server with a copy answers
	})
	if err != nil {
		return nil, fmt.Errorf("open event log bellhop_events: %w", err)
	}
	l.end = l.events.CachedInfo().State.LastSeq
	l.loadSpool()
	return l, nil
}

// allEventsSubject matches the subjects of all events.
const allEventsSubject = "bellhop.event.*.*.*"

// Stats holds counts since Open, except Unpublished, which is a current value.
type Stats struct {
	Published   uint64 // events acknowledged by the stream
	Dropped     uint64 // events lost: the buffer was full while the store was slow or gone, or the event cannot be stored
	Unpublished int    // events that wait to be published
}

// Stats returns the current counts.
func (l *Log) Stats() Stats {
	p := &l.publisher
	p.mu.Lock()
	defer p.mu.Unlock()
	return Stats{Published: p.published, Dropped: p.dropped, Unpublished: len(p.buffer) + len(p.batch)}
}

// Health returns an error if the last batch failed, if more than half of the permitted
// unpublished events wait, or if the store is not connected. Otherwise it returns nil.
func (l *Log) Health() error {
	p := &l.publisher
	p.mu.Lock()
	defer p.mu.Unlock()
	switch waiting := len(p.buffer) + len(p.batch); {
	case p.lastErr != nil:
		return fmt.Errorf("the store accepts no events (%d unpublished): %w", waiting, p.lastErr)
	case waiting > maxUnpublished/2:
		return fmt.Errorf("the store is slow: %d events are unpublished", waiting)
	case !l.js.Conn().IsConnected():
		if err := l.js.Conn().LastError(); err != nil {
			return fmt.Errorf("the store is not connected: %w", err)
		}
		return errors.New("the store is not connected")
	}
	return nil
}
