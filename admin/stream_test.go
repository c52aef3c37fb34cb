package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bellhop/admin/access"
	"bellhop/admin/limit"
	"bellhop/admin/ops"
	"bellhop/dialog"
	"bellhop/notify"
)

// feed is a client that streams events.
type feed struct {
	*testing.T
	resp  *http.Response
	lines *bufio.Reader
	stop  func()
}

// follow opens a stream.
func (r *rig) follow(query string, header ...string) *feed {
	r.Helper()
	ctx, cancel := context.WithCancel(r.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", r.url+"/v1/events"+query, nil)
	if err != nil {
		r.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.token)
	req.Header.Set("Accept", "text/event-stream")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		r.Fatal(err)
	}
	f := &feed{r.T, resp, bufio.NewReader(resp.Body), func() { cancel(); resp.Body.Close() }}
	r.Cleanup(f.stop)
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header.Get("Cache-Control") != "no-store" {
		r.Fatalf("%s: %d %v", query, resp.StatusCode, resp.Header)
	}
	return f
}

// block is the text between two empty lines of a stream: an event, or a comment.
type block struct {
	id, event string
	data      object
	comment   bool
}

// read reads one block. The end of the stream is an error.
func (f *feed) read() (b block, err error) {
	for {
		line, err := f.lines.ReadString('\n')
		if err != nil {
			return block{}, err
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "\n":
			return b, nil
		case name == "":
			b.comment = true
		case name == "id":
			b.id = value
		case name == "event":
			b.event = value
		case name == "data":
			if err := json.Unmarshal([]byte(value), &b.data); err != nil {
				f.Errorf("%v in %s", err, value)
			}
		default:
			f.Errorf("line %q", line)
		}
	}
}

// next reads the next event.
func (f *feed) next() block {
	f.Helper()
	for {
		b, err := f.read()
		if err != nil {
			f.Fatal(err)
		}
		if !b.comment {
			return b
		}
	}
}

// wantNext expects events with these ids next.
func (f *feed) wantNext(ids ...string) {
	f.Helper()
	for _, want := range ids {
		if b := f.next(); b.id != want {
			f.Fatalf("got %s %s, want %s", b.event, b.id, want)
		}
	}
}

// wantEnd expects the end of the stream, after comments at most.
func (f *feed) wantEnd() {
	f.Helper()
	for {
		b, err := f.read()
		if err == io.EOF {
			return
		}
		if err != nil || !b.comment {
			f.Fatalf("at the end: %+v, %v", b, err)
		}
	}
}

// event returns the event with an index, of an extension.
func event(i int, extension string) dialog.Event {
	return dialog.Event{
		ID: fmt.Sprintf("%032x", i), Call: fmt.Sprintf("%032x", 1_000_000+i/3), Seq: 1 + i%3, Party: "p",
		At: time.Now().UTC().Truncate(time.Microsecond), Type: []dialog.Type{dialog.DialOut, dialog.Answer, dialog.Hangup}[i%3],
		Flow: dialog.Out, Extension: dialog.Extension{User: extension},
	}
}

// idOf returns the id of the event with an index.
func idOf(i int) string { return event(i, "").ID }

// startNotifier runs the rig's notifier until the test ends.
func (r *rig) startNotifier() {
	ctx, stop := context.WithCancel(context.WithoutCancel(r.Context()))
	var run sync.WaitGroup
	run.Go(func() { r.notifier.Run(ctx) })
	r.Cleanup(func() { stop(); run.Wait() })
}

func TestStreamsEventsAsPublished(t *testing.T) {
	r := newRig(t, Config{})
	r.publishEvents(event(0, "101")) // before the stream
	f := r.follow("")
	hostile := event(1, "102")
	hostile.CallerName = "x\r\ndata: y\n\n<img src=x>\u2028"
	r.publishEvents(hostile, event(2, "0003*210"))
	var got []any
	for i := range 2 {
		b := f.next()
		if b.id != idOf(1+i) || b.event != []string{"answer", "hangup"}[i] {
			t.Errorf("got %s %s", b.event, b.id)
		}
		got = append(got, b.data)
	}
	if d := cmp.Diff(r.want(200, "GET", "/v1/events?since="+idOf(0), nil)["items"], any(got)); d != "" {
		t.Errorf("events (- as listed, + as streamed):\n%s", d)
	}
	if f.resp.Header.Get("X-Accel-Buffering") != "no" {
		t.Error("a proxy may keep events back")
	}

	for accept, stream := range map[string]bool{
		"text/event-stream":                   true,
		"Text/Event-Stream;q=0.9, */*":        true,
		"application/json":                    false,
		"*/*":                                 false,
		"application/json, text/event-stream": false,
	} {
		if !stream {
			r.want(200, "GET", "/v1/events", nil, "Accept", accept)
			continue
		}
		r.follow("", "Accept", accept).stop()
	}
}

