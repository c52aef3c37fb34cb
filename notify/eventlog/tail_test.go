package eventlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
	"bellhop/notify/stream"
)

// openTail opens a Tail, and closes it when the test ends.
func openTail(t *testing.T, n *Log, q Query) *Tail {
	t.Helper()
	tail, err := n.Tail(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tail.Close)
	return tail
}

// nextIDs returns the ids of the next events, exactly want of them.
func (t *Tail) nextIDs(ctx context.Context, want int) (ids []string, err error) {
	for len(ids) < want {
		events, err := t.Next(ctx)
		if err != nil {
			return ids, fmt.Errorf("%d of %d events: %w", len(ids), want, err)
		}
		for _, e := range events {
			ids = append(ids, e.ID)
		}
	}
	return ids, nil
}

// logOrder returns the ids of all events in the log.
func logOrder(t *testing.T, n *Log) (ids []string) {
	t.Helper()
	return pagesOf(t, n, Query{Limit: 1000})
}

// wantNext checks the next events of a tail.
func wantNext(t *testing.T, tail *Tail, want []string) {
	t.Helper()
	if got, err := tail.nextIDs(t.Context(), len(want)); err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v: got %d events, want %d: %v", tail.query, len(got), len(want), err)
	}
}

// publishAll publishes events, and returns when they are in the log.
func publishAll(t *testing.T, n *Log, events ...dialog.Event) {
	t.Helper()
	n.Append(events)
	waitUntilPublished(t, n)
}

// Each tail returns every event once, in the order of the log, and one that does not read
// delays no other.
func TestTailsReadEveryEvent(t *testing.T) {
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	n, _ := startLog(t, js, Config{})
	publishAll(t, n, callOf(0)...) // before
	openTail(t, n, Query{})        // never reads
	const calls = 500
	var readers sync.WaitGroup
	got := make([][]string, 20)
	for i := range got {
		tail := openTail(t, n, Query{})
		readers.Go(func() {
			var err error
			if got[i], err = tail.nextIDs(t.Context(), 3*calls); err != nil {
				t.Error(err)
			}
		})
	}
	for i := range calls {
		n.Append(callOf(i + 1))
	}
	readers.Wait()
	want := logOrder(t, n)[3:]
	for i, got := range got {
		if !slices.Equal(got, want) {
			t.Errorf("tail %d: %d events that are not the log's %d", i, len(got), len(want))
		}
	}
}

