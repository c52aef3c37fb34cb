package page

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

	"bellhop/admin/access"
	"bellhop/admin/limit"
	"bellhop/admin/ops"
	"bellhop/dialog"
	"bellhop/dialog/trace"
	"bellhop/notify"
)

const (
	refreshInterval    = time.Second            // after which parts are rendered even without an event
	minRefreshInterval = 250 * time.Millisecond // minimum time between two renders
	maxLatestEvents    = 100
	maxEndedCalls      = 10
)

// maxRenders is the maximum number of page parts that are rendered at a time. It bounds
// the memory of renders, which [limit.Streams] does not count.
const maxRenders = 4

var errManyStreams = errors.New("too many pages are open: close some")

// wholePage returns a handler that shows the page with a name. data returns what it
// shows. at is the path of its entry in the navigation.
func (p *Page) wholePage(name, at, title string, data func(*http.Request) (any, error)) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		d, err := data(r)
		if err != nil {
			return err
		}
		return p.showPage(w, r, name, at, title, d)
	}
}

// livePart returns a handler that streams a part of a page. It renders the part after an
// event, or after refreshInterval without one, and sends the HTML as a server-sent event
// if it has changed. The stream ends with the session.
func (p *Page) livePart(part string, data func(*http.Request) (any, error)) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		client := access.ClientOf(r.Context())
		if !p.streams.Acquire(client.ID) {
			return errManyStreams
		}
		defer p.streams.Release(client.ID)
		tail, err := p.ops.TailEvents(r.Context(), notify.Query{})
		if err != nil {
			return err
		}
		defer tail.Close()
		q, err := p.streams.Open(w, r)
		if err != nil {
			return err
		}
		defer q.Close()
		ctx := q.Context()
		var shown string // tag of the HTML that the client shows
		for wrote := (time.Time{}); ctx.Err() == nil && p.auth.SessionClient(r, time.Now()) != nil; {
			html, err := p.renderPart(r, part, data)
			if err != nil {
				if ctx.Err() == nil {
					p.log.Warn("live page part failed", "part", part, "err", err)
				}
				return nil // the page connects again
			}
			var message []byte
			if Tag(html) != shown {
				shown, message = Tag(html), encodePart(html)
			} else if time.Since(wrote) >= p.streams.KeepAlive {
				message = []byte(":\n\n")
			}
			if message != nil {
				if q.Send(message) != nil {
					return nil // the client has left
				}
				wrote = time.Now()
			}
			limit.Sleep(ctx, p.streams.Pace(minRefreshInterval))
			waiting, cancel := context.WithTimeout(ctx, refreshInterval-minRefreshInterval)
			tail.Next(waiting)
			cancel()
		}
		return nil
	}
}

