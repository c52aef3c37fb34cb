package notify

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/notify/stream"
)

var soak = flag.Bool("soak", false, "tests take minutes, and measure")

// runVictim publishes a call every 20 ms, from call NOTIFY_FROM on, until it is killed. It
// prints "call" and the number of each call before it is published, and "said" and the id
// of each event of the log after NOTIFY_AFTER. With NOTIFY_END it publishes nothing, waits
// until everything is delivered, and prints "done".
func runVictim() {
	must := func(err error) {
		if err != nil {
			fmt.Println("failed", err)
			os.Exit(1)
		}
	}
	from, err := strconv.Atoi(os.Getenv("NOTIFY_FROM"))
	must(err)
	after, err := strconv.ParseUint(os.Getenv("NOTIFY_AFTER"), 10, 64)
	must(err)
	s, err := server.NewServer(&server.Options{ServerName: "bellhop", DontListen: true, JetStream: true, StoreDir: os.Getenv("NOTIFY_DIR"), NoLog: true, NoSigs: true})
	must(err)
	s.Start()
	nc, err := nats.Connect("", nats.InProcessServer(s))
	must(err)
	js, err := jetstream.New(nc)
	must(err)
	ctx := context.Background()
	n, err := Open(ctx, js, Config{Allow: loopback})
	must(err)
	if len(n.Subscriptions()) == 0 {
		s := testSubscription("", os.Getenv("NOTIFY_URL"))
		s.Dialect, s.LiveTTL = Telphin, Duration(time.Hour) // nothing expires
		_, err := n.Subscribe(ctx, s)
		must(err)
	}
	go n.Run(ctx)
	events, err := js.Stream(ctx, "bellhop_events")
	must(err)
	log, err := events.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: after + 1})
	must(err)
	_, err = log.Consume(func(m jetstream.Msg) {
		fmt.Println("said", m.Subject()[strings.LastIndexByte(m.Subject(), '.')+1:])
	})
	must(err)
	for i := from; os.Getenv("NOTIFY_END") == ""; i++ {
		fmt.Println("call", i)
		n.EventLog.Append(callOf(i))
		stream.Sleep(ctx, 20*time.Millisecond)
	}
	for quiet := 0; quiet < 200; quiet++ { // longer than between two events
		if n.Stats().Pending > 0 {
			quiet = 0
		}
		stream.Sleep(ctx, 10*time.Millisecond)
	}
	fmt.Println("done")
}

// A fickleReceiver refuses three requests in ten, and closes its port now and then.
type fickleReceiver struct {
	t      *testing.T
	addr   string
	server *httptest.Server

	mu     sync.Mutex
	reform bool      // it refuses nothing from now on
	took   []request // requests answered 200
	asked  int
}

func (f *fickleReceiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		f.t.Error(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	if !f.reform && rand.N(10) < 3 {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	f.took = append(f.took, request{id: r.Header.Get("Webhook-Id"), form: url.Values(r.PostForm)})
}

// listenAgain opens its port, always at one address.
func (f *fickleReceiver) listenAgain() {
	l, err := net.Listen("tcp", f.addr)
	if err != nil {
		f.t.Error(err)
		return
	}
	if f.server == nil {
		f.addr = l.Addr().String()
	}
	f.server = &httptest.Server{Listener: l, Config: &http.Server{Handler: f}}
	f.server.Start()
}

// stopListening closes its port and its connections.
func (f *fickleReceiver) stopListening() { f.server.Close() }

// A victimRun is one run of runVictim's process.
type victimRun struct {
	calls    int      // the number of the next call
	eventIDs []string // ids of the log's events, in order
	done     bool
}

// runVictim runs a victim process for d, or until it is done if d is 0.
func (f *fickleReceiver) runVictim(dir string, before victimRun, after int, d time.Duration) victimRun {
	f.t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "NOTIFY_TEST=victim", "NOTIFY_DIR="+dir, "NOTIFY_URL=http://"+f.addr,
		fmt.Sprint("NOTIFY_FROM=", before.calls), fmt.Sprint("NOTIFY_AFTER=", after))
	if d == 0 {
		c.Env = append(c.Env, "NOTIFY_END=1")
	}
	out, err := c.StdoutPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		f.t.Fatal(err)
	}
	if d > 0 {
		defer time.AfterFunc(d, func() { c.Process.Kill() }).Stop()
	}
	l := before
	for lines := bufio.NewScanner(out); lines.Scan() && !l.done; {
		switch word, rest, _ := strings.Cut(lines.Text(), " "); word {
		case "call":
			n, err := strconv.Atoi(rest)
			if err != nil {
				f.t.Error(err)
			}
			l.calls = n + 1
		case "said":
			l.eventIDs = append(l.eventIDs, rest)
		case "done":
			l.done = true
		default: // also half a line
			if d == 0 {
				f.t.Error(lines.Text())
			}
		}
	}
	c.Process.Kill()
	c.Wait()
	return l
}

