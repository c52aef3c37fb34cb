package eventlog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
	"bellhop/notify/stream"
)

// publishedEvents returns the ids of all events of the log in its order, and when each was
// stored.
func publishedEvents(t *testing.T, n *Log) (ids []string, at map[string]time.Time) {
	t.Helper()
	at = make(map[string]time.Time)
	err := stream.Read(t.Context(), n.events, jetstream.OrderedConsumerConfig{}, func(m jetstream.Msg) error {
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		id := m.Subject()[strings.LastIndexByte(m.Subject(), '.')+1:]
		ids, at[id] = append(ids, id), meta.Timestamp
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids, at
}

// Below 200 calls a second, at random intervals, each event is in the log within 5 ms; at a
// thousand calls a second, batches are as few as before.
func TestPublishedAtOnce(t *testing.T) {
	for _, tt := range []struct {
		calls   int // a second
		events  int // of each call, two at once
		longest time.Duration
		batches int // a second
	}{
		{20, 6, 5 * time.Millisecond, 0},
		{199, 6, 5 * time.Millisecond, 0},
		{199, 8, 5 * time.Millisecond, 0},
		{1000, 3, 50 * time.Millisecond, 26},
		{1000, 6, 50 * time.Millisecond, 26},
	} {
		t.Run(fmt.Sprintf("%d calls a second, %d events each", tt.calls, tt.events), func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				js, closeStore := openStore(t, dir)
				defer closeStore()
				n, stop := startLog(t, js, Config{})
				defer stop()
				random := rand.New(rand.NewPCG(1, 2))
				pairs := tt.calls * tt.events / 2 // a second
				publishedAt := make(map[string]time.Time)
				begin := time.Now()
				for i := range 3 * pairs {
					var events []dialog.Event
					for k := range 2 {
						id := fmt.Sprintf("%031x%d", i, k)
						events = append(events, dialog.Event{
							ID: id, Call: fmt.Sprintf("%032x", 2*i+k), Seq: 1, At: time.Now(),
							Type: dialog.Hangup, Extension: dialog.Extension{User: "101"},
						})
						publishedAt[id] = time.Now()
					}
					n.Append(events)
					time.Sleep(time.Duration(random.ExpFloat64() * float64(time.Second) / float64(pairs)))
				}
				time.Sleep(time.Second)
				_, at := publishedEvents(t, n)
				batches := make(map[time.Time]bool)
				var longest time.Duration
				for id, when := range publishedAt {
					stored, ok := at[id]
					if !ok {
						t.Fatalf("%s is not in the log", id)
					}
					longest = max(longest, stored.Sub(when))
					if when.Sub(begin) > time.Second { // the rate is known by then
						batches[stored] = true
					}
				}
				if longest > tt.longest {
					t.Errorf("an event waited %v, want %v at most", longest, tt.longest)
				}
				if n := len(batches) / 2; tt.batches > 0 && n > tt.batches {
					t.Errorf("%d batches a second, want %d at most", n, tt.batches)
				}
			})
		})
	}
}

func TestPaceFollowsRate(t *testing.T) {
	p := Pace{Rate: 100, Burst: 50, Quiet: 1, Busy: 2}
	now := time.Unix(1_000_000, 0)
	step := func(n int, after time.Duration, want time.Duration) {
		t.Helper()
		now = now.Add(after)
		p.Add(now, n)
		if got := p.Wait(); got != want {
			t.Errorf("%d after %v: %v, want %v", n, after, got, want)
		}
	}
	step(50, time.Hour, 1) // the burst
	step(1, 0, 2)
	step(0, 10*time.Millisecond, 1) // at the rate
	step(1, 10*time.Millisecond, 1)
	step(1_000_000, 0, 2) // at most twice the burst is remembered
	step(0, 490*time.Millisecond, 2)
	step(0, 20*time.Millisecond, 1)
}

// A memorySpool is a Spool in memory.
type memorySpool struct {
	mu     sync.Mutex
	events []dialog.Event
	fail   error
	saved  int // times
}

func (m *memorySpool) Load() ([]dialog.Event, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.events), m.fail
}

func (m *memorySpool) Save(events []dialog.Event) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	m.events = slices.Clone(events)
	m.saved++
	return nil
}

func (m *memorySpool) eventIDs() (ids []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.events {
		ids = append(ids, e.ID)
	}
	return ids
}

