package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"bellhop/cmd/bellhop/store/storetest"
	"bellhop/sip"
)

// TestTwoBellhopsShareStore runs two bellhops with one store: one delivers the events of
// both, and the other takes over when it is killed.
func TestTwoBellhopsShareStore(t *testing.T) {
	t.Parallel()
	srv := storetest.StartServer(t, &server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir()})

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
			a.exits(0, patience)
		}
		owner.receiver.wait("a hangup for every call", patience, func(came []received) bool { return hangups(came) >= calls })
	}
	call(sites[0], sites[1])
	bellhops[0].cmd.Process.Kill()
	<-bellhops[0].done
	call(sites[1])
	sites[0].serve()
	call(sites[0], sites[1])
	owner.once(calls, "dial-out 1", "ringing 2", "answer 3", "hangup 4")
}

// TestStopWithoutStoreSpoolsEvents stops bellhop while the servers of its store are
// down: the next start publishes the events that they had not accepted.
func TestStopWithoutStoreSpoolsEvents(t *testing.T) {
	t.Parallel()
	// No other process takes a port of this address while the server is down.
	options := &server.Options{Host: storetest.Loopback(), Port: -1, JetStream: true, StoreDir: t.TempDir()}
	srv := storetest.StartServer(t, options)
	options.Port = srv.Addr().(*net.TCPAddr).Port // again
	s := newSite(t, sip.UDP, sip.UDP)
	s.store = fmt.Sprintf("nats = [%q]", srv.ClientURL())
	s.configure("")
	p := s.serve()
	s.subscribe("json", "POST", "dial-out", "ringing", "answer", "hangup")
	const each = 20
	place := func() {
		t.Helper()
		phones, pbx := s.place("caller-hangs-up", each, 20)
		phones.exits(0, patience)
		pbx.exits(0, patience)
	}
	place()
	s.receiver.wait("a hangup for every call", patience, func(came []received) bool { return hangups(came) >= each })
	srv.Shutdown()
	srv.WaitForShutdown()
	place()
	p.stop()
	kept, err := os.ReadFile(filepath.Join(s.dir, "data", "unpublished"))
	if n := bytes.Count(kept, []byte("\n")); err != nil || n != 4*each {
		t.Errorf("%d events are kept, %v; want %d", n, err, 4*each)
	}

	storetest.StartServer(t, options)
	p = s.serve()
	s.receiver.wait("a hangup for every call", patience, func(came []received) bool { return hangups(came) >= 2*each })
	p.stop()
	if _, err := os.Stat(filepath.Join(s.dir, "data", "unpublished")); !os.IsNotExist(err) {
		t.Errorf("what is published is kept still: %v", err)
	}
	s.once(2*each, "dial-out 1", "ringing 2", "answer 3", "hangup 4")
}
