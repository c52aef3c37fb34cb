package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"bellhop/cmd/bellhop/cli"
	"bellhop/cmd/bellhop/config"
	"bellhop/cmd/bellhop/store"
	"bellhop/notify"
	"bellhop/sip"
	"bellhop/sip/siptest"
)

// The phones and the PBX are those of the tests, sip/siptest. They add 0.6 MB to a binary
// of 46 MB (1.2 %, 2026-12-02), and serve runs none of them. A separate program for the
// demo would cost users more.

// runDemo runs a PBX, two phones, bellhop and a receiver of callbacks in this process.
// They use real sockets on free ports of loopback. The demo places three calls and
// fails unless exactly the expected callbacks arrive, in the expected order for each
// extension. With stay it then goes on until ctx ends.
func runDemo(ctx context.Context, stay bool, stdout io.Writer) (err error) {
	d := &demonstration{out: stdout}
	defer func() {
		for _, f := range slices.Backward(d.cleanups) {
			f()
		}
	}()
	if err := d.setUp(ctx); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	var missing error
	for _, c := range demoCalls {
		if err := d.placeCall(ctx, c); err != nil {
			return fmt.Errorf("demo: %s: %w", c.title, err)
		}
		missing = errors.Join(missing, d.compareCallbacks(ctx, c))
	}
	d.printSummary(missing)
	if missing != nil {
		return cli.ErrReported
	}
	if stay {
		fmt.Fprintf(stdout, "\nStill running. Page and API: %s, token: %s\nPress Ctrl-C to stop.\n", d.service.adminURL(), d.service.token)
		<-ctx.Done()
	}
	return nil
}

// A demoCall is a call of the demo with the callbacks to expect.
type demoCall struct {
	title  string
	callee siptest.Behavior
	then   func(ctx context.Context, c *siptest.Call) error
	want   map[string][]string // callbacks by extension, in order
}

var demoCalls = []demoCall{
	{
		title:  "101 calls 102; 102 answers, they talk for a second, and 101 hangs up",
		callee: siptest.Behavior{Answer: 300 * time.Millisecond},
		then: func(ctx context.Context, c *siptest.Call) error {
			if status := c.Wait(ctx); status != 200 {
				return fmt.Errorf("call ended with status %d, want 200", status)
			}
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
			return c.Hangup()
		},
		want: map[string][]string{
			"101": {"dial-out", "answer", "hangup ANSWER"},
			"102": {"dial-in", "answer", "hangup ANSWER"},
		},
	},
	{
		title:  "101 calls 102; 102 is busy",
		callee: siptest.Behavior{Busy: true},
		then: func(ctx context.Context, c *siptest.Call) error {
			if status := c.Wait(ctx); status != 486 {
				return fmt.Errorf("call ended with status %d, want 486", status)
			}
			return nil
		},
		want: map[string][]string{
			"101": {"dial-out", "hangup BUSY"},
			"102": {"dial-in", "hangup BUSY"},
		},
	},
	{
		title: "101 calls 102 and gives up while it rings",
		then: func(ctx context.Context, c *siptest.Call) error {
			if !c.WaitRinging(ctx) {
				return errors.New("the phone did not ring")
			}
			select {
			case <-time.After(400 * time.Millisecond):
			case <-ctx.Done():
			}
			c.Cancel()
			if status := c.Wait(ctx); status != 487 {
				return fmt.Errorf("call ended with status %d, want 487", status)
			}
			return nil
		},
		want: map[string][]string{
			"101": {"dial-out", "hangup CANCEL"},
			"102": {"dial-in", "hangup CANCEL"},
		},
	},
}

// A demonstration holds the PBX, the phones, bellhop and the receiver of a demo.
type demonstration struct {
	out      io.Writer
	cleanups []func()
	service  *service
	alice    *siptest.Phone // 101
	bob      *siptest.Phone // 102

	mu       sync.Mutex
	received map[string][]string // callbacks of the current call, by extension
	total    int                 // callbacks of all calls
	arrived  chan struct{}       // has room for one: a callback arrived
}

// addCleanup registers f to run at the end of the demo. The last registered runs first.
func (d *demonstration) addCleanup(f func()) { d.cleanups = append(d.cleanups, f) }

// setUp starts the PBX, the receiver, bellhop and the phones, in this order.
func (d *demonstration) setUp(ctx context.Context) error {
	d.arrived = make(chan struct{}, 1)
	dir, err := os.MkdirTemp("", "bellhop-demo-")
	if err != nil {
		return err
	}
	d.addCleanup(func() { os.RemoveAll(dir) })

	socket, err := listenLoopback()
	if err != nil {
		return err
	}
	pbx := siptest.NewPBX(socket)
	d.addCleanup(pbx.Close)

	receiver, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	web := &http.Server{Handler: http.HandlerFunc(d.receiveCallback)}
	served := make(chan struct{})
	go func() { defer close(served); web.Serve(receiver) }()
	d.addCleanup(func() { web.Close(); <-served })

	cfg := config.Default()
	cfg.SIP.Listen = []sip.Addr{{Proto: sip.UDP, AddrPort: netip.MustParseAddrPort("127.0.0.1:0")}}
	cfg.SIP.PBX = []sip.Addr{{Proto: sip.UDP, AddrPort: pbx.Addr()}}
	cfg.Admin.Listen.AddrPort = netip.MustParseAddrPort("127.0.0.1:0")
	cfg.Store.Dir = dir
	cfg.Guard.AllConnections = 0 // as many as open files allow, without a warning
	// Callbacks to loopback are denied by default: allow the receiver of the demo.
	at := netip.MustParseAddrPort(receiver.Addr().String())
	cfg.Notify.Allow = []config.CIDR{{Prefix: netip.PrefixFrom(at.Addr(), 32)}}
	var level slog.LevelVar
	level.Set(slog.LevelWarn)
	if d.service, err = buildService(ctx, cfg, newLogger(d.out, "text", &level)); err != nil {
		return err
	}
	d.addCleanup(store.StartTask(func(ctx context.Context) { d.service.run(ctx) }))

	hook := "http://" + receiver.Addr().String() + "/callback"
	for _, extension := range []string{"101", "102"} {
		sub := notify.NewSubscription()
		sub.Extension = extension
		sub.Types = []string{"dial-in", "dial-out", "answer", "hangup"}
		sub.URL = hook
		if _, err := d.service.notifier.Subscribe(ctx, sub); err != nil {
			return err
		}
	}
	proxy := d.service.proxy.Addrs()[0].AddrPort
	fmt.Fprintf(d.out, "phones 101 and 102  ⇄  bellhop %s  ⇄  PBX %s\n", proxy, pbx.Addr())
	fmt.Fprintf(d.out, "callbacks of 101 and 102  →  POST %s\n", hook)
	return d.registerPhones(proxy)
}

