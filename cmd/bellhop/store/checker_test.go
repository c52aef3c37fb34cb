package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/cmd/bellhop/config"
	"bellhop/cmd/bellhop/store/storetest"
)

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func bucketOf(t *testing.T, js jetstream.JetStream, name string) jetstream.KeyValue {
	t.Helper()
	return must[jetstream.KeyValue](t)(js.KeyValue(t.Context(), name))
}

// TestFindsDamage flips one bit, anywhere. It costs at most one event and no
// subscription or token, and the loss is reported.
func TestFindsDamage(t *testing.T) {
	t.Parallel()
	d := newDamagedStore(t)
	const events, tokens, subscriptions = "bellhop_events/msgs/1.blk", "KV_bellhop_tokens/msgs/1.blk", "KV_bellhop_subscriptions/msgs/1.blk"
	const middle = "bellhop.event.101.call70.id210"
	truncate := func(dir, file, subject string) {
		b := must[[]byte](t)(os.ReadFile(filepath.Join(dir, file)))
		if err := os.Truncate(filepath.Join(dir, file), int64(bytes.LastIndex(b, []byte(subject))+5)); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name   string
		damage func(dir string)
		lost   int
	}{
		{"no damage", func(string) {}, 0},
		{"body of a record", func(dir string) { flipNear(t, filepath.Join(dir, events), middle, 40) }, 1},
		{"subject of a record", func(dir string) { flipNear(t, filepath.Join(dir, events), middle, 8) }, 1},
		{"sequence number", func(dir string) { flipNear(t, filepath.Join(dir, events), middle, -18) }, 1},
		{"time of a record", func(dir string) { flipNear(t, filepath.Join(dir, events), middle, -10) }, 1},
		{"length of a record", func(dir string) { flipNear(t, filepath.Join(dir, events), middle, -22) }, 1},
		{"high byte of the length", func(dir string) { flipNear(t, filepath.Join(dir, events), middle, -19) }, 1},
		{"length of the subject", func(dir string) { flipNear(t, filepath.Join(dir, events), middle, -2) }, 1},
		{"high byte of the length of the subject", func(dir string) { flipNear(t, filepath.Join(dir, events), middle, -1) }, 1},
		{"first record", func(dir string) { flipAt(t, filepath.Join(dir, events), 30) }, 1},
		{"length of the first record", func(dir string) { flipAt(t, filepath.Join(dir, events), 1) }, 1},
		{"last record", func(dir string) { flipNear(t, filepath.Join(dir, events), "id419", 40) }, 1},
		{"length of the last record", func(dir string) { flipNear(t, filepath.Join(dir, events), "bellhop.event.101.call139.id419", -21) }, 1},
		{"last checksum", func(dir string) { flipAt(t, filepath.Join(dir, events), -1) }, 1},
		{"two records side by side", func(dir string) {
			flipNear(t, filepath.Join(dir, events), "id210", 40)
			flipNear(t, filepath.Join(dir, events), "id211", 40)
		}, 2},
		{"events truncated", func(dir string) { truncate(dir, events, middle) }, 210},
		{"block of events removed", func(dir string) { os.Remove(filepath.Join(dir, events)) }, 420},
		{"stream removed", func(dir string) { os.RemoveAll(filepath.Join(dir, "bellhop_events")) }, 420},
		{"indices of streams", func(dir string) {
			for _, s := range []string{"bellhop_events", "KV_bellhop_tokens", "KV_bellhop_subscriptions"} {
				if path := filepath.Join(dir, s, "msgs", "index.db"); exists(path) {
					flipAt(t, path, 40)
				}
			}
		}, 0},
		{"settings of streams", func(dir string) {
			flipAt(t, filepath.Join(dir, "bellhop_events", "meta.inf"), 40)
			flipAt(t, filepath.Join(dir, "KV_bellhop_tokens", "meta.inf"), 40)
			flipAt(t, filepath.Join(dir, "KV_bellhop_subscriptions", "meta.sum"), 4)
		}, 0},
		{"a subscription", func(dir string) {
			flipNear(t, filepath.Join(dir, subscriptions), "bellhop_subscriptions of 3 in round 2", 3)
		}, 0},
		{"marker of a subscription", func(dir string) { flipNear(t, filepath.Join(dir, subscriptions), "$KV.bellhop_subscriptions.id2", 2) }, 0},
		{"length of the subject of a token", func(dir string) { flipNear(t, filepath.Join(dir, tokens), "$KV.bellhop_tokens.id3", -2) }, 0},
		{"length of the header of a marker", func(dir string) { flipNear(t, filepath.Join(dir, tokens), "NATS/1.0", -4) }, 0},
		{"a token", func(dir string) { flipNear(t, filepath.Join(dir, tokens), "bellhop_tokens of 3 in round 2", -40) }, 0},
		{"marker of a token", func(dir string) { flipNear(t, filepath.Join(dir, tokens), "$KV.bellhop_tokens.id2", 2) }, 0},
		{"length of the last marker", func(dir string) { flipNear(t, filepath.Join(dir, tokens), "$KV.bellhop_tokens.id5", -22) }, 0},
		{"tokens truncated", func(dir string) { truncate(dir, tokens, "bellhop_tokens of 1 in round 2") }, 0},
		{"all tokens removed", func(dir string) { os.Remove(filepath.Join(dir, tokens)) }, 0},
		{"bucket removed", func(dir string) { os.RemoveAll(filepath.Join(dir, "KV_bellhop_subscriptions")) }, 0},
		{"the key", func(dir string) {
			flipNear(t, filepath.Join(dir, "KV_bellhop_keys/msgs/1.blk"), "$KV.bellhop_keys.sip", 20)
		}, 0},
		{"an extension", func(dir string) {
			flipNear(t, filepath.Join(dir, "KV_bellhop_extensions/msgs/1.blk"), "$KV.bellhop_extensions.x19", 3)
		}, 0},
	} {
		for _, from := range []string{d.stopped, d.killed} {
			t.Run(tt.name+"/"+filepath.Base(from), func(t *testing.T) {
				dir := damagedCopy(t, from, tt.damage)
				if lost := d.holds(t, dir); lost != tt.lost {
					t.Errorf("%d events are lost, want %d", lost, tt.lost)
				}
				if t.Failed() {
					return
				}
				// A loss is reported once, and the store is undamaged from now on.
				again := openChecker(storetest.Config(dir), quiet())
				before := len(again.allLosses())
				again.prepareStore()
				if after := again.allLosses(); len(after) != before {
					t.Errorf("again: %+v", after)
				}
			})
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// TestFindsDamageAnywhere flips random bits of random files.
func TestFindsDamageAnywhere(t *testing.T) {
	t.Parallel()
	d := newDamagedStore(t)
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 14))
			from := []string{d.stopped, d.killed}[seed%2]
			dir := damagedCopy(t, from, func(dir string) {
				var files []string
				err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
					if info, _ := os.Stat(path); err == nil && !e.IsDir() && info.Size() > 0 {
						files = append(files, path)
					}
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
				for range 1 + r.IntN(3) {
					path := files[r.IntN(len(files))]
					b := must[[]byte](t)(os.ReadFile(path))
					at := r.IntN(len(b))
					b[at] ^= 1 << r.IntN(8)
					if err := os.WriteFile(path, b, 0o600); err != nil {
						t.Fatal(err)
					}
					t.Log(path, at)
				}
			})
			if lost := d.holds(t, dir); lost > 3 {
				t.Errorf("%d events are lost", lost)
			}
		})
	}
}

