package flowtest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"bellhop/dialog"
)

// A callback is one line of a callback section: an expected event.
type callback struct {
	typ, ext string
	fields   []field
}

// parseCallbacks parses a callback section.
func parseCallbacks(text string) (lines []callback, err error) {
	for line := range strings.Lines(text) {
		words, err := splitWords(line)
		if err != nil {
			return nil, err
		}
		if len(words) == 0 {
			continue
		}
		if len(words) < 2 {
			return nil, fmt.Errorf("parse callback %q: no extension", line)
		}
		c := callback{typ: words[0], ext: words[1]}
		for _, w := range words[2:] {
			key, value, ok := strings.Cut(w, "=")
			if !ok {
				return nil, fmt.Errorf("parse callback %q: %q is not Field=value", line, w)
			}
			c.fields = append(c.fields, field{key, value})
		}
		lines = append(lines, c)
	}
	return lines, nil
}

// splitWords splits a line at spaces, except those in quoted values. It removes the
// quotes.
func splitWords(line string) (words []string, err error) {
	line = strings.TrimSpace(line)
	for line != "" {
		n := strings.IndexByte(line, ' ')
		if n < 0 {
			n = len(line)
		}
		word := line[:n]
		if key, _, ok := strings.Cut(word, `="`); ok {
			quoted, err := strconv.QuotedPrefix(line[len(key)+1:])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", line, err)
			}
			text, _ := strconv.Unquote(quoted) // QuotedPrefix has checked it
			word, n = key+"="+text, len(key)+1+len(quoted)
		}
		words = append(words, word)
		line = strings.TrimSpace(line[n:])
	}
	return words, nil
}

func (c callback) String() string {
	var b strings.Builder
	b.WriteString(c.typ + " " + c.ext)
	for _, f := range c.fields {
		value := f.value
		if strings.ContainsAny(value, " \"\n\r\t") {
			value = strconv.Quote(value)
		}
		b.WriteString(" " + f.name + "=" + value)
	}
	return b.String()
}

// defaultFields are the fields that -update writes for a new line, by event type.
var defaultFields = map[dialog.Type][]string{
	dialog.DialOut:    {"CallerIDNum", "CalledNumber"},
	dialog.DialIn:     {"CallerIDNum", "CalledNumber"},
	dialog.Ringing:    {"CallFlow"},
	dialog.Answer:     {"CallFlow"},
	dialog.Hangup:     {"CallFlow", "CallStatus", "SipCode", "HangupBy", "Duration", "Missed"},
	dialog.MessageIn:  {"CallerIDNum", "MessageText"},
	dialog.MessageOut: {"CalledNumber", "MessageText"},
	dialog.Voicemail:  {"CallFlow", "CallerIDNum", "Duration"},
	dialog.Transfer:   {"CalledNumber", "CalledExtension", "CallStatus", "SipCode", "OtherCallID"},

	dialog.Registered:   {"Domain", "UserAgent"},
	dialog.Unregistered: {"Domain", "EventTime"},
}

// An eventFormatter formats events as callback lines, and compares them with lines. It
// numbers calls and parties in the order of their first events.
type eventFormatter struct {
	began          time.Time
	calls, parties []string
	seq            map[string]int
}

// assignNumbers assigns the next numbers to the call and the party of an event, if they
// have none.
func (t *eventFormatter) assignNumbers(e dialog.Event) {
	if !slices.Contains(t.calls, e.Call) {
		t.calls = append(t.calls, e.Call)
	}
	if !slices.Contains(t.parties, e.Party) {
		t.parties = append(t.parties, e.Party)
	}
}

// checkSequence checks that the events of each call are numbered from 1 without gaps.
func (t *eventFormatter) checkSequence(e dialog.Event) error {
	if t.seq == nil {
		t.seq = map[string]int{}
	}
	t.seq[e.Call]++
	if e.Seq != t.seq[e.Call] {
		return fmt.Errorf("%s of %s has sequence number %d, want %d", e.Type, e.Extension.User, e.Seq, t.seq[e.Call])
	}
	return nil
}

