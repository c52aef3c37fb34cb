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
	spacing = 16
	before  = 12
)

// Text draws a call for a terminal: the ladder, then each message as the flow
// files have it. What a terminal would obey is taken out.
func (c *Call) Text() string {
	var b strings.Builder
	b.WriteString(c.title() + "\n\n")
	if len(c.Messages) == 0 {
		return b.String()
	}
	l := c.ladder()
	c.drawText(&b, &l)
	b.WriteByte('\n')
	var at time.Duration
	for _, s := range c.Shown() {
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
type Shown struct {
	After         time.Duration // the call's first message
	From, To      string        // between whom its arrow is
	Summary, Text string        // each line of the text ends with \n
}

// Shown returns all messages of a call.
func (c *Call) Shown() []Shown {
	l := c.ladder()
	all := make([]Shown, len(c.Messages))
	for i := range c.Messages {
		m := &c.Messages[i]
		from, to, _ := l.path(m)
		all[i] = Shown{
			After: m.After, Summary: printable(m.Summary()), Text: m.shown(),
			From: printable(l.columns[from].name), To: printable(l.columns[to].name),
		}
	}
	return all
}

func (m *Message) shown() string {
	var b strings.Builder
	text := strings.TrimRight(strings.ReplaceAll(m.Text(), "\r\n", "\n"), "\n")
	for line := range strings.SplitSeq(text, "\n") {
		b.WriteString(printable(line) + "\n")
	}
	if m.Cut {
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
	width := before + len(l.columns)*spacing
	center := func(col int) int { return before + col*spacing + spacing/2 }
	row := func() []rune { return []rune(strings.Repeat(" ", width)) }
	flush := func(r []rune) { b.WriteString(strings.TrimRight(string(r), " ") + "\n") }

	names, addresses := row(), row()
	for i, col := range l.columns {
		write(names, center(i), col.name, spacing-1)
		write(addresses, center(i), strings.TrimSuffix(col.address, ":5060"), spacing-1)
	}
	flush(names)
	flush(addresses)
	for i := range c.Messages {
		m := &c.Messages[i]
		r := row()
		copy(r, []rune(fmt.Sprintf("%9.3fs", m.After.Seconds())))
		from, to, through := l.path(m)
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
		label := m.label()
		if m.sdp() {
			label += " SDP"
		}
		mark(r, x, y, center(from), label)
		flush(r)
	}
}

// mark writes a label onto an arrow from x to y: beside the sender if there is
// room before bellhop, else in the middle.
func mark(r []rune, x, y, sender int, label string) {
	label = printable(label)
	room := spacing - 4
	at := sender + spacing/2
	if sender == y {
		at = sender - spacing/2
	}
	if utf8.RuneCountInString(label) > room && y-x > spacing {
		room, at = y-x-4, (x+y)/2
	}
	write(r, at, label, room)
}

// write puts text into a row around the place at, no longer than room.
func write(r []rune, at int, text string, room int) {
	t := []rune(printable(text))
	if len(t) > room {
		t = append(t[:room-1], '…')
	}
	from := max(0, at-len(t)/2)
	copy(r[from:], t)
}

// printable takes out of a line what is no character to be seen, see
// [dialog.ReplaceUnprintable]. A tab is a space.
func printable(line string) string {
	return dialog.ReplaceUnprintable(strings.ReplaceAll(line, "\t", " "), '\uFFFD')
}