// registerPhones starts the phones, which register through the proxy.
func (d *demonstration) registerPhones(proxy netip.AddrPort) error {
	for _, p := range []struct {
		at         **siptest.Phone
		user, name string
	}{{&d.alice, "101", "Alice"}, {&d.bob, "102", "Bob"}} {
		socket, err := listenLoopback()
		if err != nil {
			return err
		}
		*p.at = siptest.NewPhone(socket, proxy, p.user, p.name)
		d.addCleanup((*p.at).Close)
		if err := (*p.at).Register(); err != nil {
			return err
		}
	}
	return nil
}

// listenLoopback opens a UDP socket on a free port of 127.0.0.1.
func listenLoopback() (*net.UDPConn, error) {
	return net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
}

// demoTimeout bounds each call of the demo, and the wait for its callbacks. A slow machine
// needs seconds.
const demoTimeout = time.Minute

// placeCall places the call c and returns when it has ended.
func (d *demonstration) placeCall(ctx context.Context, c demoCall) error {
	d.mu.Lock()
	fmt.Fprintf(d.out, "\n%s\n", c.title)
	d.received = map[string][]string{}
	d.mu.Unlock()
	d.bob.Behave(c.callee)
	ctx, cancel := context.WithTimeout(ctx, demoTimeout)
	defer cancel()
	return c.then(ctx, d.alice.Dial("102"))
}

// A callback has the fields of a callback's body that the demo prints.
type callback struct {
	Data struct {
		EventType       string `json:"event_type"`
		EventTime       int64  `json:"event_time"`
		CallFlow        string `json:"call_flow"`
		CallStatus      string `json:"call_status"`
		CallerIDNum     string `json:"caller_id_num"`
		CallerIDName    string `json:"caller_id_name"`
		CallerExtension string `json:"caller_extension"`
		CalledExtension string `json:"called_extension"`
		CalledNumber    string `json:"called_number"`
		Duration        int64  `json:"duration"`
		HangupBy        string `json:"hangup_by"`
	} `json:"data"`
}

// receiveCallback is the HTTP handler of the receiver. It records and prints a
// callback.
func (d *demonstration) receiveCallback(w http.ResponseWriter, r *http.Request) {
	var c callback
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&c); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	e := c.Data
	extension, about := e.CalledExtension, "called by "+strings.TrimSpace(e.CallerIDNum+" "+e.CallerIDName)
	if e.CallFlow == "out" {
		extension, about = e.CallerExtension, "calls "+e.CalledNumber
	}
	what := e.EventType
	if what == "hangup" {
		what += " " + e.CallStatus
		about = "by the " + cmp.Or(e.HangupBy, "system")
		if e.Duration > 0 {
			about += fmt.Sprintf(", talked %.3f s", float64(e.Duration)/1e6)
		}
	}
	d.mu.Lock()
	d.received[extension] = append(d.received[extension], what)
	d.total++
	fmt.Fprintf(d.out, "  %s  %s  %-14s  %s\n", time.UnixMicro(e.EventTime).Format("15:04:05.000"), extension, what, about)
	d.mu.Unlock()
	select {
	case d.arrived <- struct{}{}:
	default:
	}
}

// compareCallbacks waits until exactly the expected callbacks of a call have arrived,
// or returns an error with the expected and the received ones.
func (d *demonstration) compareCallbacks(ctx context.Context, c demoCall) error {
	limit := time.NewTimer(demoTimeout)
	defer limit.Stop()
	for {
		d.mu.Lock()
		var wrong error
		for _, extension := range []string{"101", "102"} {
			if got, want := d.received[extension], c.want[extension]; !slices.Equal(got, want) {
				wrong = errors.Join(wrong, fmt.Errorf("%s: extension %s: want %s, got %s", c.title, extension, strings.Join(want, ", "), cmp.Or(strings.Join(got, ", "), "nothing")))
			}
		}
		d.mu.Unlock()
		if wrong == nil {
			return nil
		}
		select {
		case <-d.arrived:
		case <-limit.C:
			return wrong
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// printSummary prints how many callbacks were expected and received. If missing is not
// nil, it prints only that.
func (d *demonstration) printSummary(missing error) {
	if missing != nil {
		fmt.Fprintf(d.out, "\nMissing or unexpected callbacks:\n  %s\n", strings.ReplaceAll(missing.Error(), "\n", "\n  "))
		return
	}
	expected := 0
	for _, c := range demoCalls {
		for _, w := range c.want {
			expected += len(w)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	fmt.Fprintf(d.out, "\n%d callbacks expected, %d received, in order for each extension.\n", expected, d.total)
}
