package keep

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
)

// A record that has not changed is written again after one to two times
// refreshEvery. So the floor passes a record of a call that is over before its
// marker expires, with time to spare for a store that is slow.
const (
	refreshEvery = 3 * time.Minute
	purgeMarkerTTL    = 10 * time.Minute
)

// A refresher knows which records are to be written again, and how far the floor of
// this node can rise then. All of it but stale are places of the bucket.
type refresher struct {
	floor  uint64    // no record before it counts
	storedFloor uint64    // the floor that the mark has
	nextFloor uint64    // the floor when no call of stale is left
	nextRevision    uint64    // behind the last message that was known at the last refresh
	stale  []string  // calls whose records are to be written again
	nextRefresh    time.Time // when the next refresh begins
}

// refreshDue reports whether a refresh is under way or the mark lacks its floor, and
// begins a refresh that is due.
func (k *Keeper) startDueRefresh(now time.Time) bool {
	r := &k.refresher
	if len(r.stale) > 0 || r.floor > r.storedFloor {
		return true
	}
	if now.Before(r.nextRefresh) {
		return false
	}
	r.nextRefresh = now.Add(refreshEvery)
	r.nextFloor, r.nextRevision = r.nextRevision, k.lastRevision+1
	k.mu.Lock()
	defer k.mu.Unlock()
	for call, place := range k.revisions {
		if place < r.nextFloor {
			r.stale = append(r.stale, call)
		}
	}
	if len(r.stale) == 0 {
		r.floor = max(r.floor, r.nextFloor)
	}
	return r.floor > r.storedFloor || len(r.stale) > 0
}

// readStale returns the records of the next stale calls as the bucket has them.
func (k *Keeper) readStaleSnapshots(ctx context.Context) (again []callChange, err error) {
	for _, call := range k.refresher.stale[:min(len(k.refresher.stale), batchSize)] {
		record, err := k.readSnapshot(ctx, call)
		if err != nil {
			return nil, err
		}
		again = append(again, callChange{call, &change{snapshot: record}})
	}
	return again, nil
}

// refreshed notes that the records of so many stale calls are written, and the mark
// with the floor. The caller holds mu.
func (k *Keeper) finishStale(n int) {
	r := &k.refresher
	r.storedFloor = r.floor
	if n == 0 {
		return
	}
	if r.stale = slices.Delete(r.stale, 0, n); len(r.stale) == 0 {
		r.floor = max(r.floor, r.nextFloor)
	}
}

// readRecord returns the record that the bucket has of a call; nil: it has none. The
// leader of the stream is asked: another server may have an older one.
func (k *Keeper) readSnapshot(ctx context.Context, call string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	ask := fmt.Appendf(nil, `{"last_by_subj":%q}`, k.messageSubject(k.callKey(call)))
	reply, err := k.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET.KV_"+bucketName, ask)
	if err != nil {
		return nil, fmt.Errorf("read call %s from bucket %s: %w", call, bucketName, err)
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Data   []byte `json:"data"`
			Header []byte `json:"hdrs"`
		} `json:"message"`
	}
	switch err := json.Unmarshal(reply.Data, &answer); {
	case err != nil:
		return nil, fmt.Errorf("read call %s from bucket %s: %w", call, bucketName, err)
	case answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, nil
	case answer.Error != nil:
		return nil, fmt.Errorf("read call %s from bucket %s: %w", call, bucketName, answer.Error)
	}
	if h, err := nats.DecodeHeadersMsg(answer.Message.Header); err == nil && h.Get("KV-Operation") != "" {
		return nil, nil
	}
	return answer.Message.Data, nil
}

// Floored reports whether the mark that Load has read has a floor. Older versions
// marked none: after a crash the bucket may have calls again whose hangups are in the
// log before the place of the mark. It must not be called after Run has begun.
func (k *Keeper) HasFloor() bool { return k.refresher.floor > 0 }

// counting returns the calls that Load has read but for those before the floor,
// which are over: these are taken out of the bucket again.
func (k *Keeper) dropBelowFloor(calls []dialog.Change) []dialog.Change {
	return slices.DeleteFunc(calls, func(c dialog.Change) bool {
		if k.revisions[c.Call] >= k.refresher.floor {
			return false
		}
		k.pending[c.Call] = &change{coveredPosition: max(k.coveredPosition, 0)}
		return true
	})
}

// markText is the mark as the bucket has it: a place of the log and, behind a space,
// the floor.
func formatCheckpoint(place int64, floor uint64) []byte {
	text := strconv.AppendInt(nil, place, 10)
	if floor > 0 {
		text = strconv.AppendUint(append(text, ' '), floor, 10)
	}
	return text
}

// readMark reads a mark. An older version wrote no floor, or a time alone.
func parseCheckpoint(text string) (m Checkpoint, floor uint64, err error) {
	m.Exists = true
	place, behind, floored := strings.Cut(text, " ")
	if floored {
		if floor, err = strconv.ParseUint(behind, 10, 64); err != nil {
			return m, 0, err
		}
	}
	if m.Position, err = strconv.ParseUint(place, 10, 64); err == nil {
		return m, floor, nil
	}
	m.Time, err = time.Parse(time.RFC3339Nano, text)
	m.Time = m.Time.Add(-clockSkew)
	return m, 0, err
}