// The log is read once, however many tails there are.
func TestTailsShareOneReader(t *testing.T) {
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	n, _ := startLog(t, js, Config{Shared: true})
	other, _ := startLog(t, js, Config{Shared: true})
	var readings atomic.Int32
	sub, err := js.Conn().Subscribe("$JS.API.DIRECT.GET.bellhop_events", func(*nats.Msg) { readings.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe()
	var tails []*Tail
	for range 50 {
		tails = append(tails, openTail(t, n, Query{}))
	}
	for i := range 5 {
		publishAll(t, other, callOf(i)[0])
		for _, tail := range tails {
			wantNext(t, tail, []string{callOf(i)[0].ID})
		}
	}
	if err := js.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	publishAll(t, n, callOf(5)[0]) // is in the cache
	for _, tail := range tails {
		wantNext(t, tail, []string{callOf(5)[0].ID})
	}
	if n := readings.Load(); n < 5 || n >= 50 {
		t.Errorf("five events of another node were read with %d requests for 50 tails", n)
	}
}

// A tail resumes where another ended, without gaps and repetitions, even after a long time
// and after a restart of the node.
func TestTailResumes(t *testing.T) {
	dir := t.TempDir()
	js, closeStore := openStore(t, dir)
	n, stop := startLog(t, js, Config{})
	begin := time.Now().Add(-time.Minute)
	lagging, leading := openTail(t, n, Query{}), openTail(t, n, Query{})
	const calls = cachedBlocks*blockSize/3 + 200 // more than are in memory
	for i := range calls {
		n.Append(callOf(i))
	}
	waitUntilPublished(t, n)
	all := logOrder(t, n)
	wantNext(t, leading, all)
	if n.cache.recent[0] != nil {
		t.Fatal("all are in memory still")
	}
	wantNext(t, lagging, all)

	for _, position := range []int{0, 100, len(all) / 2, len(all) - 2, len(all) - 1} {
		resumed := openTail(t, n, Query{After: all[position]})
		wantNext(t, resumed, all[position+1:])
		e := callOf(10_000 + position)[0]
		publishAll(t, n, e)
		wantNext(t, resumed, []string{e.ID})
		all = append(all, e.ID)
	}
	wantNext(t, openTail(t, n, Query{Since: begin}), all)

	lagging.Close()
	leading.Close()
	stop()
	closeStore()
	js, closeStore = openStore(t, dir)
	defer closeStore()
	n, _ = startLog(t, js, Config{})
	wantNext(t, openTail(t, n, Query{After: all[7]}), all[8:])
}

func TestTailFilters(t *testing.T) {
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	n, _ := startLog(t, js, Config{})
	other := callOf(2)[2]
	other.Extension = dialog.Extension{User: "0003*210", Domain: "pbx"}
	first, second := callOf(0), callOf(1)
	all := slices.Concat(first, second, []dialog.Event{other})
	ids := func(events ...dialog.Event) (ids []string) {
		for _, e := range events {
			ids = append(ids, e.ID)
		}
		return ids
	}
	publishAll(t, n, callOf(3)[0])
	tests := []struct {
		q    Query
		want []string
	}{
		{Query{}, ids(all...)},
		{Query{Call: second[0].Call}, ids(second...)},
		{Query{Extension: "0003*210"}, ids(other)},
		{Query{Extension: "0003*210@pbx"}, ids(other)},
		{Query{Extension: "0003*210@elsewhere"}, nil},
		{Query{Extension: "101@pbx.example", Type: "hangup"}, ids(first[2], second[2])},
		{Query{Type: "hangup"}, ids(first[2], second[2], other)},
		{Query{Type: "answer-out"}, ids(first[1], second[1])},
		{Query{Type: "answer-in"}, nil},
		{Query{Extensions: []string{"0003*210"}}, ids(other)},
		{Query{Extensions: []string{"999"}}, nil},
		{Query{Extension: "101", Extensions: []string{"0003*210"}}, nil},
	}
	var live []*Tail
	for _, tt := range tests {
		live = append(live, openTail(t, n, tt.q))
	}
	for _, e := range all {
		publishAll(t, n, e)
	}
	for i, tt := range tests {
		wantNext(t, live[i], tt.want)
		past := tt.q
		past.Since = time.Now().Add(-time.Hour)
		live = append(live, openTail(t, n, past))
		if past.matches(&callOf(3)[0]) {
			tt.want = append(ids(callOf(3)[0]), tt.want...)
		}
		wantNext(t, live[len(live)-1], tt.want)
	}
	// Events until all tails have seen the end are for none of them.
	end := callOf(4)[0]
	publishAll(t, n, end)
	for _, tail := range live {
		asked := tail.query
		tail.query = Query{}
		for last := ""; last != end.ID; {
			events, err := tail.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				if last = e.ID; last != end.ID && asked.matches(e) {
					t.Errorf("%+v was not told of %s", asked, e.ID)
				}
			}
		}
	}
}

func TestTailsCloseReader(t *testing.T) {
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	n, _ := startLog(t, js, Config{})
	for range 2 {
		first, err := n.Tail(t.Context(), Query{})
		if err != nil {
			t.Fatal(err)
		}
		second, err := n.Tail(t.Context(), Query{})
		if err != nil {
			t.Fatal(err)
		}
		shared := first.reader
		first.Close()
		select {
		case <-shared.done:
			t.Fatal("the reading has ended before the last tail")
		default:
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if events, err := second.Next(ctx); !errors.Is(err, context.Canceled) || events != nil {
			t.Errorf("canceled: %v, %v", events, err)
		}
		second.Close()
		<-shared.done
	}
	if _, err := n.Tail(t.Context(), Query{After: "nothing"}); err != ErrNoEvent {
		t.Errorf("after nothing: %v", err)
	}
	publishAll(t, n, callOf(0)[0])
	if _, err := n.Tail(t.Context(), Query{After: callOf(0)[0].ID, Extensions: []string{"102"}}); err != ErrNoEvent {
		t.Errorf("after what it may not see: %v", err)
	}
	closeStore()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := n.Tail(ctx, Query{}); err == nil {
		t.Error("a log that is gone can be tailed")
	}
	if n.reader != nil || n.tails != 0 {
		t.Errorf("%d tails are left", n.tails)
	}
}

// Events that cannot be read yet are read again until they can.
func TestTailRereadsUntilReadable(t *testing.T) {
	runInVirtualTime(t, Config{}, func(t *testing.T, _ jetstream.JetStream, n *Log) {
		tail, err := n.Tail(t.Context(), Query{})
		if err != nil {
			t.Fatal(err)
		}
		defer tail.Close()
		n.Append(callOf(0))
		wantNext(t, tail, []string{callOf(0)[0].ID, callOf(0)[1].ID, callOf(0)[2].ID})
		position := tail.position
		n.raiseEnd(position + 1) // it is announced, but not there yet
		time.Sleep(10 * time.Second)
		n.Append(callOf(1)[:1])
		wantNext(t, tail, []string{callOf(1)[0].ID})
	})
}

// BenchmarkTailCatchesUp reads a log of 30,000 events that are no longer in memory,
// selecting only the last one: an operation is one event.
func BenchmarkTailCatchesUp(b *testing.B) {
	js, closeStore := openStore(b, b.TempDir())
	defer closeStore()
	n, stop := startLog(b, js, Config{})
	const calls = 10_000
	for i := range calls {
		n.Append(callOf(i))
		for n.Stats().Unpublished > maxUnpublished/2 {
			stream.Sleep(b.Context(), time.Millisecond)
		}
	}
	stop()
	b.ResetTimer()
	for i := 0; i < b.N; i += 3 * calls {
		tail, err := n.Tail(b.Context(), Query{Since: time.Unix(0, 0), Call: callOf(calls - 1)[0].Call})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := tail.nextIDs(b.Context(), 3); err != nil {
			b.Fatal(err)
		}
		tail.Close()
	}
}

// A call of Next returns a limited number of bytes, from memory or from the log, and no
// event is missed. The memory for all tails is limited too.
func TestTailsOfLargeEvents(t *testing.T) {
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	n, _ := startLog(t, js, Config{})
	live := openTail(t, n, Query{})
	const all, size = 320, 60_000 // 19 MB
	var want []string
	for i := range all {
		e := callOf(i)[0]
		e.MessageText = strings.Repeat("x", size)
		want = append(want, e.ID)
		publishAll(t, n, e)
	}
	for name, tail := range map[string]*Tail{"live": live, "from the log": openTail(t, n, Query{Since: time.Now().Add(-time.Hour)})} {
		var got []string
		for len(got) < all {
			events, err := tail.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			bytes := 0
			for _, e := range events {
				bytes += eventSize(e)
				got = append(got, e.ID)
			}
			if bytes > maxTailBytes {
				t.Fatalf("%s: %d bytes at once", name, bytes)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %d events that are not the log's", name, len(got))
		}
	}
	c := &n.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	bytes := 0
	for _, b := range c.recent {
		for _, e := range b.events {
			if e != nil {
				bytes += eventSize(e)
			}
		}
	}
	if bytes != c.bytes || bytes > maxRecentBytes || bytes == 0 {
		t.Errorf("%d bytes are in memory, %d are counted", bytes, c.bytes)
	}
}
