package store

import (
	"bytes"
	"context"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/cmd/bellhop/config"
)

// An olderStream is a stream of version 1 of the store, whose names are not prefixed
// with bellhop.
type olderStream struct {
	name, newName       string
	subject, newSubject string
	bucket, ttls        bool

	// wrote reports whether bellhop writes messages with this subject or, in a bucket,
	// this key. A value of nil means deleted.
	wrote func(key string, value []byte) bool
}

// olderStreams are all streams of version 1. The bucket keys is sealed first and never
// deleted: older builds open it before anything else, and then fail to start.
var olderStreams = []olderStream{
	olderBucket("keys", false, func(key string, value []byte) bool { return key == "sip" && (value == nil || len(value) == keySize) }),
	olderLog("EVENTS", "event.>", func(subject string, value []byte) bool {
		var e struct{ ID, Call, Type string }
		return strings.Count(subject, ".") == 3 && json.Unmarshal(value, &e) == nil && e.ID != "" && e.Type != ""
	}),
	olderLog("OUTBOX", "delivery.>", func(subject string, value []byte) bool {
		switch {
		case subject == "delivery.cursor":
			return len(value) > 0 && len(bytes.Trim(value, "0123456789")) == 0
		case len(value) == 0:
			return strings.Count(subject, ".") >= 2
		}
		return hasJSONField(value, "lane") || hasJSONField(value, "after")
	}),
	olderLog("ATTEMPTS", "attempt.>", func(subject string, value []byte) bool {
		return strings.Count(subject, ".") <= 2 && len(value) > 0
	}),
	olderLog("AUDIT", "audit", func(_ string, value []byte) bool { return hasJSONField(value, "did") && hasJSONField(value, "by") }),
	olderBucket("SUBSCRIPTIONS", false, func(_ string, value []byte) bool { return value == nil || hasJSONField(value, "dialect") }),
	olderBucket("EXTENSIONS", false, func(key string, value []byte) bool {
		return value == nil || key == strings.TrimRight(base32.StdEncoding.EncodeToString(value), "=") || key == "-" && len(value) == 0
	}),
	olderBucket("STANDINGS", false, func(key string, value []byte) bool {
		return !strings.Contains(key, ".") && (value == nil || hasJSONField(value, "failing") || hasJSONField(value, "paused") || hasJSONField(value, "why") || string(value) == "{}")
	}),
	olderBucket("LEASES", false, func(key string, _ []byte) bool { return key == "deliver" }),
	olderBucket("CALLS", true, func(key string, _ []byte) bool {
		return strings.HasPrefix(key, "call.") || strings.HasPrefix(key, "mark.")
	}),
	olderBucket("TOKENS", false, func(_ string, value []byte) bool { return value == nil || hasJSONField(value, "hash") }),
}

// keyStream is the name of the bucket keys, the first of olderStreams.
const keyStream = "KV_keys"

// olderBucket returns a bucket of version 1.
func olderBucket(name string, ttls bool, wrote func(string, []byte) bool) olderStream {
	now := "bellhop_" + strings.ToLower(name)
	return olderStream{"KV_" + name, "KV_" + now, "$KV." + name + ".>", "$KV." + now + ".>", true, ttls, wrote}
}

// olderLog returns a stream of version 1 that is not a bucket.
func olderLog(name, subject string, wrote func(string, []byte) bool) olderStream {
	return olderStream{name, "bellhop_" + strings.ToLower(name), subject, "bellhop." + subject, false, false, wrote}
}

// hasJSONField reports whether a JSON object has a field.
func hasJSONField(object []byte, name string) bool {
	var fields map[string]json.RawMessage
	return json.Unmarshal(object, &fields) == nil && fields[name] != nil
}

// currentName returns the new name of a stream of version 1, or the name of any other
// stream unchanged.
func currentName(stream string) string {
	for _, f := range olderStreams {
		if f.name == stream {
			return f.newName
		}
	}
	return stream
}

