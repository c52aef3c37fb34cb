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
		n.log.Error("unpublished events cannot all be read", "events", len(events), "err", err)
	}
	if len(events) == 0 {
		return
	}
	n.log.Info("unpublished events are published now", "events", len(events))
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
		n.log.Error("published events cannot be removed from the spool: they will be refused", "err", err)
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
			n.log.Warn("the store did not take events: they are kept for the next start", "events", len(events))
			return
		}
	}
	n.publisher.mu.Lock()
	n.publisher.dropped += uint64(len(events))
	n.publisher.mu.Unlock()
	n.log.Error("events are lost: the store did not take them", "events", len(events), "err", err)
}
