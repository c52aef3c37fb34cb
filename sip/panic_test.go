package sip

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestAPanicCostsOneMessage(t *testing.T) {
	w, out := newBareWorker(t, nil)
	message := strings.Replace(typicalINVITE, "INVITE", "MESSAGE", -1)
	p := w.receivePacket([]byte(message), barePhone)
	w.serverTxs.put(w.makeServerKey(&p.msg, p.msg.methodName()), &serverTx{lastResponse: []byte("x")}) // it belongs to no worker: answering it panics
	w.handleItem(workItem{packet: p})
	if got := w.proxy.Stats().Panics; got != 1 {
		t.Fatalf("%d panics are counted", got)
	}
	w.handleItem(workItem{packet: w.receivePacket([]byte(strings.Replace(message, "z9hG4bK-0", "z9hG4bK-1", 1)), barePhone)})
	if out.count != 1 || out.to != barePBX {
		t.Errorf("the next message did not go on")
	}
}

func TestAPanicOfATimerCostsThisTimer(t *testing.T) {
	w, _ := newBareWorker(t, nil)
	var as []*testTimer
	for range 3 {
		a := newAlarm()
		w.wheel.start(&a.timer, w.now()+tickLength)
		as = append(as, a)
	}
	as[1].then = func(instant) { panic("a bug") }
	w.proxy.epoch = w.proxy.epoch.Add(-time.Second)
	w.fireTimers()
	w.fireTimers()
	for i, a := range as {
		if len(a.fired) != 1 {
			t.Errorf("timer %d fired %d times", i, len(a.fired))
		}
	}
	if got := w.proxy.Stats().Panics; got != 1 {
		t.Errorf("%d panics are counted", got)
	}
}

// A panic while a datagram is read, before a worker has it, costs that datagram.
func TestAPanicOfAReaderCostsOneMessage(t *testing.T) {
	w, _ := newBareWorker(t, nil)
	px, l := w.proxy, w.proxy.listeners.all[0]
	invite := []byte(typicalINVITE)
	workers := px.workers
	px.workers = nil // finding the worker of a message panics
	l.handleDatagram(invite, barePhone, netip.Addr{}, false)
	px.reportUnsent(w.addOwnVia(invite))
	px.workers = workers
	if got := px.Stats().Panics; got != 2 {
		t.Fatalf("%d panics are counted, want 2", got)
	}
	l.handleDatagram(invite, barePhone, netip.Addr{}, false)
	if len(w.queue.strangers) != 1 {
		t.Errorf("the next message did not come")
	}
	l.packet = panickingConn{}
	if l.receiveDatagrams(); px.Stats().Panics != 3 {
		t.Errorf("%d panics are counted, want 3", px.Stats().Panics)
	}
}

// addOwnVia returns a request with a Via of ours on top.
func (w *worker) addOwnVia(request []byte) []byte {
	via := "Via: SIP/2.0/UDP 192.0.2.1;branch=" + string(w.proxy.branchSalt.appendBranch(nil, 1, 2)) + "\r\n"
	return []byte(strings.Replace(string(request), "Via: ", via+"Via: ", 1))
}

// panickingConn is a socket or connection that panics on every use.
type panickingConn struct {
	PacketConn
	net.Conn
}

func (panickingConn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(bareProxy) }
func (panickingConn) Close() error        { return nil }

// A panic while a message of a stream is handled costs that message. It closes the
// stream if nothing can be read after it.
func TestPanicOnAStreamCostsOneMessage(t *testing.T) {
	w, _ := newBareWorker(t, nil)
	px := w.proxy
	defer px.streams.close()
	workers := px.workers
	message := strings.Replace(strings.Replace(typicalINVITE, "INVITE", "MESSAGE", -1), "Content-Length: 181", "Content-Length: 0", 1)
	message = message[:strings.Index(message, "\r\n\r\n")+4]
	px.workers = nil
	c := &byteWiseConn{b: []byte(message + message + "x")}
	s := px.streams.addStream(c, barePhone, px.listeners.all[1], nil)
	s.serve(c, nil)
	if got := px.Stats().Panics; got != 2 {
		t.Errorf("%d panics are counted, want one for each message", got)
	}
	bad := strings.Replace(message, "Content-Length: 0", "Content-Length: -1", 1)
	c = &byteWiseConn{b: []byte(bad)}
	px.streams.addStream(c, barePhone, px.listeners.all[1], nil).serve(c, nil) // it ends
	if got := px.Stats().Panics; got != 3 {
		t.Errorf("%d panics are counted, want 3", got)
	}
	px.workers = workers
	s = px.streams.addStream(panickingConn{}, barePhone, px.listeners.all[1], nil)
	s.serve(panickingConn{}, nil)
	if got := px.Stats().Panics; got != 4 {
		t.Errorf("%d panics are counted, want 4", got)
	}
	s = px.streams.addStream(panickingConn{}, barePhone, px.listeners.all[1], nil)
	s.queueMessage([]byte("x"), 0)
	s.serve(&byteWiseConn{Conn: panickingConn{}}, nil)
	if px.streams.findStream(Addr{Proto: TCP, AddrPort: barePhone}, 0) != nil {
		t.Error("a stream that broke is still open")
	}
}
