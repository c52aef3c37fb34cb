package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/cmd/bellhop/config"
	"bellhop/cmd/bellhop/store"
	"bellhop/dialog"
	"bellhop/dialog/flowtest"
	"bellhop/notify"
	"bellhop/sip"
	"bellhop/sip/siptest"
)

var seed = flag.Uint64("seed", 1, "of the messages of TestMutationsBreakNothing")

// Bounds of TestMutationsBreakNothing.
const (
	mutationsInTest = 100_000
	mutationsInSoak = 1_000_000

	// The heap after the attack may have twice the bytes of the heap before it. To
	// these come heapCaches for tables that a number of entries bounds: the ladders
	// of the last 1,000 calls, the last events, the LRUs of the tracker, and a block
	// of 8 MB of each stream that the embedded server has read or written. And
	// heapPerEvent for the server's index of each event, and of each record of a
	// delivery, on the disk.
	heapFactor   = 2
	heapCaches   = 64 << 20
	heapPerEvent = 600

	// Goroutines that may run in addition to those before the attack: those of idle
	// connections to receivers, and of the embedded server.
	goroutineAllowance = 8
)

// legalPhones is the number of phones that call each other during the attack. Their
// users are in no message of a stranger.
const legalPhones = 8

func legalNumber(i int) string { return fmt.Sprint(70001 + i%legalPhones) }

// ofLegalPhones occurs in every message of the legal phones.
var ofLegalPhones = []byte("sip:7000")

// TestMutationsBreakNothing sends mutations from phones, the PBX and a trunk, over UDP and TCP,
// through all of bellhop with its store, while legal phones make calls. Nothing panics,
// every table is empty afterwards, heap memory is released, and the legal calls have
// exactly their events.
func TestMutationsBreakNothing(t *testing.T) { // not parallel: it measures the heap and counts goroutines
	count := mutationsInTest
	if *soak {
		count = mutationsInSoak
	}
	t.Logf("seed %d: run it again with -seed %d", *seed, *seed)
	m := newMutator(t, *seed)
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a := newAttack(t, m, dir)
		defer a.end()
		for range legalPhones {
			a.placeLegalCall()
			a.sleep(100 * time.Millisecond)
		}
		a.sleep(time.Minute)
		heap, goroutines := liveHeap(), runtime.NumGoroutine()

		began := time.Now()
		for i := 0; a.sent < count; i++ {
			if i%50 == 0 {
				a.placeLegalCall()
			}
			if i == 100 {
				a.sendLongNames()
			}
			a.sendBatch()
			a.sleep(time.Duration(m.rand.IntN(80)) * time.Millisecond)
		}
		attack := time.Since(began)
		for range 2 * legalPhones { // no worker is wedged
			a.placeLegalCall()
			a.sleep(300 * time.Millisecond)
		}
		a.sleep(time.Minute)
		a.checkLegalCalls()

		a.closeStreams()
		a.sleep(time.Duration(a.config.Calls.MaxDuration) + time.Hour)
		a.checkRest()
		t.Logf("%d mutations in %v of virtual time, %d legal calls; %+v", a.sent, attack.Round(time.Second), a.placed.Load(), a.rooms.proxy.Stats())
		published := map[dialog.Type]int{}
		events := uint64(0)
		for _, e := range a.events("") {
			published[e.Type]++
			events++
		}
		t.Logf("published: %v; %d events with callbacks", published, len(a.callbacks))
		a.forget()
		after, left := liveHeap(), runtime.NumGoroutine()
		t.Logf("heap %.1f MB before, %.1f MB after; %d goroutines before, %d after", float64(heap)/1e6, float64(after)/1e6, goroutines, left)
		if after > heapFactor*heap+heapCaches+heapPerEvent*events {
			t.Errorf("%d bytes live after the attack and %d events, %d before", after, events, heap)
		}
		if left > goroutines+goroutineAllowance {
			stacks := make([]byte, 1<<20)
			t.Errorf("%d goroutines after the attack, %d before\n%s", left, goroutines, stacks[:runtime.Stack(stacks, true)])
		}
	})
}

