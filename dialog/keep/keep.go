// Package keep stores snapshots of live calls, so that a tracker can restore them after a
// restart of the process.
//
// A [Keeper] takes the changes of the tracker and writes them to a JetStream bucket in
// the background, so that the tracker never waits. At the start, the tracker is restored
// from the bucket and from the later events of the event log.
//
// # Order
//
// A change is written only after the event log has acknowledged the events before the
// change. So the bucket is never ahead of the event log: a call is removed from the
// bucket only when its hangups are in the log.
//
// # Crashes
//
// A crash loses nothing that is in the event log. Changes that are not in the bucket yet
// are rebuilt from the log. As a rule, these are the changes of less than a second. Load
// returns a checkpoint: the position to read the log from. The checkpoint is a position
// and not a time, because a clock may be set. A power cut loses what the store had not
// synced, of the bucket and of the log alike.
//
// # Ended calls
//
// An ended call leaves a purge marker in the bucket, which expires. A file of the store
// may still have the last snapshot of that call. If the server is killed after the marker
// has expired, it may find that snapshot again. To detect this, the checkpoint of each
// node also has a floor: a snapshot with a revision below the floor is of an ended call.
// Snapshots of live calls that have not changed for some minutes are written again. This
// gives them new revisions, so that the floor can rise.
//
// # Memory
//
// While the store is slow or unreachable, a Keeper holds the newest snapshot of each live
// call, and the ids of the ended calls that are still in the bucket.
//
// # Nodes
//
// Nodes that share a store share the bucket. Each node restores only its own calls.
package keep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
)

// Config is the configuration of a [Keeper].
type Config struct {
	Node     string // unique id of this process among those that share the store, the same after a restart; letters, digits and -
	Replicas int    // copies of the bucket in a cluster; 0 means 1

	// OldestUnpublished returns the time of the oldest event that the event log has
	// not acknowledged, on the clock of Put; false if there is none.
	OldestUnpublished func() (time.Time, bool)

	// LogEnd returns the position of the last event that the event log has
	// acknowledged.
	LogEnd func() uint64

	Log *slog.Logger // nil: slog.Default()
}

// A Keeper stores snapshots of live calls. Put and Run may be called from different
// goroutines.
type Keeper struct {
	config       Config
	log          *slog.Logger
	nc           *nats.Conn
	bucket       jetstream.KeyValue
	lastRevision uint64        // the newest revision that the bucket is known to have
	wake         chan struct{} // one buffered value: changes are pending

	mu              sync.Mutex
	pending         map[string]*change // changes that are not in the bucket yet, by call
	revisions       map[string]uint64  // of each call that the bucket has or may have: its snapshot has this revision or a later one
	coveredPosition int64              // position in the event log: bucket and pending changes cover the log up to it
	writtenPosition int64              // position in the event log: the bucket alone covers the log up to it; noPosition: no checkpoint was written yet
	logEnds         []logEnd           // of each Put whose now is after the last upTo, oldest first
	dropped         uint64

	refresher refresher // used by Load, then by Run only
}

// noPosition is a position before the first of the event log.
const noPosition = -1

// A logEnd is the position of the last event in the event log at a time.
type logEnd struct {
	at       time.Time
	position int64
}

// A change is a pending write of one call.
type change struct {
	snapshot        []byte    // nil: the call ended
	at              time.Time // the event log must have the events up to this time before the change is written
	coveredPosition int64     // position in the event log: without this change the bucket covers the log up to here only
}

const bucketName = "bellhop_calls"

// openBucket opens the bucket, creating it if it is missing. The key
// call.<node>.<call> has the last snapshot of a live call, the key mark.<node> the
// checkpoint of a node. The purge marker of an ended call expires by itself.
func openBucket(ctx context.Context, js jetstream.JetStream, c Config) (jetstream.KeyValue, error) {
	return js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket:         bucketName,
		Description:    "live calls",
		History:        1,
		Storage:        jetstream.FileStorage,
		Replicas:       max(1, c.Replicas),
		LimitMarkerTTL: time.Second, // lets purge markers have a TTL of their own
	})
}

