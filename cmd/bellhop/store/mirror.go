package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// sourceOf identifies an older stream by name and time of creation.
func sourceOf(old *jetstream.StreamInfo) string {
	return old.Config.Name + " " + old.Created.UTC().Format(time.RFC3339Nano)
}

// startMirrors starts to mirror all older streams that are bellhop's, and returns them.
func (g *migration) startMirrors(ctx context.Context) (copies []olderStream, err error) {
	ours := make(map[string]bool) // found before anything is changed, because this may fail
	for _, f := range olderStreams {
		if ours[f.name], err = g.ownsStream(ctx, f); err != nil {
			return nil, err
		}
	}
	for _, f := range olderStreams {
		copied, err := g.startMirror(ctx, f, ours[f.name])
		if err != nil {
			return nil, fmt.Errorf("copy stream %s: %w", f.name, err)
		}
		if copied {
			copies = append(copies, f)
		}
	}
	return copies, nil
}

// startMirror starts to mirror an older stream, unless a stream of the new name exists.
// ours reports whether the older stream is bellhop's. startMirror returns true if the
// stream of the new name is a copy of the older stream.
func (g *migration) startMirror(ctx context.Context, f olderStream, ours bool) (bool, error) {
	old, err := streamInfo(ctx, g.js, f.name)
	if err != nil {
		return false, err
	}
	now, err := streamInfo(ctx, g.js, f.newName)
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
		// If the source allowed direct reads, its mirror would answer them too, with other
		// subjects. An older build that starts after a failed migration allows them again.
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
		now, err = streamInfo(ctx, g.js, f.newName)
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

// copySize returns how many bytes the copies of all streams still need. All are made
// before the first older stream is deleted, so they need this room together.
func (g *migration) copySize(ctx context.Context) (size uint64, err error) {
	for _, f := range olderStreams {
		old, err := streamInfo(ctx, g.js, f.name)
		if err != nil {
			return 0, err
		}
		now, err := streamInfo(ctx, g.js, f.newName)
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
			now, err := streamInfo(ctx, g.js, f.newName)
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
	now, err := streamInfo(ctx, g.js, f.newName)
	if err != nil || now == nil || now.Config.Mirror == nil {
		return err
	}
	old, err := streamInfo(ctx, g.js, f.name)
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
	old, err := streamInfo(ctx, g.js, f.name)
	if err != nil || old == nil {
		return err
	}
	now, err := streamInfo(ctx, g.js, f.newName)
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
