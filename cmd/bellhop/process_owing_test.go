package main

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"bellhop/cmd/bellhop/store"
	"bellhop/cmd/bellhop/store/storetest"
	"bellhop/dialog"
	"bellhop/notify"
	"bellhop/sip"
)

// TestStartOwing starts bellhop with many pending callbacks to a receiver that is down:
// it is ready at once, knows all of them, and delivers each once when the receiver is
// back.
func TestStartOwing(t *testing.T) {
	t.Parallel()
	owed := 2000
	if *soak {
		owed = 100_000
	}
	s := newSite(t, sip.UDP, sip.UDP)
	p := s.serve()
	bare := s.metric("process_resident_memory_bytes")
	s.subscribe("json", "POST", "hangup")
	s.receiver.down()
	p.stop()
	s.owe(owed)

	begin := time.Now()
	p = s.serve()
	ready := time.Since(begin)
	s.eventually("bellhop knows what it owes", func() bool { return s.metric("bellhop_deliveries_pending") == float64(owed) })
	known := time.Since(begin)
	each := (s.metric("process_resident_memory_bytes") - bare) / float64(owed)
	heap := s.metric("go_memstats_heap_inuse_bytes") / float64(owed)
	if *soak && ready > 3*time.Second {
		t.Errorf("bellhop was ready after %v, want 3 s at most", ready)
	}

	s.receiver.up()
	back := time.Now()
	s.receiver.wait("all that was owed", patience, func(came []received) bool { return len(came) >= owed })
	s.eventually("nothing is owed", func() bool { return s.metric("bellhop_deliveries_pending") == 0 })
	took := time.Since(back)
	p.stop()
	ids := map[string]bool{}
	came := s.receiver.take()
	for _, c := range came {
		ids[c.id] = true
	}
	if len(ids) != owed || len(came) != owed {
		t.Errorf("%d callbacks came, %d of them different, want %d", len(came), len(ids), owed)
	}
	t.Logf("%d deliveries pending: ready %v after the start, all known %v after it; %.0f bytes of resident memory each, %.0f of heap; all delivered within %v",
		owed, ready.Round(time.Millisecond), known.Round(time.Millisecond), each, heap, took.Round(time.Millisecond))
}

// owe adds n pending hangups to the store of a stopped bellhop.
func (s *site) owe(n int) {
	s.t.Helper()
	st := opened(s.t, storetest.Config(filepath.Join(s.dir, "data")))
	defer st.Close()
	notifier, err := notify.Open(s.t.Context(), st, notify.Config{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Log: quiet()})
	if err != nil {
		s.t.Fatal(err)
	}
	events := make([]dialog.Event, n)
	stop := store.StartTask(func(ctx context.Context) { notifier.Run(ctx) })
	defer stop()
	for i := range events {
		events[i] = dialog.Event{
			ID: fmt.Sprintf("%032x", i), Call: fmt.Sprintf("c%031x", i), Party: fmt.Sprint("p", i), Seq: 1,
			At: time.Now(), Type: dialog.Hangup, Flow: dialog.In, Status: dialog.NoAnswer,
			Extension: dialog.Extension{User: "101", Domain: "pbx.example"}, CallerNum: "200", CalledNumber: "101",
		}
		if i%1000 == 0 {
			s.eventually("the log keeps up", func() bool { return notifier.Stats().Unpublished < 2000 })
		}
		notifier.EventLog.Append(events[i : i+1])
	}
	outbox, err := st.Stream(s.t.Context(), "bellhop_outbox")
	if err != nil {
		s.t.Fatal(err)
	}
	s.eventually("the outbox has all of them", func() bool {
		info, err := outbox.Info(s.t.Context())
		return err == nil && info.State.Msgs >= uint64(n)
	})
}
