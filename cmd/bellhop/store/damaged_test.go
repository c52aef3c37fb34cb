package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/admin/ops"
	"bellhop/cmd/bellhop/store/storetest"
)

// A damagedStore is a store with data in each kind of stream, as on disk after a stop
// and after kill -9.
type damagedStore struct {
	stopped, killed string
	events          int
	buckets         map[string]map[string]string // what bellhop_subscriptions and bellhop_tokens have
}

const testedEvents = 420

// openTested opens a store with its key, and creates the streams of the test.
func openTested(t *testing.T, dir string) *Store {
	t.Helper()
	s := opened(t, storetest.Config(dir))
	must[[]byte](t)(s.SharedKey(t.Context()))
	s.supervisor.checker.markRestored("KV_bellhop_keys", math.MaxUint64)
	for _, c := range []jetstream.StreamConfig{
		{Name: "bellhop_events", Subjects: []string{"bellhop.event.>"}, MaxAge: 720 * time.Hour, AllowDirect: true},
		{Name: "bellhop_outbox", Subjects: []string{"bellhop.delivery.>"}},
	} {
		if _, err := s.CreateOrUpdateStream(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range []string{"bellhop_subscriptions", "bellhop_tokens", "bellhop_extensions"} {
		if _, err := s.CreateOrUpdateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: b}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func newDamagedStore(t *testing.T) *damagedStore {
	t.Helper()
	d := &damagedStore{stopped: filepath.Join(t.TempDir(), "stopped"), killed: filepath.Join(t.TempDir(), "killed"), events: testedEvents}
	st := openTested(t, d.stopped)
	check := st.supervisor.checker
	for i := range testedEvents {
		m := fmt.Appendf(nil, `{"n": %d, "text": "%s"}`, i, strings.Repeat("x", i%700))
		must[*jetstream.PubAck](t)(st.Publish(t.Context(), fmt.Sprintf("bellhop.event.101.call%d.id%d", i/3, i), m))
		must[*jetstream.PubAck](t)(st.Publish(t.Context(), fmt.Sprintf("bellhop.delivery.s.%d", i%40), m))
	}
	d.buckets = map[string]map[string]string{"bellhop_subscriptions": {}, "bellhop_tokens": {}}
	for name, has := range d.buckets {
		kv := bucketOf(t, st, name)
		for round := range 3 { // most records are out of use
			for i := range 8 {
				key, value := fmt.Sprintf("id%d", i), fmt.Sprintf(`{"it": "%s of %d in round %d"}`, name, i, round)
				must[uint64](t)(kv.PutString(t.Context(), key, value))
				has[key] = value
			}
		}
		for _, key := range []string{"id2", "id5"} {
			if err := kv.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
			delete(has, key)
		}
	}
	kv := bucketOf(t, st, "bellhop_extensions")
	for i := range 20 {
		must[uint64](t)(kv.Create(t.Context(), fmt.Sprint("x", i), []byte(fmt.Sprint(100+i))))
	}
	check.recordStates(t.Context(), st)
	if err := st.snapshot.restoreBuckets(t.Context(), st); err != nil { // writes it
		t.Fatal(err)
	}
	if err := storetest.Copy(d.killed, d.stopped); err != nil {
		t.Fatal(err)
	}
	st.Close()
	return d
}

// damagedCopy copies a store and damages the copy.
func damagedCopy(t *testing.T, from string, damage func(dir string)) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	if err := storetest.Copy(dir, from); err != nil {
		t.Fatal(err)
	}
	damage(filepath.Join(dir, streamsFolder))
	return dir
}

// readableEvents returns the number of events that the event log can read. Each must be
// the one written under its sequence number.
func readableEvents(t *testing.T, js jetstream.JetStream) (n int) {
	t.Helper()
	s := must[jetstream.Stream](t)(js.Stream(t.Context(), "bellhop_events"))
	for seq := uint64(1); seq <= testedEvents; seq++ {
		m, err := s.GetMsg(t.Context(), seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf(`{"n": %d,`, seq-1); !strings.HasPrefix(string(m.Data), want) {
			t.Errorf("message %d is %q", seq, m.Data)
		}
		n++
	}
	return n
}

func lostOf(losses []ops.Loss, stream string) (n int) {
	for _, l := range losses {
		if l.Stream == stream {
			n += int(l.Records)
		}
	}
	return n
}

// holds checks that the opened store has all entries of the buckets and reports the
// right number of lost events, and returns that number.
func (d *damagedStore) holds(t *testing.T, dir string) int {
	t.Helper()
	st := openTested(t, dir)
	check := st.supervisor.checker
	defer st.Close()
	for name, want := range d.buckets {
		got := make(map[string]string)
		ctx, cancel := context.WithTimeout(t.Context(), bucketTimeout)
		all := must[map[string]bucketEntry](t)(copyBucket(ctx, bucketOf(t, st, name)))
		cancel()
		for key, c := range all {
			if !c.Deleted {
				got[key] = string(c.Value)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	lost := d.events - readableEvents(t, st)
	if got := lostOf(check.allLosses(), "bellhop_events"); got != lost {
		t.Errorf("%d events are said to be lost, %d are: %+v", got, lost, check.allLosses())
	}
	for _, l := range check.allLosses() {
		if _, copied := d.buckets[strings.TrimPrefix(l.Stream, "KV_")]; (copied || l.Stream == "KV_bellhop_keys") && !l.Restored {
			t.Errorf("said to be lost: %+v", l)
		}
	}
	// The store can be written, and gives no sequence number again.
	ack := must[*jetstream.PubAck](t)(st.Publish(t.Context(), "bellhop.event.101.new.new", []byte("{}")))
	if ack.Sequence <= testedEvents {
		t.Errorf("a new event has the place %d of an old one", ack.Sequence)
	}
	for name := range d.buckets {
		must[uint64](t)(bucketOf(t, st, name).PutString(t.Context(), "id1", d.buckets[name]["id1"]))
	}
	number := must[uint64](t)(bucketOf(t, st, "bellhop_extensions").Create(t.Context(), "new", []byte("new")))
	if number <= 20 {
		t.Errorf("a new extension has the number %d of an old one", number)
	}
	return lost
}

// flipAt flips a bit of a file. A negative offset counts from its end.
func flipAt(t *testing.T, path string, at int) {
	t.Helper()
	b := must[[]byte](t)(os.ReadFile(path))
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 0x40
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// flipNear flips a bit of a block at an offset from the subject of a record.
func flipNear(t *testing.T, path, subject string, distance int) {
	t.Helper()
	b := must[[]byte](t)(os.ReadFile(path))
	at := bytes.LastIndex(b, []byte(subject))
	if at < 0 {
		t.Fatalf("%s has no %s", path, subject)
	}
	flipAt(t, path, at+distance)
}
