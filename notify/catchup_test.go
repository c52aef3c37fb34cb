package notify

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
	"bellhop/notify/eventlog"
	"bellhop/notify/stream"
)

// readPages reads the pages that the scheduler asks for now.
func (s *schedulerTest) readPages() (read string) {
	for r, from, to := s.nextPage(); r != nil; r, from, to = s.nextPage() {
		read += fmt.Sprintf("%s %d-%d ", r.subscriber.sub.ID, from, to)
		s.addPage(s.now, r, to, s.entriesBetween(from, to))
	}
	return strings.TrimSpace(read)
}

// entriesBetween returns the events of a range of the log.
func (s *schedulerTest) entriesBetween(from, to uint64) (entries []eventlog.Entry) {
	for _, e := range s.log {
		if e.Seq >= from && e.Seq <= to {
			entries = append(entries, e)
		}
	}
	return entries
}

// takeAttempts delivers every attempt of a subscription that is due now, and returns their
// labels.
func (s *schedulerTest) takeAttempts(id string) (taken string) {
	for as := s.takeDueAttempts(); len(as) > 0; as = s.takeDueAttempts() {
		for _, a := range as {
			if a.sub.ID == id {
				taken += s.labelOf(a.delivery) + " "
				s.finish(a, delivered)
			}
		}
	}
	return strings.TrimSpace(taken)
}

// publishTo publishes the hangups of calls, and delivers all attempts but those to dead,
// which it returns.
func (s *schedulerTest) publishTo(deadID string, from, to int) (unanswered []*attempt) {
	for i := from; i < to; i++ {
		s.publish(fmt.Sprint("c", i), dialog.Hangup)
		for _, a := range s.takeDueAttempts() {
			if a.sub.ID == deadID {
				unanswered = append(unanswered, a)
			} else {
				s.finish(a, delivered)
			}
		}
	}
	return unanswered
}

func TestLaggingSubscriptionCatchesUp(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"), testSubscription("well", "http://well/"))
	s.maxPending, s.posts = 4, false
	as := s.publishTo("a", 1, 9)
	s.wantEqual("what waits, and what the other one got", fmt.Sprint(s.pending, len(s.ends)), "4 8")
	s.wantEqual("lagging subscribers", fmt.Sprint(s.lagging, s.subscribers["a"].lag != nil), "1 true")
	s.wantEqual("nothing is read before there is room", s.readPages(), "")

	s.sleepFor(outboxDelay)
	s.wantEqual("updates", fmt.Sprint(s.writeUpdates(stream.ErrUnanswered)), "[behind after 4 c1/1 after 0 c2/2 after 0 c3/3 after 0 c4/4 after 0]")
	s.wantEqual("the cursor stays below", fmt.Sprint(s.cursor), "0")
	s.wantEqual("updates after a failure", fmt.Sprint(s.writeUpdates(nil)), "[behind after 4 c1/1 after 0 c2/2 after 0 c3/3 after 0 c4/4 after 0]")
	s.wantEqual("then the cursor advances", fmt.Sprint(s.cursor), "8")

	s.finish(as[0], delivered)
	s.wantEqual("no room yet", s.readPages(), "")
	s.finish(as[1], delivered)
	s.wantEqual("at half of the limit", s.readPages(), "a 5-6")
	s.wantEqual("one page at a time", s.readPages(), "")
	s.wantEqual("updates of the page", fmt.Sprint(s.writeUpdates(nil)), "[gone c1/1 gone c2/2 c5/5 after 0 c6/6 after 0 cursor 8]")
	s.publish("c9", dialog.Hangup)
	more := s.takeDueAttempts()
	s.wantEqual("what is sent", s.labelsOf(more), "c5/5 c9/9 c6/6")
	s.wantEqual("update of the progress", fmt.Sprint(s.writeUpdates(nil)), "[behind after 6]")
	for _, a := range append(more, as[2:]...) {
		s.finish(a, delivered)
	}
	s.wantEqual("the next", s.readPages(), "a 7-8")
	s.wantEqual("all are sent", s.takeAttempts("a"), "c7/7 c8/8")
	s.wantEqual("it has not caught up", fmt.Sprint(s.lagging), "1")
	s.wantEqual("the last", s.readPages(), "a 9-9")
	s.wantEqual("which is sent", s.takeAttempts("a"), "c9/9")
	s.wantEqual("it has caught up", fmt.Sprint(s.lagging, s.dueLogReads.len()), "0 0")
	s.publish("c10", dialog.Hangup)
	s.wantEqual("what is new goes straight", s.takeAttempts("a"), "c10/10")
	s.sleepFor(cursorSaveInterval)
	s.wantEqual("updates after catching up", fmt.Sprint(s.writeUpdates(nil)), "[gone behind gone c5/5 gone c6/6 gone c3/3 gone c4/4 cursor 9]")
}

