package eventlog

import (
	"encoding/json"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
	"bellhop/notify/stream"
)

// pagesOf returns the event ids of all pages of a query.
func pagesOf(t *testing.T, n *Log, q Query) (ids []string) {
	t.Helper()
	for {
		events, more, err := n.Find(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			ids = append(ids, e.Event.ID)
		}
		if !more {
			return ids
		}
		q.After = ids[len(ids)-1]
	}
}

// Pages of any size together are the log, even where it has gaps. Reading them again costs
// the store almost nothing.
func TestPagesCoverTheLog(t *testing.T) {
	runInVirtualTime(t, Config{}, func(t *testing.T, js jetstream.JetStream, n *Log) {
		for i := range blockSize + 5 { // three events each
			n.Append(callOf(i))
		}
		time.Sleep(time.Second)
		for seq := uint64(300); seq < 2*blockSize+2; seq++ { // the end of a block, a whole block, and the first event of another
			if seq%7 > 0 || seq >= blockSize {
				if err := n.events.DeleteMsg(t.Context(), seq); err != nil {
					t.Fatal(err)
				}
			}
		}
		n, stop := startLog(t, js, Config{}) // has cached nothing
		defer stop()
		var all []string
		err := stream.Read(t.Context(), n.events, jetstream.OrderedConsumerConfig{}, func(m jetstream.Msg) error {
			var e dialog.Event
			err := json.Unmarshal(m.Data(), &e)
			all = append(all, e.ID)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		var asked atomic.Int32
		sub, err := js.Conn().Subscribe("$JS.API.DIRECT.GET.bellhop_events", func(*nats.Msg) { asked.Add(1) })
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Unsubscribe()
		for _, limit := range []int{1, 50, 100, 1000, 1000, 100} {
			asked.Store(0)
			if got := pagesOf(t, n, Query{Limit: limit}); !slices.Equal(got, all) {
				t.Errorf("by %d there are %d events that are not the log's %d", limit, len(got), len(all))
			}
		}
		time.Sleep(time.Second)
		if n := asked.Load(); n > 2 {
			t.Errorf("what was read was asked for again, %d times", n)
		}
		n.Append(callOf(1000))
		time.Sleep(time.Second)
		if got := pagesOf(t, n, Query{}); len(got) != len(all)+3 {
			t.Errorf("after three events more there are %d, want %d", len(got), len(all)+3)
		}
		begin := time.Now()
		if got := pagesOf(t, n, Query{Since: begin}); len(got) != 0 {
			t.Errorf("%d events since a time in the future, want 0", len(got))
		}
	})
}

// Events in the block cache expire as they do in the log.
func TestCachedBlocksExpire(t *testing.T) {
	runInVirtualTime(t, Config{Retention: time.Hour}, func(t *testing.T, _ jetstream.JetStream, n *Log) {
		for i := range blockSize {
			e := callOf(i)
			for k := range e {
				e[k].At = time.Now()
			}
			n.Append(e)
		}
		time.Sleep(time.Second)
		if got := pagesOf(t, n, Query{}); len(got) != 3*blockSize {
			t.Errorf("there are %d events, want %d", len(got), 3*blockSize)
		}
		time.Sleep(time.Hour)
		if got := pagesOf(t, n, Query{}); len(got) != 0 {
			t.Errorf("after an hour there are %d events", len(got))
		}
	})
}
