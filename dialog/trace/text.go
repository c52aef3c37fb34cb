package trace

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"bellhop/dialog"
)

// Sizes of a ladder in text, in characters: the distance of two columns, and the width
// of the times on the left.
const (
	columnSpacing = 16
	timeWidth     = 12
)

// Text draws a call for a terminal: the ladder, then each message in the format of the
// flow files. Control characters are replaced.
func (c *Call) Text() string {
	var b strings.Builder
	b.WriteString(c.title() + "\n\n")
	if len(c.Messages) == 0 {
		return b.String()
	}
	l := c.buildLadder()
	c.drawText(&b, &l)
	b.WriteByte('\n')
	var at time.Duration
	for _, s := range c.DisplayMessages() {
		if wait := (s.After - at).Round(time.Microsecond); wait > 0 {
			fmt.Fprintf(&b, "-- after %v --\n", wait)
			at = s.After
		}
		fmt.Fprintf(&b, "-- %s -> %s --\n%s", s.From, s.To, s.Text)
	}
	return b.String()
}

// A DisplayMessage is a message as a person reads it, with control characters replaced.
type DisplayMessage struct {
	After         time.Duration // time since the first message of the call
	From, To      string        // names of the columns at the ends of its arrow
	Summary, Text string        // each line of the text ends with \n
}

// DisplayMessages returns all recorded messages of a call.
func (c *Call) DisplayMessages() []DisplayMessage {
	l := c.buildLadder()
	all := make([]DisplayMessage, len(c.Messages))
	for i := range c.Messages {
		m := &c.Messages[i]
		from, to, _ := l.arrowPath(m)
		all[i] = DisplayMessage{
			After: m.After, Summary: replaceUnprintable(m.Summary()), Text: m.printableText(),
			From: replaceUnprintable(l.columns[from].name), To: replaceUnprintable(l.columns[to].name),
		}
	}
	return all
}

// printableText returns the text with line ends \n and control characters replaced.
// A truncated text ends with a line "…".
func (m *Message) printableText() string {
	var b strings.Builder
	text := strings.TrimRight(strings.ReplaceAll(m.Text(), "\r\n", "\n"), "\n")
	for line := range strings.SplitSeq(text, "\n") {
		b.WriteString(replaceUnprintable(line) + "\n")
	}
	if m.Truncated {
		b.WriteString("…\n")
	}
	return b.String()
}

// title returns the id and the time of a call, and how many messages are left out.
func (c *Call) title() string {
	s := fmt.Sprintf("call %s, %s", c.ID, c.Began.UTC().Format("2006-01-02 15:04:05.000 MST"))
	if c.Up {
		s += ", not over yet"
	}
	if c.LeftOut > 0 {
		s += fmt.Sprintf(", %d messages left out", c.LeftOut)
	}
	return s
}

// drawText writes the ladder: names, addresses, then one line per message.
func (c *Call) drawText(b *strings.Builder, l *ladder) {
	width := timeWidth + len(l.columns)*columnSpacing
	center := func(col int) int { return timeWidth + col*columnSpacing + columnSpacing/2 }
	row := func() []rune { return []rune(strings.Repeat(" ", width)) }
	flush := func(r []rune) { b.WriteString(strings.TrimRight(string(r), " ") + "\n") }

	names, addresses := row(), row()
	for i, col := range l.columns {
		writeCentered(names, center(i), col.name, columnSpacing-1)
		writeCentered(addresses, center(i), strings.TrimSuffix(col.address, ":5060"), columnSpacing-1)
	}
	flush(names)
	flush(addresses)
	for i := range c.Messages {
		m := &c.Messages[i]
		r := row()
		copy(r, []rune(fmt.Sprintf("%9.3fs", m.After.Seconds())))
		from, to, through := l.arrowPath(m)
		x, y := min(center(from), center(to)), max(center(from), center(to))
		for i := x + 1; i < y; i++ {
			r[i] = '─'
		}
		for i := range l.columns {
			r[center(i)] = '│'
		}
		for _, h := range through {
			r[center(h)] = '┼'
		}
		if from < to {
			r[y-1] = '▶'
		} else {
			r[x+1] = '◀'
		}
		label := m.arrowLabel()
		if m.hasSDP() {
			label += " SDP"
		}
		drawLabel(r, x, y, center(from), label)
		flush(r)
	}
}

// drawLabel writes a label onto the arrow from x to y: beside the sender if it fits
// between the sender and bellhop, else in the middle of the arrow.
func drawLabel(r []rune, x, y, sender int, label string) {
	label = replaceUnprintable(label)
	room := columnSpacing - 4
	at := sender + columnSpacing/2
	if sender == y {
		at = sender - columnSpacing/2
	}
	if utf8.RuneCountInString(label) > room && y-x > columnSpacing {
		room, at = y-x-4, (x+y)/2
	}
	writeCentered(r, at, label, room)
}

// writeCentered writes text into a row, centered at the index at. A text longer than
// room is truncated.
func writeCentered(r []rune, at int, text string, room int) {
	t := []rune(replaceUnprintable(text))
	if len(t) > room {
		t = append(t[:room-1], '…')
	}
	from := max(0, at-len(t)/2)
	copy(r[from:], t)
}

// replaceUnprintable replaces the characters of a line that are not printable, see
// [dialog.ReplaceUnprintable], and tabs with spaces.
func replaceUnprintable(line string) string {
	return dialog.ReplaceUnprintable(strings.ReplaceAll(line, "\t", " "), '\uFFFD')
}
