package sip

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"bellhop/dialog"
	"bellhop/sip/websocket"
)

// bareTrunk is a trunk's address, and so a known source. The phone is a known source once
// its REGISTER was accepted.
var bareTrunk = netip.MustParseAddrPort("192.0.2.200:5060")

// numberedRequest returns a request with a transaction and dialog of its own.
func numberedRequest(method string, n int, more string) []byte {
	return fmt.Appendf(nil, "%s sip:102@pbx.example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.101:5062;branch=z9hG4bK-%d;rport\r\n"+
		"From: <sip:101@pbx.example.com>;tag=%d\r\nTo: <sip:102@pbx.example.com>%s\r\nCall-ID: %d@192.0.2.101\r\nCSeq: 1 %s\r\n\r\n", method, n, n, more, n, method)
}

// A responseContext has 512 bytes at most. To a larger object, the allocator adds a header,
// and the garbage collector takes longer to scan it.
func TestResponseContextFitsItsSizeClass(t *testing.T) {
	if size := unsafe.Sizeof(responseContext{}); size > 512 {
		t.Errorf("a responseContext has %d bytes, want 512 at most", size)
	}
}

// When transactions hold most of their memory limit, new requests of strangers are
// dropped; with still more, those of known sources are refused. Requests within a dialog
// are always forwarded.
func TestTransactionMemoryIsLimited(t *testing.T) {
	const dropped, refused, forwarded = "dropped", "refused", "forwarded"
	w, out := newBareWorker(t, func(c *Config) {
		c.Trunks = []Trunk{{Name: "carrier", Sources: []netip.Prefix{netip.PrefixFrom(bareTrunk.Addr(), 32)}}}
	})
	w.proxy.sources.accepted.add(otherBare.Addr(), w.now())
	n := 0
	for _, tt := range []struct {
		held int // percent
		more string
		from netip.AddrPort
		want string
	}{
		{79, "", barePhone, forwarded},
		{81, "", barePhone, dropped},
		{81, "", otherBare, forwarded},
		{81, "", bareTrunk, forwarded},
		{81, ";tag=x", barePhone, forwarded},
		{96, "", otherBare, refused},
		{96, "", bareTrunk, refused},
		{96, "", barePhone, dropped},
		{89, ";tag=x", barePhone, forwarded},
		{91, ";tag=x", barePhone, dropped},
		{101, ";tag=x", otherBare, forwarded},
		{101, "", otherBare, refused},
	} {
		n++
		kept := w.memory.heldBytes
		w.memory.heldBytes = w.memory.maxHeldBytes / 100 * tt.held
		out.last, out.to = nil, netip.AddrPort{}
		w.handleItem(workItem{packet: w.receivePacket(numberedRequest("MESSAGE", n, tt.more), tt.from)})
		got := dropped
		switch {
		case bytes.HasPrefix(out.last, []byte("SIP/2.0 503")) && bytes.Contains(out.last, []byte("\r\nRetry-After: ")):
			got = refused
		case bytes.HasPrefix(out.last, []byte("MESSAGE")):
			got = forwarded
		}
		if got != tt.want {
			t.Errorf("at %d %% a request from %v with To %q is %s, want %s", tt.held, tt.from, tt.more, got, tt.want)
		}
		w.memory.heldBytes += kept - w.memory.maxHeldBytes/100*tt.held
	}
	if got := w.proxy.Stats().Shed; got != 6 {
		t.Errorf("%d requests are counted as shed, want 6", got)
	}
}

var otherBare = netip.MustParseAddrPort("192.0.2.102:5062")

