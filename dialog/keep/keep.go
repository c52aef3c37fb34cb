// Package keep keeps the live calls of a tracker in a store, so that they outlive
// the process.
//
// A [Keeper] is given what changed, and writes it to a JetStream bucket behind the
// calls: it never makes who follows them wait. At the start, what is in the
// bucket and what the event log says beside it is what the tracker goes on from.
//
// # Order
//
// A change is written when the log has the events that were said before it. So
// the bucket never knows more than the log: a call is taken out of it when its
// hangups are in the log.
//
// # What a crash loses
//
// Nothing that the log says. What the bucket does not have yet, at most a moment's
// changes, the log has: Load says from where on it is to be read. That is a place
// in the log, not a time: clocks are set. A power cut loses what the store had not
// synced, of either.
//
// # Calls that are over
//
// A call that is over leaves a marker in its place, which expires. The record before
// it may still be in a file of the store, and a server that was killed finds it
// again once the marker is gone. So the mark of a node has a floor too: no record
// before it counts. The records of live calls that have not changed for some minutes
// are written again, and the floor rises.
//
// # Memory
//
// While the store is slow or gone, the newest record of each live call waits, and
// the names of those that are over and in the bucket.
//
// # Nodes
//
// Nodes that share a store share the bucket; each takes up its own calls.
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

// Config says where calls are kept.
type Config struct {
	Node     string // names this process among those that share the store, for good; letters, digits and -
	Replicas int    // 0 is 1

	// Unsaid returns when the oldest event that is not in the log yet was observed,
	// on the clock of Put; false if there is none.
	OldestUnpublished func() (time.Time, bool)

	// LogEnd returns the place of the last event that is known to be in the log.
	LogEnd func() uint64

	Log *slog.Logger // nil: slog.Default()
}

// A Keeper keeps live calls. Put and Run may be called from different
// goroutines.
type Keeper struct {
	config Config
	log    *slog.Logger
	nc     *nats.Conn
	bucket jetstream.KeyValue
	lastRevision   uint64        // place of the last message that the stream is known to have
	wake   chan struct{} // has room for one: there is something to write

	mu      sync.Mutex
	pending map[string]*change // by call
	revisions  map[string]uint64  // calls that the bucket has, or may have: no record that counts is before that place of the bucket
	coveredPosition    int64              // place: what the log says up to there is in the bucket or waiting
	writtenPosition int64              // place: what the log says up to there is in the bucket; unmarked: no mark is
	logEnds    []logEnd           // of the last moments, oldest first
	dropped uint64

	refresher refresher // of Run, and of Load before it
}

// unmarked is before every place of the log.
const noPosition = -1

// A logEnd is how far the log went at a time.
type logEnd struct {
	at    time.Time
	position int64
}

// A change waits to be written.
type change struct {
	snapshot []byte    // nil: the call is over
	at     time.Time // events up to then must be in the log first
	coveredPosition  int64     // place: what the log says up to there is in the bucket
}

const bucketName = "bellhop_calls"

// openBucket opens the bucket of live calls: for each its last record, under
// call.<node>.<call>, and for each node what of the log is in the records, under
// mark.<node>. A call that is over leaves a marker that goes by itself.
func openBucket(ctx context.Context, js jetstream.JetStream, c Config) (jetstream.KeyValue, error) {
	return js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket:         bucketName,
		Description:    "live calls",
		History:        1,
		Storage:        jetstream.FileStorage,
		Replicas:       max(1, c.Replicas),
		LimitMarkerTTL: time.Second, // markers of purges may go by themselves
	})
}

// Open opens the bucket, creating it if it is missing. The Keeper holds nothing
// that must be closed.
func Open(ctx context.Context, js jetstream.JetStream, c Config) (*Keeper, error) {
	k := &Keeper{
		config: c, log: c.Log, nc: js.Conn(),
		wake:    make(chan struct{}, 1),
		pending: make(map[string]*change),
		revisions:  make(map[string]uint64),
	}
	if k.log == nil {
		k.log = slog.Default()
	}
	var err error
	if k.bucket, err = openBucket(ctx, js, c); err != nil {
		return nil, fmt.Errorf("bucket %s: %w", bucketName, err)
	}
	return k, nil
}

// A Mark says from where on the log may say what the bucket does not have. The
// zero Mark means that nothing was ever kept.
type Checkpoint struct {
	Exists  bool
	Position uint64    // a place in the log: from the next on
	Time time.Time // an older version marked a time of the store instead; else zero
}

// overlap is how much earlier than needed the log is read from a time on: times in
// it are the store's, and calls do not change in the very order of their times.
const clockSkew = 5 * time.Second

