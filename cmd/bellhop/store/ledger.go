package store

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"bellhop/admin/ops"
)

// A ledger is the content of the file check. Its JSON form is stored: only add fields.
type ledger struct {
	Clean   bool                   `json:"clean"` // the server was stopped and has written everything
	Streams map[string]streamState `json:"streams"`
	Losses  []loss                 `json:"losses"`
}

// A streamState is the last recorded state of a stream: the sequence numbers and the
// times of its first and its last message.
type streamState struct {
	First   uint64    `json:"first"`
	FirstAt time.Time `json:"first_at"`
	Last    uint64    `json:"last"`
	LastAt  time.Time `json:"last_at"`
}

// A loss is a run of unreadable messages.
type loss struct {
	Stream   string    `json:"stream"`
	First    uint64    `json:"first"` // sequence numbers
	Last     uint64    `json:"last"`
	Records  uint64    `json:"records"`
	From     time.Time `json:"from,omitzero"` // times of the messages before and after
	To       time.Time `json:"to,omitzero"`
	Found    time.Time `json:"found"`
	Restored bool      `json:"restored,omitempty"` // the content is restored
	Repaired bool      `json:"mended,omitempty"`   // the damaged bytes are removed from the block
}

// contiguousStreams are the streams in which no message is deleted or replaced before
// it expires, so each missing sequence number is a lost message. In other streams, a
// missing message may have been deleted, and a damaged record may have been replaced.
// The value describes the messages.
var contiguousStreams = map[string]string{
	"bellhop_events":        "events",
	"bellhop_attempts":      "records of the delivery log",
	"bellhop_audit":         "entries of the audit log",
	"KV_bellhop_extensions": "extension numbers",
}

// lastKeptStreams are the buckets whose last message is never deleted.
var lastKeptStreams = map[string]bool{"KV_bellhop_subscriptions": true, "KV_bellhop_tokens": true, "KV_bellhop_keys": true}

const (
	lossRetention = 24 * time.Hour
	maxLosses     = 100 // of one stream; more are merged with their neighbors
)

// saveLedger writes the ledger if it has changed.
func (g *checker) saveLedger() {
	g.mu.Lock()
	defer g.mu.Unlock()
	b, err := json.Marshal(g.ledger)
	if err == nil && bytes.Equal(b, g.written) {
		return
	}
	if err == nil {
		err = writeSealed(g.filePath("check"), b)
	}
	if err != nil {
		g.log.Warn("store ledger not written", "err", err)
		return
	}
	g.written = b
}

// renameStream records that a stream has a new name and the same messages.
func (g *checker) renameStream(from, to string) {
	g.mu.Lock()
	if state, known := g.ledger.Streams[from]; known {
		delete(g.ledger.Streams, from)
		g.ledger.Streams[to] = state
	}
	for i := range g.ledger.Losses {
		if l := &g.ledger.Losses[i]; l.Stream == from {
			l.Stream = to
		}
	}
	g.mu.Unlock()
	g.saveLedger()
}

// hasDamage reports whether damage was found in a stream and is not repaired.
func (g *checker) hasDamage(stream string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.ContainsFunc(g.ledger.Losses, func(l loss) bool { return l.Stream == stream && !l.Repaired })
}

// addLosses records the losses found in a stream, and logs the new ones. If repaired is
// set, it marks all losses of the stream as repaired.
func (g *checker) addLosses(stream string, found []loss, repaired bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now().UTC()
	var records uint64
	var from, to time.Time
	for _, l := range found {
		l.Found, l.Repaired = now, repaired
		for _, part := range g.ledger.unknownParts(l) {
			g.ledger.Losses = append(g.ledger.Losses, part)
			records += part.Records
			if from.IsZero() {
				from = part.From
			}
			to = part.To
		}
	}
	for i := range g.ledger.Losses {
		if l := &g.ledger.Losses[i]; l.Stream == stream && repaired {
			l.Repaired = true
		}
	}
	if records > 0 {
		g.log.Error("store records lost", "stream", stream, "records", records, "after", from, "before", to, "repaired", repaired)
	}
	g.ledger.pruneLosses(now, max(g.keep, lossRetention))
}

// unknownParts returns the parts of a loss that no recorded loss covers.
func (g *ledger) unknownParts(l loss) []loss {
	parts := []loss{l}
	for _, k := range g.Losses {
		if k.Stream != l.Stream {
			continue
		}
		var rest []loss
		for _, p := range parts {
			if p.Last < k.First || p.First > k.Last {
				rest = append(rest, p)
				continue
			}
			if _, contiguous := contiguousStreams[currentName(p.Stream)]; !contiguous {
				continue // the same damage: sequence numbers between may be unused
			}
			if p.First < k.First {
				before := p
				before.Last, before.Records = k.First-1, k.First-p.First
				rest = append(rest, before)
			}
			if p.Last > k.Last {
				after := p
				after.First, after.Records = k.Last+1, p.Last-k.Last
				rest = append(rest, after)
			}
		}
		parts = rest
	}
	return parts
}

// pruneLosses removes repaired losses that were found longer than retention ago. If a
// stream has more than maxLosses, it merges neighboring losses.
func (g *ledger) pruneLosses(now time.Time, retention time.Duration) {
	g.Losses = slices.DeleteFunc(g.Losses, func(l loss) bool {
		return l.Repaired && now.Sub(l.Found) > retention
	})
	slices.SortStableFunc(g.Losses, func(a, b loss) int {
		return cmp.Or(strings.Compare(a.Stream, b.Stream), cmp.Compare(a.First, b.First))
	})
	count := make(map[string]int)
	for _, l := range g.Losses {
		count[l.Stream]++
	}
	for i := 1; i < len(g.Losses); {
		a, b := &g.Losses[i-1], g.Losses[i]
		if a.Stream != b.Stream || count[a.Stream] <= maxLosses {
			i++
			continue
		}
		a.Last, a.To, a.Records = max(a.Last, b.Last), b.To, a.Records+b.Records
		a.Repaired, a.Restored, a.Found = a.Repaired && b.Repaired, a.Restored && b.Restored, b.Found
		g.Losses = slices.Delete(g.Losses, i, i+1)
		count[a.Stream]--
	}
}

// markRestored records that the repaired losses of a stream up to the sequence number
// upTo are restored.
func (g *checker) markRestored(stream string, upTo uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.ledger.Losses {
		if l := &g.ledger.Losses[i]; l.Stream == stream && l.Repaired && l.Last <= upTo {
			l.Restored = true
		}
	}
}

// allLosses returns the losses in the store, newest first.
func (g *checker) allLosses() []ops.Loss {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []ops.Loss
	for _, l := range g.ledger.Losses {
		what := contiguousStreams[currentName(l.Stream)]
		if what == "" {
			what = "records"
		}
		all = append(all, ops.Loss{Stream: l.Stream, What: what, Records: l.Records, From: l.From, To: l.To, Found: l.Found, Restored: l.Restored})
	}
	slices.SortStableFunc(all, func(a, b ops.Loss) int { return b.Found.Compare(a.Found) })
	return all
}