// Events that the store did not accept before a stop go to the spool, are published first
// after the next start, and leave the spool once they are in the log.
func TestSpoolSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		spool := new(memorySpool)
		var want []string
		js, closeStore := openStore(t, dir)
		n, stop := startLog(t, js, Config{Spool: spool})
		first := callOf(1)
		n.Append(first[:1]) // the rest of the call follows while the store is gone
		time.Sleep(time.Second)
		closeStore()
		n.Append(first[1:])
		n.Append(callOf(2))
		time.Sleep(time.Second)
		if got := n.Stats().Unpublished; got != 5 {
			t.Errorf("%d events are unpublished, want 5", got)
		}
		stop()
		for _, e := range slices.Concat(first[1:], callOf(2)) {
			want = append(want, e.ID)
		}
		if got := spool.eventIDs(); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
			t.Fatalf("the spool has %v, want %v", got, want)
		}
		if s := n.Stats(); s.Dropped != 0 {
			t.Errorf("%d are dropped", s.Dropped)
		}

		spool.events = append(first[:1:1], spool.events...) // this one is in the log already
		js, closeStore = openStore(t, dir)
		defer closeStore()
		n = openLog(t, js, Config{Spool: spool})
		if got := len(n.Unpublished()); got != 6 {
			t.Errorf("%d events are unpublished after the start, want 6", got)
		}
		n.Append(callOf(3))
		stop = runLog(n)
		time.Sleep(time.Second)
		if got := spool.eventIDs(); got != nil {
			t.Errorf("the spool has %v after it was published", got)
		}
		stop()
		ids, _ := publishedEvents(t, n)
		position := func(id string) int {
			i := slices.Index(ids, id)
			if i < 0 {
				t.Errorf("%s is not in the log: %v", id, ids)
			}
			return i
		}
		if len(ids) != 9 {
			t.Errorf("the log has %v, want 9 events", ids)
		}
		for i := 1; i <= 3; i++ {
			c := callOf(i)
			if position(c[0].ID) > position(c[1].ID) || position(c[1].ID) > position(c[2].ID) {
				t.Errorf("the events of call %d are in the order of %v", i, ids)
			}
		}
		if s := n.Stats(); s.Dropped != 0 || s.Unpublished != 0 {
			t.Errorf("dropped %d, unpublished %d", s.Dropped, s.Unpublished)
		}
	})
}

// Without a spool, unpublished events count as dropped.
func TestDroppedWithoutSpool(t *testing.T) {
	for _, spool := range []Spool{nil, &memorySpool{fail: errors.New("no room")}} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			js, closeStore := openStore(t, dir)
			n, stop := startLog(t, js, Config{Spool: spool})
			closeStore()
			n.Append(callOf(1))
			stop()
			if s := n.Stats(); s.Dropped != 3 {
				t.Errorf("%d are dropped, want 3", s.Dropped)
			}
		})
	}
}

// An event with a name so long that the store would end the connection is not published.
func TestLongNamesAreDropped(t *testing.T) {
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	spool := new(memorySpool)
	long := callOf(1)
	long[0].Extension.User = strings.Repeat("1", 5000)
	long[1].Call = strings.Repeat("c", 5000)
	long[2].ID = strings.Repeat("i", 5000)
	spool.events = long[2:]
	n, stop := startLog(t, js, Config{Spool: spool})
	n.Append(long[:2])
	n.Append(callOf(2))
	for n.Stats().Unpublished > 0 {
		stream.Sleep(t.Context(), time.Millisecond)
	}
	stop()
	if s := n.Stats(); s.Published != 3 || s.Dropped != 3 || js.Conn().Stats().Reconnects > 0 {
		t.Errorf("%d published, %d dropped, %d times connected again; want 3, 3 and 0", s.Published, s.Dropped, js.Conn().Stats().Reconnects)
	}
}

func TestPublishNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &Log{publisher: newPublisher(), config: Config{Wanted: func(*dialog.Event) bool { return true }}}
		for i := range maxUnpublished {
			n.Append(callOf(i)[i%3 : i%3+1]) // a third of each type
		}
		lives := 0
		for range maxUnpublished {
			n.Append(callOf(maxUnpublished)[2:]) // hangups displace live events
		}
		for _, e := range n.publisher.buffer {
			if e.Type.Live() {
				lives++
			}
		}
		if s := n.Stats(); s.Unpublished != maxUnpublished || s.Dropped != maxUnpublished || lives != 0 {
			t.Errorf("%+v, %d live", s, lives)
		}
	})
}