// Keys in the metadata of a stream during a migration. They are stored: never change
// one.
const (
	migratingMark = "bellhop-migrating" // on KV_bellhop_keys: the migration is not complete
	copyOfMark    = "bellhop-copy-of"   // on each copy: name and creation time of the older stream
)

// A migration copies the streams of version 1 of a store to those of this version.
//
// Each older stream is first mirrored, which preserves sequence numbers and times, and
// stays unchanged: after any failure up to there an older build still starts. Then the
// older streams are sealed, so that no older build writes to them or starts; the mirrors
// become independent streams; and the older streams except the bucket keys are deleted.
// Every step can be repeated: a migration that was killed continues at the next start,
// and nodes that start together may all run it.
type migration struct {
	js       jetstream.JetStream
	config   config.Config
	embedded bool // the server runs in this process: all streams are bellhop's
	checker  *checker
	log      *slog.Logger

	stalled time.Duration     // limit for a copy without progress
	grace   time.Duration     // limit for older builds to stop
	between func(step string) // for tests: called before each step; may be nil
}

const (
	copyStalled = time.Minute
	copyPoll    = 20 * time.Millisecond
	olderGrace  = 6 * time.Second
)

// migrateStore migrates a store to this version. A newer store is an error.
func migrateStore(ctx context.Context, js jetstream.JetStream, c config.Config, m *supervisor, log *slog.Logger) error {
	g := &migration{js: js, config: c, embedded: m != nil, log: log, stalled: copyStalled, grace: olderGrace}
	if m != nil {
		g.checker = m.checker
	}
	return g.run(ctx)
}

