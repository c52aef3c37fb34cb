package schedule

import (
	"fmt"
	"testing"
	"time"

	"bellhop/dialog"
	"bellhop/notify/subscription"
)

// replayRange starts the replay of a range of the log, as if the outbox had an order for
// it.
func (s *schedulerTest) replayRange(id string, from, to uint64, types ...string) {
	s.RestoreRead(id, "replay.1", StoredRead{from - 1, to, types})
}

func TestReplayOrder(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"))
	s.posts = false
	s.publish("c", dialog.DialIn, dialog.Answer, dialog.Hangup)
	s.publish("d", dialog.DialIn)
	s.wantEqual("what is sent at first", s.takeAttempts("a"), "c/1 d/4 c/2 c/3")
	s.sleepFor(2 * liveTTL)
	s.writeUpdates(nil)
	s.replayRange("a", 1, 4, "dial-in", "answer", "hangup")
	s.wantEqual("what is read", s.readPages(), "a 1-4")
	as := s.takeDueAttempts()
	s.wantEqual("sent again, in the order of the call", s.labelsOf(as), "replay c/1 replay d/4")
	s.publish("c", dialog.Hangup)
	more := s.takeDueAttempts()
	s.wantEqual("what is new does not wait for it", s.labelsOf(more), "c/5")
	s.finish(more[0], Delivered)
	s.wantEqual("updates", fmt.Sprint(s.writeUpdates(nil)), "[replay c/1 after 0 replay c/2 after 0 replay c/3 after 0 replay d/4 after 0]")
	s.sleepFor(cursorSaveInterval)
	s.wantEqual("then that it was read", fmt.Sprint(s.writeUpdates(nil)), "[gone replay.1 cursor 5]")
	s.finish(as[0], WillRetry)
	s.finish(as[1], Delivered)
	s.wantEqual("what waits", fmt.Sprint(s.pending), "3")
	s.wantEqual("the success of another wakes nothing", s.takeAttempts("a"), "")
	s.sleepFor(6 * time.Second)
	s.wantEqual("it is a record", s.takeAttempts("a"), "replay c/1 replay c/2 replay c/3")
	s.wantEqual("what is left", fmt.Sprint(s.pending, len(s.subscribers["a"].reads)), "0 0")
}

// A replay of old events does not expire, even if live ones would.
func TestReplayDoesNotExpire(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"))
	s.publish("c", dialog.DialIn)
	s.takeAttempts("a")
	s.sleepFor(time.Hour)
	s.replayRange("a", 1, 1, "dial-in")
	s.readPages()
	s.finish(s.takeDueAttempts()[0], WillRetry)
	s.sleepFor(7 * time.Second)
	s.wantEqual("after 5 s", s.labelsOf(s.takeDueAttempts()), "replay c/1")
}

// A replay skips events whose delivery is pending, which a lagging subscription has not
// read yet, or which another replay delivers.
func TestReplaySkipsPending(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"))
	s.maxPending = 4
	as := s.publishTo("a", 1, 7)
	s.finish(as[0], Delivered)
	for range 2 {
		s.replayRange("a", 1, 6, "hangup")
		reads := s.subscribers["a"].reads
		s.addPage(Page{From: 1, To: 6, read: reads[len(reads)-1]})
	}
	s.wantEqual("what waits", fmt.Sprint(s.pending), "4")
	s.wantEqual("what is sent", s.labelsOf(s.takeDueAttempts()), "replay c1/1")
}

// The events of a user who is called "replay x" do not wait for a replay of the user x, and
// are not taken for replayed ones, before a restart or after it.
func TestReplayQueueIsNoUser(t *testing.T) {
	sub := testSubscription("a", "http://a/")
	sub.Extension, sub.ExtensionRegex, sub.Types = "", ".*", []string{"message-in"}
	s := newSchedulerTest(t, sub)
	s.posts = false
	publish := func(user string) {
		s.seq++
		e := &dialog.Event{Type: dialog.MessageIn, At: s.now, Extension: dialog.Extension{User: user}}
		s.log = append(s.log, entry{Seq: s.seq, Event: e})
		s.addEvent(s.now, s.seq, e)
	}
	publish("x")
	s.wantEqual("of x", s.takeAttempts("a"), "x/1")
	s.replayRange("a", 1, 1, "message-in")
	s.readPages()
	replayed := s.takeDueAttempts()
	s.wantEqual("again", s.labelsOf(replayed), "replay x/1")
	publish("replay x")
	live := s.takeDueAttempts()
	s.wantEqual("of the other user", s.labelsOf(live), "replay x/2")
	if !replayed[0].Replay || live[0].Replay {
		t.Errorf("the events of x and of replay x are replays: %v and %v", replayed[0].Replay, live[0].Replay)
	}
	s.finish(live[0], WillRetry)
	s.finish(replayed[0], WillRetry)
	o := storedOutbox{messages: make(map[string][]byte)}
	for _, u := range s.Updates(s.now, 256) {
		o.applyUpdate(u)
	}
	s.restartFrom(&o, sub)
	s.redeliver(s.now, "a", "replay x", 2)
	s.sleepFor(7 * time.Second)
	s.wantEqual("after a restart, and a redelivery to the other user", s.takeAttempts("a"), "replay x/1")
}

// A replay ends with its subscription.
func TestReplayEndsWithSubscription(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"))
	s.publish("c", dialog.Hangup)
	s.takeAttempts("a")
	s.replayRange("a", 1, 1, "hangup")
	s.ApplySubscription(subscription.Subscription{ID: "a"}, time.Time{})
	s.wantEqual("what is read", s.readPages(), "")
	s.wantEqual("updates", fmt.Sprint(s.writeUpdates(nil)), "[gone replay.1 cursor 1]")
	s.replayRange("a", 1, 1, "hangup")
	s.wantEqual("of one that is gone", fmt.Sprint(s.writeUpdates(nil)), "[gone replay.1]")
}

// The write that ends a delivery fails, and its event is replayed. The write must not be
// repeated then, for both have the same subject.
func TestReplayOfJustEndedDelivery(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"))
	s.posts = false
	s.publish("c", dialog.Hangup)
	a := s.takeDueAttempts()[0]
	s.sleepFor(outboxDelay)
	s.writeUpdates(nil)
	s.finish(a, Delivered)
	updates := s.Updates(s.now, 256)
	s.replayRange("a", 1, 1, "hangup")
	s.readPages()
	for _, u := range updates {
		s.FinishUpdate(u, errUnanswered)
	}
	s.wantEqual("updates", fmt.Sprint(s.writeUpdates(nil)), "[replay c/1 after 0]")
	s.wantEqual("not taken back", fmt.Sprint(s.writeUpdates(nil)), "[gone replay.1]")
}