// A live event that is too old when it is read again expires without an attempt.
func TestLaggingEventExpires(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"))
	s.maxPending = 2
	s.publish("c", dialog.Hangup)
	s.publish("d", dialog.DialIn, dialog.Answer, dialog.Hangup)
	held := s.takeDueAttempts()
	s.sleepFor(liveTTL)
	s.ends = nil
	s.finish(held[0], delivered)
	s.finish(held[1], delivered)
	s.readPages()
	s.wantEqual("what came of them", strings.Join(s.ends, ", "), "1m0s a c/1 delivered, 1m0s a d/2 delivered, 1m0s a d/3 expired")
	s.wantEqual("what is sent", s.takeAttempts("a"), "d/4")
}

func TestUnsubscribedWhileLagging(t *testing.T) {
	for _, tt := range []struct {
		name    string
		updates bool
		want    string
	}{
		{"before the outbox knows", false, "[cursor 8]"},
		{"after", true, "[gone behind gone c1/1 gone c2/2 gone c3/3 gone c4/4]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSchedulerTest(t, testSubscription("a", "http://a/"))
			s.maxPending, s.posts = 4, false
			as := s.publishTo("a", 1, 9)
			if tt.updates {
				s.sleepFor(outboxDelay)
				s.writeUpdates(nil)
				s.writeUpdates(nil)
			}
			s.finish(as[0], delivered)
			s.finish(as[1], delivered)
			r, from, to := s.nextPage() // a page is being read
			off := testSubscription("a", "http://a/")
			off.Active = false
			s.applySubscription(off, time.Time{})
			s.addPage(s.now, r, to, s.entriesBetween(from, to))
			s.finish(as[2], willRetry)
			s.finish(as[3], willRetry)
			s.sleepFor(cursorSaveInterval)
			s.wantEqual("updates", fmt.Sprint(s.writeUpdates(nil)), tt.want)
			s.wantEqual("what is left", fmt.Sprint(s.lagging, s.pending, s.cursor, s.unsavedLogReads.len()), "0 0 8 0")
			s.wantEqual("what is read", s.readPages(), "")
			s.applySubscription(testSubscription("a", "http://a/"), time.Time{})
			s.publish("c9", dialog.Hangup)
			s.wantEqual("once it is on again", s.takeAttempts("a"), "c9/9")
		})
	}
}

// The write that ends a lag fails. The subscription lags again, and the write of the new
// lag succeeds.
func TestLagsAgainBeforeUpdateIsStored(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"))
	s.maxPending, s.posts = 1, false
	s.publish("c1", dialog.Hangup)
	held := s.takeDueAttempts()
	s.publish("c2", dialog.Hangup)
	s.writeUpdates(nil)
	s.finish(held[0], delivered)
	s.readPages()
	s.takeAttempts("a")
	updates := s.outboxUpdates(s.now) // the update that it has caught up
	s.publishTo("a", 3, 5)
	for _, u := range updates {
		s.finishUpdate(u, stream.ErrUnanswered)
	}
	s.wantEqual("updates", fmt.Sprint(s.writeUpdates(nil)), "[behind after 3]")
	s.wantEqual("not taken back", fmt.Sprint(s.writeUpdates(nil)), "[]")
}

