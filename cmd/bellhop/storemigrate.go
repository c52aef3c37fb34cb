package main

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
)

// A formerStream is a stream of version 1 of the store: its names were not
// bellhop's own.
type formerStream struct {
	name, now           string
	subject, nowSubject string
	bucket, ttls        bool

	// wrote reports whether bellhop has written a message with this subject or, in
	// a bucket, this key. Without value it was deleted.
	wrote func(key string, value []byte) bool
}

// formerStreams are all streams of version 1. The bucket keys is the first to be
// sealed, and is never deleted: older builds, which open it before all else, end
// there.
var formerStreams = []formerStream{
	formerBucket("keys", false, func(key string, value []byte) bool { return key == "sip" && (value == nil || len(value) == keySize) }),
	formerLog("EVENTS", "event.>", func(subject string, value []byte) bool {
		var e struct{ ID, Call, Type string }
		return strings.Count(subject, ".") == 3 && json.Unmarshal(value, &e) == nil && e.ID != "" && e.Type != ""
	}),
	formerLog("OUTBOX", "delivery.>", func(subject string, value []byte) bool {
		switch {
		case subject == "delivery.cursor":
			return len(value) > 0 && len(bytes.Trim(value, "0123456789")) == 0
		case len(value) == 0:
			return strings.Count(subject, ".") >= 2
		}
		return hasField(value, "lane") || hasField(value, "after")
	}),
	formerLog("ATTEMPTS", "attempt.>", func(subject string, value []byte) bool {
		return strings.Count(subject, ".") <= 2 && len(value) > 0
	}),
	formerLog("AUDIT", "audit", func(_ string, value []byte) bool { return hasField(value, "did") && hasField(value, "by") }),
	formerBucket("SUBSCRIPTIONS", false, func(_ string, value []byte) bool { return value == nil || hasField(value, "dialect") }),
	formerBucket("EXTENSIONS", false, func(key string, value []byte) bool {
		return value == nil || key == strings.TrimRight(base32.StdEncoding.EncodeToString(value), "=") || key == "-" && len(value) == 0
	}),
	formerBucket("STANDINGS", false, func(key string, value []byte) bool {
		return !strings.Contains(key, ".") && (value == nil || hasField(value, "failing") || hasField(value, "paused") || hasField(value, "why") || string(value) == "{}")
	}),
	formerBucket("LEASES", false, func(key string, _ []byte) bool { return key == "deliver" }),
	formerBucket("CALLS", true, func(key string, _ []byte) bool {
		return strings.HasPrefix(key, "call.") || strings.HasPrefix(key, "mark.")
	}),
	formerBucket("TOKENS", false, func(_ string, value []byte) bool { return value == nil || hasField(value, "hash") }),
}

// keyStream is the first of formerStreams.
const keyStream = "KV_keys"

func formerBucket(name string, ttls bool, wrote func(string, []byte) bool) formerStream {
	now := "bellhop_" + strings.ToLower(name)
	return formerStream{"KV_" + name, "KV_" + now, "$KV." + name + ".>", "$KV." + now + ".>", true, ttls, wrote}
}

func formerLog(name, subject string, wrote func(string, []byte) bool) formerStream {
	return formerStream{name, "bellhop_" + strings.ToLower(name), subject, "bellhop." + subject, false, false, wrote}
}

// hasField reports whether a JSON object has a field.
func hasField(object []byte, name string) bool {
	var fields map[string]json.RawMessage
	return json.Unmarshal(object, &fields) == nil && fields[name] != nil
}

// currentName returns the name that a stream of version 1 has now; other names it
// returns as they are.
func currentName(stream string) string {
	for _, f := range formerStreams {
		if f.name == stream {
			return f.now
		}
	}
	return stream
}

// Keys of the metadata of a stream while a store is migrated. They are stored: never
// change one.
const (
	migratingMark = "bellhop-migrating" // of KV_bellhop_keys: some streams of the older version may not be copied yet
	copyOfMark    = "bellhop-copy-of"   // of each copy: the name of the older stream, and when that was created
)

// A migration copies the streams of version 1 of a store to those of this version.
//
// Each stream is first mirrored, which keeps sequence numbers and times, while the
// older streams stay as they are: whatever fails up to there, an older build starts
// again. Then the older streams are sealed, so that no older build writes to them or
// starts; the mirrors become streams of their own; and the older streams are deleted,
// but for the bucket keys. Every step can be repeated: a migration that was killed
// goes on at the next start, and nodes that start together may all do it.
type migration struct {
	js       jetstream.JetStream
	config   config
	embedded bool // the server is in this process: nobody else has streams there
	check    *integrity
	log      *slog.Logger

	stalled time.Duration     // how long a copy may make no progress
	grace   time.Duration     // how long older builds may take to end
	between func(step string) // for tests: before each step; nil: nothing
}

