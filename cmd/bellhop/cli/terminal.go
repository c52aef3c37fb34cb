package cli

import (
	"bytes"
	"encoding/json"
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

// A terminal is the output of a command. Its width is 0 if it is a file or a pipe.
type terminal struct {
	io.Writer
	width int  // columns; 0: not a terminal
	color bool // colors are allowed
}

// terminalOf returns w as a terminal. If w is a file or a pipe, the width is 0.
func terminalOf(w io.Writer) terminal {
	s := terminal{Writer: w}
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

// A color is a parameter of the SGR sequence of terminals.
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

// colorize returns text in color c, or text itself if colors are not allowed.
func (s terminal) colorize(c color, text string) string {
	if !s.color || c == plain || text == "" {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// A table has rows of aligned columns. Empty columns are left out. On a terminal that is
// too narrow, cuttable columns are cut, the widest first.
type table struct {
	head     []string
	cuttable map[string]bool  // heads of columns that may be cut
	colors   map[string]color // colors of words in any column
	wrapped  int              // number of last columns to put on their own lines if rows do not fit
	rows     [][]string
}

// addRow adds a row. It removes control characters from cells.
func (t *table) addRow(cells ...string) {
	for i := range cells {
		cells[i] = stripControls(cells[i])
	}
	t.rows = append(t.rows, cells)
}

// minCutWidth is the smallest width to which a column is cut.
const minCutWidth = 8

// writeTo prints the table.
func (t *table) writeTo(s terminal) error {
	t.dropEmpty()
	all := append([][]string{t.head}, t.rows...)
	widths := make([]int, len(t.head))
	for _, row := range all {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	whole := len(widths) // columns on the row's own line
	if s.width > 0 && rowWidth(widths) > s.width {
		whole -= t.wrapped
		t.narrowColumns(widths[:whole], s.width)
	}
	var b strings.Builder
	for i, row := range all {
		gap := 0
		for j, cell := range row {
			tint := t.colors[cell]
			if i == 0 {
				tint = bold
			}
			switch {
			case cell == "":
			case j < whole:
				text := cutText(cell, widths[j])
				b.WriteString(strings.Repeat(" ", gap) + s.colorize(tint, text))
				gap = -utf8.RuneCountInString(text)
			default:
				b.WriteString("\n  " + s.colorize(tint, cell))
			}
			gap += widths[j] + 2
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(s, b.String())
	return err
}

// dropEmpty removes the columns that are empty in all rows.
func (t *table) dropEmpty() {
	if len(t.rows) == 0 {
		return
	}
	for i := len(t.head) - 1; i >= 0; i-- {
		if slices.ContainsFunc(t.rows, func(row []string) bool { return row[i] != "" }) {
			continue
		}
		if i >= len(t.head)-t.wrapped {
			t.wrapped--
		}
		t.head = slices.Delete(t.head, i, i+1)
		for j := range t.rows {
			t.rows[j] = slices.Delete(t.rows[j], i, i+1)
		}
	}
}

// rowWidth returns the width of a row with columns of these widths.
func rowWidth(widths []int) int {
	total := 2 * (len(widths) - 1)
	for _, w := range widths {
		total += w
	}
	return total
}

// narrowColumns reduces the widths of cuttable columns, the widest first, until a row
// fits or no column can be cut further.
func (t *table) narrowColumns(widths []int, width int) {
	for rowWidth(widths) > width {
		widest := -1
		for i, w := range widths {
			if t.cuttable[t.head[i]] && w > minCutWidth && (widest < 0 || w > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		widths[widest]--
	}
}

// padText returns text with exactly this width: cut, or followed by spaces.
func padText(text string, width int) string {
	text = cutText(text, width)
	return text + strings.Repeat(" ", width-utf8.RuneCountInString(text))
}

// cutText returns text. If text is longer than width, it is cut and ends with an
// ellipsis.
func cutText(text string, width int) string {
	switch {
	case utf8.RuneCountInString(text) <= width:
		return text
	case width < 1:
		return ""
	}
	return string([]rune(text)[:width-1]) + "…"
}

// stripControls returns s without characters that move the cursor, set colors or change
// the direction of text.
func stripControls(s string) string { return dialog.ReplaceUnprintable(s, -1) }

// escapeControls escapes the characters in JSON or TOML text that control a terminal or
// change the direction of text. Parsers read the same values from the result.
func escapeControls(b []byte) []byte {
	var out []byte // nil: nothing escaped yet
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

// formatDuration formats d for people: 3.1ms, 420ms, 1.5s, 1m11s or 2h05m.
func formatDuration(d time.Duration) string {
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

// writeJSON writes v as indented JSON. It escapes characters that would control a
// terminal.
func writeJSON(w io.Writer, v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := w.Write(escapeControls(b.Bytes()))
	return err
}
