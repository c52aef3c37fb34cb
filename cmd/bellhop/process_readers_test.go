package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"time"
)

// readersOf is the environment variable that makes this binary the readers of an admin
// API.
const readersOf = "READERS_OF"

// startReaders starts readers. For a measurement they get the lowest priority: in
// production they have other machines. end stops them and returns their rates per
// second.
func (s *site) startReaders() (end func() tally) {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(self)
	if *soak {
		cmd = exec.Command("chrt", "--idle", "0", self)
	}
	cmd.Env = append(os.Environ(), readersOf+"="+s.admin.String())
	stdin, err := cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	p, begin := launch(s.t, "readers", cmd), time.Now()
	s.eventually("all follow the events", func() bool {
		var status struct{ Streams int }
		code, answer := s.request("GET", "/v1/status", nil) // may be 503
		return code == http.StatusOK && json.Unmarshal(answer, &status) == nil && status.Streams == followers
	})
	return func() tally {
		s.t.Helper()
		stdin.Close()
		p.exits(0, patience)
		var had tally
		if err := json.Unmarshal([]byte(p.out.String()), &had); err != nil {
			s.t.Fatalf("the readers wrote %s", p.out.String())
		}
		if had.Failed > 0 {
			s.t.Errorf("%.0f requests of the readers failed", had.Failed)
		}
		took := time.Since(begin).Seconds()
		for _, n := range []*float64{&had.Asked, &had.Pages, &had.Refused, &had.Followed} {
			*n /= took
		}
		return had
	}
}

const followers = 50

var errRefused = errors.New("503 Service Unavailable")

// A tally counts requests for pages, complete pages, requests answered with 503, other
// failures, and bytes of streams.
type tally struct{ Asked, Pages, Refused, Failed, Followed float64 }

// readers follows the events with several clients, and makes 200 requests a second,
// until the standard input ends.
func readers(admin string) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		io.Copy(io.Discard, os.Stdin)
	}()
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	var mu sync.Mutex
	var had tally
	count := func(what *float64, n int64) {
		mu.Lock()
		defer mu.Unlock()
		*what += float64(n)
	}
	ask := func(accept string, whole bool) (refused bool) {
		req, err := http.NewRequestWithContext(ctx, "GET", "http://"+admin+"/v1/events", nil)
		if err != nil {
			panic(err)
		}
		req.Header.Set("Authorization", "Bearer "+testToken)
		req.Header.Set("Accept", accept)
		res, err := transport.RoundTrip(req)
		var n int64
		if err == nil {
			n, err = io.Copy(io.Discard, res.Body)
			res.Body.Close()
			switch {
			case res.StatusCode == http.StatusServiceUnavailable && res.Header.Get("Retry-After") == "1":
				err = errRefused
			case res.StatusCode != http.StatusOK:
				err = errors.New(res.Status)
			}
		}
		switch {
		case err == errRefused:
			count(&had.Refused, 1)
		case !whole: // ends with ctx
			count(&had.Followed, n)
		case err == nil:
			count(&had.Pages, 1)
		case ctx.Err() == nil:
			count(&had.Failed, 1)
		}
		return err == errRefused
	}
	var all sync.WaitGroup
	for range followers {
		all.Go(func() {
			for ctx.Err() == nil && ask("text/event-stream", false) {
				again := time.NewTimer(time.Second)
				select {
				case <-again.C:
				case <-ctx.Done():
				}
			}
		})
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		<-tick.C
		count(&had.Asked, 1)
		all.Go(func() { ask("application/json", true) })
	}
	all.Wait()
	json.NewEncoder(os.Stdout).Encode(had)
}
