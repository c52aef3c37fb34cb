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

// A snapshot that has not changed is written again after one to two times refreshEvery,
// and so gets a new revision. Therefore the floor (see the package comment) rises above
// the last snapshot of an ended call before the purge marker of that call expires, even
// if the store is slow.
const (
	refreshEvery   = 3 * time.Minute
	purgeMarkerTTL = 10 * time.Minute
)

// A refresher raises the floor of this node: the revision of the bucket below which every
// snapshot is of an ended call. It holds the ids of the calls whose snapshots must be
// written again, with a new revision, before the floor can rise.
type refresher struct {
	floor        uint64    // a snapshot with a revision below it is of an ended call
	storedFloor  uint64    // the floor in the checkpoint of the bucket
	nextFloor    uint64    // the floor once all stale snapshots are written again
	nextRevision uint64    // at the start of the last refresh, the revision after the newest known one
	stale        []string  // ids of the calls whose snapshots must be written again
	nextRefresh  time.Time // when the next refresh starts
}

// startDueRefresh starts a refresh if one is due. It reports whether there is
// something to write: stale snapshots, or a floor that the checkpoint lacks.
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
	for call, revision := range k.revisions {
		if revision < r.nextFloor {
			r.stale = append(r.stale, call)
		}
	}
	if len(r.stale) == 0 {
		r.floor = max(r.floor, r.nextFloor)
	}
	return r.floor > r.storedFloor || len(r.stale) > 0
}

// readStaleSnapshots reads the next stale snapshots from the bucket, at most
// batchSize.
func (k *Keeper) readStaleSnapshots(ctx context.Context) (snapshots []callChange, err error) {
	for _, call := range k.refresher.stale[:min(len(k.refresher.stale), batchSize)] {
		snapshot, err := k.readSnapshot(ctx, call)
		if err != nil {
			return nil, err
		}
		snapshots = append(snapshots, callChange{call, &change{snapshot: snapshot}})
	}
	return snapshots, nil
}

// finishStale removes the first n stale calls, because their snapshots were written. It
// also records that the floor is stored, because the checkpoint was written with them.
// The caller holds mu.
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

// readSnapshot returns the snapshot of a call in the bucket, or nil if there is none.
// It asks the leader of the stream, because another server may have an older one. It
// waits 5 s at most.
func (k *Keeper) readSnapshot(ctx context.Context, call string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request := fmt.Appendf(nil, `{"last_by_subj":%q}`, k.messageSubject(k.callKey(call)))
	reply, err := k.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET.KV_"+bucketName, request)
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

// HasFloor reports whether the checkpoint that Load has read has a floor. Older versions
// wrote none. Without a floor, ended calls may be in the bucket again after a crash.
// Reading the log from the checkpoint does not end them, because their hangups are before
// it. HasFloor must not be called after Run has begun.
func (k *Keeper) HasFloor() bool { return k.refresher.floor > 0 }

// dropBelowFloor removes from calls those whose snapshot has a revision below the floor,
// because they have ended. It enqueues their removal from the bucket.
func (k *Keeper) dropBelowFloor(calls []dialog.Change) []dialog.Change {
	return slices.DeleteFunc(calls, func(c dialog.Change) bool {
		if k.revisions[c.Call] >= k.refresher.floor {
			return false
		}
		k.pending[c.Call] = &change{coveredPosition: max(k.coveredPosition, 0)}
		return true
	})
}

// formatCheckpoint returns a checkpoint as the bucket has it: the position in the
// event log and, after a space, the floor if it is not 0.
func formatCheckpoint(position int64, floor uint64) []byte {
	text := strconv.AppendInt(nil, position, 10)
	if floor > 0 {
		text = strconv.AppendUint(append(text, ' '), floor, 10)
	}
	return text
}

// parseCheckpoint parses a checkpoint of the bucket. Older versions wrote no floor,
// or only a time.
func parseCheckpoint(text string) (c Checkpoint, floor uint64, err error) {
	c.Exists = true
	position, floorText, hasFloor := strings.Cut(text, " ")
	if hasFloor {
		if floor, err = strconv.ParseUint(floorText, 10, 64); err != nil {
			return c, 0, err
		}
	}
	if c.Position, err = strconv.ParseUint(position, 10, 64); err == nil {
		return c, floor, nil
	}
	c.Time, err = time.Parse(time.RFC3339Nano, text)
	c.Time = c.Time.Add(-clockSkew)
	return c, 0, err
}
