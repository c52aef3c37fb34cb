package eventlog

import (
	"bellhop/dialog"
	"bellhop/notify/stream"
)

// A Spool stores unpublished events from the end of one process to the start of the next.
// It may hold events that the log already has, because the stream refuses to store them
// again.
type Spool interface {
	// Load returns the events that Save was given. With an error it returns the events that
	// could be read.
	Load() ([]dialog.Event, error)

	// Save replaces the stored events; an empty slice removes them.
	Save([]dialog.Event) error
}

// loadSpool puts the unpublished events of an earlier process at the front of the buffer.
func (l *Log) loadSpool() {
	if l.config.Spool == nil {
		return
	}
	events, err := l.config.Spool.Load()
	if err != nil {
		l.log.Error("spool not read completely", "events", len(events), "err", err)
	}
	if len(events) == 0 {
		return
	}
	l.log.Info("unpublished events read from the spool", "events", len(events))
	l.publisher.spooled = true
	l.publisher.mu.Lock()
	defer l.publisher.mu.Unlock()
	for i := range events {
		events[i].Observed = l.config.MonotonicTime(events[i].At)
		l.publisher.bufferEvent(&events[i])
	}
	stream.Signal(l.publisher.wakeup)
}

// clearSpool empties the Spool if all events are published. Run calls it whenever it has
// nothing to publish.
func (l *Log) clearSpool() {
	if !l.publisher.spooled || l.publisher.unpublished() > 0 {
		return
	}
	if err := l.config.Spool.Save(nil); err != nil {
		l.log.Error("spool not cleared: the stream will refuse its events", "err", err)
	}
	l.publisher.spooled = false
}

// SaveSpool stores the unpublished events in the Spool, or empties it if there are none.
// It must be called after Run has ended and after the last Append. Events that cannot be
// stored are dropped and counted.
func (l *Log) SaveSpool() {
	events := l.Unpublished()
	if len(events) == 0 {
		l.clearSpool()
		return
	}
	var err error
	if l.config.Spool != nil {
		if err = l.config.Spool.Save(events); err == nil {
			l.log.Warn("unpublished events saved for the next start", "events", len(events))
			return
		}
	}
	l.publisher.mu.Lock()
	l.publisher.dropped += uint64(len(events))
	l.publisher.mu.Unlock()
	l.log.Error("events lost: the store did not accept them", "events", len(events), "err", err)
}
