package notify

import "bellhop/dialog"

// A Spool keeps the events that could not be published, from the end of one
// process to the next. An event that is in the log already is refused by it, so
// that no harm is done if a Spool has one.
type Spool interface {
	// Load returns what Save was given. With an error it returns what could be
	// read.
	Load() ([]dialog.Event, error)

	// Save replaces what is kept; without events nothing is.
	Save([]dialog.Event) error
}

// loadSpool puts what an earlier process could not publish before everything else.
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

// clearSpool empties the Spool once what was in it is published. The publisher
// calls it whenever nothing waits.
func (n *Notifier) clearSpool() {
	if !n.spooled || n.publisher.unpublished() > 0 {
		return
	}
	if err := n.config.Spool.Save(nil); err != nil {
		n.log.Error("published events cannot be removed from the spool: they will be refused", "err", err)
	}
	n.spooled = false
}

// saveSpool keeps what is not published at the end. What cannot be kept is
// dropped.
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
