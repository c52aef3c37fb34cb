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
)

// readAgain reads the pages that the lanes want now.
func (s *stage) readAgain() (read string) {
	for r, from, to := s.nextPage(); r != nil; r, from, to = s.nextPage() {
		read += fmt.Sprintf("%s %d-%d ", r.subscriber.sub.ID, from, to)
		s.addPage(s.now, r, to, s.page(from, to))
	}
	return strings.TrimSpace(read)
}

// page is what of the log is from one place to another.
func (s *stage) page(from, to uint64) (entries []entry) {
	for _, e := range s.log {
		if e.seq >= from && e.seq <= to {
			entries = append(entries, e)
		}
	}
	return entries
}

// take answers every attempt at a subscription that can be made now.
func (s *stage) take(id string) (taken string) {
	for as := s.attempts(); len(as) > 0; as = s.attempts() {
		for _, a := range as {
			if a.sub.ID == id {
				taken += s.label(a.delivery) + " "
				s.answer(a, delivered)
			}
		}
	}
	return strings.TrimSpace(taken)
}

// sayTo has calls end one after the other, and answers all attempts but those at
// dead.
func (s *stage) sayTo(dead string, from, to int) (unanswered []*attempt) {
	for i := from; i < to; i++ {
		s.say(fmt.Sprint("c", i), dialog.Hangup)
		for _, a := range s.attempts() {
			if a.sub.ID == dead {
				unanswered = append(unanswered, a)
			} else {
				s.answer(a, delivered)
			}
		}
	}
	return unanswered
}

func TestBehind(t *testing.T) {
	s := newStage(t, sub("a", "http://a/"), sub("well", "http://well/"))
	s.maxPending, s.posts = 4, false
	as := s.sayTo("a", 1, 9)
	s.want("what waits, and what the other one got", fmt.Sprint(s.pending, len(s.ends)), "4 8")
	s.want("who is behind", fmt.Sprint(s.lagging, s.subscribers["a"].lag != nil), "1 true")
	s.want("nothing is read before there is room", s.readAgain(), "")

	s.sleep(outboxDelay)
	s.want("what is told", fmt.Sprint(s.post(errUnanswered)), "[behind after 4 c1/1 after 0 c2/2 after 0 c3/3 after 0 c4/4 after 0]")
	s.want("the floor stays below", fmt.Sprint(s.cursor), "0")
	s.want("it is told again", fmt.Sprint(s.post(nil)), "[behind after 4 c1/1 after 0 c2/2 after 0 c3/3 after 0 c4/4 after 0]")
	s.want("then the floor rises", fmt.Sprint(s.cursor), "8")

	s.answer(as[0], delivered)
	s.want("no room yet", s.readAgain(), "")
	s.answer(as[1], delivered)
	s.want("at half of the limit", s.readAgain(), "a 5-6")
	s.want("one page at a time", s.readAgain(), "")
	s.want("the page is told", fmt.Sprint(s.post(nil)), "[gone c1/1 gone c2/2 c5/5 after 0 c6/6 after 0 floor 8]")
	s.say("c9", dialog.Hangup)
	more := s.attempts()
	s.want("what is sent", s.labels(more), "c5/5 c9/9 c6/6")
	s.want("then how far it is", fmt.Sprint(s.post(nil)), "[behind after 6]")
	for _, a := range append(more, as[2:]...) {
		s.answer(a, delivered)
	}
	s.want("the next", s.readAgain(), "a 7-8")
	s.want("all are sent", s.take("a"), "c7/7 c8/8")
	s.want("it has not caught up", fmt.Sprint(s.lagging), "1")
	s.want("the last", s.readAgain(), "a 9-9")
	s.want("which is sent", s.take("a"), "c9/9")
	s.want("it has caught up", fmt.Sprint(s.lagging, s.dueLogReads.len()), "0 0")
	s.say("c10", dialog.Hangup)
	s.want("what is new goes straight", s.take("a"), "c10/10")
	s.sleep(cursorSaveInterval)
	s.want("that it has is told", fmt.Sprint(s.post(nil)), "[gone behind gone c5/5 gone c6/6 gone c3/3 gone c4/4 floor 9]")
}

// An event that is too old when it is read again is over without an attempt.
func TestBehindTooLong(t *testing.T) {
	s := newStage(t, sub("a", "http://a/"))
	s.maxPending = 2
	s.say("c", dialog.Hangup)
	s.say("d", dialog.DialIn, dialog.Answer, dialog.Hangup)
	held := s.attempts()
	s.sleep(liveTTL)
	s.ends = nil
	s.answer(held[0], delivered)
	s.answer(held[1], delivered)
	s.readAgain()
	s.want("what came of them", strings.Join(s.ends, ", "), "1m0s a c/1 delivered, 1m0s a d/2 delivered, 1m0s a d/3 expired")
	s.want("what is sent", s.take("a"), "d/4")
}