// No flood can make the transactions hold more than their limit, and all memory is
// released afterwards.
func TestFloodStaysWithinMemoryLimit(t *testing.T) {
	w, out := newBareWorker(t, nil)
	w.memory.maxHeldBytes = 1 << 20
	pad := strings.Repeat("x", 3000)
	spare := 0
	for n := range 4000 {
		forwarded := out.count
		w.handleItem(workItem{packet: w.receivePacket(bytes.Replace(numberedRequest("INVITE", n, ""), []byte("Call-ID"), []byte("Subject: "+pad+"\r\nCall-ID"), 1), barePhone)})
		if out.count > forwarded && n%2 == 0 {
			var m message
			m.index(out.last, false)
			b := w.composer.appendResponse(nil, &m, 0, 401, "Unauthorized", "WWW-Authenticate: Digest\r\n")
			w.handleItem(workItem{packet: w.receivePacket(b, barePBX)})
		}
		if w.memory.heldBytes > w.memory.maxHeldBytes {
			t.Fatalf("%d bytes are held after %d INVITEs, at most %d may be", w.memory.heldBytes, n, w.memory.maxHeldBytes)
		}
		spare = max(spare, w.memory.freeBytes)
	}
	if w.proxy.Stats().Shed == 0 || w.memory.heldBytes < w.memory.maxHeldBytes/2 {
		t.Errorf("the flood was too small: %d bytes are held", w.memory.heldBytes)
	}
	for range 300 {
		w.advanceClock(time.Second)
		spare = max(spare, w.memory.freeBytes)
	}
	if w.memory.heldBytes != 0 || len(w.serverTxs.m) != 0 || len(w.clientTxs.m) != 0 || w.wheel.count != 0 {
		t.Errorf("%d bytes, %d and %d transactions and %d timers are left", w.memory.heldBytes, len(w.serverTxs.m), len(w.clientTxs.m), w.wheel.count)
	}
	if spare == 0 || spare > maxFreeBytes || w.memory.freeBytes != 0 {
		t.Errorf("%d bytes were spare at most, and %d are at rest", spare, w.memory.freeBytes)
	}
}

// A transaction keeps no more of a request than a retransmission needs: of a challenged
// INVITE of 57 KB only the response and the ACK.
func TestLargeInviteReleasesItsMemory(t *testing.T) {
	w, out := newBareWorker(t, nil)
	pad := strings.Repeat("Subject: "+strings.Repeat("x", 6000)+"\r\n", 9)
	long := strings.Repeat("b", 6000)
	invite := bytes.Replace(numberedRequest("INVITE", 1, ""), []byte("Call-ID"), []byte(pad+"Call-ID"), 1)
	invite = bytes.Replace(invite, []byte("z9hG4bK-1"), []byte("z9hG4bK"+long), 1)
	w.handleItem(workItem{packet: w.receivePacket(invite, barePhone)})
	if w.memory.heldBytes < len(invite) {
		t.Fatalf("%d bytes are held", w.memory.heldBytes)
	}
	var m message
	m.index(out.last, false)
	w.handleItem(workItem{packet: w.receivePacket(w.composer.appendResponse(nil, &m, 0, 401, "Unauthorized", ""), barePBX)})
	response := len(out.last)
	if want := response + 2*transactionSize + 1024; w.memory.heldBytes > want {
		t.Errorf("%d bytes are held after a response of %d, want %d at most", w.memory.heldBytes, response, want)
	}
	w.handleItem(workItem{packet: w.receivePacket(numberedACK(invite), barePhone)})
	if want := 2*transactionSize + 1024; w.memory.heldBytes > want {
		t.Errorf("%d bytes are held after the ACK, want %d at most", w.memory.heldBytes, want)
	}
}

func numberedACK(invite []byte) []byte {
	b := bytes.Replace(invite, []byte("INVITE sip"), []byte("ACK sip"), 1)
	return bytes.Replace(b, []byte("1 INVITE"), []byte("1 ACK"), 1)
}