// Load reads the calls of this node, and from where on the log is to be read
// beside them. A place beyond LogEnd is taken for that: the log was lost, or its
// end was. It is called once, before Put.
func (k *Keeper) Load(ctx context.Context) (calls []dialog.Change, mark Checkpoint, err error) {
	status, err := k.bucket.Status(ctx)
	if err != nil {
		return nil, mark, fmt.Errorf("bucket %s: %w", bucketName, err)
	}
	if s, ok := status.(*jetstream.KeyValueBucketStatus); ok {
		k.lastRevision = s.StreamInfo().State.LastSeq
		k.refresher.nextRevision = k.lastRevision + 1
	}
	prefix := k.callKey("")
	w, err := k.bucket.WatchFiltered(ctx, []string{prefix + "*", k.checkpointKey()}, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, mark, fmt.Errorf("bucket %s: %w", bucketName, err)
	}
	defer w.Stop()
	for {
		var e jetstream.KeyValueEntry
		select {
		case e = <-w.Updates():
		case <-ctx.Done():
			return nil, mark, fmt.Errorf("bucket %s: %w", bucketName, ctx.Err())
		}
		switch {
		case e == nil:
			mark.Position = min(mark.Position, k.config.LogEnd())
			if k.coveredPosition, k.writtenPosition = noPosition, noPosition; mark.Exists && mark.Time.IsZero() {
				k.coveredPosition, k.writtenPosition = int64(mark.Position), int64(mark.Position)
			}
			k.refresher.storedFloor = k.refresher.floor
			return k.dropBelowFloor(calls), mark, nil
		case e.Key() == k.checkpointKey():
			if mark, k.refresher.floor, err = parseCheckpoint(string(e.Value())); err != nil {
				return nil, mark, fmt.Errorf("bucket %s: %s: %w", bucketName, e.Key(), err)
			}
		default:
			id := strings.TrimPrefix(e.Key(), prefix)
			calls = append(calls, dialog.Change{Call: id, Record: e.Value()})
			k.revisions[id] = e.Revision()
		}
	}
}

func (k *Keeper) callKey(id string) string { return "call." + k.config.Node + "." + id }
func (k *Keeper) checkpointKey() string          { return "mark." + k.config.Node }

// Put has changes written that were collected at now. They are all there are up to
// upTo: with them, and those that were put before, the bucket has what the log said
// by then. Both are on the clock of [dialog.Message.At]. It never blocks.
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
			delete(k.pending, c.Call) // it comes and goes unwritten
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

// Waiting is how many changes are not in the bucket yet.
func (k *Keeper) Pending() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.pending)
}

const (
	pollInterval       = 50 * time.Millisecond  // between two looks at whether the log has come so far
	checkpointInterval  = time.Second            // the mark alone is written no more often
	retryDelay = 250 * time.Millisecond // after what failed
	drainTimeout     = 2 * time.Second        // for what is left at the end
	batchSize   = 500                    // messages that are written before an answer is waited for
)

// Run writes until ctx ends, and then what is left, for 2 s at most; nothing if the
// store is not connected then.
func (k *Keeper) Run(ctx context.Context) error {
	last, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if !k.nc.IsConnected() {
			cancel()
			return
		}
		time.AfterFunc(drainTimeout, cancel)
	})()
	failing := false
	var marked time.Time
	for {
		wave, mark := k.collectBatch()
		refresh := mark > noPosition && ctx.Err() == nil && k.startDueRefresh(time.Now())
		switch {
		case !refresh && len(wave) == 0 && k.Pending() > 0:
			sleepContext(last, pollInterval) // the log is behind
		case !refresh && len(wave) == 0 && (mark <= k.readWrittenPosition() || time.Since(marked) < checkpointInterval):
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
			err := k.writeBatchRecovered(last, wave, mark)
			marked = time.Now()
			if err == nil {
				if failing {
					k.log.Info("the store takes live calls again")
				}
				failing = false
				continue
			}
			if !failing && last.Err() == nil {
				k.log.Warn("the store does not take live calls", "calls", k.Pending(), "err", err)
			}
			failing = true
			sleepContext(last, retryDelay)
		}
		if last.Err() != nil {
			if n := k.Pending(); n > 0 {
				k.log.Error("live calls are lost: the store did not take them", "calls", n)
			}
			return nil
		}
	}
}

func (k *Keeper) readWrittenPosition() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.writtenPosition
}

// A note is one call's change on its way.
type callChange struct {
	call string
	*change
}