// With so many subscribers that their limits together exceed memory, each has an equal
// share.
func TestRoomIsShared(t *testing.T) {
	var subs []Subscription
	for i := range 50 {
		subs = append(subs, testSubscription(fmt.Sprint("dead", i), "http://dead/"))
	}
	s := newSchedulerTest(t, append(subs, testSubscription("well", "http://well/"))...)
	s.maxPending = 10
	for i := range 20 {
		s.publish(fmt.Sprint("c", i), dialog.Hangup)
		s.wantEqual("the one that is well", s.takeAttempts("well"), fmt.Sprintf("c%d/%d", i, i+1))
	}
	s.wantEqual("lagging subscribers, pending deliveries", fmt.Sprint(s.lagging, s.pending), "50 100")
}

// A storedOutbox is what remains of an outbox after a crash: the last message of each
// subject.
type storedOutbox struct {
	messages map[string][]byte
	cursor   uint64
}

func (d *storedOutbox) applyMessage(m *nats.Msg) {
	switch {
	case m.Subject == cursorSubject:
		d.cursor, _ = strconv.ParseUint(string(m.Data), 10, 64)
	case len(m.Data) == 0:
		delete(d.messages, m.Subject)
	default:
		d.messages[m.Subject] = m.Data
	}
}

// restartFrom replaces the scheduler by one restored from a stored outbox.
func (s *schedulerTest) restartFrom(d *storedOutbox, subs ...Subscription) {
	limit := s.maxPending
	s.scheduler = newScheduler(s.onEnd)
	s.maxPending = limit
	for _, sub := range subs {
		s.applySubscription(sub, time.Time{})
	}
	s.startFrom(d.cursor)
	type old struct {
		sub     string
		seq     uint64
		message storedDelivery
	}
	var olds []old
	for subject, message := range d.messages {
		id, name, _ := strings.Cut(strings.TrimPrefix(subject, "bellhop.delivery."), ".")
		seq, err := strconv.ParseUint(name, 10, 64)
		if err != nil {
			r, err := decodeLogRead(id, name, message)
			if err != nil {
				s.Fatal(err)
			}
			s.restoreLogRead(r)
			continue
		}
		o := old{id, seq, storedDelivery{}}
		if err := json.Unmarshal(message, &o.message); err != nil {
			s.Fatal(err)
		}
		olds = append(olds, o)
	}
	slices.SortFunc(olds, func(a, b old) int { return cmp.Compare(a.seq, b.seq) })
	for _, o := range olds {
		s.restoreDelivery(o.sub, o.message.Queue, &delivery{seq: o.seq, kind: o.message.Type, at: o.message.At, scheduleStep: o.message.Step, dueAt: o.message.Due, replay: o.message.Replay}, false)
	}
	for _, e := range s.log {
		if e.Seq > d.cursor {
			s.addEvent(s.now, e.Seq, e.Event)
		}
	}
}