// Open returns a Keeper of the bucket, which it creates if it is missing. The Keeper
// need not be closed.
func Open(ctx context.Context, js jetstream.JetStream, c Config) (*Keeper, error) {
	k := &Keeper{
		config: c, log: c.Log, nc: js.Conn(),
		wake:      make(chan struct{}, 1),
		pending:   make(map[string]*change),
		revisions: make(map[string]uint64),
	}
	if k.log == nil {
		k.log = slog.Default()
	}
	var err error
	if k.bucket, err = openBucket(ctx, js, c); err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", bucketName, err)
	}
	return k, nil
}

// A Checkpoint is the position in the event log up to which the bucket has
// everything. The zero Checkpoint means that nothing was ever stored.
type Checkpoint struct {
	Exists   bool
	Position uint64    // of the last event that the bucket covers: the log is read from the next one on
	Time     time.Time // in a checkpoint of an older version: the time of the store from which the log is read; zero: use Position
}

// clockSkew is subtracted from the time in a checkpoint of an older version. It is needed
// because the times in the event log are those of the store, and because calls do not
// change in the exact order of their times.
const clockSkew = 5 * time.Second

// Load returns the calls of this node, and the checkpoint from which the event log must
// be read to complete them. If the log has lost events, the checkpoint may be beyond
// LogEnd; Load then returns LogEnd. Load is called once, before Put.
func (k *Keeper) Load(ctx context.Context) (calls []dialog.Change, checkpoint Checkpoint, err error) {
	status, err := k.bucket.Status(ctx)
	if err != nil {
		return nil, checkpoint, fmt.Errorf("load bucket %s: %w", bucketName, err)
	}
	if s, ok := status.(*jetstream.KeyValueBucketStatus); ok {
		k.lastRevision = s.StreamInfo().State.LastSeq
		k.refresher.nextRevision = k.lastRevision + 1
	}
	prefix := k.callKey("")
	w, err := k.bucket.WatchFiltered(ctx, []string{prefix + "*", k.checkpointKey()}, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, checkpoint, fmt.Errorf("load bucket %s: %w", bucketName, err)
	}
	defer w.Stop()
	for {
		var e jetstream.KeyValueEntry
		select {
		case e = <-w.Updates():
		case <-ctx.Done():
			return nil, checkpoint, fmt.Errorf("load bucket %s: %w", bucketName, ctx.Err())
		}
		switch {
		case e == nil:
			checkpoint.Position = min(checkpoint.Position, k.config.LogEnd())
			if k.coveredPosition, k.writtenPosition = noPosition, noPosition; checkpoint.Exists && checkpoint.Time.IsZero() {
				k.coveredPosition, k.writtenPosition = int64(checkpoint.Position), int64(checkpoint.Position)
			}
			k.refresher.storedFloor = k.refresher.floor
			return k.dropBelowFloor(calls), checkpoint, nil
		case e.Key() == k.checkpointKey():
			if checkpoint, k.refresher.floor, err = parseCheckpoint(string(e.Value())); err != nil {
				return nil, checkpoint, fmt.Errorf("load bucket %s: %s: %w", bucketName, e.Key(), err)
			}
		default:
			id := strings.TrimPrefix(e.Key(), prefix)
			calls = append(calls, dialog.Change{Call: id, Record: e.Value()})
			k.revisions[id] = e.Revision()
		}
	}
}

func (k *Keeper) callKey(id string) string { return "call." + k.config.Node + "." + id }
func (k *Keeper) checkpointKey() string    { return "mark." + k.config.Node }