func TestStreamAppliesFilters(t *testing.T) {
	r := newRig(t, Config{})
	bound, _ := r.newToken(object{"scope": "read", "extensions": []string{"102"}})
	tests := []struct {
		client *rig
		query  string
		want   []int
	}{
		{r, "", []int{0, 1, 2, 3, 4, 5}},
		{r, "?extension=101", []int{0, 2, 4}},
		{r, "?type=hangup", []int{2, 5}},
		{r, "?extension=101&type=hangup", []int{2}},
		{r, "?type=answer-out&limit=1", []int{1, 4}},
		{r, "?call=" + event(0, "").Call, []int{0, 1, 2}},
		{bound, "", []int{1, 3, 5}},
		{bound, "?type=hangup", []int{5}},
		{bound, "?extension=101", nil},
	}
	var feeds []*feed
	for _, tt := range tests {
		feeds = append(feeds, tt.client.follow(tt.query))
	}
	for i := range 6 {
		r.publishEvents(event(i, []string{"101", "102"}[i%2]))
	}
	for i, tt := range tests {
		for _, k := range tt.want {
			feeds[i].wantNext(idOf(k))
		}
	}
	r.server.streams.CloseAll()
	for _, f := range feeds {
		f.wantEnd()
	}

	for query, location := range map[string]string{
		"?type=dial-up":                     "query.type",
		"?extention=101":                    "query.extention",
		"?since=yesterday":                  "query.since",
		"?since=" + strings.Repeat("f", 32): "query.since",
		"?limit=0":                          "query.limit",
	} {
		r.wantProblem(422, location, "GET", "/v1/events"+query, nil, "Accept", "text/event-stream")
	}
	r.wantProblem(422, "header.Last-Event-ID", "GET", "/v1/events?since="+idOf(1), nil, "Accept", "text/event-stream", "Last-Event-ID", "x")
	bound.wantProblem(422, "header.Last-Event-ID", "GET", "/v1/events", nil, "Accept", "text/event-stream", "Last-Event-ID", idOf(0))
	r.wantProblem(401, "", "GET", "/v1/events", nil, "Accept", "text/event-stream", "Authorization", "Bearer x")
	if open := r.server.streams.Count(); open != 0 {
		t.Errorf("%d streams are counted that are not there", open)
	}
}

// A client resumes a stream after its last event, also at a bellhop that has just
// started.
func TestStreamResumesFromEvent(t *testing.T) {
	r := newRig(t, Config{})
	begin := time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)
	f := r.follow("")
	r.publishEvents(event(0, "101"), event(1, "101"))
	f.wantNext(idOf(0))
	f.stop()
	r.publishEvents(event(2, "101"))
	f = r.follow("", "Last-Event-ID", idOf(0))
	f.wantNext(idOf(1), idOf(2))
	r.publishEvents(event(3, "101"))
	f.wantNext(idOf(3))
	f.stop()

	n, err := notify.Open(t.Context(), r.js, notify.Config{Log: r.server.log})
	if err != nil {
		t.Fatal(err)
	}
	again := *r
	again.notifier, again.server = n, openServer(t, r.js, Config{Token: testToken, Config: ops.Config{Notifier: n, Log: r.server.log}})
	h := httptest.NewServer(again.server.Handler())
	defer h.Close()
	again.url = h.URL
	again.publishEvents(event(4, "101"))
	feeds := []*feed{
		again.follow("", "Last-Event-ID", idOf(1)),
		again.follow("?since="+begin, "Last-Event-ID", idOf(1)), // as a browser that reconnects
		again.follow("?since=" + idOf(1)),
		again.follow("?since=" + begin),
		again.follow("?type=hangup&since=" + idOf(1)),
		again.follow("?since=2220-01-01T00:00:00Z"),
	}
	again.publishEvents(event(5, "101"))
	for i, want := range [][]int{{2, 3, 4, 5}, {2, 3, 4, 5}, {2, 3, 4, 5}, {0, 1, 2, 3, 4, 5}, {2, 5}, {5}} {
		for _, k := range want {
			feeds[i].wantNext(idOf(k))
		}
	}
	again.server.streams.CloseAll()
	for _, f := range feeds {
		f.wantEnd()
	}
}

func TestFiftyStreamsGetAllEvents(t *testing.T) {
	r := newRig(t, Config{})
	r.startNotifier()
	const all = 300
	var clients sync.WaitGroup
	for range 50 {
		f := r.follow("?extension=101")
		clients.Go(func() {
			for i := range all {
				if b, err := f.read(); err != nil || b.id != idOf(i) {
					t.Errorf("event %d: got %s: %v", i, b.id, err)
					return
				}
			}
		})
	}
	for i := range all {
		e := event(i, "101")
		e.Call = "c" // one call, in order
		r.notifier.EventLog.Append([]dialog.Event{e, event(all+i, "102")})
	}
	clients.Wait()
}

