package notify

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"bellhop/notify/stream"
)

// Once no delivery is pending, the outbox has only the cursor, however many updates there
// were.
func TestOutboxIsSwept(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		var up atomic.Bool
		w := &fakeWire{start: time.Now(), answer: upOrDown(&up)}
		n, stop := startNotifier(t, js, Config{Transport: w, KeepEvents: keepForever})
		defer stop()
		s := testSubscription("", "http://crm/hook")
		s.Dialect, s.LiveTTL = Telphin, Duration(time.Hour)
		mustSubscribe(t, n, s)
		for i := range 20 {
			n.EventLog.Append(callOf(i))
			time.Sleep(time.Second)
		}
		time.Sleep(time.Minute)
		info, err := n.outbox.Info(t.Context())
		if err != nil || info.State.Msgs != 61 {
			t.Errorf("while 60 are owed the outbox has %d words, want as many and the cursor: %v", info.State.Msgs, err)
		}
		up.Store(true)
		time.Sleep(5 * time.Minute)
		if s := n.Stats(); s.Delivered != 60 || s.Pending != 0 {
			t.Fatalf("%+v", s)
		}
		info, err = n.outbox.Info(t.Context())
		if err != nil || info.State.Msgs != 1 {
			t.Errorf("when nothing is owed the outbox has %d words, want the cursor: %v", info.State.Msgs, err)
		}
	})
}

// Messages at unknown positions of the outbox are removed too: one whose acknowledgement
// was lost, and one that another node has written.
func TestSweepsUnknownMessages(t *testing.T) {
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	outbox, err := openOutbox(t.Context(), js, Config{Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	w, err := stream.NewWriter(js.Conn(), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	s := newSweeper()
	write := func(m *nats.Msg, lost bool) {
		t.Helper()
		r := w.Write(t.Context(), []*nats.Msg{m})[0]
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		if lost {
			r = stream.Result{Err: stream.ErrUnanswered}
		}
		s.noteResult(m, r)
	}
	left := func(when string, want uint64) {
		t.Helper()
		info, err := outbox.Info(t.Context())
		if err != nil || info.State.Msgs != want {
			t.Errorf("%s the outbox has %d words, want %d: %v", when, info.State.Msgs, want, err)
		}
	}
	message := func(subject, text string) *nats.Msg {
		return &nats.Msg{Subject: "bellhop.delivery.s." + subject, Header: updateHeader, Data: []byte(text)}
	}

	write(&nats.Msg{Subject: "bellhop.delivery.s.1", Data: []byte("first")}, false)
	write(message("1", "unanswered"), true)
	write(message("1", "unanswered"), false)
	if _, err := js.Publish(t.Context(), "bellhop.delivery.s.replay.2", []byte("another's")); err != nil {
		t.Fatal(err)
	}
	write(message("replay.2", "ours"), false)
	left("before it is swept", 5)
	s.superseded = append(s.superseded, 99) // as after a power cut that cost the store its end
	ended, end := context.WithCancel(t.Context())
	end()
	s.removeMessages(ended, w) // no response arrives, whether or not the store removes them
	s.removeMessages(t.Context(), w)
	left("then", 2)
	write(message("1", ""), true)
	write(message("1", ""), false)
	write(message("replay.2", ""), false)
	s.removeMessages(t.Context(), w)
	left("when all is over", 0)
	if len(s.lastSeq)+len(s.uncertain)+len(s.superseded)+len(s.ended)+len(s.purge) > 0 {
		t.Errorf("the sweeper holds %+v", s)
	}
}
