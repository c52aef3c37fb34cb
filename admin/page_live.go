package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	look "bellhop/admin/page"
	"bellhop/dialog"
	"bellhop/dialog/trace"
	"bellhop/notify"
)

const (
	lookEvery    = time.Second            // also when no event is said: not all that is shown is one
	lookAgain    = 250 * time.Millisecond // at the earliest
	latestEvents = 100
	latestEnds   = 10
)

var errManyStreams = errors.New("too many pages are open: close some")

// whole makes a handler of what a page is made of.
func (s *Server) whole(name, at, title string, data func(*http.Request) (any, error)) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		d, err := data(r)
		if err != nil {
			return err
		}
		return s.show(w, r, name, at, title, d)
	}
}

// live makes a handler of what a part of a page is made of: whenever that
// changes, it is sent again, as HTML, in an event named part. It ends with the
// session.
func (s *Server) live(part string, data func(*http.Request) (any, error)) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		who := accessOf(r.Context())
		if !s.streams.take(who.id) {
			return errManyStreams
		}
		defer s.streams.give(who.id)
		tail, err := s.config.Notifier.Tail(r.Context(), notify.Query{Extensions: who.extensions})
		if err != nil {
			return err
		}
		defer tail.Close()
		ctx, stop := context.WithCancel(r.Context())
		defer stop()
		defer context.AfterFunc(s.streams.ending, stop)()
		q := s.streams.newQueue(w)
		defer q.remove()
		if err := q.rc.SetReadDeadline(time.Time{}); err != nil { // that of the server is of requests that end
			return err
		}
		w.Header().Set("Content-Type", streamType)
		w.Header().Set("X-Accel-Buffering", "no") // nginx would wait for more
		leaveTurn(ctx)
		var shown string // the tag of what is
		for wrote := (time.Time{}); ctx.Err() == nil && s.inSession(r, time.Now()) != nil; {
			html, err := s.render(r, part, data)
			if err != nil {
				if ctx.Err() == nil {
					s.log.Warn("a page is not live", "part", part, "err", err)
				}
				return nil // it asks again
			}
			var message []byte
			if look.Tag(html) != shown {
				shown, message = look.Tag(html), partEvent(html)
			} else if time.Since(wrote) >= s.streams.quiet {
				message = []byte(":\n\n")
			}
			if message != nil {
				if q.send(message) != nil {
					return nil // nobody looks any more
				}
				wrote = time.Now()
			}
			pause(ctx, s.gate.pace(lookAgain))
			waiting, cancel := context.WithTimeout(ctx, lookEvery-lookAgain)
			tail.Next(waiting)
			cancel()
		}
		return nil
	}
}

