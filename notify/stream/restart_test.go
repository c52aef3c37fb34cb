package stream_test

import (
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/notify/stream"
)

// A restartedServer is a store in this process that a test restarts.
type restartedServer struct {
	dir     string
	current atomic.Pointer[server.Server] // nil: it is down
}

func (r *restartedServer) start(t *testing.T) {
	s, err := server.NewServer(&server.Options{ServerName: "bellhop", DontListen: true, JetStream: true, StoreDir: r.dir, NoLog: true, NoSigs: true})
	if err != nil {
		t.Error(err)
		return
	}
	s.Start()
	s.ReadyForConnections(time.Minute)
	r.current.Store(s)
}

func (r *restartedServer) stop() {
	if s := r.current.Swap(nil); s != nil {
		s.Shutdown()
		s.WaitForShutdown()
	}
}

// InProcessConn connects to the server. The client calls it for each attempt to connect.
func (r *restartedServer) InProcessConn() (net.Conn, error) {
	if s := r.current.Load(); s != nil {
		return s.InProcessConn()
	}
	return nil, net.ErrClosed
}

// The store is down for longer than a poll while a stream is read. Its consumer is then
// lost. The reading continues after the last message, and yields each message once.
func TestStoreRestartsDuringRead(t *testing.T) {
	store := &restartedServer{dir: t.TempDir()}
	store.start(t)
	defer store.stop()
	nc, err := nats.Connect("", nats.InProcessServer(store), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	outbox, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "outbox", Subjects: []string{"bellhop.delivery.>"}})
	if err != nil {
		t.Fatal(err)
	}
	const messages = 3000 // more than the client buffers
	for i := range messages {
		if _, err := js.PublishAsync("bellhop.delivery.s."+strconv.Itoa(i), nil); err != nil {
			t.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	next := uint64(1)
	var restart sync.WaitGroup
	err = stream.Read(t.Context(), outbox, jetstream.OrderedConsumerConfig{}, func(m jetstream.Msg) error {
		if meta, err := m.Metadata(); err != nil || meta.Sequence.Stream != next {
			t.Errorf("position %d, %v; want %d", meta.Sequence.Stream, err, next)
		}
		if next++; next == 100 {
			store.stop()
			restart.Go(func() {
				time.Sleep(1500 * time.Millisecond)
				store.start(t)
			})
		}
		return nil
	})
	restart.Wait()
	if err != nil || next != messages+1 {
		t.Errorf("ended before %d with %v, want %d", next, err, messages+1)
	}
}
