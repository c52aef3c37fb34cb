package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
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
	"bellhop/sip/flowhop"
	"bellhop/sip/siptest"
)

// TestFlows plays every flow against all of bellhop in virtual time: in-memory sockets,
// the real store, the real deliveries. The callbacks of a flow are those that the
// receiver got.
func TestFlows(t *testing.T) {
	files, err := filepath.Glob("../../testdata/flows/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no flows: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			f, err := flowtest.Load(file)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				h := newTestPipeline(t, f.Config, dir)
				flowtest.Play(t, f, h)
				h.stop()
			})
		})
	}
}

// A testPipeline is all of bellhop except the admin API, with a peer at each of the flow's
// addresses.
type testPipeline struct {
	flowhop.Peers
	t     *testing.T
	rooms *pipeline
	stop  func()       // for good
	ahead atomic.Int64 // the wall clock is, so many nanoseconds
	mu    sync.Mutex
	came  []string // ids of events, as their callbacks came
	heard map[string]bool

	stopRooms, again func() // again stops and starts the rooms

	// The receiver fails at the first attempt of each event.
	fails  bool
	failed map[string]bool
}

func newTestPipeline(t *testing.T, fc flowtest.Config, dir string) *testPipeline {
	h := &testPipeline{t: t, heard: map[string]bool{}, failed: map[string]bool{}}
	cfg := config.Default()
	cfg.SIP.Listen = []sip.Addr{{Proto: sip.UDP, AddrPort: flowtest.Bellhop}}
	for _, proto := range flowhop.Streams(fc) {
		cfg.SIP.Listen = append(cfg.SIP.Listen, sip.Addr{Proto: proto, AddrPort: flowtest.Bellhop})
	}
	cfg.SIP.Register = sip.Register(fc.Register)
	for _, source := range fc.PBXSources {
		cfg.SIP.PBXSources = append(cfg.SIP.PBXSources, config.CIDR{Prefix: source})
	}
	cfg.Calls.AddCID = fc.AddCID
	cfg.NAT.KeepAlive = 0 // flows list the messages of phones, PBX and trunks only
	cfg.Store.Dir = dir
	cfg.Store.Sync = config.SyncInterval(24 * time.Hour)                // a sync each tenth of a virtual second would take long
	cfg.Notify.KeepEvents = config.Duration(200 * 365 * 24 * time.Hour) // the server tells ages by the machine's clock
	st, err := store.Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	h.start(fc, cfg, st)
	h.stop = func() {
		h.stopRooms()
		st.Close()
	}
	return h
}

// addFlowPeers adds the PBX and the trunks of the flows to a config.
func addFlowPeers(cfg *config.Config) {
	for _, p := range flowtest.Peers {
		switch {
		case p.Side == dialog.PBX:
			cfg.SIP.PBX = []sip.Addr{{Proto: sip.UDP, AddrPort: p.Addr}}
		case p.Trunk != "":
			cfg.Trunk = append(cfg.Trunk, config.Trunk{Name: p.Trunk, Sources: []config.CIDR{{Prefix: netip.PrefixFrom(p.Addr.Addr(), 32)}}})
		}
	}
}

// subscribeToAll subscribes to every event of every extension.
func subscribeToAll(t *testing.T, n *notify.Notifier) {
	t.Helper()
	sub := notify.NewSubscription()
	sub.ExtensionRegex = ".*"
	sub.Types = []string{"dial-in", "dial-out", "answer", "hangup", "message-in", "message-out", "voicemail",
		"ringing", "hold", "resume", "transfer", "registered", "unregistered"}
	sub.URL = "http://receiver.example/callback"
	if _, err := n.Subscribe(t.Context(), sub); err != nil {
		t.Fatal(err)
	}
}

// start starts the pipeline, for the first time or again.
func (h *testPipeline) start(fc flowtest.Config, cfg config.Config, st *store.Store) {
	t, original := h.t, cfg
	network := siptest.NewNetwork()
	var err error
	if h.Peers, err = flowhop.ListenPeers(network, fc.Transports); err != nil {
		t.Fatal(err)
	}
	addFlowPeers(&cfg)
	h.rooms, err = buildPipeline(t.Context(), cfg, st, slog.New(slog.DiscardHandler), environment{
		own: netip.MustParseAddrPort("192.0.2.5:8080"), network: network, transport: h, unbatched: true, wall: h.wall,
	})
	if err != nil {
		t.Fatal(err)
	}
	h.rooms.observer.tracker.Configure(fc.Dialog)
	if len(h.rooms.notifier.Subscriptions()) == 0 {
		subscribeToAll(t, h.rooms.notifier)
	}
	stopRooms := store.StartTask(h.rooms.run)
	h.stopRooms = func() {
		stopRooms()
		h.Peers.Close()
	}
	h.again = func() {
		h.stopRooms()
		h.start(fc, original, st)
	}
	synctest.Wait()
}

// RoundTrip is the receiver: it records the event of a callback.
func (h *testPipeline) RoundTrip(r *http.Request) (*http.Response, error) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	var c struct {
		Data struct {
			EventID   string `json:"event_id"`
			Extension string `json:"extension"`
		} `json:"data"`
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, err
	}
	if c.Data.Extension == "" {
		h.t.Errorf("a callback does not say of which extension it is: %s", b)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if id := c.Data.EventID; h.fails && !h.failed[id] {
		h.failed[id] = true
		return &http.Response{StatusCode: http.StatusInternalServerError, Body: http.NoBody, Request: r}, nil
	}
	h.came = append(h.came, c.Data.EventID)
	return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody, Request: r}, nil
}

func (h *testPipeline) Now() time.Time { return time.Now() }

func (h *testPipeline) SetClock(by time.Duration) { h.ahead.Add(int64(by)) }

// wall returns the time of the wall clock.
func (h *testPipeline) wall() time.Time { return time.Now().Add(time.Duration(h.ahead.Load())) }

func (h *testPipeline) Send(from flowtest.Peer, msg []byte) error {
	err := h.Peers.Send(from, msg)
	synctest.Wait()
	return err
}

func (h *testPipeline) Disconnect(from flowtest.Peer) {
	h.Peers.Disconnect(from)
	synctest.Wait()
}

func (h *testPipeline) Vanish(from flowtest.Peer) {
	h.Peers.Vanish(from)
	synctest.Wait()
}

func (h *testPipeline) Sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// Events returns the events whose callbacks have arrived, in the order of publishing. It
// fails the test if those of a call arrived in another order.
func (h *testPipeline) Events() []dialog.Event {
	synctest.Wait()
	events, _, err := h.rooms.notifier.Events(context.Background(), notify.Query{Limit: 1000})
	if err != nil {
		h.t.Fatal(err)
	}
	h.mu.Lock()
	came := slices.Clone(h.came)
	h.came = nil
	h.mu.Unlock()
	var news []dialog.Event
	last := map[string]int{}
	for _, e := range events {
		i := slices.Index(came, e.ID)
		switch {
		case i < 0 && !h.heard[e.ID]:
			h.t.Errorf("%s of %s was said, and no callback came", e.Type, e.Extension)
		case i < 0:
			continue
		case i < last[e.Call]:
			h.t.Errorf("the callback for %s of %s came before one that was said earlier", e.Type, e.Extension)
		}
		last[e.Call] = i
		h.heard[e.ID] = true
		news = append(news, *e)
	}
	if len(news) != len(came) {
		h.t.Errorf("%d callbacks came for %d events", len(came), len(news))
	}
	return news
}
