package cli

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

	v1 "bellhop/admin/v1"
	"bellhop/notify/subscription"
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
	r := addServerFlags(cmd)
	f := cmd.Flags()
	follow := f.BoolP("follow", "f", false, "print new events as they happen")
	f.String("extension", "", "only events of this `extension`, like 101 or 101@pbx.example")
	f.String("type", "", "only events of this `type`")
	f.String("call", "", "only events of the call with this `id`")
	since := f.String("since", "", "start at this `time`, like 15m (ago), 09:30 or \"2026-01-31 09:30\", or after the event with this id")
	limit := f.Int("limit", 0, "stop after this `number` of events; 0 means no limit")
	completeFlag(cmd, "type", subscription.Words()...)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		query := flagQuery(f, "extension", "type", "call")
		if *since != "" {
			from, err := r.parseSince(*since)
			if err != nil {
				return err
			}
			query.Set("since", from)
		}
		p := &eventPrinter{terminal: terminalOf(cmd.OutOrStdout()), client: r, limit: *limit}
		if *follow {
			stream := &eventStream{client: r, query: query, backoff: 500 * time.Millisecond, idleTimeout: time.Minute, notify: func(text string) {
				fmt.Fprintln(cmd.ErrOrStderr(), "bellhop:", stripControls(text))
			}}
			return stream.followEvents(cmd.Context(), p.printEvent)
		}
		for e, err := range listPages[json.RawMessage](cmd.Context(), r, "/v1/events", "since", pageSize(*limit, 1000), query) {
			if err == nil {
				err = p.printEvent(e)
			}
			if errors.Is(err, errLimitReached) {
				return nil
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

// parseSince returns the query parameter since for a time or the id of an event.
func (r *apiClient) parseSince(s string) (string, error) {
	if t, ok := r.parseTime(s); ok {
		return t.UTC().Format(time.RFC3339Nano), nil
	}
	if len(s) == 32 && strings.Trim(s, "0123456789abcdef") == "" {
		return s, nil
	}
	return "", usageError{fmt.Errorf("parse --since: %q is neither a time nor the id of an event: %s", s, timeHint)}
}

// An eventPrinter prints events as they arrive. The column of extensions is as wide as
// the widest extension so far.
type eventPrinter struct {
	terminal
	client    *apiClient
	limit     int    // number of events to print; 0: no limit
	printed   int    // number of events so far
	day       string // of the last event
	extension int    // width of the column
}

// errLimitReached is the error of printEvent for the last event within the limit.
var errLimitReached = errors.New("enough")

// printEvent prints an event, as a row or as a line of JSON.
func (p *eventPrinter) printEvent(line json.RawMessage) error {
	var out []byte
	if p.client.json {
		var b bytes.Buffer
		if err := json.Compact(&b, line); err != nil {
			return fmt.Errorf("decode event: %w: is the server a bellhop?", err)
		}
		b.WriteByte('\n')
		out = escapeControls(b.Bytes())
	} else {
		var e v1.Event
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("decode event: %w: is the server a bellhop?", err)
		}
		out = []byte(p.formatRow(e))
	}
	if _, err := p.Write(out); err != nil {
		return err
	}
	if p.printed++; p.printed == p.limit {
		return errLimitReached
	}
	return nil
}

// callColumnWidth is the width that a terminal must have to show the call of each
// event.
const callColumnWidth = 132

const (
	maxNumbersWidth = 36
	durationWidth   = 7
)

// formatRow formats an event as a row. On a terminal, a heading with the day precedes
// the first event of a day.
func (p *eventPrinter) formatRow(e v1.Event) string {
	at, call, heading := p.client.inZone(e.Timestamp), stripControls(e.CallID), ""
	when := at.Format("2006-01-02 15:04:05.000")
	numbers := maxNumbersWidth
	if p.width > 0 {
		when = at.Format("15:04:05.000")
		if day := at.Format("Monday, 2006-01-02"); day != p.day {
			heading, p.day = p.colorize(dim, day)+"\n", day
		}
		if p.width < callColumnWidth {
			call = ""
		}
	}
	extension := stripControls(e.Extension)
	p.extension = max(p.extension, 4, utf8.RuneCountInString(extension))
	left := fmt.Sprintf("%s  %s  ", when, padText(extension, p.extension))
	status := stripControls(cmp.Or(e.CallStatus, e.SubscriptionState))
	type_ := stripControls(e.EventType)
	between := fmt.Sprintf("%-11s  %-11s  ", type_, status)
	length := ""
	if e.Duration != nil && *e.Duration > 0 {
		length = formatDuration(time.Duration(*e.Duration) * time.Microsecond)
	}
	if p.width > 0 {
		numbers = p.width - len(between) - utf8.RuneCountInString(left) - 2 - durationWidth
		if call != "" {
			numbers -= 2 + len(call)
		}
		numbers = min(max(numbers, minCutWidth), maxNumbersWidth)
	}
	text := left + p.colorize(typeColor(e), fmt.Sprintf("%-11s", type_)) + "  " + p.colorize(statusColor(status), fmt.Sprintf("%-11s", status)) + "  " +
		padText(describeParties(e), numbers) + "  " + fmt.Sprintf("%*s", durationWidth, length)
	if call != "" {
		text += "  " + p.colorize(dim, call)
	}
	return heading + strings.TrimRight(text, " ") + "\n"
}

// typeColor returns the color of an event's type.
func typeColor(e v1.Event) color {
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

// statusColor returns the color of a status.
func statusColor(status string) color {
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

// describeParties returns the caller and the callee of an event. Without them, it
// returns the subscription and the reason, or else the user agent.
func describeParties(e v1.Event) string {
	from, to := cmp.Or(e.CallerIDNum, e.CallerExtension), cmp.Or(e.CalledNumber, e.CalledExtension)
	switch {
	case from != "" || to != "":
		return stripControls(cmp.Or(from, "anonymous") + " → " + cmp.Or(to, "?"))
	case e.SubscriptionID != "":
		return stripControls(e.SubscriptionID + " " + e.Why)
	}
	return stripControls(e.UserAgent)
}

// An eventStream reads events as they happen, across restarts of bellhop.
type eventStream struct {
	client      *apiClient
	query       url.Values
	notify      func(text string)
	backoff     time.Duration // wait before the first attempt to reconnect
	idleTimeout time.Duration // after which a silent connection is dead: bellhop sends a comment every 15 s

	lastID    string // id of the last event
	connected bool   // an attempt to connect has succeeded
	received  bool   // a line has arrived on the current connection
}

const maxPause = 10 * time.Second

// followEvents calls the function each with every event. It returns when that function
// returns an error, when ctx ends, when bellhop rejects the request, or when the first
// attempt to connect fails. After a lost connection it connects again, and resumes after
// the last event.
func (s *eventStream) followEvents(ctx context.Context, each func(json.RawMessage) error) error {
	pause, told := s.backoff, false
	for {
		err := s.connectOnce(ctx, func() {
			if told {
				s.notify("reconnected")
			}
			told = false
		}, each)
		var lost *connectionError
		switch {
		case errors.Is(err, errLimitReached) || ctx.Err() != nil:
			return nil
		case !errors.As(err, &lost) || !s.connected:
			return err
		}
		if s.received {
			pause, s.received = s.backoff, false
		}
		if !told {
			s.notify(fmt.Sprintf("connection to %s lost: %v; reconnecting", s.client.server, err))
			told = true
		}
		if !sleepContext(ctx, max(pause, lost.wait)) {
			return nil
		}
		pause = min(2*pause, maxPause)
	}
}

// A connectionError is the reason why a connection failed or ended, if another attempt
// may succeed.
type connectionError struct {
	error
	wait time.Duration // shortest time until the next attempt
}

func (e *connectionError) Unwrap() error { return e.error }

// connectOnce connects once and calls connected. It then calls the function each with
// every event, until the connection ends or that function returns an error.
func (s *eventStream) connectOnce(ctx context.Context, connected func(), each func(json.RawMessage) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watchdog := time.AfterFunc(s.idleTimeout, cancel)
	defer watchdog.Stop()
	req, err := s.client.newRequest(ctx, "GET", "/v1/events?"+s.query.Encode(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/event-stream")
	if s.lastID != "" {
		req.Header.Set("Last-Event-ID", s.lastID)
	}
	resp, err := s.client.sendRequest(req)
	if err != nil {
		return &connectionError{err, 0}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		answer, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<16)) // without a body the status suffices
		err := s.client.newResponseError(resp, answer)
		if resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests {
			wait, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
			return &connectionError{err, time.Duration(wait) * time.Second}
		}
		return err
	}
	if kind := resp.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/event-stream") {
		return fmt.Errorf("GET %s: got %s instead of an event stream: this bellhop is too old for --follow", req.URL, cmp.Or(kind, "no content type"))
	}
	if !s.connected && s.query.Get("since") == "" {
		// The stream begins now. If it breaks before the first event, it resumes from here.
		if now, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
			s.query.Set("since", now.UTC().Format(time.RFC3339))
		}
	}
	s.connected = true
	connected()
	return s.readStream(resp.Body, func() { watchdog.Reset(s.idleTimeout) }, each)
}

// maxEvent is the size in bytes of the longest line of a stream.
const maxEvent = 1 << 20

// readStream reads server-sent events until body ends. It calls heard for each line and
// the function each for each event, and stops if the latter returns an error.
func (s *eventStream) readStream(body io.Reader, heard func(), each func(json.RawMessage) error) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxEvent)
	var data, id string
	for lines.Scan() {
		heard()
		s.received = true
		line := lines.Text()
		if line == "" {
			if data != "" {
				s.lastID = cmp.Or(id, s.lastID)
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
	return &connectionError{cmp.Or(lines.Err(), io.EOF), 0}
}