// TestStrangersChangeNoDialogs has strangers who know the Call-ID and the tags of legal
// calls send requests and responses within them. The PBX refuses the requests, so the
// events of the calls do not change.
func TestStrangersChangeNoDialogs(t *testing.T) {
	const calls, perCall = 40, 100
	t.Logf("seed %d: run it again with -seed %d", *seed, *seed)
	m := newMutator(t, *seed)
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a := newAttack(t, m, dir)
		defer a.end()
		a.talk = 2 * time.Second
		a.network.leaks = true
		for range calls {
			a.placeLegalCall()
			for range perCall {
				a.sleep(10 * time.Millisecond)
				a.intrude()
			}
			a.sleep(2 * time.Second)
		}
		a.sleep(time.Minute)
		a.checkLegalCalls()
		a.closeStreams()
		a.sleep(10 * time.Minute)
		a.checkRest()
	})
}

// ofStrangers occurs in the Via of every request of strangers within a legal call.
var ofStrangers = []byte("SIP/2.0/UDP 203.0.113.")

// intrude sends a request within a legal call, or a response to one, from an unrelated
// address. It carries no token of bellhop: tests of package sip cover those.
func (a *attack) intrude() {
	m := a.mutator
	for _, d := range a.network.takeStray() {
		if bytes.HasPrefix(d.b, []byte("SIP/2.0 ")) || bytes.HasPrefix(d.b, []byte("ACK ")) {
			continue
		}
		if d.to != a.config.SIP.PBX[0].AddrPort {
			a.t.Errorf("a stranger's request came to %v: %q", d.to, d.b)
		}
		a.network.inject(d.to, m.respond(d.b, oneOf(m, []int{401, 403, 407, 491})))
		synctest.Wait()
	}
	leak := a.network.takeLeak(m)
	if leak == nil {
		return
	}
	a.sent++
	from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(m.rand.IntN(256))}), 5060)
	if m.chance(8) && bytes.HasPrefix(leak, []byte("INVITE ")) && !bytes.Contains(leak, []byte("branch=z9hG4bKbh")) { // that one is between bellhop and its peer
		a.network.inject(from, m.respond(leak, oneOf(m, []int{180, 200, 404, 486, 603})))
		a.settle(leak)
		return
	}
	from1, from2 := "From", "To"
	if m.chance(2) {
		from1, from2 = from2, from1
	}
	uri := untilAny(bytes.TrimPrefix(fieldValue(leak, "To"), []byte("<")), ">")
	method := oneOf(m, []string{"BYE", "BYE", "BYE", "CANCEL", "INVITE", "UPDATE", "INFO", "REFER", "ACK", "NOTIFY", "PRACK"})
	b := fmt.Appendf(nil, "%s %s SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=z9hG4bKs%d;rport\r\nMax-Forwards: 70\r\n%s: %s\r\n%s: %s\r\nCall-ID: %s\r\nCSeq: %d %s\r\nContact: <sip:x@%s>\r\nRefer-To: <sip:103@pbx.example>\r\nContent-Length: 0\r\n\r\n",
		method, uri, from, a.sent, "From", fieldValue(leak, from1), "To", fieldValue(leak, from2), fieldValue(leak, "Call-ID"), oneOf(m, []int{0, 1, 2, 3, 100, 1 << 30}), method, from)
	a.network.inject(from, b)
	a.settle(b)
}

// liveHeap returns the number of reachable bytes.
func liveHeap() uint64 {
	var s runtime.MemStats
	runtime.GC()
	runtime.GC() // what pools held
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

// An attack is all of bellhop except the admin API, in virtual time, with legal phones
// behind a PBX, and strangers at all other addresses.
type attack struct {
	t       *testing.T
	mutator *mutator
	config  config.Config
	network *openNetwork
	rooms   *pipeline
	log     *syncBuffer
	stop    func()

	pbx    *siptest.PBX
	phones []*siptest.Phone
	talk   time.Duration // from the answer of a legal call to its BYE
	calls  sync.WaitGroup
	placed atomic.Int32

	sent      int
	panics    uint64
	streams   []*strangerStream
	responses ring // 2xx to INVITEs

	mu        sync.Mutex
	callbacks map[string]int // by id of the event
}

// A syncBuffer keeps the first 64 KB of a log that several goroutines write: warnings of
// the store, and panics.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.b.Len() < 64<<10 {
		s.b.Write(b)
	}
	return len(b), nil
}

