package eventlog

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server/ats"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"bellhop/dialog"
	"bellhop/notify/storetest"
	"bellhop/notify/stream"
)

func TestMain(m *testing.M) {
	ats.Register() // before any synctest bubble: the server's clock would belong to the first
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

// longWait is how long a test waits for something that takes a moment: much longer than it
// takes on a busy machine.
const longWait = 5 * time.Minute

var (
	openStore = storetest.Open
	callOf    = storetest.Call
)

// openLog opens a log that keeps all events for 200 years, unless c says otherwise: the
// server measures their age by the clock of the machine.
func openLog(t testing.TB, js jetstream.JetStream, c Config) *Log {
	t.Helper()
	if c.Retention == 0 {
		c.Retention = 200 * 365 * 24 * time.Hour
	}
	c.Log = slog.New(slog.DiscardHandler)
	c.Wanted = func(*dialog.Event) bool { return true }
	c.MonotonicTime = func(at time.Time) time.Time { return at }
	c.RecoverPanic = func(string) {
		if v := recover(); v != nil {
			t.Error(v)
		}
	}
	l, err := Open(t.Context(), js, c)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// startLog runs a log until the returned func is called or the test ends.
func startLog(t testing.TB, js jetstream.JetStream, c Config) (*Log, func()) {
	t.Helper()
	l := openLog(t, js, c)
	stop := runLog(l)
	t.Cleanup(stop)
	return l, stop
}

// runLog runs a log until the returned func is called.
func runLog(l *Log) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		for l.Run(ctx); ctx.Err() == nil; l.Run(ctx) { // like a part of a Notifier
			stream.Sleep(ctx, time.Second)
		}
		l.SaveSpool()
		close(ended)
	}()
	return sync.OnceFunc(func() { cancel(); <-ended })
}

// runInVirtualTime runs f with a log in a synctest bubble.
func runInVirtualTime(t *testing.T, c Config, f func(*testing.T, jetstream.JetStream, *Log)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		l, stop := startLog(t, js, c)
		defer stop()
		f(t, js, l)
	})
}

// waitUntilPublished waits until all events are in the log.
func waitUntilPublished(t *testing.T, l *Log) {
	t.Helper()
	for begin := time.Now(); l.Stats().Unpublished > 0; stream.Sleep(t.Context(), time.Millisecond) {
		if time.Since(begin) > longWait {
			t.Fatalf("%d events unpublished: %v", l.Stats().Unpublished, l.Health())
		}
	}
}
