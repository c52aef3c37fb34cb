package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"bellhop/admin"
)

func eventsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "events",
		Short: "List call events, or follow them live",
		Long: `List the events of the event log, oldest first: all of them, or those after
--since.

With --follow, print new events as they happen, until interrupted. This starts
now, or at --since. No event is missed when bellhop restarts.

With --json, print one JSON object per line.`,
		Example: `  bellhop events --follow
  bellhop events --since 1h --type hangup
  bellhop events --call 3f0c… --json | jq .call_status`,
		Args: cobra.NoArgs,
	}
	r := serverFlag(cmd)
	f := cmd.Flags()
	follow := f.BoolP("follow", "f", false, "print new events as they happen")
	f.String("extension", "", "only events of this `extension`, like 101 or 101@pbx.example")
	f.String("type", "", "only events of this `type`")
	f.String("call", "", "only events of the call with this `id`")
	since := f.String("since", "", "start at this `time`, like 15m (ago), 09:30 or \"2026-01-31 09:30\", or after the event with this id")
	limit := f.Int("limit", 0, "stop after this `number` of events; 0 means no limit")
	complete(cmd, "type", typeWords()...)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		query := queryOf(f, "extension", "type", "call")
		if *since != "" {
			from, err := r.since(*since)
			if err != nil {
				return err
			}
			query.Set("since", from)
		}
		p := &eventPrinter{screen: screenOf(cmd.OutOrStdout()), remote: r}
		shown := 0
		if *follow {
			stream := &eventStream{remote: r, query: query, pause: 500 * time.Millisecond, quiet: time.Minute, note: func(text string) {
				fmt.Fprintln(cmd.ErrOrStderr(), "bellhop:", printable(text))
			}}
			return stream.follow(cmd.Context(), func(e json.RawMessage) error {
				if shown++; shown == *limit {
					return cmp.Or(p.print(e), errEnough)
				}
				return p.print(e)
			})
		}
		for e, err := range pages[json.RawMessage](cmd.Context(), r, "/v1/events", "since", pageSize(*limit, 1000), query) {
			if err != nil {
				return err
			}
			if err := p.print(e); err != nil {
				return err
			}
			if shown++; shown == *limit {
				break
			}
		}
		return nil
	}
	return cmd
}

// since is what the API calls so: a time, or the id of an event.
func (r *remote) since(s string) (string, error) {
	if t, ok := r.moment(s); ok {
		return t.UTC().Format(time.RFC3339Nano), nil
	}
	if len(s) == 32 && strings.Trim(s, "0123456789abcdef") == "" {
		return s, nil
	}
	return "", usage{fmt.Errorf("parse --since: %q is neither a time nor the id of an event: %s", s, momentHint)}
}

// An eventPrinter writes events as they come, in columns that were wide enough
// so far.
type eventPrinter struct {
	screen
	remote    *remote
	day       string // of the last event
	extension int    // width of the column
}

func (p *eventPrinter) print(line json.RawMessage) error {
	if p.remote.json {
		var b bytes.Buffer
		if err := json.Compact(&b, line); err != nil {
			return fmt.Errorf("decode event: %w: is the server a bellhop?", err)
		}
		b.WriteByte('\n')
		_, err := p.Write(escapeSteering(b.Bytes()))
		return err
	}
	var e admin.Event
	if err := json.Unmarshal(line, &e); err != nil {
		return fmt.Errorf("decode event: %w: is the server a bellhop?", err)
	}
	_, err := io.WriteString(p, p.row(e))
	return err
}

// wideRow is how wide a terminal must be to show the call of each event.
const wideRow = 132

const (
	widestNumbers = 36
	durationWidth = 7
)

// row is the line of an event. On a terminal, a day has a line of its own.
func (p *eventPrinter) row(e admin.Event) string {
	at, call, heading := p.remote.local(e.Timestamp), printable(e.CallID), ""
	when := at.Format("2006-01-02 15:04:05.000")
	numbers := widestNumbers
	if p.width > 0 {
		when = at.Format("15:04:05.000")
		if day := at.Format("Monday, 2006-01-02"); day != p.day {
			heading, p.day = p.paint(dim, day)+"\n", day
		}
		if p.width < wideRow {
			call = ""
		}
	}
	extension := printable(e.Extension)
	p.extension = max(p.extension, 4, utf8.RuneCountInString(extension))
	left := fmt.Sprintf("%s  %s  ", when, pad(extension, p.extension))
	status := printable(cmp.Or(e.CallStatus, e.SubscriptionState))
	type_ := printable(e.EventType)
	between := fmt.Sprintf("%-11s  %-11s  ", type_, status)
	length := ""
	if e.Duration != nil && *e.Duration > 0 {
		length = took(time.Duration(*e.Duration) * time.Microsecond)
	}
	if p.width > 0 {
		numbers = p.width - len(between) - utf8.RuneCountInString(left) - 2 - durationWidth
		if call != "" {
			numbers -= 2 + len(call)
		}
		numbers = min(max(numbers, leastCut), widestNumbers)
	}
	text := left + p.paint(tintOf(e), fmt.Sprintf("%-11s", type_)) + "  " + p.paint(statusTint(status), fmt.Sprintf("%-11s", status)) + "  " +
		pad(about(e), numbers) + "  " + fmt.Sprintf("%*s", durationWidth, length)
	if call != "" {
		text += "  " + p.paint(dim, call)
	}
	return heading + strings.TrimRight(text, " ") + "\n"
}

