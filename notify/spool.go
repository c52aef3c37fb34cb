package notify

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
func (n *Notifier) loadSpool() {
	if n.config.Spool == nil {
		return
	}
	events, err := n.config.Spool.Load()
	if err != nil {
		n.log.Error("spool not read completely", "events", len(events), "err", err)
	}
	if len(events) == 0 {
		return
	}
	n.log.Info("unpublished events read from the spool", "events", len(events))
	n.spooled = true
	n.publisher.mu.Lock()
	defer n.publisher.mu.Unlock()
	for i := range events {
		events[i].Observed = n.monotonicTime(events[i].At)
		n.publisher.bufferEvent(&events[i])
	}
	signal(n.publisher.wakeup)
}

// clearSpool empties the Spool once its events are published. The publisher calls it
// whenever its buffer is empty.
func (n *Notifier) clearSpool() {
	if !n.spooled || n.publisher.unpublished() > 0 {
		return
	}
	if err := n.config.Spool.Save(nil); err != nil {
		n.log.Error("spool not cleared: the stream will refuse its events", "err", err)
	}
	n.spooled = false
}

// saveSpool stores the unpublished events at the end of Run. Events that cannot be stored
// are dropped.
func (n *Notifier) saveSpool() {
	events := n.Unpublished()
	if len(events) == 0 {
		n.clearSpool()
		return
	}
	var err error
	if n.config.Spool != nil {
		if err = n.config.Spool.Save(events); err == nil {
			n.log.Warn("unpublished events saved for the next start", "events", len(events))
			return
		}
	}
	n.publisher.mu.Lock()
	n.publisher.dropped += uint64(len(events))
	n.publisher.mu.Unlock()
	n.log.Error("events lost: the store did not accept them", "events", len(events), "err", err)
}