func newAttack(t *testing.T, m *mutator, dir string) *attack {
	a := &attack{t: t, mutator: m, talk: 100 * time.Millisecond, network: newOpenNetwork(), log: &syncBuffer{}, callbacks: map[string]int{}}
	cfg := config.Default()
	cfg.SIP.Listen = []sip.Addr{{Proto: sip.UDP, AddrPort: flowtest.Bellhop}, {Proto: sip.TCP, AddrPort: flowtest.Bellhop}}
	cfg.Store.Dir = dir
	cfg.Store.Sync = config.SyncInterval(24 * time.Hour) // a sync each tenth of a virtual second would take long
	addFlowPeers(&cfg)
	a.config = cfg
	if err := os.WriteFile(filepath.Join(dir, "key"), bytes.Repeat([]byte{7}, 32), 0o600); err != nil { // tokens are the same in every run
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(a.log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	st, err := store.Open(t.Context(), cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	a.rooms, err = buildPipeline(t.Context(), cfg, st, log, environment{own: netip.MustParseAddrPort("192.0.2.5:8080"), network: a.network, transport: a})
	if err != nil {
		t.Fatal(err)
	}
	subscribeToAll(t, a.rooms.notifier)
	stopRooms := store.StartTask(a.rooms.run)
	synctest.Wait()

	conn, err := a.network.ListenPacket(cfg.SIP.PBX[0].AddrPort)
	if err != nil {
		t.Fatal(err)
	}
	a.pbx = siptest.NewPBX(conn)
	for i := range legalPhones {
		conn, err := a.network.ListenPacket(netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(1 + i)}), 5060))
		if err != nil {
			t.Fatal(err)
		}
		p := siptest.NewPhone(conn, flowtest.Bellhop, legalNumber(i), "")
		if err := p.Register(); err != nil {
			t.Fatal(err)
		}
		p.Behave(siptest.Behavior{Answer: 100 * time.Millisecond})
		a.phones = append(a.phones, p)
	}
	a.stop = func() {
		stopRooms()
		st.Close()
	}
	return a
}

// end stops bellhop and the peers.
func (a *attack) end() {
	a.closeStreams()
	for _, p := range a.phones {
		p.Close()
	}
	a.pbx.Close()
	a.calls.Wait()
	a.stop()
	if a.t.Failed() {
		a.t.Logf("seed %d; log:\n%s", *seed, tail(a.log.b.String()))
	}
}

func (a *attack) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// RoundTrip is the receiver of the callbacks.
func (a *attack) RoundTrip(r *http.Request) (*http.Response, error) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	var c struct {
		Data struct {
			EventID string `json:"event_id"`
		} `json:"data"`
	}
	if err := json.Unmarshal(b, &c); err != nil {
		a.t.Errorf("callback is no JSON: %v: %q", err, b)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.callbacks[c.Data.EventID]++
	return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody, Request: r}, nil
}

// placeLegalCall places a call from the next legal phone to the one after it, in a
// goroutine.
func (a *attack) placeLegalCall() {
	i := int(a.placed.Add(1)) - 1
	a.calls.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		c := a.phones[i%legalPhones].Dial(legalNumber(i + 1))
		if status := c.Wait(ctx); status != 200 {
			a.t.Errorf("legal call %d from %s after %d mutations: %d", i, legalNumber(i), a.sent, status)
			return
		}
		time.Sleep(a.talk)
		if err := c.Hangup(); err != nil {
			a.t.Errorf("legal call %d from %s after %d mutations: %v", i, legalNumber(i), a.sent, err)
		}
	})
}

// sendBatch sends some mutations, and lets the peers answer those before.
func (a *attack) sendBatch() {
	m := a.mutator
	for _, d := range a.network.takeStray() {
		a.react(d)
	}
	for range 1 + m.rand.IntN(60) {
		a.sent++
		from, b := m.next()
		if len(b) == 0 {
			continue
		}
		if m.chance(8) {
			a.sendStream(from, b)
		} else {
			a.network.inject(from, b)
		}
		a.settle(b)
	}
}