func TestUnsubscribedWhileBehind(t *testing.T) {
	for _, tt := range []struct {
		name string
		told bool
		want string
	}{
		{"before the outbox knows", false, "[floor 8]"},
		{"after", true, "[gone behind gone c1/1 gone c2/2 gone c3/3 gone c4/4]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStage(t, sub("a", "http://a/"))
			s.maxPending, s.posts = 4, false
			as := s.sayTo("a", 1, 9)
			if tt.told {
				s.sleep(outboxDelay)
				s.post(nil)
				s.post(nil)
			}
			s.answer(as[0], delivered)
			s.answer(as[1], delivered)
			r, from, to := s.nextPage() // a page is on its way
			off := sub("a", "http://a/")
			off.Active = false
			s.applySubscription(off, time.Time{})
			s.addPage(s.now, r, to, s.page(from, to))
			s.answer(as[2], willRetry)
			s.answer(as[3], willRetry)
			s.sleep(cursorSaveInterval)
			s.want("what the outbox hears", fmt.Sprint(s.post(nil)), tt.want)
			s.want("what is left", fmt.Sprint(s.lagging, s.pending, s.cursor, s.unsavedLogReads.len()), "0 0 8 0")
			s.want("what is read", s.readAgain(), "")
			s.applySubscription(sub("a", "http://a/"), time.Time{})
			s.say("c9", dialog.Hangup)
			s.want("once it is on again", s.take("a"), "c9/9")
		})
	}
}

// The word that a subscription is no longer behind does not reach the outbox; it
// falls behind again, and that does.
func TestBehindAgain(t *testing.T) {
	s := newStage(t, sub("a", "http://a/"))
	s.maxPending, s.posts = 1, false
	s.say("c1", dialog.Hangup)
	held := s.attempts()
	s.say("c2", dialog.Hangup)
	s.post(nil)
	s.answer(held[0], delivered)
	s.readAgain()
	s.take("a")
	letters := s.outboxUpdates(s.now) // that it has caught up
	s.sayTo("a", 3, 5)
	for _, u := range letters {
		s.finishUpdate(u, errUnanswered)
	}
	s.want("told", fmt.Sprint(s.post(nil)), "[behind after 3]")
	s.want("not taken back", fmt.Sprint(s.post(nil)), "[]")
}

// So many are owed something that their limits together are more than memory
// should hold: each has its share.
func TestShares(t *testing.T) {
	var subs []Subscription
	for i := range 50 {
		subs = append(subs, sub(fmt.Sprint("dead", i), "http://dead/"))
	}
	s := newStage(t, append(subs, sub("well", "http://well/"))...)
	s.maxPending = 10
	for i := range 20 {
		s.say(fmt.Sprint("c", i), dialog.Hangup)
		s.want("the one that is well", s.take("well"), fmt.Sprintf("c%d/%d", i, i+1))
	}
	s.want("who is behind, and what waits", fmt.Sprint(s.lagging, s.pending), "50 100")
}

// A disk is an outbox that a crash leaves: the last word of each.
type disk struct {
	words  map[string][]byte
	cursor uint64
}

func (d *disk) take(m *nats.Msg) {
	switch {
	case m.Subject == cursorSubject:
		d.cursor, _ = strconv.ParseUint(string(m.Data), 10, 64)
	case len(m.Data) == 0:
		delete(d.words, m.Subject)
	default:
		d.words[m.Subject] = m.Data
	}
}

// restart begins anew with what the disk has.
func (s *stage) restart(d *disk, subs ...Subscription) {
	limit := s.maxPending
	s.scheduler = newScheduler(s.onEnd)
	s.maxPending = limit
	for _, sub := range subs {
		s.applySubscription(sub, time.Time{})
	}
	s.startFrom(d.cursor)
	type old struct {
		sub  string
		seq  uint64
		word storedDelivery
	}
	var olds []old
	for subject, word := range d.words {
		id, name, _ := strings.Cut(strings.TrimPrefix(subject, "bellhop.delivery."), ".")
		seq, err := strconv.ParseUint(name, 10, 64)
		if err != nil {
			r, err := decodeLogRead(id, name, word)
			if err != nil {
				s.Fatal(err)
			}
			s.restoreLogRead(r)
			continue
		}
		o := old{id, seq, storedDelivery{}}
		if err := json.Unmarshal(word, &o.word); err != nil {
			s.Fatal(err)
		}
		olds = append(olds, o)
	}
	slices.SortFunc(olds, func(a, b old) int { return cmp.Compare(a.seq, b.seq) })
	for _, o := range olds {
		s.restoreDelivery(o.sub, o.word.Queue, &delivery{seq: o.seq, kind: o.word.Type, at: o.word.At, scheduleStep: o.word.Step, dueAt: o.word.Due, replay: o.word.Replay}, false)
	}
	for _, e := range s.log {
		if e.seq > d.cursor {
			s.addEvent(s.now, e.seq, e.event)
		}
	}
}