const (
	copyStalled = time.Minute
	copyLook    = 20 * time.Millisecond
	olderGrace  = 6 * time.Second
)

// migrate brings a store to this version. A store that is newer is an error.
func migrate(ctx context.Context, js jetstream.JetStream, c config, m *mender, log *slog.Logger) error {
	g := &migration{js: js, config: c, embedded: m != nil, log: log, stalled: copyStalled, grace: olderGrace}
	if m != nil {
		g.check = m.check
	}
	return g.run(ctx)
}

func (g *migration) run(ctx context.Context) error {
	for _, f := range formerStreams {
		if err := checkOwner(ctx, g.js, f.now); err != nil {
			return err
		}
	}
	keys := formerStreams[0]
	now, err := g.info(ctx, keys.now)
	if err != nil {
		return err
	}
	if now != nil && now.Config.Metadata[migratingMark] == "" {
		return g.fence(ctx)
	}
	if now == nil {
		older, err := g.isOlder(ctx)
		if err != nil {
			return err
		}
		if !older {
			return g.fence(ctx)
		}
	}
	began := time.Now()
	if err := g.move(ctx); err != nil {
		return fmt.Errorf("migrate the store of an older version: %w", err)
	}
	g.log.Info("store migrated", "version", storeVersion, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// isOlder reports whether there is a store of version 1. One whose key is not that of
// store.dir is an error, before anything is changed.
func (g *migration) isOlder(ctx context.Context) (bool, error) {
	keys := formerStreams[0]
	older, data := false, false
	if g.embedded {
		for _, f := range formerStreams {
			old, err := g.info(ctx, f.name)
			if err != nil {
				return false, err
			}
			if old != nil && !(f.name == keyStream && old.Config.Sealed) {
				older, data = true, data || f.name != keyStream
			}
		}
	} else {
		var err error
		if older, err = g.ours(ctx, keys); err != nil {
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

// move copies all streams, and deletes the older ones.
func (g *migration) move(ctx context.Context) error {
	if err := g.refuseOlderNodes(ctx); err != nil {
		return err
	}
	if err := g.room(ctx); err != nil {
		return err
	}
	ours := make(map[string]bool) // before anything is changed: it may be refused
	for _, f := range formerStreams {
		var err error
		if ours[f.name], err = g.ours(ctx, f); err != nil {
			return err
		}
	}
	var copies []formerStream
	for _, f := range formerStreams {
		copied, err := g.copy(ctx, f, ours[f.name])
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
	// The bucket keys never changes: its copy can be promoted first, to see that the
	// server can do that, which no release before 2.12 can.
	for _, f := range copies {
		if f.name != keyStream {
			continue
		}
		if err := g.promote(ctx, f); err != nil {
			return fmt.Errorf("promote the copy of stream %s: %w: NATS must be 2.12 or later; the older streams are unchanged", f.name, err)
		}
	}
	if g.embedded {
		if err := g.fence(ctx); err != nil {
			return err
		}
	}
	for _, f := range copies {
		if err := g.seal(ctx, f.name); err != nil {
			return err
		}
	}
	if err := g.waitForCopies(ctx, copies); err != nil {
		return err
	}
	for _, f := range copies {
		if err := g.promote(ctx, f); err != nil {
			return fmt.Errorf("promote the copy of stream %s: %w", f.name, err)
		}
	}
	for _, f := range copies {
		if f.name == keyStream {
			continue
		}
		if err := g.drop(ctx, f); err != nil {
			return fmt.Errorf("delete stream %s: %w", f.name, err)
		}
	}
	return g.finish(ctx)
}

// step is called before each change.
func (g *migration) step(name string) {
	if g.between != nil {
		g.between(name)
	}
}

func (g *migration) info(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	return streamInfo(ctx, g.js, name)
}

// fence keeps older builds from starting with an embedded store of this version: the
// bucket that they open first is sealed. In a shared NATS its name may be another
// program's.
func (g *migration) fence(ctx context.Context) error {
	if !g.embedded {
		return nil
	}
	f := formerStreams[0]
	old, err := g.info(ctx, f.name)
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
	return g.seal(ctx, f.name)
}

// seal lets nobody write to a stream any more.
func (g *migration) seal(ctx context.Context, name string) error {
	err := g.update(ctx, name, "seal "+name, func(c *jetstream.StreamConfig) bool {
		sealed := c.Sealed
		c.Sealed = true
		return !sealed
	})
	if err != nil {
		return fmt.Errorf("seal stream %s: %w", name, err)
	}
	return nil
}

// update changes the configuration of a stream, if it exists and change says that it
// changes something. Another node may do the same at the same time.
func (g *migration) update(ctx context.Context, name, step string, change func(*jetstream.StreamConfig) bool) (err error) {
	for range 5 {
		info, infoErr := g.info(ctx, name)
		if infoErr != nil {
			return infoErr
		}
		if info == nil || !change(&info.Config) {
			return nil
		}
		if err == nil {
			g.step(step)
		} else {
			sleep(ctx, copyLook)
		}
		err = retried(ctx, func() error {
			_, err := g.js.UpdateStream(ctx, info.Config)
			return err
		})
		if err == nil {
			return nil
		}
	}
	return err
}

// sourceOf names an older stream for good.
func sourceOf(old *jetstream.StreamInfo) string {
	return old.Config.Name + " " + old.Created.UTC().Format(time.RFC3339Nano)
}

// copy begins to mirror an older stream, and reports whether there is one that is
// bellhop's.
func (g *migration) copy(ctx context.Context, f formerStream, ours bool) (bool, error) {
	old, err := g.info(ctx, f.name)
	if err != nil {
		return false, err
	}
	now, err := g.info(ctx, f.now)
	if err != nil {
		return false, err
	}
	if now != nil {
		return old != nil && now.Config.Metadata[copyOfMark] == sourceOf(old), nil
	}
	if old != nil && !ours {
		g.log.Warn("stream left as it is: nothing in it is bellhop's", "stream", f.name)
		old = nil
	}
	keys := f.name == keyStream
	if old == nil && !keys {
		return false, nil
	}
	c := jetstream.StreamConfig{
		Name: f.now, Storage: jetstream.FileStorage, Replicas: g.config.Store.Replicas,
		AllowMsgTTL: f.ttls, Metadata: marks(),
	}
	if f.bucket {
		c.MaxMsgsPerSubject = 1
	}
	if keys {
		c.Metadata[migratingMark] = "1"
	}
	if old == nil { // the bucket keys is lost, and its copy is in store.dir
		c.Subjects = []string{f.nowSubject}
	} else {
		// A mirror answers direct reads of its source too, with other subjects, if the
		// source allows them. An older build allows them again.
		if err := g.update(ctx, f.name, "read "+f.name, func(c *jetstream.StreamConfig) bool {
			direct := c.AllowDirect
			c.AllowDirect = false
			return direct
		}); err != nil {
			return false, err
		}
		c.Metadata[copyOfMark] = sourceOf(old)
		c.Mirror = &jetstream.StreamSource{Name: f.name, SubjectTransforms: []jetstream.SubjectTransformConfig{{Source: f.subject, Destination: f.nowSubject}}}
	}
	g.step("copy " + f.name)
	err = retried(ctx, func() error {
		_, err := g.js.CreateStream(ctx, c)
		return err
	})
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another node was here before
		now, err = g.info(ctx, f.now)
		return old != nil && now != nil && now.Config.Metadata[copyOfMark] == sourceOf(old), err
	}
	if err != nil {
		return false, withHint(err)
	}
	return old != nil, nil
}

// room returns an error if the disk of an embedded store has no room for the copies.
func (g *migration) room(ctx context.Context) error {
	var disk syscall.Statfs_t
	if !g.embedded || syscall.Statfs(g.config.Store.Dir, &disk) != nil {
		return nil // a shared NATS has limits of its own
	}
	size, err := g.copySize(ctx)
	if err != nil {
		return err
	}
	if free, needed := disk.Bavail*uint64(disk.Bsize), size+mendRoom; free < needed {
		return fmt.Errorf("%s has %d bytes free, and the copy needs %d: make room, or let the older bellhop run with a lower notify.keep_events; nothing has changed so far", g.config.Store.Dir, free, needed)
	}
	return nil
}

// copySize returns how many bytes the copies lack, all together: they are made side by
// side.
func (g *migration) copySize(ctx context.Context) (size uint64, err error) {
	for _, f := range formerStreams {
		old, err := g.info(ctx, f.name)
		if err != nil {
			return 0, err
		}
		now, err := g.info(ctx, f.now)
		if err != nil {
			return 0, err
		}
		if old == nil || now != nil && now.Config.Mirror == nil {
			continue // copied
		}
		all := old.State.Bytes + old.State.Msgs*uint64(len(f.nowSubject)-len(f.subject))
		if now != nil {
			all -= min(all, now.State.Bytes)
		}
		size += all
	}
	return size, nil
}

// waitForCopies returns when every copy has all that its older stream has.
func (g *migration) waitForCopies(ctx context.Context, copies []formerStream) error {
	for _, f := range copies {
		seen, progress := uint64(0), time.Now()
		for {
			now, err := g.info(ctx, f.now)
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
				return fmt.Errorf("copy stream %s: it stands at %d of %d for %v: look at the log of NATS, and at its limits; the older stream has all that it had", f.name, seen, last, g.stalled)
			}
			sleep(ctx, copyLook)
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	return nil
}

// A storedMessage is a message as a stream's leader has it.
type storedMessage struct {
	Subject  string `json:"subject"`
	Sequence uint64 `json:"seq"`
	Data     []byte `json:"data"`
}

// readStored reads a message from the leader of a stream: a direct read may be
// answered by a mirror. nil: there is none.
func readStored(ctx context.Context, js jetstream.JetStream, stream, request string) (*storedMessage, error) {
	var reply *nats.Msg
	err := retried(ctx, func() (err error) {
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

// lastSequence returns the sequence number of the last message of a stream; 0: it
// has none, or does not exist.
func lastSequence(ctx context.Context, js jetstream.JetStream, stream string) (uint64, error) {
	m, err := readStored(ctx, js, stream, lastMessage)
	if err != nil || m == nil {
		return 0, err
	}
	return m.Sequence, nil
}

// promote makes a complete copy a stream of its own.
func (g *migration) promote(ctx context.Context, f formerStream) error {
	now, err := g.info(ctx, f.now)
	if err != nil || now == nil || now.Config.Mirror == nil {
		return err
	}
	old, err := g.info(ctx, f.name)
	if err != nil {
		return err
	}
	if old != nil && !f.ttls && now.State.Msgs < old.State.Msgs {
		return fmt.Errorf("it has %d messages of %d: remove the stream %s, and start again", now.State.Msgs, old.State.Msgs, f.now)
	}
	return g.update(ctx, f.now, "promote "+f.now, func(c *jetstream.StreamConfig) bool {
		mirror := c.Mirror != nil
		c.Mirror, c.Subjects = nil, []string{f.nowSubject}
		return mirror
	})
}

// drop deletes an older stream whose copy is complete.
func (g *migration) drop(ctx context.Context, f formerStream) error {
	old, err := g.info(ctx, f.name)
	if err != nil || old == nil {
		return err
	}
	now, err := g.info(ctx, f.now)
	if err != nil || now == nil || now.Config.Metadata[copyOfMark] != sourceOf(old) {
		return err // another node was here before
	}
	if g.check != nil {
		g.check.renamed(f.name, f.now)
	}
	g.step("delete " + f.name)
	err = retried(ctx, func() error { return g.js.DeleteStream(ctx, f.name) })
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	return err
}

// finish notes that the store is of this version.
func (g *migration) finish(ctx context.Context) error {
	keys := formerStreams[0]
	if g.check != nil {
		g.check.renamed(keys.name, keys.now)
	}
	return g.update(ctx, keys.now, "finish", func(c *jetstream.StreamConfig) bool {
		_, migrating := c.Metadata[migratingMark]
		delete(c.Metadata, migratingMark)
		return migrating
	})
}

// ours reports whether an older stream of a shared NATS is bellhop's: it is as
// bellhop configured it, and has what bellhop wrote. One that is shared with another
// program is an error.
func (g *migration) ours(ctx context.Context, f formerStream) (bool, error) {
	info, err := g.info(ctx, f.name)
	if err != nil || info == nil || g.embedded {
		return err == nil && info != nil, err
	}
	c := info.Config
	if !slices.Equal(c.Subjects, []string{f.subject}) || c.Storage != jetstream.FileStorage || c.Retention != jetstream.LimitsPolicy ||
		c.Mirror != nil || len(c.Sources) > 0 || c.RePublish != nil || info.State.Msgs == 0 {
		return false, nil
	}
	if f.bucket {
		return g.oursByKeys(ctx, f)
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

func (g *migration) oursByKeys(ctx context.Context, f formerStream) (bool, error) {
	name := strings.TrimPrefix(f.name, "KV_")
	kv, err := g.js.KeyValue(ctx, name)
	if errors.Is(err, jetstream.ErrBucketNotFound) { // another node was faster
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("bucket %s: %w", name, err)
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
		return false, fmt.Errorf("bucket %s has entries of bellhop and of another program, for example %s: move those of the other program to a bucket of their own, and start again", name, slices.Min(others))
	}
	return len(ours) > 0, nil
}

// refuseOlderNodes returns an error if an older build runs with a shared store: what
// it wrote from now on would be lost. One that has just been stopped gets a moment.
func (g *migration) refuseOlderNodes(ctx context.Context) error {
	if g.embedded {
		return nil
	}
	for began := time.Now(); ; sleep(ctx, 250*time.Millisecond) {
		runs, err := g.olderRuns(ctx)
		switch {
		case err != nil:
			return err
		case !runs:
			return nil
		case time.Since(began) > g.grace:
			return errors.New("a bellhop of an older build still runs with this store: stop all of them, then start this one; nothing has changed so far")
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}

// olderRuns reports whether somebody watches the subscriptions of version 1, as each
// running bellhop does.
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