// settle waits until everything that b causes at this instant has happened. So the seed
// determines the order, and a panic identifies its message.
func (a *attack) settle(b []byte) {
	synctest.Wait()
	if n := a.rooms.proxy.Stats().Panics; n > a.panics {
		a.panics = n
		a.t.Errorf("mutation %d caused a panic: %q", a.sent, b)
	}
}

// nameLengths are lengths of names for sendLongNames: around the limit of a name, and
// where a protocol line of the store exceeds 4,096 bytes.
var nameLengths = []int{1, 64, 255, 256, 257, 1000, 2000, 2200, 2300, 2400, 2500, 3000, 4000, 8000}

// sendLongNames has phones with long names register, call and send messages; the PBX
// accepts everything. Call-IDs and tags are as long.
func (a *attack) sendLongNames() {
	for _, n := range nameLengths {
		name := strings.Repeat("1", n)
		for i, m := range []struct{ method, uri, to string }{
			{"REGISTER", "sip:pbx.example", "sip:" + name + "@pbx.example"},
			{"INVITE", "sip:102@pbx.example", "sip:102@pbx.example"},
			{"MESSAGE", "sip:102@pbx.example", "sip:102@pbx.example"},
			{"INVITE", "sip:102@pbx.example", "sip:" + name + "@pbx.example"},
		} {
			a.network.takeStray()
			a.sent++
			a.network.inject(flowtest.Peers[0].Addr, fmt.Appendf(nil, "%s %s SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.11:5060;branch=z9hG4bKlong%d-%d\r\nMax-Forwards: 70\r\n"+
				"From: <sip:%s@pbx.example>;tag=%s\r\nTo: <%s>\r\nCall-ID: %d%s\r\nCSeq: 1 %s\r\nContact: <sip:%s@192.0.2.11>\r\nContent-Length: 0\r\n\r\n",
				m.method, m.uri, n, i, name, name, m.to, i, name, m.method, name))
			synctest.Wait()
			for _, d := range a.network.takeStray() {
				if d.to == a.config.SIP.PBX[0].AddrPort {
					a.network.inject(d.to, a.mutator.respond(d.b, 200))
				}
			}
			a.sleep(100 * time.Millisecond)
		}
	}
}

// react answers a message as a stranger, or as the PBX towards strangers, or continues
// the dialog, correctly or not.
func (a *attack) react(d datagram) {
	m := a.mutator
	m.quote(d.b)
	send := func(from netip.AddrPort, b []byte) {
		if m.chance(4) {
			a.sent++
			b = m.mutate(b)
		}
		if len(b) > 0 {
			b = b[:min(len(b), 65000)]
			a.network.inject(from, b)
			a.settle(b)
		}
	}
	switch {
	case !bytes.HasPrefix(d.b, []byte("SIP/2.0 ")):
		if bytes.HasPrefix(d.b, []byte("ACK ")) || m.chance(6) {
			return
		}
		if m.chance(4) {
			send(d.to, m.respond(d.b, oneOf(m, []int{100, 180, 183})))
		}
		if !bytes.HasPrefix(d.b, []byte("INVITE ")) && !m.chance(4) {
			send(d.to, m.respond(d.b, 200))
			return
		}
		send(d.to, m.respond(d.b, oneOf(m, []int{200, 200, 200, 202, 302, 401, 403, 404, 407, 480, 481, 486, 487, 503, 603, 699})))
	case bytes.HasPrefix(d.b, []byte("SIP/2.0 2")) && bytes.Contains(fieldValue(d.b, "CSeq"), []byte("INVITE")):
		a.responses.put(d.b)
		send(d.to, m.within(d.b, "ACK"))
	}
	if r := a.responses.pick(m); r != nil && m.chance(4) {
		from := oneOf(m, flowtest.Peers).Addr
		send(from, m.within(r, oneOf(m, []string{"BYE", "BYE", "BYE", "INVITE", "INFO", "UPDATE", "REFER", "MESSAGE", "SUBSCRIBE", "CANCEL"})))
	}
}

// A strangerStream is a TCP connection of a stranger.
type strangerStream struct {
	net.Conn
	read sync.WaitGroup
}

const maxStrangerStreams = 16

