package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "bellhop/admin/v1"
)

// A reply is a response of a fake server of events.
type reply func(w http.ResponseWriter, r *http.Request)

// streaming sends text as a stream and closes the connection.
func streaming(text string) reply {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Date", "Sat, 31 Jan 2026 09:30:00 GMT")
		fmt.Fprint(w, text)
	}
}

// silent sends text as a stream and keeps the connection open.
func silent(text string) reply {
	return func(w http.ResponseWriter, r *http.Request) {
		streaming(text)(w, r)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
}

func refusing(status int) reply {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
}

func event(id string) string {
	return fmt.Sprintf("id: %s\nevent: hangup\ndata: {\"event_id\": %q}\n\n", id, id)
}

// askedFrom returns the position at which a request wants the stream to begin.
func askedFrom(r *http.Request) string {
	return strings.TrimSpace(r.URL.Query().Get("since") + " " + r.Header.Get("Last-Event-ID"))
}

// follow reads from a server that sends the replies one after another, until limit
// events have arrived.
func follow(t *testing.T, query url.Values, limit int, answers ...reply) (came, asked, notes []string, err error) {
	t.Helper()
	var mu sync.Mutex
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		if r.URL.Path != "/v1/events" || r.Header.Get("Accept") != "text/event-stream" || r.Header.Get("Authorization") != "Bearer "+testToken {
			t.Errorf("%s %v", r.URL, r.Header)
		}
		n := len(asked)
		asked = append(asked, askedFrom(r))
		mu.Unlock()
		if n >= len(answers) {
			t.Errorf("request %d is one too many", n+1)
			w.WriteHeader(http.StatusNotFound)
			return
		}
		answers[n](w, r)
	}))
	defer server.Close()
	s := &eventStream{
		client: &apiClient{server: server.URL, token: testToken, resolved: true},
		query:  query, backoff: time.Millisecond, idleTimeout: patience,
		notify: func(text string) { notes = append(notes, text) },
	}
	err = s.followEvents(t.Context(), func(line json.RawMessage) error {
		var e v1.Event
		if err := json.Unmarshal(line, &e); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		if came = append(came, e.EventID); len(came) == limit {
			return errLimitReached
		}
		return nil
	})
	return came, asked, notes, err
}

func TestStreamResumesAfterLostConnection(t *testing.T) {
	for _, tt := range []struct {
		name    string
		since   string
		answers []reply
		came    []string
		asked   []string
	}{
		{
			"after the last event",
			"", []reply{streaming(event("a") + ":\n\n" + event("b")), streaming(event("c"))},
			[]string{"a", "b", "c"}, []string{"", "2026-01-31T09:30:00Z b"},
		},
		{
			"before the first event: from when it began",
			"", []reply{streaming(":\n\n"), streaming(event("a"))},
			[]string{"a"}, []string{"", "2026-01-31T09:30:00Z"},
		},
		{
			"before the first event: from where it was to begin",
			"x", []reply{streaming(""), streaming(event("a"))},
			[]string{"a"}, []string{"x", "x"},
		},
		{
			"an event that was cut is none",
			"x", []reply{streaming(event("a") + "id: b\ndata: {\"event_id\""), streaming(event("b"))},
			[]string{"a", "b"}, []string{"x", "x a"},
		},
		{
			"while it starts again",
			"x", []reply{streaming(event("a")), refusing(503), refusing(502), refusing(429), streaming(event("b"))},
			[]string{"a", "b"}, []string{"x", "x a", "x a", "x a", "x a"},
		},
		{
			"what a stream may look like",
			"x", []reply{streaming("retry: 5\r\n\r\nid:a\r\ndata:{\r\ndata:\"event_id\":\"a\"}\r\nother\r\n\r\ndata: {\"event_id\": \"b\"}\n\n"), streaming(event("c"))},
			[]string{"a", "b", "c"}, []string{"x", "x a"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			query := url.Values{}
			if tt.since != "" {
				query.Set("since", tt.since)
			}
			came, asked, notes, err := follow(t, query, len(tt.came), tt.answers...)
			if err != nil || !slices.Equal(came, tt.came) || !slices.Equal(asked, tt.asked) {
				t.Errorf("came %q, asked %q, %v; want %q, %q", came, asked, err, tt.came, tt.asked)
			}
			if len(notes) != 2 || !strings.HasSuffix(notes[0], "; reconnecting") || notes[1] != "reconnected" {
				t.Errorf("notes are %q", notes)
			}
		})
	}
}

