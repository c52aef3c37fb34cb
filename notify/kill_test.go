package notify

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// victim is a process that says calls from NOTIFY_FROM up to NOTIFY_TO, and
// prints how many of them have been said, until it is killed. With nothing left
// to say it waits until everything is delivered, and prints "done".
func victim() {
	must := func(err error) {
		if err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
	}
	from, err := strconv.Atoi(os.Getenv("NOTIFY_FROM"))
	must(err)
	to, err := strconv.Atoi(os.Getenv("NOTIFY_TO"))
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
		s := sub("", os.Getenv("NOTIFY_URL"))
		s.Dialect = Telphin
		_, err := n.Subscribe(ctx, s)
		must(err)
	}
	go n.Run(ctx)
	for i := from; i < to; i++ {
		n.Say(callOf(i))
		for n.Stats().Unsaid > 0 {
			pause(ctx, time.Millisecond)
		}
		fmt.Println(i + 1)
	}
	for quiet := 0; quiet < 200; quiet++ { // not only between two events
		if n.Stats().Pending > 0 {
			quiet = 0
		}
		pause(ctx, 10*time.Millisecond)
	}
	fmt.Println("done")
}

// Killed at random moments while the receiver fails three times in ten, nothing
// that was said is lost or out of order, and repetitions have the same id.
func TestKill(t *testing.T) {
	const kills = 5
	var mu sync.Mutex
	var taken []request
	life := 0
	r := newReceiver(t, func(r request) int {
		mu.Lock()
		defer mu.Unlock()
		if life < kills && rand.N(10) < 3 {
			return 500
		}
		taken = append(taken, r)
		return 200
	})
	dir, said := t.TempDir(), 0
	for {
		to := 1_000_000
		if life == kills {
			to = said // and wait for the end
		}
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), "NOTIFY_TEST=victim", "NOTIFY_DIR="+dir, "NOTIFY_URL="+r.URL,
			fmt.Sprint("NOTIFY_FROM=", said), fmt.Sprint("NOTIFY_TO=", to))
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		deadline := said + 20 + rand.N(200)
		done := false
		for lines := bufio.NewScanner(out); lines.Scan(); {
			n, err := strconv.Atoi(lines.Text())
			if done = err != nil; done {
				if lines.Text() != "done" {
					t.Error(lines.Text())
				}
				break
			}
			if said = n; said == deadline {
				break
			}
		}
		c.Process.Kill()
		c.Wait()
		if done {
			break
		}
		mu.Lock()
		life++
		mu.Unlock()
	}
	mu.Lock()
	defer mu.Unlock()
	if err := check(taken, 0, said); err != nil {
		t.Error(err)
	}
	t.Logf("%d calls said in %d lives, %d of %d callbacks repeated", said, kills+1, len(taken)-3*said, len(taken))
}
