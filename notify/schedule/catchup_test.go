package schedule

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"bellhop/dialog"
	"bellhop/notify/subscription"
)

// readPages reads the pages that the scheduler asks for now.
func (s *schedulerTest) readPages() (read string) {
	for p, ok := s.NextPage(); ok; p, ok = s.NextPage() {
		read += fmt.Sprintf("%s %d-%d ", p.Subscription(), p.From, p.To)
		s.addPage(p)
	}
	return strings.TrimSpace(read)
}

// entriesBetween returns the events of a range of the log.
func (s *schedulerTest) entriesBetween(from, to uint64) (entries []entry) {
	for _, e := range s.log {
		if e.Seq >= from && e.Seq <= to {
			entries = append(entries, e)
		}
	}
	return entries
}

// addPage adds the events of a page.
func (s *schedulerTest) addPage(p Page) {
	s.AddPage(s.now, p, func(yield func(uint64, *dialog.Event) bool) {
		for _, e := range s.entriesBetween(p.From, p.To) {
			if !yield(e.Seq, e.Event) {
				return
			}
		}
	})
}

// takeAttempts delivers every attempt of a subscription that is due now, and returns their
// labels.
func (s *schedulerTest) takeAttempts(id string) (taken string) {
	for as := s.takeDueAttempts(); len(as) > 0; as = s.takeDueAttempts() {
		for _, a := range as {
			if a.Sub.ID == id {
				taken += s.labelOf(a.delivery) + " "
				s.finish(a, Delivered)
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
			if a.Sub.ID == deadID {
				unanswered = append(unanswered, a)
			} else {
				s.finish(a, Delivered)
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
	s.wantEqual("lagging subscribers", fmt.Sprint(s.catchUp.lagging, s.subscribers["a"].lag != nil), "1 true")
	s.wantEqual("nothing is read before there is room", s.readPages(), "")

	s.sleepFor(outboxDelay)
	s.wantEqual("updates", fmt.Sprint(s.writeUpdates(errUnanswered)), "[behind after 4 c1/1 after 0 c2/2 after 0 c3/3 after 0 c4/4 after 0]")
	s.wantEqual("the cursor stays below", fmt.Sprint(s.outbox.cursor), "0")
	s.wantEqual("updates after a failure", fmt.Sprint(s.writeUpdates(nil)), "[behind after 4 c1/1 after 0 c2/2 after 0 c3/3 after 0 c4/4 after 0]")
	s.wantEqual("then the cursor advances", fmt.Sprint(s.outbox.cursor), "8")

	s.finish(as[0], Delivered)
	s.wantEqual("no room yet", s.readPages(), "")
	s.finish(as[1], Delivered)
	s.wantEqual("at half of the limit", s.readPages(), "a 5-6")
	s.wantEqual("one page at a time", s.readPages(), "")
	s.wantEqual("updates of the page", fmt.Sprint(s.writeUpdates(nil)), "[gone c1/1 gone c2/2 c5/5 after 0 c6/6 after 0 cursor 8]")
	s.publish("c9", dialog.Hangup)
	more := s.takeDueAttempts()
	s.wantEqual("what is sent", s.labelsOf(more), "c5/5 c9/9 c6/6")
	s.wantEqual("update of the progress", fmt.Sprint(s.writeUpdates(nil)), "[behind after 6]")
	for _, a := range append(more, as[2:]...) {
		s.finish(a, Delivered)
	}
	s.wantEqual("the next", s.readPages(), "a 7-8")
	s.wantEqual("all are sent", s.takeAttempts("a"), "c7/7 c8/8")
	s.wantEqual("it has not caught up", fmt.Sprint(s.catchUp.lagging), "1")
	s.wantEqual("the last", s.readPages(), "a 9-9")
	s.wantEqual("which is sent", s.takeAttempts("a"), "c9/9")
	s.wantEqual("it has caught up", fmt.Sprint(s.catchUp.lagging, s.catchUp.due.len()), "0 0")
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
	s.finish(held[0], Delivered)
	s.finish(held[1], Delivered)
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
			s.finish(as[0], Delivered)
			s.finish(as[1], Delivered)
			p, _ := s.NextPage() // a page is being read
			off := testSubscription("a", "http://a/")
			off.Active = false
			s.ApplySubscription(off, time.Time{})
			s.addPage(p)
			s.finish(as[2], WillRetry)
			s.finish(as[3], WillRetry)
			s.sleepFor(cursorSaveInterval)
			s.wantEqual("updates", fmt.Sprint(s.writeUpdates(nil)), tt.want)
			s.wantEqual("what is left", fmt.Sprint(s.catchUp.lagging, s.pending, s.outbox.cursor, s.outbox.unsavedReads.len()), "0 0 8 0")
			s.wantEqual("what is read", s.readPages(), "")
			s.ApplySubscription(testSubscription("a", "http://a/"), time.Time{})
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
	s.finish(held[0], Delivered)
	s.readPages()
	s.takeAttempts("a")
	updates := s.Updates(s.now, 256) // the update that it has caught up
	s.publishTo("a", 3, 5)
	for _, u := range updates {
		s.FinishUpdate(u, errUnanswered)
	}
	s.wantEqual("updates", fmt.Sprint(s.writeUpdates(nil)), "[behind after 3]")
	s.wantEqual("not taken back", fmt.Sprint(s.writeUpdates(nil)), "[]")
}

// With so many subscribers that their limits together exceed memory, each has an equal
// share.
func TestRoomIsShared(t *testing.T) {
	var subs []subscription.Subscription
	for i := range 50 {
		subs = append(subs, testSubscription(fmt.Sprint("dead", i), "http://dead/"))
	}
	s := newSchedulerTest(t, append(subs, testSubscription("well", "http://well/"))...)
	s.maxPending = 10
	for i := range 20 {
		s.publish(fmt.Sprint("c", i), dialog.Hangup)
		s.wantEqual("the one that is well", s.takeAttempts("well"), fmt.Sprintf("c%d/%d", i, i+1))
	}
	s.wantEqual("lagging subscribers, pending deliveries", fmt.Sprint(s.catchUp.lagging, s.pending), "50 100")
}

// A storedOutbox is what remains of an outbox after a crash: the last value of each
// name.
type storedOutbox struct {
	messages map[string][]byte
	cursor   uint64
}

func (d *storedOutbox) applyUpdate(u Update) {
	switch data := u.Data; {
	case u.Name == CursorName:
		d.cursor, _ = strconv.ParseUint(string(data), 10, 64)
	case len(data) == 0:
		delete(d.messages, u.Name)
	default:
		d.messages[u.Name] = data
	}
}

// restartFrom replaces the scheduler by one restored from a stored outbox.
func (s *schedulerTest) restartFrom(d *storedOutbox, subs ...subscription.Subscription) {
	limit := s.maxPending
	s.Scheduler = New(limit, s.hooks)
	for _, sub := range subs {
		s.ApplySubscription(sub, time.Time{})
	}
	s.Start(d.cursor)
	type old struct {
		sub     string
		seq     uint64
		message StoredDelivery
	}
	var olds []old
	for subject, message := range d.messages {
		id, name, _ := strings.Cut(subject, ".")
		seq, err := strconv.ParseUint(name, 10, 64)
		if err != nil {
			var r StoredRead
			if err := json.Unmarshal(message, &r); err != nil {
				s.Fatal(err)
			}
			s.RestoreRead(id, name, r)
			continue
		}
		o := old{id, seq, StoredDelivery{}}
		if err := json.Unmarshal(message, &o.message); err != nil {
			s.Fatal(err)
		}
		olds = append(olds, o)
	}
	slices.SortFunc(olds, func(a, b old) int { return cmp.Compare(a.seq, b.seq) })
	for _, o := range olds {
		s.RestoreDelivery(o.sub, o.seq, o.message, time.Time{}, false)
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
		subs := []subscription.Subscription{testSubscription("a", "http://a/"), testSubscription("b", "http://b/")}
		s := newSchedulerTest(t, subs...)
		s.maxPending, s.posts = 1+r.IntN(20), false
		d := &storedOutbox{messages: make(map[string][]byte)}
		var under []*attempt
		var pages []Page
		first := map[string][]uint64{} // by subscription and call: events in the order of first arrival
		answer := func(a *attempt, o Outcome) {
			if key := a.Sub.ID + " " + a.delivery.queue.storedName(); o == Delivered && !slices.Contains(first[key], a.Seq) {
				first[key] = append(first[key], a.Seq)
			}
			a.endpoint.breaker = breaker{}
			s.finish(a, o)
		}
		post := func(n int) { // the first n messages of a batch are stored
			for i, u := range s.Updates(s.now, 256) {
				if i < n {
					d.applyUpdate(u)
					s.FinishUpdate(u, nil)
				} else {
					s.FinishUpdate(u, errUnanswered)
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
				answer(under[i], []Outcome{WillRetry, Delivered, Delivered}[r.IntN(3)])
				under = slices.Delete(under, i, i+1)
			case n < 15:
				if p, ok := s.NextPage(); ok {
					pages = append(pages, p)
				}
			case n < 16 && len(pages) > 0:
				s.addPage(pages[0])
				pages = pages[1:]
			case n < 18:
				post(256)
			case n < 19 && replays && s.seq > 0 && r.IntN(3) == 0: // a replay is requested
				from := 1 + r.Uint64N(s.seq)
				name := fmt.Sprint("replay.", r.Uint64())
				stored := StoredRead{from - 1, from + r.Uint64N(s.seq-from+1), []string{"hangup"}}
				s.RestoreRead("a", name, stored)
				d.messages["a."+name], _ = json.Marshal(stored)
			case n < 19:
				s.sleepFor(time.Duration(r.IntN(2000)) * time.Millisecond)
			case crashes && r.IntN(3) == 0:
				for i, u := range s.Updates(s.now, 256) { // some updates are being written
					if i < r.IntN(10) {
						d.applyUpdate(u)
					} else {
						break
					}
				}
				under, pages = nil, nil
				s.restartFrom(d, subs...)
			}
			s.checkStates()
			for id, subscriber := range s.subscribers {
				if n := len(subscriber.pendingSeqs()); n != subscriber.pending {
					t.Fatalf("seed %d: %d deliveries of %s wait, of %d events", seed, subscriber.pending, id, n)
				}
				if subscriber.pending > 2*s.maxPending+1 {
					t.Fatalf("seed %d: %d deliveries of %s wait, the limit is %d", seed, subscriber.pending, id, s.maxPending)
				}
			}
		}
		for i := 0; s.pending+s.catchUp.lagging+len(under)+len(pages)+len(d.messages) > 0; i++ {
			if i > 10_000 {
				t.Fatalf("seed %d: %d pending, %d lagging, %v", seed, s.pending, s.catchUp.lagging, d.messages)
			}
			for _, a := range append(under, s.takeDueAttempts()...) {
				answer(a, Delivered)
			}
			for _, p := range pages {
				s.addPage(p)
			}
			under, pages = nil, nil
			s.readPages()
			post(256)
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
		if s.outbox.cursor != s.seq || s.outbox.recent.len()+len(s.outbox.restored)+s.catchUp.due.len()+s.outbox.unsavedReads.len() != 0 {
			t.Fatalf("seed %d: left: cursor %d of %d, %d recent, %d in the outbox", seed, s.outbox.cursor, s.seq, s.outbox.recent.len(), len(s.outbox.restored))
		}
	}
}