// Whatever happens in whatever order, crashes and replays too: everyone is told everything,
// the events of a call in order, and never more waits than may.
func TestBehindAndCrashes(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 1))
		subs := []Subscription{sub("a", "http://a/"), sub("b", "http://b/")}
		s := newStage(t, subs...)
		s.maxPending, s.posts = 1+r.IntN(20), false
		d := &disk{words: make(map[string][]byte)}
		var under []*attempt
		type page struct {
			b  *logRead
			to uint64
			es []entry
		}
		var pages []page
		first := map[string][]uint64{} // by subscription and call: events in the order of their first coming
		answer := func(a *attempt, o outcome) {
			if key := a.sub.ID + " " + a.queue.name; o == delivered && !slices.Contains(first[key], a.seq) {
				first[key] = append(first[key], a.seq)
			}
			a.endpoint.breaker = breaker{}
			s.answer(a, o)
		}
		post := func(n int) { // the first n of a wave reach the disk
			for i, u := range s.outboxUpdates(s.now) {
				if i < n {
					d.take(u.outboxMessage())
					s.finishUpdate(u, nil)
				} else {
					s.finishUpdate(u, errUnanswered)
				}
			}
		}
		crashes, replays := r.IntN(2) == 0, r.IntN(2) == 0
		for range 400 {
			switch n := r.IntN(20); {
			case n < 6:
				s.say(fmt.Sprint("c", r.IntN(5)), dialog.Hangup)
			case n < 9:
				under = append(under, s.attempts()...)
			case n < 13 && len(under) > 0:
				i := r.IntN(len(under))
				answer(under[i], []outcome{willRetry, delivered, delivered}[r.IntN(3)])
				under = slices.Delete(under, i, i+1)
			case n < 15:
				if b, from, to := s.nextPage(); b != nil {
					pages = append(pages, page{b, to, s.page(from, to)})
				}
			case n < 16 && len(pages) > 0:
				s.addPage(s.now, pages[0].b, pages[0].to, pages[0].es)
				pages = pages[1:]
			case n < 18:
				post(batchSize)
			case n < 19 && replays && s.seq > 0 && r.IntN(3) == 0: // somebody asks for a part of the log
				from := 1 + r.Uint64N(s.seq)
				b := s.again("a", from, from+r.Uint64N(s.seq-from+1), "hangup")
				b.name = fmt.Sprint("replay.", r.Uint64())
				d.words["bellhop.delivery.a."+b.name], _ = json.Marshal(storedLogRead{b.after, b.to, b.types})
			case n < 19:
				s.sleep(time.Duration(r.IntN(2000)) * time.Millisecond)
			case crashes && r.IntN(3) == 0:
				for i, u := range s.outboxUpdates(s.now) { // some are on their way
					if i < r.IntN(10) {
						d.take(u.outboxMessage())
					} else {
						break
					}
				}
				under, pages = nil, nil
				s.restart(d, subs...)
			}
			for id, target := range s.subscribers {
				if n := len(target.pendingSeqs()); n != target.pending {
					t.Fatalf("seed %d: %d deliveries of %s wait, of %d events", seed, target.pending, id, n)
				}
				if target.pending > 2*s.maxPending+1 {
					t.Fatalf("seed %d: %d deliveries of %s wait, the limit is %d", seed, target.pending, id, s.maxPending)
				}
			}
		}
		for i := 0; s.pending+s.lagging+len(under)+len(pages)+len(d.words) > 0; i++ {
			if i > 10_000 {
				t.Fatalf("seed %d: %d wait, %d are behind, %v", seed, s.pending, s.lagging, d.words)
			}
			for _, a := range append(under, s.attempts()...) {
				answer(a, delivered)
			}
			for _, p := range pages {
				s.addPage(s.now, p.b, p.to, p.es)
			}
			under, pages = nil, nil
			s.readAgain()
			post(batchSize)
			s.sleep(time.Second)
		}
		want := map[string][]uint64{}
		for _, e := range s.log {
			for _, sub := range subs {
				key := sub.ID + " " + e.event.Call
				want[key] = append(want[key], e.seq)
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
			t.Fatalf("seed %d: left: floor %d of %d, %d young, %d moved", seed, s.cursor, s.seq, s.recent.len(), len(s.inOutbox))
		}
	}
}

// startSmall runs a notifier whose subscriptions may be owed limit deliveries.
func startSmall(t *testing.T, js jetstream.JetStream, c Config, limit int) (*Notifier, func()) {
	t.Helper()
	n, err := Open(t.Context(), js, c)
	if err != nil {
		t.Fatal(err)
	}
	n.maxPending = limit
	stop := run(n)
	t.Cleanup(stop)
	return n, stop
}

