package admin

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bellhop/dialog"
)

// pipeListener accepts connections without a kernel buffer.
type pipeListener chan net.Conn

func (l pipeListener) Accept() (net.Conn, error) {
	if c, ok := <-l; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (l pipeListener) Close() error   { close(l); return nil }
func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// Streams that are not read take little memory, and do not disturb others.
func TestUnreadStreamsTakeLittleMemory(t *testing.T) {
	r := newRig(t, Config{})
	r.startNotifier()
	var later atomic.Int64 // added to the clock that ages buffered bytes
	r.server.streams.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	r.server.streams.WriteTimeout = time.Hour
	r.server.streams.MaxBuffered = 1 << 20
	listener := make(pipeListener)
	h := r.server.HTTPServer()
	served := make(chan error)
	go func() { served <- h.Serve(listener) }()
	const streams, all, size = 64, 150, 40_000
	for range streams {
		client, server := net.Pipe()
		listener <- server
		defer client.Close()
		fmt.Fprintf(client, "GET /v1/events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nAuthorization: Bearer %s\r\n\r\n", r.token)
		if _, err := http.ReadResponse(bufio.NewReaderSize(client, 16), nil); err != nil {
			t.Fatal(err)
		}
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	say := func(i int) {
		e := event(3*i+2, "101")
		e.Call, e.MessageText = "c", strings.Repeat("x", size)
		r.notifier.EventLog.Append([]dialog.Event{e})
	}
	say(0)
	r.waitUntil("every stream that nobody reads waits, or is closed", func() bool {
		sizes := r.server.streams.Sizes()
		return len(sizes) > 0 && !slices.Contains(sizes, 0)
	})
	later.Store(int64(time.Hour)) // no reading client is slower than the stuck ones
	reader := r.follow("")
	var got sync.WaitGroup
	got.Go(func() {
		for i := 1; i < all; i++ {
			if b, err := reader.read(); err != nil || b.id != idOf(3*i+2) {
				t.Errorf("event %d: got %s: %v", i, b.id, err)
				return
			}
		}
	})
	for i := 1; i < all; i++ {
		say(i)
	}
	got.Wait()
	if after := heap(); after > before+64<<20 { // the last events, 16 MB, are in memory once for all streams
		t.Errorf("the heap grew from %d MB to %d MB", before>>20, after>>20)
	}
	sizes, buffered := r.server.streams.Sizes(), 0
	for _, size := range sizes {
		if buffered += size; size > 256<<10 {
			t.Errorf("%d bytes are buffered for one stream", size)
		}
	}
	if most := r.server.streams.MaxBuffered; buffered > most {
		t.Errorf("%d bytes are buffered", buffered)
	} else if open := len(sizes); open > 1+most/size || open < most/(256<<10) {
		t.Errorf("%d streams are open", open)
	}
	h.Close()
	<-served
}

// A page of events is limited in bytes too, and the next page continues it.
func TestEventPageIsBoundedInBytes(t *testing.T) {
	r := newRig(t, Config{})
	const all = 40
	var events []dialog.Event
	for i := range all {
		e := event(i, "101")
		e.Call, e.MessageText = "c", strings.Repeat("x", 60_000)
		events = append(events, e)
	}
	r.publishEvents(events...)
	got, pages, next := 0, 0, ""
	for more := true; more; more = next != "" {
		resp, text := r.raw("GET", "/v1/events?limit=1000&since="+next, nil)
		if resp.StatusCode != 200 || len(text) > 1<<20+100_000 {
			t.Fatalf("%d, %d bytes", resp.StatusCode, len(text))
		}
		out := r.want(200, "GET", "/v1/events?limit=1000&since="+next, nil)
		for _, item := range out["items"].([]any) {
			if id := item.(object)["event_id"]; id != idOf(got) {
				t.Fatalf("event %d is %v", got, id)
			}
			got++
		}
		next, pages = out["next"].(string), pages+1
	}
	if got != all || pages < 3 {
		t.Errorf("%d events on %d pages", got, pages)
	}
}