// render makes a part of a page, while not too many others do.
func (s *Server) render(r *http.Request, part string, data func(*http.Request) (any, error)) ([]byte, error) {
	select {
	case s.streams.renders <- struct{}{}:
		defer func() { <-s.streams.renders }()
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	d, err := data(r)
	if err != nil {
		return nil, err
	}
	return look.Part(part, s.viewOf(r, "", "", d)), nil
}

// partEvent writes HTML as an event named part, whose id is its tag.
func partEvent(html []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "event: part\nid: %s\n", look.Tag(html))
	for line := range bytes.Lines(html) {
		b.WriteString("data: ")
		b.Write(bytes.TrimRight(line, "\r\n"))
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// A liveCall is a row of the calls that are up.
type liveCall struct {
	ID, State      string
	From, Name, To string
	Since          time.Time
	Parties        []string // extensions
}

type callsView struct {
	Live  []liveCall
	Ended []dialog.Event
}

func (s *Server) callsData(r *http.Request) (any, error) {
	calls, err := s.liveCalls(r.Context())
	if err != nil {
		return nil, err
	}
	var v callsView
	for _, c := range slices.Backward(calls) {
		l := liveCall{ID: c.ID, State: c.State, Since: c.Since}
		if !c.Answered.IsZero() {
			l.Since = c.Answered
		}
		for _, p := range c.Parties {
			if l.From == "" || p.Flow == dialog.Out {
				l.From, l.Name, l.To = p.CallerNum, p.CallerName, p.CalledNumber
			}
			if !slices.Contains(l.Parties, p.Extension.User) {
				l.Parties = append(l.Parties, p.Extension.User)
			}
		}
		v.Live = append(v.Live, l)
	}
	ends, err := s.latest(r.Context(), notify.Query{Type: string(dialog.Hangup), Limit: 4 * latestEnds})
	if err != nil {
		return nil, err
	}
	seen := make(map[string]bool)
	for _, e := range ends {
		up := slices.ContainsFunc(calls, func(c dialog.Call) bool { return c.ID == e.Call })
		if !up && !seen[e.Call] && len(v.Ended) < latestEnds {
			v.Ended = append(v.Ended, e)
		}
		seen[e.Call] = true
	}
	return v, nil
}

// latest reads the newest events that who makes the request of ctx sees.
func (s *Server) latest(ctx context.Context, q notify.Query) ([]dialog.Event, error) {
	q.Extensions = accessOf(ctx).extensions
	return s.config.Notifier.Latest(ctx, q)
}

type eventsView struct {
	Extension, Type string
	Paused          bool
	Types           []string
	Events          []dialog.Event
}

// Query is what the events are chosen by.
func (v eventsView) Query() string {
	return url.Values{"extension": {v.Extension}, "type": {v.Type}}.Encode()
}

// Linked reports whether each event has a link to its call.
func (eventsView) Linked() bool { return true }

func (s *Server) eventsData(r *http.Request) (any, error) {
	q := r.URL.Query()
	v := eventsView{Extension: strings.TrimSpace(q.Get("extension")), Paused: q.Get("paused") != "", Types: shownTypes}
	if slices.Contains(shownTypes, q.Get("type")) {
		v.Type = q.Get("type")
	}
	var err error
	v.Events, err = s.latest(r.Context(), notify.Query{Extension: v.Extension, Type: v.Type, Limit: latestEvents})
	return v, err
}

type callView struct {
	ID       string
	Events   []*dialog.Event
	Messages []trace.Shown // of its ladder, if there is one
}

// Linked is that of [eventsView]: this is the call.
func (callView) Linked() bool { return false }

func (s *Server) callPage(w http.ResponseWriter, r *http.Request) error {
	who := accessOf(r.Context())
	v := callView{ID: r.PathValue("id")}
	var err error
	q := notify.Query{Call: v.ID, Extensions: who.extensions, Limit: 1000}
	if v.Events, _, err = s.config.Notifier.Events(r.Context(), q); err != nil {
		return err
	}
	if len(v.Events) == 0 {
		return errNoPage
	}
	if who.may(toReadAll) && s.config.Trace != nil {
		c, ok, err := s.config.Trace(r.Context(), v.ID)
		if err != nil {
			return err
		}
		if ok {
			v.Messages = c.Shown()
		}
	}
	return s.show(w, r, "call", "/calls", "Call", v)
}

// ladder answers with the messages of a call: drawn, for the call's page, or in
// another form.
func (s *Server) ladder(w http.ResponseWriter, r *http.Request) error {
	as := r.URL.Query().Get("as")
	if as != "text" && as != "pcap" {
		as = "svg"
	}
	id := r.PathValue("id")
	out, err := s.draw(r.Context(), id, as, "/calls/"+url.PathEscape(id)+"#m")
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", out.ContentType)
	if out.Disposition != "" {
		w.Header().Set("Content-Disposition", out.Disposition)
	}
	if out.CSP != "" {
		w.Header().Set("Content-Security-Policy", out.CSP+"; frame-ancestors 'self'")
	}
	w.Write(out.Body)
	return nil
}

type healthView struct {
	Reasons  []string
	Degraded []string
	Tiles    []tile
	Failing  []notify.Subscription
}

// A tile is one number.
type tile struct {
	Name, Value, About string
	Bad                bool
}

func (s *Server) healthData(r *http.Request) (any, error) {
	calls, err := s.liveCalls(r.Context())
	if err != nil {
		return nil, err
	}
	stats := s.config.Notifier.Stats()
	count := func(n uint64) string { return fmt.Sprint(n) }
	v := healthView{Reasons: s.reasons(), Degraded: s.degraded(), Tiles: []tile{
		{Name: "Calls up", Value: fmt.Sprint(len(calls))},
		{Name: "Events said", Value: count(stats.Published), About: "since the start"},
		{Name: "Delivered", Value: count(stats.Delivered), About: "callbacks answered 2xx"},
		{Name: "Waiting", Value: fmt.Sprint(stats.Pending), About: "callbacks under way or to be tried again"},
		{Name: "Attempts failed", Value: count(stats.Failed), About: "and tried again"},
		{Name: "Expired", Value: count(stats.Expired), About: "callbacks no longer worth sending", Bad: stats.Expired > 0},
		{Name: "Refused", Value: count(stats.Refused), About: "by receivers that answered 410", Bad: stats.Refused > 0},
		{Name: "Events dropped", Value: count(stats.Dropped), About: "the store was slow or gone", Bad: stats.Dropped > 0},
	}}
	for _, sub := range s.config.Notifier.Subscriptions() {
		if sub.State != notify.StateActive {
			v.Failing = append(v.Failing, sub)
		}
	}
	return v, nil
}
