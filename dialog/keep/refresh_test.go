package keep

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/dialog"
)

// TestEndedCallsStayEnded kills the process at different times and leaves it down for
// different times. Each next process must load the live calls and no ended one, also
// if it is killed soon after its start.
func TestEndedCallsStayEnded(t *testing.T) {
	for _, after := range []time.Duration{5 * time.Second, 40 * time.Second, 11 * time.Minute, time.Hour} {
		for _, down := range []time.Duration{0, time.Minute, 2 * time.Hour} {
			t.Run(fmt.Sprintf("killed after %v, down for %v", after, down), func(t *testing.T) {
				runVirtual(t, func(t *testing.T, dir string) {
					js, closeStore := openStore(t, dir)
					l := &fakeLog{}
					k, _, _, stop := openKeeper(t, js, l)
					put := func(changes ...dialog.Change) {
						k.Put(changes, time.Now(), time.Now())
						time.Sleep(2 * time.Second)
					}
					put(snapshotOf("long", "1"))
					put(snapshotOf("long", "2"), snapshotOf("changing", "1"))
					for i := range 40 {
						id := fmt.Sprint("short", i)
						put(snapshotOf(id, "1"))
						put(snapshotOf(id, "2"))
						put(endOf(id))
						put(snapshotOf("changing", fmt.Sprint(i)))
					}
					time.Sleep(after)
					want := []string{"changing 39", "long 2"}
					crashed := copyCrashedStore(t, dir)
					stop()
					closeStore()
					for _, lived := range []time.Duration{5 * time.Second, 15 * time.Second, time.Hour} {
						time.Sleep(down)
						js, closeStore = openStore(t, crashed)
						_, calls, _, stop := openKeeper(t, js, l)
						if !slices.Equal(calls, want) {
							t.Errorf("calls are %q, want %q", calls, want)
						}
						time.Sleep(lived)
						crashed = copyCrashedStore(t, crashed)
						stop()
						closeStore()
					}
				})
			})
		}
	}
}

// copyCrashedStore copies the files of a running server: the store as a kill of the
// server would leave it.
func copyCrashedStore(t *testing.T, dir string) (crashed string) {
	t.Helper()
	synctest.Wait()
	crashed = filepath.Join(t.TempDir(), "store")
	if err := os.CopyFS(crashed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return crashed
}

// TestFloorSparesOtherNodes: the floor of a node covers its own snapshots only.
func TestFloorSparesOtherNodes(t *testing.T) {
	runVirtual(t, func(t *testing.T, dir string) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		l := &fakeLog{}
		other, err := Open(t.Context(), js, Config{Node: "n2", OldestUnpublished: l.oldestUnpublished, LogEnd: l.logEnd})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.bucket.PutString(t.Context(), other.callKey("theirs"), "1"); err != nil {
			t.Fatal(err)
		}
		k, _, _, stop := openKeeper(t, js, l)
		k.Put([]dialog.Change{snapshotOf("ours", "1")}, time.Now(), time.Now())
		time.Sleep(time.Hour)
		stop()
		calls, _, err := other.Load(t.Context())
		if err != nil || len(calls) != 1 || calls[0].Call != "theirs" {
			t.Errorf("the other node has %v, %v", calls, err)
		}
	})
}

// TestCheckpointTextRoundTrips formats checkpoints, parses them again, and parses
// texts that are malformed.
func TestCheckpointTextRoundTrips(t *testing.T) {
	for _, tt := range []struct {
		position int64
		floor    uint64
		text     string
	}{{0, 0, "0"}, {7, 0, "7"}, {7, 12, "7 12"}} {
		if got := string(formatCheckpoint(tt.position, tt.floor)); got != tt.text {
			t.Errorf("checkpoint is %q, want %q", got, tt.text)
		}
		c, floor, err := parseCheckpoint(tt.text)
		if err != nil || c != (Checkpoint{Exists: true, Position: uint64(tt.position)}) || floor != tt.floor {
			t.Errorf("%q is parsed as %+v, %d, %v", tt.text, c, floor, err)
		}
	}
	for _, text := range []string{"", "x", "7 ", "7 x", "7 1 2"} {
		if _, _, err := parseCheckpoint(text); err == nil {
			t.Errorf("malformed checkpoint %q is accepted", text)
		}
	}
}