// A receiver is down and owed more than may wait: the other one is told at once.
// When it is up again it is told the rest, in order; a store that was killed
// meanwhile, whenever it was, tells it the rest too.
func TestBehindInTheStore(t *testing.T) {
	const limit, calls = 50, 400
	dir, crashed := t.TempDir(), []string{t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()}
	synctest.Test(t, func(t *testing.T) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		var up, slow atomic.Bool
		var mu sync.Mutex
		late := time.Duration(0)
		w := &wire{start: time.Now(), answer: func(_ int, r request) (int, http.Header) {
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
		c := Config{Transport: w, Prompt: true, KeepEvents: forGood}
		n, stop := startSmall(t, js, c, limit)
		for _, host := range []string{"dead", "well"} {
			s := sub("", "http://"+host+"/")
			s.Dialect = Telphin
			subscribe(t, n, s)
		}
		taken := func(host string) (got []request) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return slices.DeleteFunc(slices.Clone(w.taken), func(r request) bool { return r.URL.Host != host })
		}
		var before []int // what the one that was dead had taken at each crash
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
			n.Say(callOf(i))
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(2 * time.Minute) // what is live is too old
		if s := n.Stats(); s.Behind != 1 || s.Pending > limit || len(taken("well")) != 3*calls || late > 10*time.Millisecond {
			t.Errorf("%+v; the one that is well took %d, %v late at most", s, len(taken("well")), late)
		}
		if page, _, err := n.Deliveries(t.Context(), DeliveryQuery{State: Waiting}); err != nil || len(page) == 0 {
			t.Errorf("%d deliveries are shown: %v", len(page), err)
		}
		crash()
		up.Store(true)
		slow.Store(true)
		time.Sleep(35 * time.Second) // a probe, and some of the rest
		if s := n.Stats(); s.Behind != 1 || s.Pending == 0 || s.Pending > limit {
			t.Errorf("while it catches up: %+v", s)
		}
		crash()
		slow.Store(false)
		time.Sleep(time.Minute)
		crash()
		if s := n.Stats(); s.Behind != 0 || s.Pending != 0 || s.Lost != 0 || s.Delivered+s.Expired != 6*calls {
			t.Errorf("in the end: %+v", s)
		}
		if err := check(taken("dead"), 0, calls); err != nil {
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
			said := calls
			if i == 0 {
				said = 100
			}
			if err := check(taken("dead"), 0, said); err != nil {
				t.Errorf("after crash %d: %v", i, err)
			}
			if s := n.Stats(); s.Behind != 0 || s.Pending != 0 || s.Lost != 0 {
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

// What has left the log before it was read again is lost, and counted.
func TestLost(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		var up atomic.Bool
		w := &wire{start: time.Now(), answer: upOrDown(&up)}
		n, stop := startSmall(t, js, Config{Transport: w, Prompt: true}, 10)
		defer stop()
		subscribe(t, n, sub("", "http://dead/"))
		for i := range 5000 {
			n.Say(callOf(i)[2:])
			if i%100 == 0 {
				time.Sleep(100 * time.Millisecond)
			}
		}
		time.Sleep(10 * time.Second)
		if err := n.events.Purge(t.Context(), jetstream.WithPurgeSequence(4001)); err != nil {
			t.Fatal(err)
		}
		up.Store(true)
		time.Sleep(time.Minute)
		// of the ten that wait the text is lost: they expire
		if s := n.Stats(); s.Lost != 3990 || s.Expired+s.Delivered != 1010 || s.Delivered < 1000 || s.Behind+s.Pending != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// BenchmarkBehind measures what a receiver that is dead costs in memory, with far
// more events than may wait, and per delivery that waits.
func BenchmarkBehind(b *testing.B) {
	for b.Loop() {
		var ended int
		s, sweeper, words := newScheduler(func(*delivery, outcome) { ended++ }), newSweeper(), uint64(0)
		s.applySubscription(sub("dead", "http://dead/"), time.Time{})
		s.applySubscription(sub("well", "http://well/"), time.Time{})
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
			for a := s.nextAttempt(now); a != nil; a = s.nextAttempt(now) {
				a.outcome = willRetry
				if a.sub.ID == "well" {
					a.outcome = delivered
				}
				s.finishAttempt(now, a)
			}
			now = now.Add(time.Millisecond)
			s.runDue(now)
			for _, u := range s.outboxUpdates(now) {
				words++
				sweeper.noteResult(u.outboxMessage(), writeResult{seq: words})
				s.finishUpdate(u, nil)
			}
			sweeper.superseded, sweeper.ended, sweeper.purge = nil, nil, nil // all is swept
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