// Waiting observations are limited in bytes: the larger they are, the fewer may wait.
func TestObservationsAreLimitedInBytes(t *testing.T) {
	observations := make(chan dialog.Message, 1<<14)
	w, _ := newBareWorker(t, func(c *Config) { c.Observations = observations })
	small, large := dialog.Message{Head: strings.Repeat("x", 2<<10)}, dialog.Message{Head: strings.Repeat("x", 57<<10)}
	for range cap(observations) {
		w.observer.sendObservation(&large)
	}
	if n := len(observations) * len(large.Head); n > maxObservedBytes+len(large.Head) || n < maxObservedBytes {
		t.Errorf("%d bytes wait", n)
	}
	for len(observations) > 0 {
		<-observations
	}
	for range cap(observations) {
		w.observer.sendObservation(&small)
	}
	if len(observations) != cap(observations) {
		t.Errorf("only %d of %d small messages wait", len(observations), cap(observations))
	}
}

func TestShrinkingMapFreesMemory(t *testing.T) {
	var tab shrinkingMap[uint64, *int]
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	const n = 1 << 18
	for i := range uint64(n) {
		tab.put(i, nil)
	}
	full := heap() - before
	for i := range uint64(n - 10) {
		tab.remove(i)
	}
	if left := heap() - before; int64(left) > int64(full/4) {
		t.Errorf("10 entries take %d bytes, %d took %d", left, n, full)
	}
	for i := range uint64(n) {
		if _, ok := tab.m[i]; ok != (i >= n-10) {
			t.Fatalf("entry %d: %v", i, ok)
		}
	}
}

// A full queue drops new requests of strangers first, then new requests of known
// sources, and last what is within a dialog. From an eighth on, the proxy signals a
// backlog.
func TestFullQueueDropsStrangersFirst(t *testing.T) {
	for _, tt := range []struct {
		name string
		size int
		want [3]int // strangers' requests, then known ones, then those within dialogs
	}{
		{"limit of messages", 500, [3]int{maxQueuedStrangers, maxQueuedItems / 10 * 9, maxQueuedItems - maxQueuedItems/10*9}},
		{"limit of bytes", 40000, [3]int{maxQueuedBytes / 2 / 40000, maxQueuedBytes/10*9/40000 - maxQueuedBytes/2/40000, maxQueuedBytes/40000 - maxQueuedBytes/10*9/40000}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, _ := newBareWorker(t, nil)
			w.proxy.sources.accepted.add(otherBare.Addr(), w.now())
			fill := func(from netip.AddrPort, more string) (n int) {
				for {
					p := w.receivePacket(numberedRequest("MESSAGE", 1, more), from)
					p.buf = append(make([]byte, 0, tt.size), p.buf...)
					if !w.queue.enqueue(workItem{packet: p}, w.proxy.sources.priorityOf(p)) {
						return n
					}
					n++
				}
			}
			got := [3]int{fill(barePhone, "")}
			if len(w.proxy.Backlog()) != 1 {
				t.Error("a queue that is full for strangers is no crowd")
			}
			got[1], got[2] = fill(otherBare, ""), fill(otherBare, ";tag=x")
			if n := fill(barePhone, ";tag=y"); n != 0 {
				t.Errorf("%d requests with made-up To tags found room in a full queue", n)
			}
			if got != tt.want {
				t.Errorf("%d messages found room, want %d", got, tt.want)
			}
			if bytes := w.queue.bytes.Load(); bytes > maxQueuedBytes {
				t.Errorf("%d bytes wait", bytes)
			}
		})
	}
	w, _ := newBareWorker(t, nil)
	for range maxQueuedItems/8 - 1 {
		w.queue.enqueue(workItem{packet: w.receivePacket(numberedRequest("MESSAGE", 1, ""), barePhone)}, fromKnown)
	}
	if len(w.proxy.Backlog()) != 0 {
		t.Error("a few messages are a crowd")
	}
}