// sendStream sends over one of the connections, in pieces.
func (a *attack) sendStream(from netip.AddrPort, b []byte) {
	m := a.mutator
	if len(a.streams) < maxStrangerStreams || m.chance(50) {
		c, err := a.network.Dial(from.Addr(), flowtest.Bellhop)
		if err != nil {
			a.t.Fatalf("after %d mutations: %v", a.sent, err)
		}
		s := &strangerStream{Conn: c}
		s.read.Go(func() {
			buf := make([]byte, 64<<10)
			for {
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				a.network.addStray(datagram{bytes.Clone(buf[:n]), from, true})
			}
		})
		a.streams = append(a.streams, s)
	}
	i := m.rand.IntN(len(a.streams))
	s := a.streams[i]
	s.SetWriteDeadline(time.Now().Add(time.Second))
	pieces := 1 + m.rand.IntN(20)
	for len(b) > 0 {
		n := min(len(b), 1+m.rand.IntN(2*len(b)/pieces+1))
		if _, err := s.Write(b[:n]); err != nil {
			break
		}
		b = b[n:]
	}
	if len(b) > 0 || len(a.streams) > maxStrangerStreams || m.chance(100) {
		s.close()
		a.streams = append(a.streams[:i], a.streams[i+1:]...)
	}
}

func (s *strangerStream) close() {
	s.Close()
	s.read.Wait()
}

func (a *attack) closeStreams() {
	for _, s := range a.streams {
		s.close()
	}
	a.streams = nil
}

// checkLegalCalls checks that the log and the callbacks have exactly the events of the
// legal calls.
func (a *attack) checkLegalCalls() {
	a.t.Helper()
	a.calls.Wait()
	synctest.Wait()
	total := map[dialog.Type]int{}
	wrong := 0
	var example *dialog.Event
	for i := range legalPhones {
		parties := map[string]map[dialog.Type]int{}
		for _, e := range a.events(legalNumber(i)) {
			switch e.Type {
			case dialog.DialIn, dialog.DialOut, dialog.Answer, dialog.Hangup:
			default:
				continue
			}
			if parties[e.Party] == nil {
				parties[e.Party] = map[dialog.Type]int{}
			}
			parties[e.Party][e.Type]++
			total[e.Type]++
			a.mu.Lock()
			n := a.callbacks[e.ID]
			a.mu.Unlock()
			if n == 0 {
				a.t.Errorf("%s of %s has no callback", e.Type, e.Extension)
			}
			if e.Type == dialog.Hangup && (e.Duration < a.talk || e.HangupBy != dialog.ByCaller || e.Status != dialog.Answered) {
				wrong++
				example = e
			}
		}
		for party, n := range parties {
			if n[dialog.DialIn]+n[dialog.DialOut] != 1 || n[dialog.Answer] != 1 || n[dialog.Hangup] != 1 {
				a.t.Errorf("party %s of %s has %v", party, legalNumber(i), n)
			}
		}
	}
	if wrong > 0 {
		a.t.Errorf("%d of %d hangups of legal phones are wrong: of %s it is %s by %s after %v, want %s by the caller after %v",
			wrong, total[dialog.Hangup], example.Extension, example.Status, example.HangupBy, example.Duration, dialog.Answered, a.talk)
	}
	calls := int(a.placed.Load())
	for typ, want := range map[dialog.Type]int{dialog.DialOut: calls, dialog.DialIn: calls, dialog.Answer: 2 * calls, dialog.Hangup: 2 * calls} {
		if total[typ] != want {
			a.t.Errorf("%d %s of the legal phones after %d calls, want %d", total[typ], typ, calls, want)
		}
	}
}

// events reads the event log; extension "" reads all.
func (a *attack) events(extension string) (all []*dialog.Event) {
	a.t.Helper()
	for q := (notify.Query{Extension: extension, Limit: 1000}); ; q.After = all[len(all)-1].ID {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		some, more, err := a.rooms.notifier.Events(ctx, q)
		cancel()
		if err != nil {
			a.t.Fatalf("read the event log: %v", err)
			return all
		}
		all = append(all, some...)
		if !more {
			return all
		}
	}
}