// run migrates the store if it is of version 1.
func (g *migration) run(ctx context.Context) error {
	for _, f := range olderStreams {
		if err := checkOwner(ctx, g.js, f.newName); err != nil {
			return err
		}
	}
	keys := olderStreams[0]
	now, err := g.lookupStream(ctx, keys.newName)
	if err != nil {
		return err
	}
	if now != nil && now.Config.Metadata[migratingMark] == "" {
		return g.fenceOlderBuilds(ctx)
	}
	if now == nil {
		older, err := g.isOlder(ctx)
		if err != nil {
			return err
		}
		if !older {
			return g.fenceOlderBuilds(ctx)
		}
	}
	began := time.Now()
	if err := g.moveStreams(ctx); err != nil {
		return fmt.Errorf("migrate the store of an older version: %w", err)
	}
	g.log.Info("store migrated", "version", storeVersion, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// isOlder reports whether there is a store of version 1. A key that differs from that of
// store.dir is an error, before anything is changed.
func (g *migration) isOlder(ctx context.Context) (bool, error) {
	keys := olderStreams[0]
	older, data := false, false
	if g.embedded {
		for _, f := range olderStreams {
			old, err := g.lookupStream(ctx, f.name)
			if err != nil {
				return false, err
			}
			if old != nil && !(f.name == keyStream && old.Config.Sealed) {
				older, data = true, data || f.name != keyStream
			}
		}
	} else {
		var err error
		if older, err = g.ownsStream(ctx, keys); err != nil {
			return false, err
		}
	}
	if !older {
		return false, nil
	}
	kept, err := readStored(ctx, g.js, keys.name, `{"last_by_subj":"$KV.keys.sip"}`)
	if err != nil {
		return false, err
	}
	without := kept == nil || len(kept.Data) == 0
	if without && !g.embedded {
		return false, nil
	}
	path := filepath.Join(g.config.Store.Dir, "key")
	key, err := readKey(path)
	switch {
	case err != nil:
	case key == nil && without && data:
		err = errNoKey(path)
	case key != nil && !without && !bytes.Equal(key, kept.Data):
		err = errWrongKey(path)
	}
	if err != nil {
		return false, fmt.Errorf("migrate the store of an older version: %w", err)
	}
	return true, nil
}

// moveStreams copies all older streams and deletes them.
func (g *migration) moveStreams(ctx context.Context) error {
	if err := g.refuseOlderNodes(ctx); err != nil {
		return err
	}
	if err := g.checkSpace(ctx); err != nil {
		return err
	}
	ours := make(map[string]bool) // before anything is changed, as it may fail
	for _, f := range olderStreams {
		var err error
		if ours[f.name], err = g.ownsStream(ctx, f); err != nil {
			return err
		}
	}
	var copies []olderStream
	for _, f := range olderStreams {
		copied, err := g.startMirror(ctx, f, ours[f.name])
		if err != nil {
			return fmt.Errorf("copy stream %s: %w", f.name, err)
		}
		if copied {
			copies = append(copies, f)
		}
	}
	if err := g.waitForCopies(ctx, copies); err != nil {
		return err
	}
	if err := g.refuseOlderNodes(ctx); err != nil {
		return err
	}
	// The bucket keys never changes, so its copy can be promoted first. This fails on
	// servers before 2.12, which cannot promote.
	for _, f := range copies {
		if f.name != keyStream {
			continue
		}
		if err := g.promoteMirror(ctx, f); err != nil {
			return fmt.Errorf("promote the copy of stream %s: %w: NATS must be 2.12 or later; the older streams are unchanged", f.name, err)
		}
	}
	if g.embedded {
		if err := g.fenceOlderBuilds(ctx); err != nil {
			return err
		}
	}
	for _, f := range copies {
		if err := g.sealStream(ctx, f.name); err != nil {
			return err
		}
	}
	if err := g.waitForCopies(ctx, copies); err != nil {
		return err
	}
	for _, f := range copies {
		if err := g.promoteMirror(ctx, f); err != nil {
			return fmt.Errorf("promote the copy of stream %s: %w", f.name, err)
		}
	}
	for _, f := range copies {
		if f.name == keyStream {
			continue
		}
		if err := g.deleteSource(ctx, f); err != nil {
			return fmt.Errorf("delete stream %s: %w", f.name, err)
		}
	}
	return g.markMigrated(ctx)
}

// beforeStep is called before each change.
func (g *migration) beforeStep(name string) {
	if g.between != nil {
		g.between(name)
	}
}

// lookupStream returns the current state of a stream, or nil if it does not exist.
func (g *migration) lookupStream(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	return streamInfo(ctx, g.js, name)
}

// fenceOlderBuilds keeps older builds from starting with an embedded store of this
// version: it seals the bucket that they open first. In a shared NATS another program
// may own a bucket of that name.
func (g *migration) fenceOlderBuilds(ctx context.Context) error {
	if !g.embedded {
		return nil
	}
	f := olderStreams[0]
	old, err := g.lookupStream(ctx, f.name)
	if err != nil {
		return err
	}
	if old == nil {
		_, err := g.js.CreateStream(ctx, jetstream.StreamConfig{Name: f.name, Subjects: []string{f.subject}, Storage: jetstream.FileStorage, MaxMsgsPerSubject: 1,
			Description: "tells an older bellhop that the store is of a newer version"})
		if err != nil {
			return fmt.Errorf("create stream %s: %w", f.name, err)
		}
	}
	return g.sealStream(ctx, f.name)
}

// sealStream makes a stream read-only.
func (g *migration) sealStream(ctx context.Context, name string) error {
	err := g.updateStream(ctx, name, "seal "+name, func(c *jetstream.StreamConfig) bool {
		sealed := c.Sealed
		c.Sealed = true
		return !sealed
	})
	if err != nil {
		return fmt.Errorf("seal stream %s: %w", name, err)
	}
	return nil
}

// updateStream changes the configuration of a stream, if it exists and change reports a
// change. Another node may do the same at the same time.
func (g *migration) updateStream(ctx context.Context, name, step string, change func(*jetstream.StreamConfig) bool) (err error) {
	for range 5 {
		info, infoErr := g.lookupStream(ctx, name)
		if infoErr != nil {
			return infoErr
		}
		if info == nil || !change(&info.Config) {
			return nil
		}
		if err == nil {
			g.beforeStep(step)
		} else {
			sleepContext(ctx, copyPoll)
		}
		err = retryLeaderless(ctx, func() error {
			_, err := g.js.UpdateStream(ctx, info.Config)
			return err
		})
		if err == nil {
			return nil
		}
	}
	return err
}

// sourceOf identifies an older stream by name and time of creation.
func sourceOf(old *jetstream.StreamInfo) string {
	return old.Config.Name + " " + old.Created.UTC().Format(time.RFC3339Nano)
}

// startMirror starts to mirror an older stream, and reports whether the older stream
// exists and is bellhop's.
func (g *migration) startMirror(ctx context.Context, f olderStream, ours bool) (bool, error) {
	old, err := g.lookupStream(ctx, f.name)
	if err != nil {
		return false, err
	}
	now, err := g.lookupStream(ctx, f.newName)
	if err != nil {
		return false, err
	}
	if now != nil {
		return old != nil && now.Config.Metadata[copyOfMark] == sourceOf(old), nil
	}
	if old != nil && !ours {
		g.log.Warn("stream of another program left unchanged", "stream", f.name)
		old = nil
	}
	keys := f.name == keyStream
	if old == nil && !keys {
		return false, nil
	}
	c := jetstream.StreamConfig{
		Name: f.newName, Storage: jetstream.FileStorage, Replicas: g.config.Store.Replicas,
		AllowMsgTTL: f.ttls, Metadata: ownerMetadata(),
	}
	if f.bucket {
		c.MaxMsgsPerSubject = 1
	}
	if keys {
		c.Metadata[migratingMark] = "1"
	}
	if old == nil { // the bucket keys is lost; the key is in store.dir
		c.Subjects = []string{f.newSubject}
	} else {
		// If the source allows direct reads, its mirror answers them too, with other
		// subjects. An older build allows them again.
		if err := g.updateStream(ctx, f.name, "read "+f.name, func(c *jetstream.StreamConfig) bool {
			direct := c.AllowDirect
			c.AllowDirect = false
			return direct
		}); err != nil {
			return false, err
		}
		c.Metadata[copyOfMark] = sourceOf(old)
		c.Mirror = &jetstream.StreamSource{Name: f.name, SubjectTransforms: []jetstream.SubjectTransformConfig{{Source: f.subject, Destination: f.newSubject}}}
	}
	g.beforeStep("copy " + f.name)
	err = retryLeaderless(ctx, func() error {
		_, err := g.js.CreateStream(ctx, c)
		return err
	})
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another node did it first
		now, err = g.lookupStream(ctx, f.newName)
		return old != nil && now != nil && now.Config.Metadata[copyOfMark] == sourceOf(old), err
	}
	if err != nil {
		return false, withHint(err)
	}
	return old != nil, nil
}

// checkSpace returns an error if the disk of an embedded store has no room for the
// copies.
func (g *migration) checkSpace(ctx context.Context) error {
	var disk syscall.Statfs_t
	if !g.embedded || syscall.Statfs(g.config.Store.Dir, &disk) != nil {
		return nil // a shared NATS enforces its own limits
	}
	size, err := g.copySize(ctx)
	if err != nil {
		return err
	}
	if free, needed := disk.Bavail*uint64(disk.Bsize), size+minFreeSpace; free < needed {
		return fmt.Errorf("%s has %d bytes free, and the copy needs %d: make room, or run the older bellhop with a lower notify.keep_events; nothing has changed so far", g.config.Store.Dir, free, needed)
	}
	return nil
}

// copySize returns how many bytes the copies still need together: they are made at the
// same time.
func (g *migration) copySize(ctx context.Context) (size uint64, err error) {
	for _, f := range olderStreams {
		old, err := g.lookupStream(ctx, f.name)
		if err != nil {
			return 0, err
		}
		now, err := g.lookupStream(ctx, f.newName)
		if err != nil {
			return 0, err
		}
		if old == nil || now != nil && now.Config.Mirror == nil {
			continue // copied
		}
		all := old.State.Bytes + old.State.Msgs*uint64(len(f.newSubject)-len(f.subject))
		if now != nil {
			all -= min(all, now.State.Bytes)
		}
		size += all
	}
	return size, nil
}

// waitForCopies waits until every copy has all messages of its older stream.
func (g *migration) waitForCopies(ctx context.Context, copies []olderStream) error {
	for _, f := range copies {
		seen, progress := uint64(0), time.Now()
		for {
			now, err := g.lookupStream(ctx, f.newName)
			if err != nil {
				return err
			}
			if now == nil || now.Config.Mirror == nil {
				break // promoted
			}
			last, err := lastSequence(ctx, g.js, f.name)
			if err != nil {
				return err
			}
			if now.State.LastSeq >= last {
				break
			}
			if now.State.LastSeq > seen {
				seen, progress = now.State.LastSeq, time.Now()
			}
			if time.Since(progress) > g.stalled {
				return fmt.Errorf("copy stream %s: no progress at %d of %d for %v: see the log and the limits of NATS; the older stream is complete", f.name, seen, last, g.stalled)
			}
			sleepContext(ctx, copyPoll)
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	return nil
}

// A storedMessage is a message as the leader of a stream has it.
type storedMessage struct {
	Subject  string `json:"subject"`
	Sequence uint64 `json:"seq"`
	Data     []byte `json:"data"`
}

// readStored reads a message from the leader of a stream, or returns nil if there is
// none. It does not use a direct read, which a mirror may answer.
func readStored(ctx context.Context, js jetstream.JetStream, stream, request string) (*storedMessage, error) {
	var reply *nats.Msg
	err := retryLeaderless(ctx, func() (err error) {
		one, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		reply, err = js.Conn().RequestWithContext(one, "$JS.API.STREAM.MSG.GET."+stream, []byte(request))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read stream %s: %w", stream, err)
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message *storedMessage      `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return nil, fmt.Errorf("read stream %s: %w", stream, err)
	}
	if e := answer.Error; e != nil && e.ErrorCode != jetstream.JSErrCodeMessageNotFound && e.ErrorCode != jetstream.JSErrCodeStreamNotFound {
		return nil, fmt.Errorf("read stream %s: %w", stream, e)
	}
	return answer.Message, nil
}

const lastMessage = `{"last_by_subj":">"}`

// lastSequence returns the sequence number of the last message of a stream, or 0 if it
// is empty or does not exist.
func lastSequence(ctx context.Context, js jetstream.JetStream, stream string) (uint64, error) {
	m, err := readStored(ctx, js, stream, lastMessage)
	if err != nil || m == nil {
		return 0, err
	}
	return m.Sequence, nil
}

// promoteMirror turns a complete mirror into an independent stream.
func (g *migration) promoteMirror(ctx context.Context, f olderStream) error {
	now, err := g.lookupStream(ctx, f.newName)
	if err != nil || now == nil || now.Config.Mirror == nil {
		return err
	}
	old, err := g.lookupStream(ctx, f.name)
	if err != nil {
		return err
	}
	if old != nil && !f.ttls && now.State.Msgs < old.State.Msgs {
		return fmt.Errorf("%d of %d messages copied: remove the stream %s and start again", now.State.Msgs, old.State.Msgs, f.newName)
	}
	return g.updateStream(ctx, f.newName, "promote "+f.newName, func(c *jetstream.StreamConfig) bool {
		mirror := c.Mirror != nil
		c.Mirror, c.Subjects = nil, []string{f.newSubject}
		return mirror
	})
}

// deleteSource deletes an older stream whose copy is complete.
func (g *migration) deleteSource(ctx context.Context, f olderStream) error {
	old, err := g.lookupStream(ctx, f.name)
	if err != nil || old == nil {
		return err
	}
	now, err := g.lookupStream(ctx, f.newName)
	if err != nil || now == nil || now.Config.Metadata[copyOfMark] != sourceOf(old) {
		return err // another node did it first
	}
	if g.checker != nil {
		g.checker.renameStream(f.name, f.newName)
	}
	g.beforeStep("delete " + f.name)
	err = retryLeaderless(ctx, func() error { return g.js.DeleteStream(ctx, f.name) })
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	return err
}

// markMigrated records that the store is of this version.
func (g *migration) markMigrated(ctx context.Context) error {
	keys := olderStreams[0]
	if g.checker != nil {
		g.checker.renameStream(keys.name, keys.newName)
	}
	return g.updateStream(ctx, keys.newName, "finish", func(c *jetstream.StreamConfig) bool {
		_, migrating := c.Metadata[migratingMark]
		delete(c.Metadata, migratingMark)
		return migrating
	})
}

// ownsStream reports whether an older stream of a shared NATS is bellhop's: it has
// bellhop's configuration and messages. A stream with messages of another program too is
// an error.
func (g *migration) ownsStream(ctx context.Context, f olderStream) (bool, error) {
	info, err := g.lookupStream(ctx, f.name)
	if err != nil || info == nil || g.embedded {
		return err == nil && info != nil, err
	}
	c := info.Config
	if !slices.Equal(c.Subjects, []string{f.subject}) || c.Storage != jetstream.FileStorage || c.Retention != jetstream.LimitsPolicy ||
		c.Mirror != nil || len(c.Sources) > 0 || c.RePublish != nil || info.State.Msgs == 0 {
		return false, nil
	}
	if f.bucket {
		return g.ownsBucket(ctx, f)
	}
	first := fmt.Sprintf(`{"seq":%d,"next_by_subj":">"}`, info.State.FirstSeq)
	for _, request := range []string{first, lastMessage} {
		m, err := readStored(ctx, g.js, f.name, request)
		if err != nil || m == nil || !f.wrote(m.Subject, m.Data) {
			return false, err
		}
	}
	return true, nil
}

// ownsBucket reports whether the entries of an older bucket are bellhop's. Entries of
// bellhop and of another program in one bucket are an error.
func (g *migration) ownsBucket(ctx context.Context, f olderStream) (bool, error) {
	name := strings.TrimPrefix(f.name, "KV_")
	kv, err := g.js.KeyValue(ctx, name)
	if errors.Is(err, jetstream.ErrBucketNotFound) { // another node did it first
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open bucket %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, bucketTimeout)
	defer cancel()
	all, err := copyBucket(ctx, kv)
	if err != nil {
		return false, err
	}
	var ours, others []string
	for key, e := range all {
		if e.Deleted {
			e.Value = nil
		}
		if f.wrote(key, e.Value) {
			ours = append(ours, key)
		} else {
			others = append(others, key)
		}
	}
	if len(ours) > 0 && len(others) > 0 {
		return false, fmt.Errorf("bucket %s has entries of bellhop and of another program, for example %s: move those of the other program to another bucket, and start again", name, slices.Min(others))
	}
	return len(ours) > 0, nil
}

// refuseOlderNodes returns an error if an older build runs with a shared store: its
// further writes would be lost. It waits for one that is just stopping.
func (g *migration) refuseOlderNodes(ctx context.Context) error {
	if g.embedded {
		return nil
	}
	for began := time.Now(); ; sleepContext(ctx, 250*time.Millisecond) {
		runs, err := g.olderRuns(ctx)
		switch {
		case err != nil:
			return err
		case !runs:
			return nil
		case time.Since(began) > g.grace:
			return errors.New("an older build of bellhop still uses this store: stop all older nodes, then start this one; nothing has changed so far")
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}

// olderRuns reports whether a client watches the subscriptions of version 1, as each
// running bellhop of an older build does.
func (g *migration) olderRuns(ctx context.Context) (bool, error) {
	s, err := g.js.Stream(ctx, "KV_SUBSCRIPTIONS")
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for older builds: %w", err)
	}
	consumers := s.ListConsumers(ctx)
	runs := false
	for c := range consumers.Info() {
		runs = runs || c.PushBound
	}
	if err := consumers.Err(); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return false, fmt.Errorf("look for older builds: %w", err)
	}
	return runs, nil
}