// A worker handles new requests of known sources before those of strangers. It drops the
// latter unread while the transactions hold most of their memory limit.
func TestStrangersWaitForKnownSources(t *testing.T) {
	w, out := newBareWorker(t, nil)
	px := w.proxy
	px.sources.accepted.add(otherBare.Addr(), w.now())
	w.queue.bytes.Add(1) // something waits
	px.listeners.all[0].handleDatagram(numberedRequest("MESSAGE", 1, ""), barePhone, netip.Addr{}, true)
	px.listeners.all[0].handleDatagram(numberedRequest("MESSAGE", 2, ""), otherBare, netip.Addr{}, true)
	px.listeners.all[0].handleDatagram(bytes.Replace(numberedRequest("MESSAGE", 3, ""), []byte("@pbx.example.com SIP"), []byte("@192.0.2.200 SIP"), 1), barePBX, netip.Addr{}, true)
	px.listeners.all[0].handleDatagram(numberedRequest("MESSAGE", 4, ";tag=x"), barePhone, netip.Addr{}, true)
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	var order []string
	out.onWrite = func(b []byte) {
		order = append(order, string(b[bytes.Index(b, []byte("Call-ID: "))+9:][:1]))
		if len(order) == 4 {
			cancel()
		}
	}
	run.Go(func() { w.run(ctx) })
	run.Wait()
	if got := strings.Join(order, " "); got != "2 3 4 1" {
		t.Errorf("the order is %s, want 2 3 4 1", got)
	}
	w.memory.heldBytes = w.memory.maxHeldBytes
	w.updateShedding(w.now())
	px.listeners.all[0].handleDatagram(numberedRequest("MESSAGE", 5, ""), barePhone, netip.Addr{}, false)
	if px.Stats().Shed != 1 || len(w.queue.strangers) != 0 {
		t.Errorf("%d requests are shed, %d wait", px.Stats().Shed, len(w.queue.strangers))
	}
}

// A CANCEL does not overtake its INVITE if its source becomes known between the two. A
// CANCEL without an INVITE is forwarded.
func TestCancelDoesNotOvertakeItsInvite(t *testing.T) {
	w, out := newBareWorker(t, nil)
	px := w.proxy
	w.queue.bytes.Add(1) // something waits
	px.listeners.all[0].handleDatagram(numberedRequest("INVITE", 1, ""), barePhone, netip.Addr{}, true)
	px.sources.accepted.add(barePhone.Addr(), w.now())
	px.listeners.all[0].handleDatagram(numberedRequest("CANCEL", 1, ""), barePhone, netip.Addr{}, true)
	px.listeners.all[0].handleDatagram(numberedRequest("CANCEL", 2, ""), barePhone, netip.Addr{}, true)
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	var order []string
	out.onWrite = func(b []byte) {
		line, _, _ := bytes.Cut(b, crlf)
		order = append(order, string(line))
		if len(order) == 3 {
			cancel()
		}
	}
	run.Go(func() { w.run(ctx) })
	run.Wait()
	want := "INVITE sip:102@pbx.example.com SIP/2.0, SIP/2.0 200 OK, CANCEL sip:102@pbx.example.com SIP/2.0"
	if got := strings.Join(order, ", "); got != want {
		t.Errorf("there left %s, want %s", got, want)
	}
}

// A stream whose message finds no room in the queue waits, and is woken when there is
// room.
func TestAStreamWaitsForRoom(t *testing.T) {
	w, _ := newBareWorker(t, nil)
	packet := func() workItem {
		p := w.receivePacket(numberedRequest("MESSAGE", 1, ""), barePhone)
		p.buf = make([]byte, 0, 60000)
		return workItem{packet: p}
	}
	for w.queue.enqueue(packet(), fromStranger) {
	}
	gone := make(chan struct{})
	close(gone)
	if w.queue.enqueueWaiting(packet(), fromStranger, gone) {
		t.Error("a stream that has ended found room")
	}
	const streams = 8
	found := make(chan bool)
	for range streams {
		go func() { found <- w.queue.enqueueWaiting(packet(), fromStranger, nil) }()
	}
	for range streams {
		for done := false; !done; {
			select {
			case done = <-found:
			case in := <-w.queue.strangers: // as run does
				w.queue.finishItem(in.queuedSize())
			}
		}
	}
}