// checkRest checks that nothing is pending any more, and that no bug has lost anything.
func (a *attack) checkRest() {
	a.t.Helper()
	s := a.rooms.proxy.Stats()
	if s.Panics != 0 || s.Transactions != 0 || s.Streams != 0 {
		a.t.Errorf("after the attack: %d panics, %d transactions, %d streams, want none", s.Panics, s.Transactions, s.Streams)
	}
	if s.Dropped != 0 || s.Unobserved != 0 {
		a.t.Errorf("%d messages dropped, %d unobserved: more was sent at once than the test means to", s.Dropped, s.Unobserved)
	}
	calls, err := a.rooms.observer.liveCalls(context.Background())
	if err != nil || len(calls) != 0 {
		a.t.Errorf("%d calls are up after the attack, %v", len(calls), err)
	}
	if err := a.rooms.notifier.EventLog.Health(); err != nil {
		a.t.Errorf("the notifier is not well: %v", err)
	}
}

// forget releases the memory that the test itself holds.
func (a *attack) forget() {
	a.network.takeStray()
	a.mutator.quotes = quotes{}
	a.responses = ring{}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.callbacks = map[string]int{}
}

// A datagram is a packet in transit. stream marks it as a part of a TCP stream.
type datagram struct {
	b      []byte
	to     netip.AddrPort
	stream bool
}

// openNetwork is a network in memory on which anyone can send from any address. Packets
// for legal phones and for their calls at the PBX are delivered; those for others are
// stray.
type openNetwork struct {
	*siptest.Network // streams

	mu     sync.Mutex
	conns  map[netip.AddrPort]*openConn
	stray  []datagram
	leaks  bool // strangers know of legal calls
	leaked ring
}

// takeLeak returns a message of a legal call that a stranger got, or nil.
func (n *openNetwork) takeLeak(m *mutator) []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	return bytes.Clone(n.leaked.pick(m))
}

// maxStray is the number of messages to strangers that are kept until they are taken.
const maxStray = 1 << 12

func newOpenNetwork() *openNetwork {
	return &openNetwork{Network: siptest.NewNetwork(), conns: map[netip.AddrPort]*openConn{}}
}

func (n *openNetwork) ListenPacket(addr netip.AddrPort) (sip.PacketConn, error) {
	c := &openConn{net: n, addr: addr, in: make(chan arrived, 4096), closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns[addr] = c
	return c, nil
}

func (n *openNetwork) addStray(d datagram) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.stray) < maxStray {
		n.stray = append(n.stray, d)
	}
}

// takeStray returns the messages to strangers since the last takeStray.
func (n *openNetwork) takeStray() []datagram {
	n.mu.Lock()
	defer n.mu.Unlock()
	stray := n.stray
	n.stray = nil
	return stray
}

// inject delivers a datagram to bellhop.
func (n *openNetwork) inject(from netip.AddrPort, b []byte) {
	n.mu.Lock()
	c := n.conns[flowtest.Bellhop]
	n.mu.Unlock()
	c.in <- arrived{b, from}
}

type arrived struct {
	b    []byte
	from netip.AddrPort
}

// An openConn is a UDP socket of an openNetwork.
type openConn struct {
	net    *openNetwork
	addr   netip.AddrPort
	in     chan arrived
	closed chan struct{}
	once   sync.Once
}

func (c *openConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	select {
	case d := <-c.in:
		return copy(b, d.b), d.from, nil
	case <-c.closed:
		return 0, netip.AddrPort{}, net.ErrClosed
	}
}

func (c *openConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	c.net.mu.Lock()
	peer := c.net.conns[to]
	legal := bytes.Contains(b, ofLegalPhones) && !bytes.Contains(b, ofStrangers)
	if c.net.leaks && legal && !bytes.Contains(b, []byte("REGISTER")) {
		c.net.leaked.putLast(b, 8)
	}
	c.net.mu.Unlock()
	if peer == nil || to != flowtest.Bellhop && !legal {
		c.net.addStray(datagram{bytes.Clone(b), to, false})
		return len(b), nil
	}
	select {
	case peer.in <- arrived{bytes.Clone(b), c.addr}:
	default:
	}
	return len(b), nil
}

func (c *openConn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.addr) }

func (c *openConn) Close() error {
	c.once.Do(func() {
		c.net.mu.Lock()
		delete(c.net.conns, c.addr)
		c.net.mu.Unlock()
		close(c.closed)
	})
	return nil
}
