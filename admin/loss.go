package admin

import (
	"fmt"
	"time"
)

// A Loss is a run of records of the store that cannot be read, because a file of it
// is damaged or gone.
type Loss struct {
	Stream   string    `json:"stream" doc:"Stream of the store that held the records"`
	What     string    `json:"what" doc:"Kind of the records"`
	Records  uint64    `json:"records" doc:"Number of records. Except in bellhop_events, bellhop_attempts, bellhop_audit and KV_bellhop_extensions, some may have been obsolete"`
	From     time.Time `json:"from,omitzero" doc:"Time of the last record before the gap"`
	To       time.Time `json:"to,omitzero" doc:"Time of the first record after the gap"`
	Found    time.Time `json:"found" doc:"Time at which bellhop found the loss"`
	Restored bool      `json:"restored" doc:"Content restored from the snapshot or from the key file"`
}

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

// degradedFor is how long a loss is shown as one that needs a look. It counts from
// the finding, over restarts: most are found by a restart.
const degradedFor = 24 * time.Hour

// losses returns what the store has lost.
func (s *Server) losses() []Loss {
	if s.config.Losses == nil {
		return nil
	}
	return s.config.Losses()
}

// degraded returns the reasons why bellhop is degraded: it works, but records are lost,
// or calls fail or go unseen.
func (s *Server) degraded() (why []string) {
	if s.config.Degraded != nil {
		why = s.config.Degraded()
	}
	for _, l := range s.losses() {
		if !l.Restored && time.Since(l.Found) < degradedFor {
			why = append(why, l.String())
		}
	}
	return why
}
