package ops

import (
	"fmt"
	"time"
)

// Loss is a gap in a stream of the store: records that cannot be read because a file of
// the store is damaged or missing.
type Loss struct {
	Stream   string    `json:"stream" doc:"Stream of the store that held the records"`
	What     string    `json:"what" doc:"Kind of the records"`
	Records  uint64    `json:"records" doc:"Number of records. Except in bellhop_events, bellhop_attempts, bellhop_audit and KV_bellhop_extensions, some may have been obsolete"`
	From     time.Time `json:"from,omitzero" doc:"Time of the last record before the gap"`
	To       time.Time `json:"to,omitzero" doc:"Time of the first record after the gap"`
	Found    time.Time `json:"found" doc:"Time at which bellhop found the loss"`
	Restored bool      `json:"restored" doc:"Content restored from the snapshot or from the key file"`
}

// String returns the loss as a line of text for operators.
func (l Loss) String() string {
	what := l.What
	if what == "records" {
		what += " of " + l.Stream
	}
	s := fmt.Sprintf("store damaged: %s lost: %d", what, l.Records)
	const layout = time.RFC3339
	switch from, to := l.From.UTC().Format(layout), l.To.UTC().Format(layout); {
	case !l.From.IsZero() && !l.To.IsZero():
		s += ", between " + from + " and " + to
	case !l.From.IsZero():
		s += ", after " + from
	case !l.To.IsZero():
		s += ", before " + to
	}
	return s
}

// degradedFor is how long bellhop is degraded after it has found a loss, across restarts.
const degradedFor = 24 * time.Hour

// Losses returns the records that the store has lost.
func (o *Operations) Losses() []Loss {
	if o.config.Losses == nil {
		return nil
	}
	return o.config.Losses()
}

// Degraded returns the reasons why bellhop is degraded: it works, but records are lost,
// or calls fail or are not observed.
func (o *Operations) Degraded() (why []string) {
	if o.config.Degraded != nil {
		why = o.config.Degraded()
	}
	for _, l := range o.Losses() {
		if !l.Restored && time.Since(l.Found) < degradedFor {
			why = append(why, l.String())
		}
	}
	return why
}

// Unready returns the reasons why bellhop is not ready. Without a reason it is ready.
func (o *Operations) Unready() (reasons []string) {
	if o.config.Ready != nil {
		reasons = o.config.Ready()
	}
	if err := o.notifier.EventLog.Health(); err != nil {
		reasons = append(reasons, err.Error())
	}
	return reasons
}