// Random actions in random order, with crashes and replays: every subscription gets every
// event, those of a call in order, and pending deliveries never exceed their limit.
func TestLagSurvivesCrashes(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 1))
		subs := []Subscription{testSubscription("a", "http://a/"), testSubscription("b", "http://b/")}
		s := newSchedulerTest(t, subs...)
		s.maxPending, s.posts = 1+r.IntN(20), false
		d := &storedOutbox{messages: make(map[string][]byte)}
		var under []*attempt
		type page struct {
			b  *logRead
			to uint64
			es []eventlog.Entry
		}
		var pages []page
		first := map[string][]uint64{} // by subscription and call: events in the order of first arrival
		answer := func(a *attempt, o outcome) {
			if key := a.sub.ID + " " + a.delivery.queue.name; o == delivered && !slices.Contains(first[key], a.seq) {
				first[key] = append(first[key], a.seq)
			}
			a.endpoint.breaker = breaker{}
			s.finish(a, o)
		}
		post := func(n int) { // the first n messages of a batch are stored
			for i, u := range s.outboxUpdates(s.now) {
				if i < n {
					d.applyMessage(u.outboxMessage())
					s.finishUpdate(u, nil)
				} else {
					s.finishUpdate(u, stream.ErrUnanswered)
				}
			}
		}
		crashes, replays := r.IntN(2) == 0, r.IntN(2) == 0
		for range 400 {
			switch n := r.IntN(20); {
			case n < 6:
				s.publish(fmt.Sprint("c", r.IntN(5)), dialog.Hangup)
			case n < 9:
				under = append(under, s.takeDueAttempts()...)
			case n < 13 && len(under) > 0:
				i := r.IntN(len(under))
				answer(under[i], []outcome{willRetry, delivered, delivered}[r.IntN(3)])
				under = slices.Delete(under, i, i+1)
			case n < 15:
				if b, from, to := s.nextPage(); b != nil {
					pages = append(pages, page{b, to, s.entriesBetween(from, to)})
				}
			case n < 16 && len(pages) > 0:
				s.addPage(s.now, pages[0].b, pages[0].to, pages[0].es)
				pages = pages[1:]
			case n < 18:
				post(stream.BatchSize)
			case n < 19 && replays && s.seq > 0 && r.IntN(3) == 0: // a replay is requested
				from := 1 + r.Uint64N(s.seq)
				b := s.replayRange("a", from, from+r.Uint64N(s.seq-from+1), "hangup")
				b.name = fmt.Sprint("replay.", r.Uint64())
				d.messages["bellhop.delivery.a."+b.name], _ = json.Marshal(storedLogRead{b.after, b.to, b.types})
			case n < 19:
				s.sleepFor(time.Duration(r.IntN(2000)) * time.Millisecond)
			case crashes && r.IntN(3) == 0:
				for i, u := range s.outboxUpdates(s.now) { // some updates are being written
					if i < r.IntN(10) {
						d.applyMessage(u.outboxMessage())
					} else {
						break
					}
				}
				under, pages = nil, nil
				s.restartFrom(d, subs...)
			}
			for id, subscriber := range s.subscribers {
				if n := len(subscriber.pendingSeqs()); n != subscriber.pending {
					t.Fatalf("seed %d: %d deliveries of %s wait, of %d events", seed, subscriber.pending, id, n)
				}
				if subscriber.pending > 2*s.maxPending+1 {
					t.Fatalf("seed %d: %d deliveries of %s wait, the limit is %d", seed, subscriber.pending, id, s.maxPending)
				}
			}
		}
		for i := 0; s.pending+s.lagging+len(under)+len(pages)+len(d.messages) > 0; i++ {
			if i > 10_000 {
				t.Fatalf("seed %d: %d pending, %d lagging, %v", seed, s.pending, s.lagging, d.messages)
			}
			for _, a := range append(under, s.takeDueAttempts()...) {
				answer(a, delivered)
			}
			for _, p := range pages {
				s.addPage(s.now, p.b, p.to, p.es)
			}
			under, pages = nil, nil
			s.readPages()
			post(stream.BatchSize)
			s.sleepFor(time.Second)
		}
		want := map[string][]uint64{}
		for _, e := range s.log {
			for _, sub := range subs {
				key := sub.ID + " " + e.Event.Call
				want[key] = append(want[key], e.Seq)
			}
		}
		for key, want := range want {
			if got := first[key]; !slices.Equal(got, want) {
				t.Fatalf("seed %d: %s came\n%v, want\n%v", seed, key, got, want)
			}
		}
		if !crashes && !replays && len(s.ends) != 2*len(s.log) {
			t.Fatalf("seed %d: %d ended, want %d", seed, len(s.ends), 2*len(s.log))
		}
		if s.cursor != s.seq || s.recent.len()+len(s.inOutbox)+s.dueLogReads.len()+s.unsavedLogReads.len() != 0 {
			t.Fatalf("seed %d: left: cursor %d of %d, %d recent, %d in the outbox", seed, s.cursor, s.seq, s.recent.len(), len(s.inOutbox))
		}
	}
}

