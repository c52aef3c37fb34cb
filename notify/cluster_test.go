package notify

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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

	"bellhop/dialog"
	"bellhop/notify/stream"
)

// A cluster is three NATS servers, each a process of its own, so that one can be killed
// like a failing machine.
type cluster struct {
	t       *testing.T
	servers map[string]*exec.Cmd // by name
	urls    string
}

// startCluster starts three servers and waits until they accept streams. They end with the
// test.
func startCluster(t *testing.T) *cluster {
	c := &cluster{t: t, servers: make(map[string]*exec.Cmd)}
	var urls, routes []string
	host := loopbackOfItsOwn()
	for i := range 3 {
		routes = append(routes, fmt.Sprintf("%s:%d", host, 6222+i))
	}
	for i := range 3 {
		name := fmt.Sprint("s", i)
		p := exec.Command(os.Args[0])
		p.Env = append(os.Environ(), "NOTIFY_TEST=nats", "NOTIFY_ROUTES="+strings.Join(routes, ","), fmt.Sprint("NOTIFY_SERVER=", i), "NOTIFY_DIR="+t.TempDir())
		in, err := p.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := p.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { in.Close(); p.Process.Kill(); p.Wait() })
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatalf("server %s: %v", name, err)
		}
		urls, c.servers[name] = append(urls, strings.TrimSpace(line)), p
	}
	c.urls = strings.Join(urls, ",")
	js, closeStore := c.connectNode()
	defer closeStore()
	for begin := time.Now(); ; stream.Sleep(t.Context(), 50*time.Millisecond) {
		_, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "READY", Replicas: 3})
		if err == nil {
			return c
		}
		if time.Since(begin) > longWait {
			t.Fatal(err)
		}
	}
}

// loopbackOfItsOwn returns a loopback address that no other process uses: servers of a
// cluster must know each other's ports before they start.
func loopbackOfItsOwn() string {
	return fmt.Sprintf("127.%d.%d.%d", 1+rand.N(254), rand.N(256), 1+rand.N(254))
}

// natsServer runs one server of a cluster until its input ends.
func natsServer() {
	must := func(err error) {
		if err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
	}
	number, err := strconv.Atoi(os.Getenv("NOTIFY_SERVER"))
	must(err)
	o := &server.Options{
		ServerName: fmt.Sprint("s", number), Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: os.Getenv("NOTIFY_DIR"),
		NoLog: true, NoSigs: true, Cluster: server.ClusterOpts{Name: "test"},
	}
	for i, route := range strings.Split(os.Getenv("NOTIFY_ROUTES"), ",") {
		u, err := url.Parse("nats://" + route)
		must(err)
		o.Routes = append(o.Routes, u)
		if i == number {
			o.Cluster.Host = u.Hostname()
			o.Cluster.Port, err = strconv.Atoi(u.Port())
			must(err)
		}
	}
	s, err := server.NewServer(o)
	must(err)
	s.Start()
	if !s.ReadyForConnections(longWait) {
		must(errors.New("it does not begin"))
	}
	fmt.Println(s.ClientURL())
	bufio.NewReader(os.Stdin).ReadByte()
}

// connectNode connects to the cluster as bellhop does.
func (c *cluster) connectNode() (jetstream.JetStream, func()) {
	c.t.Helper()
	js, closeStore, err := connectTo(c.urls)
	if err != nil {
		c.t.Fatal(err)
	}
	return js, closeStore
}