// fieldText returns the value of an event field as a callback line has it; "" if the
// field is absent. An unknown field name is an error.
func (t *eventFormatter) fieldText(e dialog.Event, name string) (string, error) {
	switch name {
	case "Call":
		return strconv.Itoa(slices.Index(t.calls, e.Call) + 1), nil
	case "Party":
		return strconv.Itoa(slices.Index(t.parties, e.Party) + 1), nil
	case "EventTime":
		return e.At.Sub(t.began).String(), nil
	case "Domain":
		return e.Extension.Domain, nil
	case "CallStatus":
		return string(e.Status), nil
	case "CallFlow":
		return string(e.Flow), nil
	case "CallerIDNum":
		return e.CallerNum, nil
	case "CallerIDName":
		return e.CallerName, nil
	case "CallerIDNumRaw":
		return e.CallerNumRaw, nil
	case "CalledNumberRaw":
		return e.CalledNumberRaw, nil
	case "Privacy":
		return formatTrue(e.Privacy), nil
	case "CallerExtension":
		return userOf(e.CallerExtension), nil
	case "Distributor":
		return userOf(e.Distributor), nil
	case "CalledNumber":
		return e.CalledNumber, nil
	case "CalledExtension":
		return userOf(e.CalledExtension), nil
	case "CalledDID":
		return e.CalledDID, nil
	case "CallAPIID":
		return e.CallAPIID, nil
	case "Diversion":
		return e.Diversion, nil
	case "ClientApiID":
		return e.ClientAPIID, nil
	case "CallBackID":
		return e.CallBackID, nil
	case "RecID":
		return e.RecID, nil
	case "Tag":
		return e.Tag, nil
	case "ANI":
		return e.ANI, nil
	case "Transfered":
		return formatTrue(e.Transferred), nil
	case "Bridged":
		return formatOptionalBool(e.Bridged), nil
	case "BridgedDuration":
		return formatDuration(e.BridgedFor), nil
	case "RemoteNumber":
		return e.RemoteNumber, nil
	case "OtherCallID":
		if e.OtherCall == "" {
			return "", nil
		}
		return strconv.Itoa(slices.Index(t.calls, e.OtherCall) + 1), nil
	case "Correlation":
		return e.Correlation, nil
	case "Recovered":
		return formatTrue(e.Recovered), nil
	case "Duration":
		return formatDuration(e.Duration), nil
	case "RingDuration":
		return formatDuration(e.RingDuration), nil
	case "SetupTime":
		return formatDuration(e.SetupTime), nil
	case "SipCode":
		return formatNumber(e.SipCode), nil
	case "SipReason":
		return e.SipReason, nil
	case "Q850":
		return formatNumber(e.Q850), nil
	case "HangupBy":
		return string(e.HangupBy), nil
	case "AnsweredElsewhere":
		return formatTrue(e.Elsewhere), nil
	case "Missed":
		return formatOptionalBool(e.Missed), nil
	case "UserAgent":
		return e.UserAgent, nil
	case "Verstat":
		return e.Verstat, nil
	case "MessageText":
		return e.MessageText, nil
	case "ContentType":
		return e.ContentType, nil
	}
	for _, h := range e.Headers {
		if h[0] == name {
			return h[1], nil
		}
	}
	if strings.HasPrefix(name, "X-") {
		return "", nil
	}
	return "", fmt.Errorf("unknown field %s", name)
}

// compareEvent returns the first difference between an event and a callback line as an
// error, or nil.
func (t *eventFormatter) compareEvent(e dialog.Event, want callback) error {
	if string(e.Type) != want.typ || e.Extension.User != want.ext {
		return fmt.Errorf("got %s\nwant %s", t.formatEvent(e, nil), want)
	}
	for _, f := range want.fields {
		got, err := t.fieldText(e, f.name)
		if err != nil {
			return err
		}
		if got != f.value {
			return fmt.Errorf("%s %s: %s is %q, want %q", want.typ, want.ext, f.name, got, f.value)
		}
	}
	return nil
}

// formatEvent returns the callback line of an event with the named fields. With names
// nil, these are the default fields of its type that are present.
func (t *eventFormatter) formatEvent(e dialog.Event, names []string) callback {
	c := callback{typ: string(e.Type), ext: e.Extension.User}
	useDefaults := names == nil
	if useDefaults {
		names = defaultFields[e.Type]
	}
	for _, name := range names {
		value, _ := t.fieldText(e, name)
		if value != "" || !useDefaults {
			c.fields = append(c.fields, field{name, value})
		}
	}
	return c
}

func userOf(e *dialog.Extension) string {
	if e == nil {
		return ""
	}
	return e.User
}

func formatDuration(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

func formatNumber(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func formatOptionalBool(b *bool) string {
	if b == nil {
		return ""
	}
	if !*b {
		return "no"
	}
	return "yes"
}

func formatTrue(b bool) string {
	if b {
		return "yes"
	}
	return ""
}