// renderPart renders a part of a page. While maxRenders other parts are being rendered,
// it waits.
func (p *Page) renderPart(r *http.Request, part string, data func(*http.Request) (any, error)) ([]byte, error) {
	select {
	case p.renders <- struct{}{}:
		defer func() { <-p.renders }()
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	d, err := data(r)
	if err != nil {
		return nil, err
	}
	return Part(part, p.viewOf(r, "", "", d)), nil
}

// encodePart returns HTML as a server-sent event named part, whose id is the HTML's
// tag.
func encodePart(html []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "event: part\nid: %s\n", Tag(html))
	for line := range bytes.Lines(html) {
		b.WriteString("data: ")
		b.Write(bytes.TrimRight(line, "\r\n"))
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// liveCall is a row of the list of live calls.
type liveCall struct {
	ID, State      string
	From, Name, To string
	Since          time.Time
	Parties        []string // extensions
}

type callsView struct {
	Live  []liveCall
	Ended []*dialog.Event
}

func (p *Page) callsData(r *http.Request) (any, error) {
	calls, err := p.ops.Calls(r.Context())
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
	ends, err := p.ops.LatestEvents(r.Context(), notify.Query{Type: string(dialog.Hangup), Limit: 4 * maxEndedCalls})
	if err != nil {
		return nil, err
	}
	seen := make(map[string]bool)
	for _, e := range ends {
		up := slices.ContainsFunc(calls, func(c dialog.Call) bool { return c.ID == e.Call })
		if !up && !seen[e.Call] && len(v.Ended) < maxEndedCalls {
			v.Ended = append(v.Ended, e)
		}
		seen[e.Call] = true
	}
	return v, nil
}

type eventsView struct {
	Extension, Type string
	Paused          bool
	Types           []string
	Events          []*dialog.Event
}

// Query returns the query of the URL that shows these events.
func (v eventsView) Query() string {
	return url.Values{"extension": {v.Extension}, "type": {v.Type}}.Encode()
}

// Linked reports whether each event links to its call.
func (eventsView) Linked() bool { return true }

func (p *Page) eventsData(r *http.Request) (any, error) {
	q := r.URL.Query()
	v := eventsView{Extension: strings.TrimSpace(q.Get("extension")), Paused: q.Get("paused") != "", Types: shownTypes}
	if slices.Contains(shownTypes, q.Get("type")) {
		v.Type = q.Get("type")
	}
	var err error
	v.Events, err = p.ops.LatestEvents(r.Context(), notify.Query{Extension: v.Extension, Type: v.Type, Limit: maxLatestEvents})
	return v, err
}

type callView struct {
	ID       string
	Events   []*dialog.Event
	Messages []trace.DisplayMessage // of the ladder diagram, if any are kept
}

// Linked returns false: the events are already on the page of their call.
func (callView) Linked() bool { return false }

func (p *Page) callPage(w http.ResponseWriter, r *http.Request) error {
	v := callView{ID: r.PathValue("id")}
	var err error
	q := notify.Query{Call: v.ID, Limit: 1000}
	if v.Events, _, err = p.ops.Events(r.Context(), q); err != nil {
		return err
	}
	if len(v.Events) == 0 {
		return errNoPage
	}
	if access.ClientOf(r.Context()).Permits(access.PermitReadAll) {
		c, err := p.ops.Trace(r.Context(), v.ID)
		switch {
		case err == nil:
			v.Messages = c.DisplayMessages()
		case !errors.Is(err, ops.ErrNoTrace):
			return err
		}
	}
	return p.showPage(w, r, "call", "/calls", "Call", v)
}

// showLadder answers with the ladder diagram of a call as a picture, or as text or
// pcap.
func (p *Page) showLadder(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	c, err := p.ops.Trace(r.Context(), id)
	if err != nil {
		return err
	}
	switch r.URL.Query().Get("as") {
	case "text":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Write([]byte(c.Text()))
	case "pcap":
		w.Header().Set("Content-Type", "application/vnd.tcpdump.pcap")
		w.Header().Set("Content-Disposition", `attachment; filename="`+c.ID+`.pcap"`)
		w.Write(c.PCAP())
	default:
		w.Header().Set("Content-Type", "image/svg+xml")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'")
		w.Write([]byte(c.SVG("/calls/" + url.PathEscape(id) + "#m")))
	}
	return nil
}

type healthView struct {
	Reasons  []string
	Degraded []string
	Tiles    []tile
	Failing  []notify.Subscription

	Listeners    []ops.Listener
	PBX          []ops.Target
	Trunks       []ops.Trunk
	Certificates []ops.Certificate
}

// tile is one number on the health page.
type tile struct {
	Name, Value, About string
	Bad                bool
}

func (p *Page) healthData(r *http.Request) (any, error) {
	calls, err := p.ops.Calls(r.Context())
	if err != nil {
		return nil, err
	}
	stats := p.ops.Stats()
	count := func(n uint64) string { return fmt.Sprint(n) }
	connections, listeners, certificates := p.ops.Edge()
	open := connections.TCP + connections.TLS + connections.WS + connections.WSS
	pbx, trunks := p.ops.Peers()
	v := healthView{Listeners: listeners, PBX: pbx, Trunks: trunks, Certificates: certificates, Reasons: p.ops.Unready(), Degraded: p.ops.Degraded(), Tiles: []tile{
		{Name: "Live calls", Value: fmt.Sprint(len(calls))},
		{Name: "Events published", Value: count(stats.Published), About: "since the start"},
		{Name: "Delivered", Value: count(stats.Delivered), About: "callbacks answered with 2xx"},
		{Name: "Waiting", Value: fmt.Sprint(stats.Pending), About: "callbacks queued, in flight or due for a retry"},
		{Name: "Failed attempts", Value: count(stats.Failed), About: "each followed by a retry"},
		{Name: "Expired", Value: count(stats.Expired), About: "callbacks not delivered in time", Bad: stats.Expired > 0},
		{Name: "Refused", Value: count(stats.Refused), About: "callbacks answered with 410 Gone", Bad: stats.Refused > 0},
		{Name: "Events dropped", Value: count(stats.Dropped), About: "lost while the store was slow or down", Bad: stats.Dropped > 0},
		{Name: "SIP connections", Value: fmt.Sprint(open), About: fmt.Sprintf("TCP %d, TLS %d, WS %d, WSS %d", connections.TCP, connections.TLS, connections.WS, connections.WSS)},
		{Name: "Connections refused", Value: count(connections.Refused), About: "because too many were open", Bad: connections.Refused > 0},
		{Name: "Handshakes failed", Value: count(connections.HandshakesFailed), About: "of TLS; scanners cause some"},
	}}
	for _, sub := range p.ops.Subscriptions(r.Context()) {
		if sub.State != notify.StateActive {
			v.Failing = append(v.Failing, sub)
		}
	}
	return v, nil
}