// Different transactions have different keys, and no two processes make the same key.
// All keys have one size, however long the Via is.
func TestServerKeysDistinguishTransactions(t *testing.T) {
	w, _ := newBareWorker(t, nil)
	key := func(b string) serverKey {
		t.Helper()
		var m message
		if !m.index([]byte(b), false) {
			t.Fatal("no SIP")
		}
		return w.makeServerKey(&m, m.methodName())
	}
	invite := typicalINVITE
	is := map[serverKey]string{}
	for name, b := range map[string]string{
		"INVITE":         invite,
		"another branch": strings.Replace(invite, "z9hG4bK-0", "z9hG4bK-1", 1),
		"another host":   strings.Replace(invite, "UDP 192.0.2.101", "UDP 192.0.2.102", 1),
		"another port":   strings.Replace(invite, ":5062;branch", ":5063;branch", 1),
		"CANCEL":         strings.ReplaceAll(invite, "INVITE", "CANCEL"),
		"old":            strings.Replace(invite, "z9hG4bK-00000000", "1", 1),
		"old, other tag": strings.Replace(strings.Replace(invite, "z9hG4bK-00000000", "1", 1), "as58f", "as58e", 1),
	} {
		k := key(b)
		if other, taken := is[k]; taken {
			t.Errorf("%s and %s are one transaction", name, other)
		}
		is[k] = name
	}
	if key(strings.ReplaceAll(invite, "INVITE", "ACK")) != key(invite) {
		t.Error("an ACK does not belong to its INVITE")
	}
	other, _ := newBareWorker(t, nil)
	var m message
	m.index([]byte(invite), false)
	if other.makeServerKey(&m, m.methodName()) == key(invite) {
		t.Error("two processes make one key")
	}
}

func TestSourceSetExpiresAndEvicts(t *testing.T) {
	s := newSourceSet(acceptedLifetime)
	ip := func(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}) }
	now := instant(time.Second)
	const some = 1000
	for n := range some {
		s.add(ip(n), now)
	}
	for n := range 2 * some {
		if s.has(ip(n), now) != (n < some) {
			t.Fatalf("%v: %v", ip(n), n >= some)
		}
	}
	if !s.has(ip(1), now+acceptedLifetime-instant(time.Second)) || s.has(ip(1), now+acceptedLifetime) {
		t.Error("it is not an hour that an address is remembered")
	}
	s.add(ip(1), now+acceptedLifetime/2)
	if !s.has(ip(1), now+acceptedLifetime) {
		t.Error("an address that is added again is not remembered longer")
	}
	for n := range 1 << 20 { // a flood evicts the oldest, and needs no memory
		s.add(ip(n), now+acceptedLifetime)
	}
	found := 0
	for n := range 1 << 20 {
		if s.has(ip(n), now+acceptedLifetime) {
			found++
		}
	}
	if found < 1<<17 || found > sourceBuckets*sourceWays {
		t.Errorf("%d addresses are remembered", found)
	}
}

// byteWiseConn is a connection that returns one byte for each read.
type byteWiseConn struct {
	net.Conn
	b []byte
}

func (d *byteWiseConn) Read(b []byte) (int, error) {
	if len(d.b) == 0 {
		return 0, io.EOF
	}
	b[0] = d.b[0]
	d.b = d.b[1:]
	return 1, nil
}
func (d *byteWiseConn) SetReadDeadline(time.Time) error { return nil }
func (d *byteWiseConn) LocalAddr() net.Addr             { return net.TCPAddrFromAddrPort(bareProxy) }
func (d *byteWiseConn) Close() error                    { return nil }