// Put enqueues the changes that the tracker returned at time now. They include the
// effects of all events up to time upTo. Once they are stored, the checkpoint may
// therefore advance past these events: to the end that the event log had at the last Put
// at or before upTo. Both times are on the clock of [dialog.Message.At]. Put never waits
// for the store.
func (k *Keeper) Put(changes []dialog.Change, now, upTo time.Time) {
	end := k.config.LogEnd()
	k.mu.Lock()
	k.coveredPosition = max(k.coveredPosition, 0)
	for _, c := range changes {
		w := k.pending[c.Call]
		since := k.coveredPosition
		if w != nil {
			since = w.coveredPosition
		}
		if _, stored := k.revisions[c.Call]; c.Record == nil && !stored {
			delete(k.pending, c.Call) // it began and ended before a snapshot was written
			continue
		}
		k.pending[c.Call] = &change{c.Record, now, since}
	}
	k.logEnds = append(k.logEnds, logEnd{now, int64(end)})
	for len(k.logEnds) > 0 && !k.logEnds[0].at.After(upTo) {
		k.coveredPosition = max(k.coveredPosition, k.logEnds[0].position)
		k.logEnds = k.logEnds[1:]
	}
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Pending returns the number of changes that are not in the bucket yet.
func (k *Keeper) Pending() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.pending)
}

const (
	pollInterval       = 50 * time.Millisecond  // between two checks whether the event log has acknowledged more
	checkpointInterval = time.Second            // the least time between two writes of the checkpoint alone
	retryDelay         = 250 * time.Millisecond // after a write that failed
	drainTimeout       = 2 * time.Second        // to write the pending changes after the end of Run's context
	batchSize          = 500                    // most changes before one acknowledgement
)

// Run writes changes to the bucket until ctx ends. Then it writes the pending changes,
// for 2 s at most, and not at all if the store is not connected. It retries a write
// that fails, and always returns nil.
func (k *Keeper) Run(ctx context.Context) error {
	drainCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if !k.nc.IsConnected() {
			cancel()
			return
		}
		time.AfterFunc(drainTimeout, cancel)
	})()
	failing := false
	var lastWrite time.Time
	for {
		batch, position := k.collectBatch()
		refresh := position > noPosition && ctx.Err() == nil && k.startDueRefresh(time.Now())
		switch {
		case !refresh && len(batch) == 0 && k.Pending() > 0:
			sleepContext(drainCtx, pollInterval) // the event log lacks events before the changes
		case !refresh && len(batch) == 0 && (position <= k.readWrittenPosition() || time.Since(lastWrite) < checkpointInterval):
			next := time.NewTimer(time.Until(k.refresher.nextRefresh))
			select {
			case <-k.wake:
			case <-next.C:
			case <-ctx.Done():
				next.Stop()
				return nil
			}
			next.Stop()
			continue
		default:
			err := k.writeBatchRecovered(drainCtx, batch, position)
			lastWrite = time.Now()
			if err == nil {
				if failing {
					k.log.Info("call snapshots stored again")
				}
				failing = false
				continue
			}
			if !failing && drainCtx.Err() == nil {
				k.log.Warn("call snapshots not stored", "calls", k.Pending(), "err", err)
			}
			failing = true
			sleepContext(drainCtx, retryDelay)
		}
		if drainCtx.Err() != nil {
			if n := k.Pending(); n > 0 {
				k.log.Error("call snapshots lost at shutdown", "calls", n)
			}
			return nil
		}
	}
}

// readWrittenPosition returns the position in the checkpoint of the bucket.
func (k *Keeper) readWrittenPosition() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.writtenPosition
}

// A callChange is a change with its call, as part of a batch.
type callChange struct {
	call string
	*change
}

// collectBatch returns the changes that can be written now, and the position up to which
// the bucket covers the event log once they are written.
func (k *Keeper) collectBatch() (batch []callChange, position int64) {
	oldest, unpublished := k.config.OldestUnpublished()
	k.mu.Lock()
	defer k.mu.Unlock()
	position = k.coveredPosition
	for call, c := range k.pending {
		if len(batch) < batchSize && (!unpublished || c.at.Before(oldest)) {
			batch = append(batch, callChange{call, c})
			if _, stored := k.revisions[call]; !stored {
				k.revisions[call] = k.lastRevision + 1
			}
		} else {
			position = min(position, c.coveredPosition)
		}
	}
	return batch, max(position, k.writtenPosition)
}

// writeBatchRecovered calls writeBatch. If that panics, the batch is dropped and
// counted, and the panic is returned as an error.
func (k *Keeper) writeBatchRecovered(ctx context.Context, batch []callChange, position int64) (err error) {
	defer func() {
		if v := recover(); v != nil {
			k.log.Error("panic recovered: this is a bug", "part", "keep", "err", fmt.Sprint(v), "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", v)
			k.dropBatch(batch)
			k.refresher.stale = nil // the next refresh lists them again
		}
	}()
	return k.writeBatch(ctx, batch, position)
}