// TestFindsDamageWhileRunning damages a running store: the next check finds the damage
// and reports it once, and the next start removes it.
func TestFindsDamageWhileRunning(t *testing.T) {
	t.Parallel()
	d := newDamagedStore(t)
	dir := damagedCopy(t, d.stopped, func(string) {})
	st := openTested(t, dir)
	check := st.supervisor.checker
	flipNear(t, filepath.Join(dir, streamsFolder, "bellhop_events/msgs/1.blk"), "bellhop.event.101.call70.id210", 40)
	for range 2 {
		for _, stream := range check.streamNames() {
			if err := check.checkStream(t.Context(), stream, whileRunning); err != nil {
				t.Fatal(err)
			}
		}
		losses := check.allLosses()
		if len(losses) != 1 || losses[0].Stream != "bellhop_events" || losses[0].Records != 1 {
			t.Fatalf("losses: %+v", losses)
		}
		s := must[jetstream.Stream](t)(st.Stream(t.Context(), "bellhop_events"))
		before, after := must[*jetstream.RawStreamMsg](t)(s.GetMsg(t.Context(), 210)), must[*jetstream.RawStreamMsg](t)(s.GetMsg(t.Context(), 212))
		if l := losses[0]; !l.From.Equal(before.Time) || !l.To.Equal(after.Time) {
			t.Errorf("lost between %v and %v, want %v and %v", l.From, l.To, before.Time, after.Time)
		}
	}
	st.Close()
	if lost := d.holds(t, dir); lost != 1 {
		t.Errorf("%d events are lost", lost)
	}
	if kept := must[[]os.DirEntry](t)(os.ReadDir(filepath.Join(dir, "damaged"))); len(kept) != 1 {
		t.Errorf("damaged files kept: %v", kept)
	}
}