func connectTo(urls string) (jetstream.JetStream, func(), error) {
	nc, err := nats.Connect(urls, nats.MaxReconnects(-1), nats.ReconnectWait(time.Second), nats.PingInterval(2*time.Second), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(nc)
	return js, nc.Close, err
}

// startNode starts a notifier with a connection of its own.
func (c *cluster) startNode(name string) (n *Notifier, stop func()) {
	c.t.Helper()
	js, closeStore := c.connectNode()
	n, stopRun := startNotifier(c.t, js, Config{Allow: loopback, Node: name, Replicas: 3, PublishAtOnce: true})
	stop = sync.OnceFunc(func() { stopRun(); closeStore() })
	c.t.Cleanup(stop)
	return n, stop
}

// leaderOf returns the name of the server that leads a stream.
func (c *cluster) leaderOf(n *Notifier, stream string) string {
	c.t.Helper()
	s, err := n.js.Stream(c.t.Context(), stream)
	if err != nil {
		c.t.Fatal(err)
	}
	return s.CachedInfo().Cluster.Leader
}

// killServer kills a server.
func (c *cluster) killServer(name string) {
	c.servers[name].Process.Kill()
	c.servers[name].Wait()
}

// waitForLease waits until a node delivers.
func waitForLease(t *testing.T, n *Notifier, node string) {
	t.Helper()
	for begin := time.Now(); ; stream.Sleep(t.Context(), 10*time.Millisecond) {
		e, err := n.lease.kv.Get(t.Context(), leaseKey)
		if err == nil && strings.HasPrefix(string(e.Value()), node+" ") {
			return
		}
		if time.Since(begin) > longWait {
			t.Fatalf("node %s does not get the lease: %v, %v", node, e, err)
		}
	}
}

// waitUntilPublished waits until a node has published all events given to it.
func waitUntilPublished(t *testing.T, n *Notifier) {
	t.Helper()
	for begin := time.Now(); n.Stats().Unpublished > 0; stream.Sleep(t.Context(), time.Millisecond) {
		if time.Since(begin) > longWait {
			t.Fatalf("%d events unpublished: %v", n.Stats().Unpublished, n.EventLog.Health())
		}
	}
}

// A recordingReceiver records the callbacks that it accepts, and when.
type recordingReceiver struct {
	*receiver
	mu    sync.Mutex
	taken []request
	last  time.Time
	gap   time.Duration // the longest time between two callbacks
}

func newRecordingReceiver(t *testing.T) *recordingReceiver {
	k := &recordingReceiver{}
	k.receiver = newReceiver(t, func(r request) int {
		k.mu.Lock()
		defer k.mu.Unlock()
		now := time.Now()
		if !k.last.IsZero() {
			k.gap = max(k.gap, now.Sub(k.last))
		}
		k.last = now
		k.taken = append(k.taken, r)
		return 200
	})
	return k
}

// awaitCalls waits for the hangups of calls, and checks that each call is complete and in
// order. It returns how many callbacks were repeated, under the same id.
func (k *recordingReceiver) awaitCalls(t *testing.T, calls []int) (repeated int) {
	t.Helper()
	for begin := time.Now(); ; stream.Sleep(t.Context(), 10*time.Millisecond) {
		k.mu.Lock()
		complete := map[string]bool{}
		for _, r := range k.taken {
			if r.form.Get("EventType") == "hangup" {
				complete[r.form.Get("CallID")] = true
			}
		}
		k.mu.Unlock()
		missing := slices.DeleteFunc(slices.Clone(calls), func(i int) bool { return complete[callOf(i)[0].Call] })
		if len(missing) == 0 {
			break
		}
		if time.Since(begin) > longWait {
			t.Fatalf("%d of %d calls have no hangup: %v", len(missing), len(calls), missing[:min(10, len(missing))])
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	order, ids := map[string][]string{}, map[string]string{}
	for _, r := range k.taken {
		call, event := r.form.Get("CallID"), r.form.Get("EventType")
		if id := ids[call+event]; id != "" {
			repeated++
			if id != r.id {
				t.Errorf("%s of call %s came as %s and as %s", event, call, id, r.id)
			}
			continue
		}
		ids[call+event] = r.id
		order[call] = append(order[call], event)
	}
	for _, i := range calls {
		if got := strings.Join(order[callOf(i)[0].Call], " "); got != "dial-out answer hangup" {
			t.Errorf("call %d: %q", i, got)
		}
	}
	return repeated
}

func (k *recordingReceiver) newSubscription() Subscription {
	s := testSubscription("", k.URL)
	s.Dialect, s.MaxInFlight = Telphin, 16
	return s
}

// wantLogged checks the number of events in the log.
func wantLogged(t *testing.T, n *Notifier, want int) {
	t.Helper()
	info, err := eventStream(t, n).Info(t.Context())
	if err != nil || info.State.Msgs != uint64(want) {
		t.Fatalf("%d events in the log, want %d: %v", info.State.Msgs, want, err)
	}
}

// Two nodes publish events, of the same calls too. One node delivers each event once and in
// order; the other takes over when it stops.
func TestTwoNodes(t *testing.T) {
	c := startCluster(t)
	k := newRecordingReceiver(t)
	one, stopOne := c.startNode("ONE")
	waitForLease(t, one, "ONE")
	two, _ := c.startNode("TWO")
	mustSubscribe(t, two, k.newSubscription())

	var calls []int
	call := func(nodes ...*Notifier) { // each event by another node, once the one before is published
		i := len(calls)
		calls = append(calls, i)
		for k, e := range callOf(i) {
			n := nodes[(i+k)%len(nodes)]
			n.EventLog.Append([]dialog.Event{e})
			waitUntilPublished(t, n)
		}
	}
	for range 30 {
		call(one, two)
	}
	for range 10 { // both publish the same events
		i := len(calls)
		calls = append(calls, i)
		all := callOf(i)
		one.EventLog.Append(slices.Clone(all))
		two.EventLog.Append(slices.Clone(all))
	}
	if repeated := k.awaitCalls(t, calls); repeated > 0 {
		t.Errorf("%d callbacks are repeated", repeated)
	}
	if d := two.Stats().Delivered; d > 0 {
		t.Errorf("the other node has delivered %d", d)
	}
	stopOne()
	waitForLease(t, two, "TWO")
	for range 10 {
		call(two)
	}
	if repeated := k.awaitCalls(t, calls); repeated > 0 {
		t.Errorf("%d callbacks are repeated", repeated)
	}
	waitUntilPublished(t, two)
	wantLogged(t, two, 3*len(calls))
}

// A subscription made on one node applies to the events that another publishes next,
// whichever node delivers.
func TestSubscriptionOfAnotherNode(t *testing.T) {
	c := startCluster(t)
	one, _ := c.startNode("ONE")
	waitForLease(t, one, "ONE")
	two, _ := c.startNode("TWO")
	r := newReceiver(t, nil)
	nodes := []*Notifier{one, two}
	for i := range 40 {
		at, says := nodes[i%2], nodes[i/2%2]
		s := testSubscription("", r.URL)
		s.Dialect = Telphin
		s = mustSubscribe(t, at, s)
		says.EventLog.Append(callOf(i)[2:])
		if got := <-r.got; got.id != callOf(i)[2].ID+"-"+s.ID {
			t.Errorf("got %s, want the hangup of call %d for %s", got.id, i, s.ID)
		}
		if err := nodes[i/4%2].Unsubscribe(t.Context(), s.ID, 0); err == ErrNotFound {
			err = at.Unsubscribe(t.Context(), s.ID, 0) // that node does not know it yet
			if err != nil {
				t.Fatal(err)
			}
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if len(r.got) > 0 {
		t.Errorf("%d callbacks too many", len(r.got))
	}
}

// runMate is a node in a process of its own. It publishes calls and prints the number of
// each once it is in the log, until it is killed.
func runMate() {
	must := func(err error) {
		if err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
	}
	js, _, err := connectTo(os.Getenv("NOTIFY_URLS"))
	must(err)
	ctx := context.Background()
	n, err := Open(ctx, js, Config{Allow: loopback, Node: os.Getenv("NOTIFY_NODE"), Replicas: 3, PublishAtOnce: true})
	must(err)
	go n.Run(ctx)
	from, err := strconv.Atoi(os.Getenv("NOTIFY_FROM"))
	must(err)
	for i := from; ; i++ {
		n.EventLog.Append(callOf(i))
		for n.Stats().Unpublished > 0 {
			stream.Sleep(ctx, time.Millisecond)
		}
		fmt.Println(i)
		stream.Sleep(ctx, 20*time.Millisecond)
	}
}

// The delivering node is killed while both publish calls: the other takes over, and nothing
// is lost or out of order.
func TestNodeKilled(t *testing.T) {
	c := startCluster(t)
	k := newRecordingReceiver(t)
	js, closeStore := c.connectNode()
	t.Cleanup(closeStore)
	n, err := Open(t.Context(), js, Config{Allow: loopback, Node: "TWO", Replicas: 3, PublishAtOnce: true})
	if err != nil {
		t.Fatal(err)
	}
	mustSubscribe(t, n, k.newSubscription())

	const theirs = 1_000_000
	p := exec.Command(os.Args[0])
	p.Env = append(os.Environ(), "NOTIFY_TEST=mate", "NOTIFY_URLS="+c.urls, "NOTIFY_NODE=ONE", fmt.Sprint("NOTIFY_FROM=", theirs))
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Process.Kill(); p.Wait() })
	waitForLease(t, n, "ONE")
	t.Cleanup(runNotifier(n))

	var calls []int
	for lines := bufio.NewScanner(out); lines.Scan(); {
		i, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatal(lines.Text())
		}
		calls = append(calls, i, i-theirs)
		n.EventLog.Append(callOf(i - theirs))
		if i == theirs+100 {
			break
		}
	}
	p.Process.Kill()
	p.Wait()
	killed := time.Now()
	for i := 101; time.Since(killed) < leaseExpiry; i++ {
		calls = append(calls, i)
		n.EventLog.Append(callOf(i))
		stream.Sleep(t.Context(), 20*time.Millisecond)
	}
	waitForLease(t, n, "TWO")
	moved := time.Since(killed)
	repeated := k.awaitCalls(t, calls)
	t.Logf("%d calls; the other node delivers after %v; %v without a callback; %d of %d callbacks repeated",
		len(calls), moved.Round(10*time.Millisecond), k.gap.Round(10*time.Millisecond), repeated, len(k.taken))
}

// The delivering node loses the store: it stops before the other begins.
func TestNodeCutOff(t *testing.T) {
	c := startCluster(t)
	var mu sync.Mutex
	first, under := true, 0
	together := false
	received, left := make(chan request, 10), make(chan request, 10)
	r := newReceiver(t, func(r request) int {
		mu.Lock()
		hang := first
		first = false
		under++
		together = together || under > 1
		mu.Unlock()
		received <- r
		if hang {
			<-r.Context().Done()
		}
		mu.Lock()
		under--
		mu.Unlock()
		left <- r
		return 200
	})
	one, _ := c.startNode("ONE")
	waitForLease(t, one, "ONE")
	two, _ := c.startNode("TWO")
	s := testSubscription("", r.URL)
	s.Dialect, s.Timeout = Telphin, Duration(time.Minute)
	mustSubscribe(t, two, s)
	two.EventLog.Append(callOf(1)[2:])
	<-received
	one.js.Conn().Close()
	again := <-received
	mu.Lock()
	defer mu.Unlock()
	if together {
		t.Error("two nodes deliver at once")
	}
	if want := callOf(1)[2].ID; !strings.HasPrefix(again.id, want+"-") {
		t.Errorf("then %s comes, want %s", again.id, want)
	}
}

// The server that leads the log is killed under load: events published meanwhile wait, and
// none is lost.
func TestStoreLeaderKilled(t *testing.T) {
	c := startCluster(t)
	k := newRecordingReceiver(t)
	one, _ := c.startNode("ONE")
	waitForLease(t, one, "ONE")
	two, _ := c.startNode("TWO")
	mustSubscribe(t, two, k.newSubscription())
	leader := c.leaderOf(one, "bellhop_events")

	const all = 500 // 50 a second
	var calls []int
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := range all {
		<-tick.C
		calls = append(calls, i)
		[]*Notifier{one, two}[i%2].EventLog.Append(callOf(i))
		if i == all/5 {
			c.killServer(leader)
		}
	}
	repeated := k.awaitCalls(t, calls)
	waitUntilPublished(t, one)
	waitUntilPublished(t, two)
	wantLogged(t, two, 3*all)
	if d := one.Stats().Dropped + two.Stats().Dropped; d > 0 {
		t.Errorf("%d events are dropped", d)
	}
	t.Logf("%d calls; %v without a callback; %d of %d callbacks repeated; %s leads bellhop_events after %s",
		all, k.gap.Round(10*time.Millisecond), repeated, len(k.taken), c.leaderOf(two, "bellhop_events"), leader)
}

// Tails on two nodes return the events of both, even if the server that leads the log is
// killed.
func TestTailsOfACluster(t *testing.T) {
	c := startCluster(t)
	one, _ := c.startNode("ONE")
	two, _ := c.startNode("TWO")
	nodes := []*Notifier{one, two}
	const calls = 200
	var readers sync.WaitGroup
	got := make([][]string, len(nodes))
	for i, n := range nodes {
		tail := openTail(t, n, Query{})
		readers.Go(func() {
			var err error
			if got[i], err = nextIDs(t.Context(), tail, 3*calls); err != nil {
				t.Error(err)
			}
		})
	}
	leader := c.leaderOf(one, "bellhop_events")
	for i := range calls {
		nodes[i%2].EventLog.Append(callOf(i))
		if i == calls/2 {
			c.killServer(leader)
		}
	}
	readers.Wait()
	want := logOrder(t, two)
	for i, got := range got {
		if !slices.Equal(got, want) {
			t.Errorf("node %d: %d events that are not the log's %d", i, len(got), len(want))
		}
	}
	resumed := openTail(t, two, Query{After: want[len(want)-2]})
	if got, err := nextIDs(t.Context(), resumed, 1); err != nil || !slices.Equal(got, want[len(want)-1:]) {
		t.Errorf("resumed: got %v, %v; want %v", got, err, want[len(want)-1:])
	}
}

// openTail opens a Tail, and closes it when the test ends.
func openTail(t *testing.T, n *Notifier, q Query) *Tail {
	t.Helper()
	tail, err := n.EventLog.Tail(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tail.Close)
	return tail
}

// nextIDs returns the ids of the next events of a tail, exactly want of them.
func nextIDs(ctx context.Context, t *Tail, want int) (ids []string, err error) {
	for len(ids) < want {
		events, err := t.Next(ctx)
		if err != nil {
			return ids, fmt.Errorf("%d of %d events: %w", len(ids), want, err)
		}
		for _, e := range events {
			ids = append(ids, e.ID)
		}
	}
	return ids, nil
}

// logOrder returns the ids of all events in the log.
func logOrder(t *testing.T, n *Notifier) (ids []string) {
	t.Helper()
	for q := (Query{Limit: 1000}); ; q.After = ids[len(ids)-1] {
		events, more, err := n.Events(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			ids = append(ids, e.ID)
		}
		if !more {
			return ids
		}
	}
}