// TestStreamEndsOnRejection gets responses after which a new connection is useless.
func TestStreamEndsOnRejection(t *testing.T) {
	for _, tt := range []struct {
		name    string
		answers []reply
		want    string
	}{
		{"at first", []reply{refusing(503)}, "503 Service Unavailable"},
		{"no token", []reply{refusing(401)}, "rejected (401 Unauthorized)"},
		{"token is revoked", []reply{streaming(event("a")), refusing(401)}, "rejected (401 Unauthorized)"},
		{"no longer in the log", []reply{streaming(event("a")), refusing(422)}, "422"},
		{"no stream", []reply{func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"items":[]}`) }}, "instead of an event stream: this bellhop is too old"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, _, err := follow(t, url.Values{}, 2, tt.answers...)
			wantError(t, err, tt.want)
		})
	}
}

// TestStreamReconnectsWhenSilent has a server that stops sending events and comments.
func TestStreamReconnectsWhenSilent(t *testing.T) {
	var came atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if came.Add(1) == 1 {
			silent(event("a"))(w, r)
			return
		}
		streaming(event("b"))(w, r)
	}))
	defer server.Close()
	s := &eventStream{client: &apiClient{server: server.URL, token: testToken, resolved: true}, query: url.Values{}, idleTimeout: 50 * time.Millisecond, notify: func(string) {}}
	var ids []string
	err := s.followEvents(t.Context(), func(line json.RawMessage) error {
		if ids = append(ids, string(line)); len(ids) == 2 {
			return errLimitReached
		}
		return nil
	})
	if err != nil || len(ids) != 2 || !strings.Contains(ids[1], `"b"`) {
		t.Errorf("%v, %q", err, ids)
	}
}

// TestStreamEndsOnInterrupt ends by a signal, or because the output is closed.
func TestStreamEndsOnInterrupt(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(silent(event("a"))))
	defer server.Close()
	stream := func() *eventStream {
		return &eventStream{client: &apiClient{server: server.URL, token: testToken, resolved: true}, query: url.Values{}, idleTimeout: patience}
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := stream().followEvents(ctx, func(json.RawMessage) error { cancel(); return nil }); err != nil {
		t.Errorf("after an interrupt: %v", err)
	}
	broken := errors.New("broken pipe")
	if err := stream().followEvents(t.Context(), func(json.RawMessage) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("without a reader: %v", err)
	}
}

// TestFormatsEventRows formats events for terminals of several widths and for a file.
func TestFormatsEventRows(t *testing.T) {
	talked := int64(3_723_000_000)
	at := time.Date(2026, 1, 31, 9, 30, 0, 123e6, time.UTC)
	events := []v1.Event{
		{Timestamp: at, Extension: "101", EventType: "dial-out", CallStatus: "CALLING", CallerIDNum: "101", CalledNumber: "+442071838750", CallID: strings.Repeat("c", 32)},
		{Timestamp: at, Extension: "0003*2101", EventType: "hangup", CallStatus: "CHANUNAVAIL", CallerIDNum: strings.Repeat("9", 40), Duration: &talked},
		{Timestamp: at.Add(24 * time.Hour), Extension: "101", EventType: "subscription-state", SubscriptionState: "disabled", SubscriptionID: "4xq7", Why: "410 \x1b[31mGone"},
		{Timestamp: at, Extension: "101", EventType: "registered", UserAgent: "Yealink"},
	}
	show := func(p eventPrinter) string {
		p.client = &apiClient{utc: true}
		var b strings.Builder
		for _, e := range events {
			b.WriteString(p.formatRow(e))
		}
		return b.String()
	}
	for _, tt := range []struct {
		name string
		terminal
		want string
	}{
		{"80", terminal{width: 80}, `Saturday, 2026-01-31
09:30:00.123  101   dial-out     CALLING      101 → +442071838750
09:30:00.123  0003*2101  hangup       CHANUNAVAIL  9999999999999999999…    1h02m
Sunday, 2026-02-01
09:30:00.123  101        subscription-state  disabled     4xq7 410 [31…
Saturday, 2026-01-31
09:30:00.123  101        registered                Yealink
`},
		{"160", terminal{width: 160}, `Saturday, 2026-01-31
09:30:00.123  101   dial-out     CALLING      101 → +442071838750                            cccccccccccccccccccccccccccccccc
09:30:00.123  0003*2101  hangup       CHANUNAVAIL  99999999999999999999999999999999999…    1h02m
Sunday, 2026-02-01
09:30:00.123  101        subscription-state  disabled     4xq7 410 [31mGone
Saturday, 2026-01-31
09:30:00.123  101        registered                Yealink
`},
		{"output to a file", terminal{}, `2026-01-31 09:30:00.123  101   dial-out     CALLING      101 → +442071838750                            cccccccccccccccccccccccccccccccc
2026-01-31 09:30:00.123  0003*2101  hangup       CHANUNAVAIL  99999999999999999999999999999999999…    1h02m
2026-02-01 09:30:00.123  101        subscription-state  disabled     4xq7 410 [31mGone
2026-01-31 09:30:00.123  101        registered                Yealink
`},
	} {
		if got := show(eventPrinter{terminal: tt.terminal}); got != tt.want {
			t.Errorf("%s:\n%s\nwant\n%s", tt.name, got, tt.want)
		}
	}
	if got := show(eventPrinter{terminal: terminal{width: 80, color: true}}); !strings.Contains(got, "\x1b[36mdial-out   \x1b[0m") || !strings.Contains(got, "\x1b[31mCHANUNAVAIL\x1b[0m") {
		t.Errorf("in color:\n%q", got)
	}
}