// next returns what can be written now, and up to where the bucket has then what
// the log says.
func (k *Keeper) collectBatch() (wave []callChange, mark int64) {
	oldest, unsaid := k.config.OldestUnpublished()
	k.mu.Lock()
	defer k.mu.Unlock()
	mark = k.coveredPosition
	for call, c := range k.pending {
		if len(wave) < batchSize && (!unsaid || c.at.Before(oldest)) {
			wave = append(wave, callChange{call, c})
			if _, stored := k.revisions[call]; !stored {
				k.revisions[call] = k.lastRevision + 1
			}
		} else {
			mark = min(mark, c.coveredPosition)
		}
	}
	return wave, max(mark, k.writtenPosition)
}

// contained is write, but for a panic: then what the wave has is dropped, and the
// process lives.
func (k *Keeper) writeBatchRecovered(ctx context.Context, wave []callChange, mark int64) (err error) {
	defer func() {
		if v := recover(); v != nil {
			k.log.Error("panic recovered: this is a bug", "part", "keep", "err", fmt.Sprint(v), "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", v)
			k.dropBatch(wave)
			k.refresher.stale = nil // until the next refresh
		}
	}()
	return k.writeBatch(ctx, wave, mark)
}

// drop forgets the changes of a wave, and counts those that nothing newer has
// replaced.
func (k *Keeper) dropBatch(wave []callChange) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, n := range wave {
		if k.pending[n.call] == n.change {
			delete(k.pending, n.call)
			k.dropped++
		}
	}
}

// Dropped is how many changes were lost, because they are too large for the store
// or to a bug. The next change of a call replaces one that was.
func (k *Keeper) Dropped() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.dropped
}

// write writes a wave and the mark, and waits for the answer to the mark: the
// stream takes what comes before it first.
func (k *Keeper) writeBatch(ctx context.Context, wave []callChange, mark int64) error {
	again, err := k.readStaleSnapshots(ctx)
	if err != nil {
		return err
	}
	wave = append(again, wave...) // what is newer goes behind
	sent := uint64(0)
	for _, n := range wave {
		m := &nats.Msg{Subject: k.messageSubject(k.callKey(n.call)), Data: n.snapshot}
		if n.snapshot == nil {
			m.Header = purgeHeader
		}
		err := k.nc.PublishMsg(m)
		if errors.Is(err, nats.ErrMaxPayload) { // it will never fit
			k.log.Error("a live call is too large to be kept", "call", n.call, "bytes", len(n.snapshot))
			k.dropBatch([]callChange{n})
			continue
		}
		if err != nil {
			return err
		}
		sent++
	}
	last, err := k.publishAcked(ctx, &nats.Msg{Subject: k.messageSubject(k.checkpointKey()), Data: formatCheckpoint(mark, k.refresher.floor)})
	if err != nil {
		return err
	}
	if before := k.lastRevision; before > 0 && last < before+sent+1 {
		k.lastRevision = last
		return fmt.Errorf("bucket %s took %d of %d", bucketName, last-before, sent+1)
	}
	before := k.lastRevision
	k.lastRevision = last
	k.mu.Lock()
	defer k.mu.Unlock()
	k.writtenPosition = mark
	k.finishStale(len(again))
	for _, n := range wave {
		if n.snapshot != nil {
			k.revisions[n.call] = before + 1
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

// gone is the header of the marker that takes a call out of the bucket.
var purgeHeader = nats.Header{
	"KV-Operation":         {"PURGE"},
	jetstream.MsgRollup:    {jetstream.MsgRollupSubject},
	jetstream.MsgTTLHeader: {purgeMarkerTTL.String()},
}

func (k *Keeper) messageSubject(key string) string { return "$KV." + bucketName + "." + key }

// answered publishes a message, and returns its place in the stream.
func (k *Keeper) publishAcked(ctx context.Context, m *nats.Msg) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	reply, err := k.nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		return 0, fmt.Errorf("bucket %s: %w", bucketName, err)
	}
	var ack struct {
		Error *jetstream.APIError `json:"error"`
		Seq   uint64              `json:"seq"`
	}
	switch err := json.Unmarshal(reply.Data, &ack); {
	case err != nil:
		return 0, fmt.Errorf("bucket %s: %w", bucketName, err)
	case ack.Error != nil:
		return 0, fmt.Errorf("bucket %s: %w", bucketName, ack.Error)
	case ack.Seq == 0:
		return 0, errors.New("bucket " + bucketName + ": the answer names no place")
	}
	return ack.Seq, nil
}

// pause sleeps until d has passed or ctx ends.
func sleepContext(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
