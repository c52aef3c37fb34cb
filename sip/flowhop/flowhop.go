// Package flowhop plays flows against the real proxy, in virtual time and on a network in
// memory. The tracker of a flow gets the messages that the proxy observes.
//
// A [Proxy] must run in a bubble of [testing/synctest.Test].
package flowhop

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/dialog"
	"bellhop/dialog/flowtest"
	"bellhop/sip"
	"bellhop/sip/siptest"
)

// A Proxy is a [flowtest.Hop]: the proxy and a tracker between the peers of a flow.
type Proxy struct {
	Peers
	Inputs []Input // everything that the tracker was shown

	proxy        *sip.Proxy
	observer     Observer
	observations chan dialog.Message
	wallOffset   atomic.Int64 // nanoseconds of the wall clock ahead of the bubble's
	given        int          // events that Events has returned
	stop         func()
}

// New starts a proxy with the settings of a flow. It fails the test if the proxy cannot
// start.
func New(t testing.TB, c flowtest.Config) *Proxy {
	t.Helper()
	network := siptest.NewNetwork()
	peers, err := ListenPeers(network, c.Transports)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Peers: peers, observer: Observer{Tracker: dialog.New(c.Dialog)}, observations: make(chan dialog.Message, 1<<10)}
	p.proxy, err = sip.Listen(p.config(c, network))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { p.proxy.Run(ctx) })
	p.stop = func() {
		cancel()
		running.Wait()
	}
	synctest.Wait()
	return p
}

// Streams returns the transports other than UDP that bellhop listens on in a flow.
func Streams(c flowtest.Config) []sip.Proto {
	if len(c.Transports) == 0 {
		return nil
	}
	return []sip.Proto{sip.TCP, sip.WS}
}

// config returns the configuration of the proxy for a flow.
func (p *Proxy) config(c flowtest.Config, network *siptest.Network) sip.Config {
	cfg := sip.Config{
		Listen:        []sip.Listener{{Addr: sip.Addr{Proto: sip.UDP, AddrPort: flowtest.Bellhop}}},
		PBXSources:    c.PBXSources,
		Register:      sip.Register(c.Register),
		AddCID:        c.AddCID,
		StripIdentity: true,
		Key:           bytes.Repeat([]byte{7}, 32),
		Observations:  p.observations,
		Workers:       1,
		Log:           slog.New(slog.DiscardHandler),
		Net:           network,
		WallClock:     func() time.Time { return time.Now().Add(time.Duration(p.wallOffset.Load())) },
	}
	for _, proto := range Streams(c) {
		cfg.Listen = append(cfg.Listen, sip.Listener{Addr: sip.Addr{Proto: proto, AddrPort: flowtest.Bellhop}})
	}
	for _, peer := range flowtest.Peers {
		switch {
		case peer.Side == dialog.PBX:
			cfg.PBX = []sip.Addr{{Proto: sip.UDP, AddrPort: peer.Addr}}
		case peer.Trunk != "":
			cfg.Trunks = append(cfg.Trunks, sip.Trunk{Name: peer.Trunk, Sources: []netip.Prefix{netip.PrefixFrom(peer.Addr.Addr(), 32)}})
		}
	}
	return cfg
}

// Close stops the proxy and closes the peers' sockets.
func (p *Proxy) Close() {
	p.stop()
	p.Peers.Close()
}

// Send sends a message of a peer. It returns when everything has happened that the
// message causes without a timer.
func (p *Proxy) Send(from flowtest.Peer, msg []byte) error {
	err := p.Peers.Send(from, msg)
	p.settle()
	return err
}

// Disconnect closes the connection of a peer.
func (p *Proxy) Disconnect(from flowtest.Peer) {
	p.Peers.Disconnect(from)
	p.settle()
}

// Vanish makes a peer vanish without closing its connection.
func (p *Proxy) Vanish(from flowtest.Peer) {
	p.Peers.Vanish(from)
	p.settle()
}

// Sleep waits for d in virtual time, and shows the tracker the messages and the time that
// have passed.
func (p *Proxy) Sleep(d time.Duration) {
	time.Sleep(d)
	p.settle()
	now, offset := p.proxy.Clock()
	p.show(Input{At: now, WallOffset: offset})
}

// settle waits until nothing more happens without a timer, and shows the tracker what the
// proxy has observed.
func (p *Proxy) settle() {
	synctest.Wait()
	for len(p.observations) > 0 {
		m := <-p.observations
		p.show(Input{At: m.At, WallOffset: m.WallOffset, Message: &m})
	}
}

func (p *Proxy) show(in Input) {
	p.Inputs = append(p.Inputs, in)
	p.observer.Show(in)
}

// SetClock sets the wall clock forward, or back if by is negative.
func (p *Proxy) SetClock(by time.Duration) { p.wallOffset.Add(int64(by)) }

// Now returns the time on the clock of the proxy.
func (p *Proxy) Now() time.Time {
	now, _ := p.proxy.Clock()
	return now
}

// Events returns the events since the previous call.
func (p *Proxy) Events() []dialog.Event {
	events := p.observer.Events[p.given:]
	p.given = len(p.observer.Events)
	return events
}

// An Input is what a tracker is shown: the time and, if Message is not nil, a message.
type Input struct {
	At         time.Time
	WallOffset time.Duration
	Message    *dialog.Message // nil: only time has passed
}

// An Observer shows inputs to a tracker. Tracker may be replaced between two inputs.
type Observer struct {
	Tracker *dialog.Tracker
	Events  []dialog.Event // all events that were emitted
	Now     time.Time      // time of the last input or timer
}

// Show runs the timers of the tracker that are due by the time of the input, in order.
// Then it shows the tracker the message, if there is one.
func (o *Observer) Show(in Input) {
	for {
		next, ok := o.Tracker.Next()
		if !ok || next.After(in.At) {
			break
		}
		if next.After(o.Now) {
			o.Now = next
		}
		o.Tracker.SetClock(o.Now, in.WallOffset)
		o.Events = append(o.Events, o.Tracker.Advance(o.Now)...)
	}
	o.Now = in.At
	if in.Message != nil {
		o.Events = append(o.Events, o.Tracker.Observe(*in.Message)...)
	}
}

// Record plays a flow in a bubble of its own, and returns what the tracker was shown. It
// fails the test if the flow fails.
func Record(t *testing.T, f *flowtest.Flow) (inputs []Input) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := New(t, f.Config)
		defer p.Close()
		flowtest.Play(t, f, p)
		inputs = p.Inputs
	})
	return inputs
}