func tintOf(e admin.Event) color {
	switch e.EventType {
	case "dial-in", "dial-out", "ringing":
		return cyan
	case "answer":
		return green
	case "hangup":
		return plain
	}
	return yellow
}

func statusTint(status string) color {
	switch status {
	case "ANSWER", "resumed":
		return green
	case "BUSY", "NOANSWER", "CANCEL", "FORWARDED", "paused":
		return yellow
	case "CHANUNAVAIL", "CONGESTION", "UNKNOWN", "disabled":
		return red
	}
	return plain
}

// about says between which numbers it happened, or what else there is to say.
func about(e admin.Event) string {
	from, to := cmp.Or(e.CallerIDNum, e.CallerExtension), cmp.Or(e.CalledNumber, e.CalledExtension)
	switch {
	case from != "" || to != "":
		return printable(cmp.Or(from, "anonymous") + " → " + cmp.Or(to, "?"))
	case e.SubscriptionID != "":
		return printable(e.SubscriptionID + " " + e.Why)
	}
	return printable(e.UserAgent)
}

// An eventStream follows the events of a bellhop, over restarts of it.
type eventStream struct {
	remote *remote
	query  url.Values
	note   func(text string)
	pause  time.Duration // before the first try to connect again
	quiet  time.Duration // after which a connection is taken for dead: bellhop is heard every 15 s

	last string // id of the last event
	met  bool   // it was connected
	well bool   // something came since it connected
}

const maxPause = 10 * time.Second

// errEnough ends a stream that has no more to do.
var errEnough = errors.New("enough")

// follow calls each with every event until that fails, ctx ends, or bellhop says
// that it will not have it. A connection that is lost is made again, and goes on
// after the last event.
func (s *eventStream) follow(ctx context.Context, each func(json.RawMessage) error) error {
	pause, told := s.pause, false
	for {
		err := s.connect(ctx, func() {
			if told {
				s.note("reconnected")
			}
			told = false
		}, each)
		var lost *lostError
		switch {
		case errors.Is(err, errEnough) || ctx.Err() != nil:
			return nil
		case !errors.As(err, &lost) || !s.met:
			return err
		}
		if s.well {
			pause, s.well = s.pause, false
		}
		if !told {
			s.note(fmt.Sprintf("connection to %s lost: %v; reconnecting", s.remote.server, err))
			told = true
		}
		if !sleep(ctx, max(pause, lost.wait)) {
			return nil
		}
		pause = min(2*pause, maxPause)
	}
}

// A lostError is why a connection ended that is worth another try.
type lostError struct {
	error
	wait time.Duration // at least
}

func (e *lostError) Unwrap() error { return e.error }

// connect connects once, and reads events until the connection ends.
func (s *eventStream) connect(ctx context.Context, connected func(), each func(json.RawMessage) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watchdog := time.AfterFunc(s.quiet, cancel)
	defer watchdog.Stop()
	req, err := s.remote.request(ctx, "GET", "/v1/events?"+s.query.Encode(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/event-stream")
	if s.last != "" {
		req.Header.Set("Last-Event-ID", s.last)
	}
	resp, err := s.remote.send(req)
	if err != nil {
		return &lostError{err, 0}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		answer, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<16)) // the status must do
		err := s.remote.refusedBy(resp, answer)
		if resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests {
			wait, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
			return &lostError{err, time.Duration(wait) * time.Second}
		}
		return err
	}
	if kind := resp.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/event-stream") {
		return fmt.Errorf("GET %s: got %s instead of an event stream: this bellhop is too old for --follow", req.URL, cmp.Or(kind, "no content type"))
	}
	if !s.met && s.query.Get("since") == "" {
		// It began now. If it ends before an event comes, it goes on from here.
		if now, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
			s.query.Set("since", now.UTC().Format(time.RFC3339))
		}
	}
	s.met = true
	connected()
	return s.read(resp.Body, func() { watchdog.Reset(s.quiet) }, each)
}

// maxEvent is how long a line of a stream may be.
const maxEvent = 1 << 20

// read reads a stream of server-sent events. It calls heard for each line.
func (s *eventStream) read(body io.Reader, heard func(), each func(json.RawMessage) error) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxEvent)
	var data, id string
	for lines.Scan() {
		heard()
		s.well = true
		line := lines.Text()
		if line == "" {
			if data != "" {
				s.last = cmp.Or(id, s.last)
				if err := each(json.RawMessage(data)); err != nil {
					return err
				}
			}
			data, id = "", ""
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "data":
			data += value + "\n"
		case "id":
			id = value
		}
	}
	return &lostError{cmp.Or(lines.Err(), io.EOF), 0}
}