// TestFindsDamagedBucketWhileRunning damages a bucket while bellhop runs: it is
// reopened, repaired and complete again without a restart.
func TestFindsDamagedBucketWhileRunning(t *testing.T) {
	t.Parallel()
	d := newDamagedStore(t)
	dir := damagedCopy(t, d.stopped, func(string) {})
	flip := func() {
		flipNear(t, filepath.Join(dir, streamsFolder, "KV_bellhop_tokens/msgs/1.blk"), "bellhop_tokens of 3 in round 2", 3)
	}
	st := openTested(t, dir)
	check := st.supervisor.checker
	flip()
	defer StartTask(func(ctx context.Context) { st.snapshot.run(ctx, st) })()
	check.checkStreams(t.Context(), func(string) bool { return true })
	want := d.buckets["bellhop_tokens"]["id3"]
	deadline := time.After(patience)
	for tick := time.Tick(50 * time.Millisecond); ; {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		var all map[string]bucketEntry
		kv, err := st.KeyValue(ctx, "bellhop_tokens")
		if err == nil {
			all, err = copyBucket(ctx, kv)
		}
		cancel()
		if err == nil && string(all["id3"].Value) == want && len(check.allLosses()) == 1 && check.allLosses()[0].Restored {
			break
		}
		select {
		case <-tick:
		case <-deadline:
			t.Fatalf("token %q, %v, losses %+v", all["id3"].Value, err, check.allLosses())
		}
	}
}

// TestChecksStoreWithoutLedger opens a store of an older version, without ledger and
// snapshot: it stays unchanged.
func TestChecksStoreWithoutLedger(t *testing.T) {
	t.Parallel()
	d := newDamagedStore(t)
	dir := damagedCopy(t, d.stopped, func(dir string) {
		flipNear(t, filepath.Join(dir, "bellhop_events/msgs/1.blk"), "bellhop.event.101.call70.id210", 40)
	})
	for _, name := range []string{"check", "snapshot", "snapshot.old"} {
		os.Remove(filepath.Join(dir, name))
	}
	if lost := d.holds(t, dir); lost != 1 {
		t.Errorf("%d events are lost", lost)
	}
	wantMode(t, filepath.Join(dir, "check"), 0o600)
	wantMode(t, filepath.Join(dir, "snapshot"), 0o600)
}

