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
	"sync/atomic"
	"time"
)

// readersOf is the variable that has this binary be the readers of an admin API.
const readersOf = "READERS_OF"

// startReaders starts readers. If they are measured, they are as idle as they can
// be: in earnest they have machines of their own. end ends them, and returns how many
// pages they had a second, how many they were to ask for again, and bytes of streams.
func (s *site) startReaders() (end func() (pages, refused, bytes float64)) {
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
		code, answer := s.request("GET", "/v1/status", nil) // may be refused for now
		return code == http.StatusOK && json.Unmarshal(answer, &status) == nil && status.Streams == followers
	})
	return func() (pages, refused, bytes float64) {
		s.t.Helper()
		stdin.Close()
		p.exits(0, patience)
		var had tally
		if err := json.Unmarshal([]byte(p.out.String()), &had); err != nil {
			s.t.Fatalf("the readers wrote %s", p.out.String())
		}
		if had.Failed > 0 {
			s.t.Errorf("%d requests of the readers failed", had.Failed)
		}
		took := time.Since(begin).Seconds()
		return float64(had.Pages) / took, float64(had.Refused) / took, float64(had.Followed) / took
	}
}

const followers = 50

var errRefused = errors.New("refused for now")

// A tally is what readers had: whole pages, requests that were refused for now,
// others that failed, and bytes of streams.
type tally struct{ Pages, Refused, Failed, Followed int64 }

// readers has clients follow the events, and makes 200 requests a second for
// them, until the standard input ends.
func readers(admin string) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		io.Copy(io.Discard, os.Stdin)
	}()
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	var had tally
	ask := func(accept string, count *int64, whole bool) (refused bool) {
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
			atomic.AddInt64(&had.Refused, 1)
		case !whole: // ends with ctx
			atomic.AddInt64(count, n)
		case err == nil:
			atomic.AddInt64(count, 1)
		case ctx.Err() == nil:
			atomic.AddInt64(&had.Failed, 1)
		}
		return err == errRefused
	}
	var all sync.WaitGroup
	for range followers {
		all.Go(func() {
			for ctx.Err() == nil && ask("text/event-stream", &had.Followed, false) {
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
		all.Go(func() { ask("application/json", &had.Pages, true) })
	}
	all.Wait()
	json.NewEncoder(os.Stdout).Encode(had)
}
