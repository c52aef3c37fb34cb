package eventlog

import "bellhop/dialog"

// A Spool stores events that could not be published from the end of one process to the
// start of the next. An event that the log already has does no harm in it: the stream
// refuses a second publish.
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
	signal(l.publisher.wakeup)
}

// clearSpool empties the Spool once its events are published. The publisher calls it
// whenever its buffer is empty.
func (l *Log) clearSpool() {
	if !l.publisher.spooled || l.publisher.unpublished() > 0 {
		return
	}
	if err := l.config.Spool.Save(nil); err != nil {
		l.log.Error("spool not cleared: the stream will refuse its events", "err", err)
	}
	l.publisher.spooled = false
}

// SaveSpool stores the unpublished events in the Spool once Run has ended and nothing is
// appended any more. Events that cannot be stored are dropped.
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