// TestUnrepairedDamageStopsStart checks that a store with a damaged block that cannot be
// repaired is not opened: the server would cut off the records behind the damage.
func TestUnrepairedDamageStopsStart(t *testing.T) {
	t.Parallel()
	d := newDamagedStore(t)
	dir := damagedCopy(t, d.killed, func(dir string) {
		flipNear(t, filepath.Join(dir, "bellhop_events/msgs/1.blk"), "bellhop.event.101.call70.id210", 40)
	})
	inTheWay := filepath.Join(dir, "damaged")
	if err := os.WriteFile(inTheWay, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if st, err := Open(t.Context(), storetest.Config(dir), quiet()); !errors.Is(err, errUnrepaired) {
		if err == nil {
			st.Close()
		}
		t.Errorf("opening it ends with %v", err)
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	if lost := d.holds(t, dir); lost != 1 {
		t.Errorf("%d events are lost", lost)
	}
}

// TestChecksEndOfLargeStream checks that only the end of a large stream is read at the
// start after a clean stop.
func TestChecksEndOfLargeStream(t *testing.T) {
	t.Parallel()
	d := newDamagedStore(t)
	for _, tt := range []struct {
		name            string
		damage          func(path string)
		atOnce, running int
	}{
		{"end gone", func(path string) {
			b := must[[]byte](t)(os.ReadFile(path))
			if err := os.Truncate(path, int64(len(b)-10)); err != nil {
				t.Fatal(err)
			}
		}, 1, 1},
		{"middle damaged", func(path string) { flipNear(t, path, "bellhop.event.101.call70.id210", 40) }, 1, 1},
		{"file is gone", func(path string) { os.Remove(path) }, testedEvents, testedEvents},
		{"empty block at the end", func(path string) {
			if err := os.WriteFile(strings.Replace(path, "1.blk", "2.blk", 1), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := damagedCopy(t, d.stopped, func(dir string) { tt.damage(filepath.Join(dir, "bellhop_events/msgs/1.blk")) })
			g := openChecker(storetest.Config(dir), quiet())
			g.startSize = 0
			g.prepareStore()
			if got := lostOf(g.allLosses(), "bellhop_events"); got != tt.atOnce {
				t.Errorf("at the start %d events are lost, want %d: %+v", got, tt.atOnce, g.allLosses())
			}
			if err := g.checkStream(t.Context(), "bellhop_events", whileRunning); err != nil {
				t.Fatal(err)
			}
			if got := lostOf(g.allLosses(), "bellhop_events"); got != tt.running {
				t.Errorf("then %d events are lost, want %d: %+v", got, tt.running, g.allLosses())
			}
		})
	}
}

// TestExpiredMessagesAreNotLost checks that expired messages are not reported as lost.
func TestExpiredMessagesAreNotLost(t *testing.T) {
	t.Parallel()
	d := newDamagedStore(t)
	dir := damagedCopy(t, d.stopped, func(dir string) { os.Remove(filepath.Join(dir, "bellhop_events/msgs/1.blk")) })
	c := storetest.Config(dir)
	c.Notify.KeepEvents = config.Duration(expirySlack)
	g := openChecker(c, quiet())
	g.prepareStore()
	if lost := lostOf(g.allLosses(), "bellhop_events"); lost != 0 {
		t.Errorf("%d events are said to be lost", lost)
	}
}

// TestUnknownBlocksStayUnchanged opens a store with blocks in an unknown format.
func TestUnknownBlocksStayUnchanged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	strange := filepath.Join(dir, streamsFolder, "bellhop_events", "msgs")
	if err := os.MkdirAll(strange, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(strange, "1.blk")
	text := bytes.Repeat([]byte("another format "), 1000)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	g := openChecker(storetest.Config(dir), quiet())
	g.prepareStore()
	if b := must[[]byte](t)(os.ReadFile(path)); !bytes.Equal(b, text) {
		t.Error("the block was changed")
	}
}

// TestMergesManyLosses checks that many losses of a stream are merged without losing a
// record of the count.
func TestMergesManyLosses(t *testing.T) {
	t.Parallel()
	g := openChecker(storetest.Config(t.TempDir()), quiet())
	for i := range uint64(3 * maxLosses) {
		g.addLosses("bellhop_events", []loss{{Stream: "bellhop_events", First: 10*i + 1, Last: 10*i + 2, Records: 2}}, true)
	}
	if n := len(g.ledger.Losses); n != maxLosses {
		t.Errorf("%d losses", n)
	}
	if n := lostOf(g.allLosses(), "bellhop_events"); n != 6*maxLosses {
		t.Errorf("%d records", n)
	}
	if l := g.ledger.Losses[0]; l.First != 1 {
		t.Errorf("the first is %+v", l)
	}
}