// dropBatch removes the changes of a batch from the pending changes and counts them as
// dropped. It skips a change that a newer one has replaced.
func (k *Keeper) dropBatch(batch []callChange) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, n := range batch {
		if k.pending[n.call] == n.change {
			delete(k.pending, n.call)
			k.dropped++
		}
	}
}

// Dropped returns the number of changes that were lost, because they were too large
// for the store or because of a bug. A later change of the same call is stored again.
func (k *Keeper) Dropped() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.dropped
}

// writeBatch publishes the next snapshots that are due for a rewrite (see refresher),
// then batch, then the checkpoint. It waits only for the acknowledgement of the
// checkpoint, because the stream stores the messages of one connection in order. It
// returns an error if the revision has risen by less than the number of messages.
func (k *Keeper) writeBatch(ctx context.Context, batch []callChange, position int64) error {
	refreshed, err := k.readStaleSnapshots(ctx)
	if err != nil {
		return err
	}
	batch = append(refreshed, batch...) // a newer snapshot of the same call must come last
	sent := uint64(0)
	for _, n := range batch {
		m := &nats.Msg{Subject: k.messageSubject(k.callKey(n.call)), Data: n.snapshot}
		if n.snapshot == nil {
			m.Header = purgeHeader
		}
		err := k.nc.PublishMsg(m)
		if errors.Is(err, nats.ErrMaxPayload) { // a retry would fail too
			k.log.Error("call snapshot dropped: too large for the store", "call", n.call, "bytes", len(n.snapshot))
			k.dropBatch([]callChange{n})
			continue
		}
		if err != nil {
			return err
		}
		sent++
	}
	last, err := k.publishAcked(ctx, &nats.Msg{Subject: k.messageSubject(k.checkpointKey()), Data: formatCheckpoint(position, k.refresher.floor)})
	if err != nil {
		return err
	}
	previous := k.lastRevision
	k.lastRevision = last
	if previous > 0 && last < previous+sent+1 {
		return fmt.Errorf("write bucket %s: stored %d of %d messages", bucketName, last-previous, sent+1)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.writtenPosition = position
	k.finishStale(len(refreshed))
	for _, n := range batch {
		if n.snapshot != nil {
			k.revisions[n.call] = previous + 1
		}
		if k.pending[n.call] == n.change {
			delete(k.pending, n.call)
		}
		if n.snapshot == nil && k.pending[n.call] == nil {
			delete(k.revisions, n.call)
		}
	}
	return nil
}

// purgeHeader is the header of the purge marker that removes a call from the bucket.
var purgeHeader = nats.Header{
	"KV-Operation":         {"PURGE"},
	jetstream.MsgRollup:    {jetstream.MsgRollupSubject},
	jetstream.MsgTTLHeader: {purgeMarkerTTL.String()},
}

// messageSubject returns the NATS subject of a key of the bucket.
func (k *Keeper) messageSubject(key string) string { return "$KV." + bucketName + "." + key }

// publishAcked publishes a message to the bucket, waits up to 5 s for the
// acknowledgement and returns the revision of the message.
func (k *Keeper) publishAcked(ctx context.Context, m *nats.Msg) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	reply, err := k.nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		return 0, fmt.Errorf("write bucket %s: %w", bucketName, err)
	}
	var ack struct {
		Error *jetstream.APIError `json:"error"`
		Seq   uint64              `json:"seq"`
	}
	switch err := json.Unmarshal(reply.Data, &ack); {
	case err != nil:
		return 0, fmt.Errorf("write bucket %s: %w", bucketName, err)
	case ack.Error != nil:
		return 0, fmt.Errorf("write bucket %s: %w", bucketName, ack.Error)
	case ack.Seq == 0:
		return 0, fmt.Errorf("write bucket %s: acknowledgement without a revision", bucketName)
	}
	return ack.Seq, nil
}

// sleepContext sleeps until d has passed or ctx ends.
func sleepContext(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
