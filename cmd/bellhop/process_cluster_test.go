package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"bellhop/sip"
)

// TestTwoBellhops has two bellhops share a store: one delivers what passes
// through either, and the other takes over when it is killed.
func TestTwoBellhops(t *testing.T) {
	t.Parallel()
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoLog: true, NoSigs: true, JetStream: true, StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(patience) {
		t.Fatal("the store does not begin")
	}

	sites := [2]*site{newSite(t, sip.UDP, sip.UDP), newSite(t, sip.UDP, sip.UDP)}
	var bellhops [2]*process
	for i, s := range sites {
		s.store = fmt.Sprintf("nats = [%q]", srv.ClientURL())
		s.configure("")
		bellhops[i] = s.serve()
	}
	owner := sites[1] // of the receiver
	owner.subscribe("json", "POST", "dial-out", "ringing", "answer", "hangup")
	calls := 0
	call := func(sites ...*site) {
		t.Helper()
		const each = 20
		calls += each * len(sites)
		var agents []*agent
		for _, s := range sites {
			phones, pbx := s.place("caller-hangs-up", each, 10)
			agents = append(agents, phones, pbx)
		}
		for _, a := range agents {
			a.exits(0, time.Minute)
		}
		owner.receiver.wait("a hangup for every call", time.Minute, func(came []received) bool { return hangups(came) >= calls })
	}
	call(sites[0], sites[1])
	bellhops[0].cmd.Process.Kill()
	<-bellhops[0].done
	call(sites[1])
	sites[0].serve()
	call(sites[0], sites[1])
	owner.once(calls, "dial-out 1", "ringing 2", "answer 3", "hangup 4")
}