// startSmall starts a notifier whose subscriptions lag beyond limit pending deliveries.
func startSmall(t *testing.T, js jetstream.JetStream, c Config, limit int) (*Notifier, func()) {
	t.Helper()
	n, err := Open(t.Context(), js, c)
	if err != nil {
		t.Fatal(err)
	}
	n.maxPending = limit
	stop := runNotifier(n)
	t.Cleanup(stop)
	return n, stop
}

// A receiver is down and its subscription lags, while another one is delivered to at once.
// When the receiver returns it gets all events in order, even if the store was killed
// meanwhile at any time.
func TestCatchesUpAfterKill(t *testing.T) {
	const limit, calls = 50, 400
	dir, crashed := t.TempDir(), []string{t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()}
	synctest.Test(t, func(t *testing.T) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		var up, slow atomic.Bool
		var mu sync.Mutex
		late := time.Duration(0)
		w := &fakeWire{start: time.Now(), answer: func(_ int, r request) (int, http.Header) {
			switch at, _ := eventTime([]byte(r.body)); {
			case r.URL.Host == "well":
				mu.Lock()
				late = max(late, time.Since(at))
				mu.Unlock()
			case !up.Load():
				return 500, nil
			case slow.Load():
				time.Sleep(time.Second)
			}
			return 200, nil
		}}
		c := Config{Transport: w, PublishAtOnce: true, KeepEvents: keepForever}
		n, stop := startSmall(t, js, c, limit)
		for _, host := range []string{"dead", "well"} {
			s := testSubscription("", "http://"+host+"/")
			s.Dialect = Telphin
			mustSubscribe(t, n, s)
		}
		taken := func(host string) (got []request) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return slices.DeleteFunc(slices.Clone(w.taken), func(r request) bool { return r.URL.Host != host })
		}
		var before []int // what the receiver that was down had received at each crash
		crash := func() {
			if err := os.CopyFS(crashed[len(before)], os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			before = append(before, len(taken("dead")))
		}
		for i := range calls {
			if i == 100 {
				crash()
			}
			n.Publish(callOf(i))
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(2 * time.Minute) // live events are too old
		if s := n.Stats(); s.Lagging != 1 || s.Pending > limit || len(taken("well")) != 3*calls || late > 10*time.Millisecond {
			t.Errorf("%+v; the one that is well took %d, %v late at most", s, len(taken("well")), late)
		}
		if page, _, err := n.Deliveries(t.Context(), DeliveryQuery{State: Waiting}); err != nil || len(page) == 0 {
			t.Errorf("%d deliveries are shown: %v", len(page), err)
		}
		crash()
		up.Store(true)
		slow.Store(true)
		time.Sleep(35 * time.Second) // a probe, and some pending deliveries
		if s := n.Stats(); s.Lagging != 1 || s.Pending == 0 || s.Pending > limit {
			t.Errorf("while it catches up: %+v", s)
		}
		crash()
		slow.Store(false)
		time.Sleep(time.Minute)
		crash()
		if s := n.Stats(); s.Lagging != 0 || s.Pending != 0 || s.Lost != 0 || s.Delivered+s.Expired != 6*calls {
			t.Errorf("in the end: %+v", s)
		}
		if err := checkCalls(taken("dead"), 0, calls); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if info, err := n.outbox.Info(t.Context()); err != nil || info.State.Msgs != 1 {
			t.Errorf("the outbox keeps %d messages, want the cursor alone: %v", info.State.Msgs, err)
		}
		stop()
		all := taken("dead")
		for i, dir := range crashed {
			w.mu.Lock()
			w.taken = slices.Clone(all[:before[i]])
			w.mu.Unlock()
			js, closeCrashed := openStore(t, dir)
			n, stop := startSmall(t, js, c, limit)
			time.Sleep(2 * time.Minute)
			published := calls
			if i == 0 {
				published = 100
			}
			if err := checkCalls(taken("dead"), 0, published); err != nil {
				t.Errorf("after crash %d: %v", i, err)
			}
			if s := n.Stats(); s.Lagging != 0 || s.Pending != 0 || s.Lost != 0 {
				t.Errorf("after crash %d: %+v", i, s)
			}
			if again := len(taken("dead")) - before[i]; i == 3 && again > 0 {
				t.Errorf("%d that were delivered came again", again)
			}
			stop()
			closeCrashed()
		}
	})
}

