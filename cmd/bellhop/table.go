package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"bellhop/dialog"
)

// A screen is where a person reads, if it is a terminal; or a file or a pipe.
type screen struct {
	io.Writer
	width int  // of the terminal; 0: it is none
	color bool // may be used
}

func screenOf(w io.Writer) screen {
	s := screen{Writer: w}
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return s
	}
	s.width = 80
	if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
		s.width = width
	}
	s.color = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return s
}

// A color is a parameter of the terminal's SGR sequence.
type color string

const (
	plain  color = ""
	bold   color = "1"
	dim    color = "2"
	red    color = "31"
	green  color = "32"
	yellow color = "33"
	cyan   color = "36"
)

func (s screen) paint(c color, text string) string {
	if !s.color || c == plain || text == "" {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// A table has rows of equal columns; one in which nothing stands is left out. On
// a terminal that is too narrow, the columns that may be cut are, the widest
// first.
type table struct {
	head  []string
	cut   map[string]bool  // heads of columns that may be
	tint  map[string]color // of words in any column
	under int              // the last columns that go on lines of their own if that keeps a row whole
	rows  [][]string
}

func (t *table) add(cells ...string) {
	for i := range cells {
		cells[i] = printable(cells[i])
	}
	t.rows = append(t.rows, cells)
}

// leastCut is how narrow a column is never cut below.
const leastCut = 8

func (t *table) write(s screen) error {
	t.dropEmpty()
	all := append([][]string{t.head}, t.rows...)
	widths := make([]int, len(t.head))
	for _, row := range all {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	whole := len(widths) // columns of the row itself
	if s.width > 0 && rowWidth(widths) > s.width {
		whole -= t.under
		t.fit(widths[:whole], s.width)
	}
	var b strings.Builder
	for i, row := range all {
		gap := 0
		for j, cell := range row {
			tint := t.tint[cell]
			if i == 0 {
				tint = bold
			}
			switch {
			case cell == "":
			case j < whole:
				text := cut(cell, widths[j])
				b.WriteString(strings.Repeat(" ", gap) + s.paint(tint, text))
				gap = -utf8.RuneCountInString(text)
			default:
				b.WriteString("\n  " + s.paint(tint, cell))
			}
			gap += widths[j] + 2
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(s, b.String())
	return err
}

// dropEmpty leaves the columns out in which no row has anything.
func (t *table) dropEmpty() {
	if len(t.rows) == 0 {
		return
	}
	for i := len(t.head) - 1; i >= 0; i-- {
		if slices.ContainsFunc(t.rows, func(row []string) bool { return row[i] != "" }) {
			continue
		}
		if i >= len(t.head)-t.under {
			t.under--
		}
		t.head = slices.Delete(t.head, i, i+1)
		for j := range t.rows {
			t.rows[j] = slices.Delete(t.rows[j], i, i+1)
		}
	}
}

func rowWidth(widths []int) int {
	total := 2 * (len(widths) - 1)
	for _, w := range widths {
		total += w
	}
	return total
}

// fit narrows the columns that may be cut until a row fits, or none can give more.
func (t *table) fit(widths []int, width int) {
	for rowWidth(widths) > width {
		widest := -1
		for i, w := range widths {
			if t.cut[t.head[i]] && w > leastCut && (widest < 0 || w > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		widths[widest]--
	}
}

// pad makes text as wide as that, with spaces or by cutting it.
func pad(text string, width int) string {
	text = cut(text, width)
	return text + strings.Repeat(" ", width-utf8.RuneCountInString(text))
}

// cut makes text no wider than that.
func cut(text string, width int) string {
	switch {
	case utf8.RuneCountInString(text) <= width:
		return text
	case width < 1:
		return ""
	}
	return string([]rune(text)[:width-1]) + "…"
}

// printable is s without what would move the cursor, color the terminal or turn
// text around.
func printable(s string) string { return dialog.ReplaceUnprintable(s, -1) }

// escapeSteering escapes in JSON, or in TOML, what would turn text around or steer a
// terminal: what is read again is the same.
func escapeSteering(b []byte) []byte {
	var out []byte // nil: nothing was escaped yet
	for i := 0; i < len(b); {
		r, size := utf8.DecodeRune(b[i:])
		if r >= utf8.RuneSelf && dialog.IsControl(r) || r == 0x7f {
			if out == nil {
				out = append(make([]byte, 0, len(b)+64), b[:i]...)
			}
			out = fmt.Appendf(out, `\u%04x`, r)
		} else if out != nil {
			out = append(out, b[i:i+size]...)
		}
		i += size
	}
	if out == nil {
		return b
	}
	return out
}

// took is a duration as a person reads it.
func took(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1fms", float64(d.Microseconds())/1e3)
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}
