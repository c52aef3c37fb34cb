// Package storetest starts the store in tests, and makes the events of calls.
package storetest

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// startTimeout is much longer than the store takes to start on a busy machine.
const startTimeout = 5 * time.Minute

// Open starts a server in this process, which listens on no port, and connects to it. The
// caller must call stop.
func Open(t testing.TB, dir string) (js jetstream.JetStream, stop func()) {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		ServerName: "bellhop", DontListen: true, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true,
		SyncInterval: 24 * time.Hour, // its timer is set without a lock: a data race if it fires before the stream is used
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(startTimeout) {
		t.Fatal("the store does not start")
	}
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	if js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	return js, func() {
		nc.Close()
		s.Shutdown()
		s.WaitForShutdown()
	}
}
