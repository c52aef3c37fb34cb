package main

import (
	"bufio"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"bellhop/sip"
)

// streamed has the events that a client received, with the number of hangups.
type streamed struct {
	ids            []string
	answers, hangs int
}

// follow follows the events after the client's last one. It closes enough after that
// many answers and hangups in total, and sends the end of the stream to ended: do not
// access had before.
func (s *site) follow(had *streamed, answers, hangs int) (enough chan struct{}, ended chan error) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), "GET", "http://"+s.admin.String()+"/v1/events", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testToken)
	req.Header.Set("Accept", "text/event-stream")
	if n := len(had.ids); n > 0 {
		req.Header.Set("Last-Event-ID", had.ids[n-1])
	}
	res, err := client.Transport.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		s.t.Fatalf("events: %s", res.Status)
	}
	lines := bufio.NewScanner(res.Body)
	enough, ended = make(chan struct{}), make(chan error, 1)
	go func() {
		defer res.Body.Close()
		for lines.Scan() {
			if id, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
				had.ids = append(had.ids, id)
			}
			switch lines.Text() {
			case "event: answer":
				had.answers++
			case "event: hangup":
				had.hangs++
			default:
				continue
			}
			if had.answers == answers && had.hangs == hangs {
				close(enough)
			}
		}
		ended <- lines.Err()
	}()
	return enough, ended
}

// TestStreamsLiveEvents follows the events of a bellhop that is killed with live calls
// and restarted: no event is missing or repeated.
func TestStreamsLiveEvents(t *testing.T) {
	t.Parallel()
	const calls = 20
	s := newSite(t, sip.UDP, sip.UDP)
	p := s.serve()
	var had streamed
	enough, ended := s.follow(&had, calls, 0)
	phones, pbx := s.place("held", calls, 100)
	await(t, "every answer", enough)
	pbx.acknowledged(calls)
	p.signal(syscall.SIGKILL)
	<-p.done
	<-ended

	p = s.serve()
	enough, ended = s.follow(&had, calls, calls)
	for call := 1; call <= calls; call++ {
		phones.hangUp(call)
	}
	await(t, "every hangup", enough)
	phones.exits(0, patience)
	pbx.exits(0, patience)
	var log struct {
		Items []struct {
			ID string `json:"event_id"`
		}
	}
	s.api("GET", "/v1/events?limit=1000", nil, &log)
	p.stop()
	if err := <-ended; err != nil {
		t.Errorf("the stream ends with %v when bellhop stops", err)
	}
	var want []string
	for _, e := range log.Items {
		want = append(want, e.ID)
	}
	if !slices.Equal(had.ids, want) {
		t.Errorf("%d events were streamed, and %d are in the log:\n%v\n%v", len(had.ids), len(want), had.ids, want)
	}
}

// await waits for a channel.
func await(t *testing.T, what string, come <-chan struct{}) {
	t.Helper()
	select {
	case <-come:
	case <-time.After(patience):
		t.Fatalf("after %v, %s has not come", patience, what)
	}
}
