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

	"bellhop/notify"
	"bellhop/sip"
	"bellhop/sip/siptest"
)

// demo runs a PBX, two phones, bellhop and a receiver of its callbacks in this
// process, over real sockets on loopback and ports that are free. It places
// three calls and fails unless every callback that they owe came, in order.
func demo(ctx context.Context, stay bool, stdout io.Writer) (err error) {
	d := &demonstration{out: stdout}
	defer func() {
		for _, f := range slices.Backward(d.undo) {
			f()
		}
	}()
	if err := d.setUp(ctx); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	var missing error
	for _, c := range demoCalls {
		if err := d.play(ctx, c); err != nil {
			return fmt.Errorf("demo: %s: %w", c.title, err)
		}
		missing = errors.Join(missing, d.compare(ctx, c))
	}
	d.summary(missing)
	if missing != nil {
		return errReported
	}
	if stay {
		fmt.Fprintf(stdout, "\nStill running. Page and API: %s, token: %s\nPress Ctrl-C to stop.\n", d.service.adminURL(), d.service.token)
		<-ctx.Done()
	}
	return nil
}

// A demoCall is one call of the demo and what it owes each extension.
type demoCall struct {
	title  string
	callee siptest.Behavior
	then   func(ctx context.Context, c *siptest.Call) error
	want   map[string][]string // extension: its callbacks, in order
}

var demoCalls = []demoCall{
	{
		title:  "101 calls 102; 102 answers, they talk for a second, and 101 hangs up",
		callee: siptest.Behavior{Answer: 300 * time.Millisecond},
		then: func(ctx context.Context, c *siptest.Call) error {
			if status := c.Wait(ctx); status != 200 {
				return fmt.Errorf("the call ended with %d instead of 200", status)
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
				return fmt.Errorf("the call ended with %d instead of 486", status)
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
			if !c.Ringing(ctx) {
				return errors.New("the phone did not ring")
			}
			select {
			case <-time.After(400 * time.Millisecond):
			case <-ctx.Done():
			}
			c.Cancel()
			if status := c.Wait(ctx); status != 487 {
				return fmt.Errorf("the call ended with %d instead of 487", status)
			}
			return nil
		},
		want: map[string][]string{
			"101": {"dial-out", "hangup CANCEL"},
			"102": {"dial-in", "hangup CANCEL"},
		},
	},
}

// A demonstration is what a demo runs on.
type demonstration struct {
	out     io.Writer
	undo    []func()
	service *service
	alice   *siptest.Phone // 101
	bob     *siptest.Phone // 102

	mu    sync.Mutex
	came  map[string][]string // since the call began: extension to callbacks
	total int                 // callbacks that came in all
	news  chan struct{}       // something came
}

func (d *demonstration) later(f func()) { d.undo = append(d.undo, f) }

// setUp starts PBX, receiver, bellhop and phones, in this order.
func (d *demonstration) setUp(ctx context.Context) error {
	d.news = make(chan struct{}, 1)
	dir, err := os.MkdirTemp("", "bellhop-demo-")
	if err != nil {
		return err
	}
	d.later(func() { os.RemoveAll(dir) })

	socket, err := loopback()
	if err != nil {
		return err
	}
	pbx := siptest.NewPBX(socket)
	d.later(pbx.Close)

	receiver, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	web := &http.Server{Handler: http.HandlerFunc(d.receive)}
	served := make(chan struct{})
	go func() { defer close(served); web.Serve(receiver) }()
	d.later(func() { web.Close(); <-served })

	cfg := defaults()
	cfg.SIP.Listen = []sip.Addr{{Proto: sip.UDP, AddrPort: netip.MustParseAddrPort("127.0.0.1:0")}}
	cfg.SIP.PBX = []sip.Addr{{Proto: sip.UDP, AddrPort: pbx.Addr()}}
	cfg.Admin.Listen.AddrPort = netip.MustParseAddrPort("127.0.0.1:0")
	cfg.Store.Dir = dir
	// Callbacks to loopback are forbidden but for the one receiver: the demo's own.
	at := netip.MustParseAddrPort(receiver.Addr().String())
	cfg.Notify.Allow = []cidr{{netip.PrefixFrom(at.Addr(), 32)}}
	var level slog.LevelVar
	level.Set(slog.LevelWarn)
	if d.service, err = build(ctx, cfg, newLogger(d.out, "text", &level)); err != nil {
		return err
	}
	d.later(start(func(ctx context.Context) { d.service.run(ctx) }))

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
	hop := d.service.hop.Addrs()[0].AddrPort
	fmt.Fprintf(d.out, "phones 101 and 102  ⇄  bellhop %s  ⇄  PBX %s\n", hop, pbx.Addr())
	fmt.Fprintf(d.out, "callbacks of 101 and 102  →  POST %s\n", hook)

	for _, p := range []struct {
		at         **siptest.Phone
		user, name string
	}{{&d.alice, "101", "Alice"}, {&d.bob, "102", "Bob"}} {
		socket, err := loopback()
		if err != nil {
			return err
		}
		*p.at = siptest.NewPhone(socket, hop, p.user, p.name)
		d.later((*p.at).Close)
		if err := (*p.at).Register(); err != nil {
			return err
		}
	}
	return nil
}

func loopback() (*net.UDPConn, error) {
	return net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
}

// play places one call and brings it to its end.
func (d *demonstration) play(ctx context.Context, c demoCall) error {
	fmt.Fprintf(d.out, "\n%s\n", c.title)
	d.mu.Lock()
	d.came = map[string][]string{}
	d.mu.Unlock()
	d.bob.Behave(c.callee)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return c.then(ctx, d.alice.Dial("102"))
}

// A callback is the part of a callback's body that the demo shows.
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

// receive is the receiver: it takes down a callback and shows it.
func (d *demonstration) receive(w http.ResponseWriter, r *http.Request) {
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
	d.came[extension] = append(d.came[extension], what)
	d.total++
	fmt.Fprintf(d.out, "  %s  %s  %-14s  %s\n", time.UnixMicro(e.EventTime).Format("15:04:05.000"), extension, what, about)
	d.mu.Unlock()
	select {
	case d.news <- struct{}{}:
	default:
	}
}

// compare waits until all that a call owes has come, and says what is missing
// or too much.
func (d *demonstration) compare(ctx context.Context, c demoCall) error {
	limit := time.NewTimer(5 * time.Second)
	defer limit.Stop()
	for {
		d.mu.Lock()
		var wrong error
		for _, extension := range []string{"101", "102"} {
			if got, want := d.came[extension], c.want[extension]; !slices.Equal(got, want) {
				wrong = errors.Join(wrong, fmt.Errorf("%s: extension %s: want %s, got %s", c.title, extension, strings.Join(want, ", "), cmp.Or(strings.Join(got, ", "), "nothing")))
			}
		}
		d.mu.Unlock()
		if wrong == nil {
			return nil
		}
		select {
		case <-d.news:
		case <-limit.C:
			return wrong
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// summary says what was expected and what came.
func (d *demonstration) summary(missing error) {
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