// TestKillLosesNoEvent kills a process at random moments, at 50 calls a second, while the receiver
// refuses three requests in ten and is away for 2 s now and then. No published event is
// lost in the log or at the receiver, none is out of order within its call, and repeated
// ones have the same id.
func TestKillLosesNoEvent(t *testing.T) {
	kills, shortest, longest := 10, 200*time.Millisecond, time.Second
	if *soak {
		kills, shortest, longest = 200, 300*time.Millisecond, 2*time.Second
	}
	f := &fickleReceiver{t: t, addr: loopbackOfItsOwn() + ":0"} // no other process takes its port while it is closed
	f.listenAgain()
	dir, stopAways := t.TempDir(), make(chan struct{})
	var aways sync.WaitGroup
	away := 0
	aways.Go(func() {
		for {
			select {
			case <-time.After(2 * time.Second):
			case <-stopAways:
				return
			}
			f.stopListening()
			away++
			<-time.After(2 * time.Second)
			f.listenAgain()
			select {
			case <-time.After(4 * time.Second):
			case <-stopAways:
				return
			}
		}
	})
	var l victimRun
	begin := time.Now()
	for range kills {
		l = f.runVictim(dir, l, len(l.eventIDs), shortest+rand.N(longest-shortest))
	}
	for d := longest; len(l.eventIDs) == 0; d *= 2 { // no run was long enough on this machine
		l = f.runVictim(dir, l, 0, d)
	}
	close(stopAways)
	aways.Wait()
	f.mu.Lock()
	f.reform = true
	f.mu.Unlock()
	took := time.Since(begin)
	end := f.runVictim(dir, victimRun{calls: l.calls}, 0, 0)
	f.stopListening()
	if !end.done {
		t.Fatal("the last life did not end")
	}
	if before := l.eventIDs; len(end.eventIDs) < len(before) || !slices.Equal(end.eventIDs[:len(before)], before) {
		t.Errorf("the log reported %d events and has %d: some are lost or changed", len(before), len(end.eventIDs))
	}

	delivered := map[string]bool{} // by webhook-id
	ids := map[string]string{}     // event to webhook-id
	last := map[string]int{}       // by call: the latest event received
	repeated, disordered, disguised := 0, 0, 0
	rank := map[string]int{"dial-out": 1, "answer": 2, "hangup": 3}
	for _, r := range f.took {
		call, typ := r.form.Get("CallID"), r.form.Get("EventType")
		if id, again := ids[call+typ]; again && id != r.id || delivered[r.id] && !again {
			disguised++
		}
		if delivered[r.id] {
			repeated++
			continue
		}
		delivered[r.id], ids[call+typ] = true, r.id
		if rank[typ] != last[call]+1 {
			disordered++
		}
		last[call] = rank[typ]
	}
	lost, known := 0, map[string]bool{}
	for _, id := range end.eventIDs {
		known[id] = true
	}
	for id := range delivered {
		event, _, _ := strings.Cut(id, "-")
		if !known[event] {
			t.Errorf("%s was delivered and is not in the log", id)
		}
		delete(known, event)
	}
	lost = len(known)
	if lost+disordered+disguised > 0 || len(end.eventIDs) == 0 {
		t.Errorf("%d events lost, %d out of order, %d repeated under another id", lost, disordered, disguised)
	}
	t.Logf("%d kills in %v, %d calls, %d events said, %d of them before the last kill was; receiver asked %d times and %d times away; %d events delivered, %d repetitions, %d lost, %d out of order",
		kills, took.Round(time.Second), l.calls, len(end.eventIDs), len(l.eventIDs), f.asked, away, len(delivered), repeated, lost, disordered)
}