// Events that leave the log before a lagging subscription has read them are lost and
// counted.
func TestLostEventsAreCounted(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		var up atomic.Bool
		w := &fakeWire{start: time.Now(), answer: upOrDown(&up)}
		n, stop := startSmall(t, js, Config{Transport: w, PublishAtOnce: true}, 10)
		defer stop()
		mustSubscribe(t, n, testSubscription("", "http://dead/"))
		for i := range 5000 {
			n.Publish(callOf(i)[2:])
			if i%100 == 0 {
				time.Sleep(100 * time.Millisecond)
			}
		}
		time.Sleep(10 * time.Second)
		if err := eventStream(t, n).Purge(t.Context(), jetstream.WithPurgeSequence(4001)); err != nil {
			t.Fatal(err)
		}
		up.Store(true)
		time.Sleep(time.Minute)
		// the events of ten pending deliveries are lost: they expire
		if s := n.Stats(); s.Lost != 3990 || s.Expired+s.Delivered != 1010 || s.Delivered < 1000 || s.Lagging+s.Pending != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// BenchmarkLag measures the memory of a dead receiver, with far more events than may be
// pending, and per pending delivery.
func BenchmarkLag(b *testing.B) {
	for b.Loop() {
		var ended int
		s, sweeper, messages := newScheduler(func(*delivery, outcome) { ended++ }), newSweeper(), uint64(0)
		s.applySubscription(testSubscription("dead", "http://dead/"), time.Time{})
		s.applySubscription(testSubscription("well", "http://well/"), time.Time{})
		heap := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before, now := heap(), time.Now()
		report := func(name string) {
			b.ReportMetric(float64(heap()-before)/(1<<20), name)
		}
		for i := range 10 * maxPending {
			e := callOf(i)[2]
			s.addEvent(now, uint64(i+1), &e)
			for p, ok := s.nextAttempt(now); ok; p, ok = s.nextAttempt(now) {
				r := attemptResult{outcome: willRetry}
				if p.sub.ID == "well" {
					r.outcome = delivered
				}
				s.finishAttempt(now, &p, &r)
			}
			now = now.Add(time.Millisecond)
			s.runDue(now)
			for _, u := range s.outboxUpdates(now) {
				messages++
				sweeper.noteResult(u.outboxMessage(), stream.Result{Seq: messages})
				s.finishUpdate(u, nil)
			}
			sweeper.superseded, sweeper.ended, sweeper.purge = nil, nil, nil // all were removed
			if i == maxPending-1 {
				report("MB-at-the-limit")
				b.ReportMetric(float64(heap()-before)/float64(s.pending), "B/pending")
			}
		}
		report("MB-at-ten-times-that")
		if s.pending != maxPending || ended != 10*maxPending {
			b.Fatalf("%d wait, %d ended", s.pending, ended)
		}
		runtime.KeepAlive(sweeper)
	}
}
