package trace

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"bellhop/dialog"
)

// spacing is how far the columns of a ladder in text stand apart; before is the
// room for the time.
const (
	columnSpacing = 16
	timeWidth     = 12
)

// Text draws a call for a terminal: the ladder, then each message as the flow
// files have it. What a terminal would obey is taken out.
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

// A Shown is a message as a person reads it: what a terminal would obey is taken
// out.
type DisplayMessage struct {
	After         time.Duration // the call's first message
	From, To      string        // between whom its arrow is
	Summary, Text string        // each line of the text ends with \n
}

// Shown returns all messages of a call.
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

// title says which call it is, and what of it is missing.
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

// mark writes a label onto an arrow from x to y: beside the sender if there is
// room before bellhop, else in the middle.
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

// write puts text into a row around the place at, no longer than room.
func writeCentered(r []rune, at int, text string, room int) {
	t := []rune(replaceUnprintable(text))
	if len(t) > room {
		t = append(t[:room-1], '…')
	}
	from := max(0, at-len(t)/2)
	copy(r[from:], t)
}

// printable takes out of a line what is no character to be seen, see
// [dialog.Printable]. A tab is a space.
func replaceUnprintable(line string) string {
	return dialog.Printable(strings.ReplaceAll(line, "\t", " "), '\uFFFD')
}