// A client that does not read is disconnected, delays no other, and can resume.
func TestSlowStreamIsDisconnected(t *testing.T) {
	r := newRig(t, Config{})
	r.server.streams.WriteTimeout = time.Second
	r.startNotifier()
	slow, quick := r.follow(""), r.follow("")
	last := 0
	for ; r.server.streams.Count() == 2; last++ {
		e := event(last, "101")
		e.MessageText = strings.Repeat("x", 500_000) // more than any buffer holds
		r.notifier.EventLog.Append([]dialog.Event{e})
		quick.wantNext(idOf(last))
	}
	had := 0
	for ; ; had++ {
		if b, err := slow.read(); err != nil {
			break
		} else if b.id != idOf(had) {
			t.Fatalf("got %s, want event %d", b.id, had)
		}
	}
	if had == 0 || had == last {
		t.Fatalf("it had %d of %d events", had, last)
	}
	resumed := r.follow("", "Last-Event-ID", idOf(had-1))
	for i := had; i < last; i++ {
		resumed.wantNext(idOf(i))
	}
}

// The timeouts of the server do not end a stream.
func TestStreamOutlivesServerTimeouts(t *testing.T) {
	r := newRig(t, Config{})
	r.server.streams.KeepAlive = 20 * time.Millisecond
	h := httptest.NewUnstartedServer(nil)
	h.Config = r.server.HTTPServer()
	h.Config.ReadTimeout, h.Config.WriteTimeout = 50*time.Millisecond, 50*time.Millisecond
	h.Start()
	defer h.Close()
	r.url = h.URL
	f := r.follow("")
	defer f.stop()
	for range 20 {
		if b, err := f.read(); err != nil || !b.comment {
			t.Fatalf("%+v: %v", b, err)
		}
	}
	r.publishEvents(event(0, "101"))
	f.wantNext(idOf(0))
}

func TestStreamsEndAtShutdown(t *testing.T) {
	r := newRig(t, Config{})
	h := r.server.HTTPServer()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error)
	go func() { served <- h.Serve(l) }()
	r.url = "http://" + l.Addr().String()
	f, behind := r.follow(""), r.follow("")
	r.publishEvents(event(0, "101"))
	f.wantNext(idOf(0))
	if _, err := behind.lines.Peek(1); err != nil { // it was sent
		t.Fatal(err)
	}
	if err := h.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != http.ErrServerClosed {
		t.Error(err)
	}
	f.wantEnd()
	behind.wantNext(idOf(0))
	behind.wantEnd()
	if open := r.server.streams.Count(); open != 0 {
		t.Errorf("%d streams are left", open)
	}
}

func TestStreamEndsWithItsToken(t *testing.T) {
	r := newRig(t, Config{})
	reader, id := r.newToken(object{"scope": "read"})
	f, mine := reader.follow(""), r.follow("")
	r.publishEvents(event(0, "101"))
	f.wantNext(idOf(0))
	r.want(204, "DELETE", "/v1/tokens/"+id, nil)
	r.publishEvents(event(1, "101"))
	f.wantEnd()
	mine.wantNext(idOf(0), idOf(1))
}

func TestExcessStreamsAreRefused(t *testing.T) {
	r := newRig(t, Config{})
	other, id := r.newToken(object{"scope": "read"})
	wantRefused := func(r *rig) {
		t.Helper()
		resp, out := r.do("GET", "/v1/events", nil, "Accept", "text/event-stream")
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("one too many: %d %v %v", resp.StatusCode, resp.Header, out)
		}
	}
	each := func(n int, token string, do func(token string)) {
		for range n {
			do(token)
		}
	}
	acquire := func(token string) {
		if !r.server.streams.Acquire(token) {
			t.Fatal("no room for a stream of " + token)
		}
	}
	release := r.server.streams.Release
	each(limit.MaxStreamsPerToken, id, acquire)
	each(limit.MaxStreams-limit.MaxStreamsPerToken-1, "others", acquire)
	wantRefused(other) // it has reached its own limit
	third, _ := r.newToken(object{"scope": "read"})
	f := third.follow("")
	wantRefused(third) // the limit of all tokens is reached
	third.want(200, "GET", "/v1/events", nil)
	r.follow("").stop() // except for the token of the config
	f.stop()
	for tick := time.NewTicker(time.Millisecond); r.server.streams.Count() >= limit.MaxStreams; {
		<-tick.C
	}
	third.follow("").stop()
	r.waitUntil("the stream ends", func() bool { return r.server.streams.Count() == limit.MaxStreams-1 })
	each(limit.MaxStreamsPerToken, id, release)
	each(limit.MaxStreams-limit.MaxStreamsPerToken-1, "others", release)
	each(limit.MaxStreamsPerToken, access.ConfigID, acquire)
	wantRefused(r)
	third.follow("").stop()
	each(limit.MaxStreamsPerToken, access.ConfigID, release)
}