// largeMessage returns a message of 60 KB with a body of the given size.
func largeMessage(body int) []byte {
	lines := (60000 - body) / 250
	return fmt.Appendf(nil, "%s%sContent-Length: %d\r\n\r\n%s", bytes.TrimSuffix(numberedRequest("MESSAGE", 1, ""), []byte("\r\n")),
		strings.Repeat("X: "+strings.Repeat("x", 245)+"\r\n", lines), body, strings.Repeat("b", body))
}

// BenchmarkDribble reads a message of 60 KB that arrives byte by byte.
func BenchmarkDribble(b *testing.B) {
	for _, body := range []int{0, 30000, 60000} {
		b.Run(fmt.Sprintf("body=%d", body), func(b *testing.B) {
			w, _ := newBareWorker(b, nil)
			m := largeMessage(body)
			b.SetBytes(int64(len(m)))
			for b.Loop() {
				readByteWise(b, w, m)
			}
		})
	}
}

// readByteWise reads a message byte by byte and takes it out of the queue.
func readByteWise(tb testing.TB, w *worker, m []byte) {
	tb.Helper()
	c := &byteWiseConn{b: m}
	s := w.proxy.streams.addStream(c, barePhone, w.proxy.listeners.all[1], nil)
	s.readMessages(c, nil)
	s.close()
	if len(w.queue.strangers) != 1 {
		tb.Fatalf("%d messages came", len(w.queue.strangers))
	}
	in := <-w.queue.strangers
	w.queue.bytes.Add(-in.queuedSize())
	if p := in.packet; !bytes.Equal(p.msg.b, m) || p.msg.fault != nil {
		tb.Fatalf("it came with %v, and %d bytes of %d", p.msg.fault, len(p.msg.b), len(m))
	}
	in.packet.release()
}

// A message that arrives byte by byte is read like one that arrives at once.
// BenchmarkDribble shows that it costs no more than the reads.
func TestMessageArrivesByteByByte(t *testing.T) {
	w, _ := newBareWorker(t, nil)
	for _, body := range []int{0, 30000, 60000} {
		readByteWise(t, w, largeMessage(body))
	}
	if n := w.proxy.streams.largeReadBytes.Load(); n != 0 {
		t.Errorf("%d bytes of read buffers are still counted", n)
	}
}

// The read buffers of slow peers have a common limit.
func TestReadBuffersAreLimitedTogether(t *testing.T) {
	w, _ := newBareWorker(t, nil)
	w.proxy.streams.largeReadBytes.Store(maxLargeReadBytes - 8<<10)
	c := &byteWiseConn{b: largeMessage(60000)}
	s := w.proxy.streams.addStream(c, barePhone, w.proxy.listeners.all[1], nil)
	s.readMessages(c, nil)
	s.close()
	if len(w.queue.strangers) != 0 {
		t.Error("a message came for which there was no room")
	}
	if n := w.proxy.streams.largeReadBytes.Load(); n != maxLargeReadBytes-8<<10 {
		t.Errorf("%d bytes are counted after it", n)
	}
}

// A frame costs no memory beside the payload that it adds to its message.
func TestFramesAllocateNothing(t *testing.T) {
	w, _ := newBareWorker(t, nil)
	fr := frameReader{
		stream:  w.proxy.streams.addStream(nil, barePhone, w.proxy.listeners.all[1], nil),
		decoder: websocket.Decoder{Limit: maxMessage}, keepalive: websocket.NewKeepalive(time.Now()), buf: make([]byte, 0, 4096),
	}
	next := []byte{0x00, 0x81, 0, 0, 0, 0, 'x'} // one byte in a masked frame that is not the last
	fr.buf = append(fr.buf, next...)
	fr.buf[0] = 0x01 // the first frame of a text
	fr.decodeFrames(1)
	n := testing.AllocsPerRun(100, func() {
		fr.buf = append(fr.buf, next...)
		if !fr.decodeFrames(1) {
			t.Fatal("the frame is refused")
		}
	})
	if n != 0 {
		t.Errorf("a frame costs %v allocations", n)
	}
}
