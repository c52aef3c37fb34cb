package trace

import (
	"encoding/xml"
	"fmt"
	"strings"
)

// Sizes and positions in a drawing, in pixels.
const (
	timeWidthPx     = 92  // width of the times on the left
	columnSpacingPx = 168 // distance of two columns
	marginPx        = 84  // from the outermost columns to the edges
	headTop         = 64  // y of the heads of the columns
	headHeight      = 46
	headWidth       = 136
	firstRow        = headTop + headHeight + 40
	rowHeight       = 36
	pauseHeight     = 30
)

// svgStyle colors a drawing in the reader's light or dark theme. Each element has a
// class, so that a page with an inline drawing can style it differently.
const svgStyle = `
.ladder{--paper:#fff;--ink:#1f2328;--faint:#656d76;--line:#d0d7de;--head:#f6f8fa;--request:#0969da;--trying:#6e7781;--ringing:#9a6700;--success:#1a7f37;--redirect:#8250df;--failure:#cf222e;--own:#bc4c00;background:var(--paper);font:13px ui-sans-serif,system-ui,"Segoe UI",Helvetica,Arial,"DejaVu Sans",sans-serif}
@media (prefers-color-scheme:dark){.ladder{--paper:#0d1117;--ink:#e6edf3;--faint:#8d96a0;--line:#30363d;--head:#161b22;--request:#58a6ff;--trying:#8b949e;--ringing:#d29922;--success:#3fb950;--redirect:#bc8cff;--failure:#ff7b72;--own:#f0883e}}
.paper{fill:var(--paper)}
.title{fill:var(--ink);font-weight:600;font-size:14px}
.note,.time,.address{fill:var(--faint);font-size:11px}
.time{text-anchor:end;font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-variant-numeric:tabular-nums}
.name{fill:var(--ink);font-weight:600}
.name,.address,.label{text-anchor:middle}
.head{fill:var(--head);stroke:var(--line)}
.hop .head{fill:none;stroke:var(--line);stroke-dasharray:4 3}
.hop .name{fill:var(--faint)}
.life{stroke:var(--line);stroke-width:1.5}
.gap{stroke:var(--line);stroke-dasharray:2 5}
.label{fill:var(--tone);font-weight:500;paint-order:stroke;stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}
.sdp{font-size:10px;font-weight:600;fill:var(--faint)}
.arrow{stroke:var(--tone);stroke-width:1.75;fill:none}
.tip,.bead{fill:var(--tone)}
.request{--tone:var(--request)}.trying{--tone:var(--trying)}.ringing{--tone:var(--ringing)}.success{--tone:var(--success)}.redirect{--tone:var(--redirect)}.failure{--tone:var(--failure)}.own{--tone:var(--own)}
.own .arrow{stroke-dasharray:5 3}
.row{fill:var(--ink);fill-opacity:0}
a:hover .row,a:focus-visible .row{fill-opacity:.08}
`

// SVG draws a call as a picture. Content from the network appears in it as escaped text
// only. The picture has no script and loads nothing. The link of a message is the text
// links followed by the index of the message in the call. It opens in the parent of the
// frame that shows the picture. If links is "", there are no links.
func (c *Call) SVG(links string) string {
	var b strings.Builder
	l := c.buildLadder()
	width := timeWidthPx + (len(l.columns)-1)*columnSpacingPx + marginPx + marginPx
	x := func(col int) int { return timeWidthPx + marginPx + col*columnSpacingPx }
	bottom := firstRow + len(c.Messages)*rowHeight
	for i := range c.Messages {
		if c.hasPauseBefore(i) {
			bottom += pauseHeight
		}
	}
	height := bottom + 20
	role := "img"
	if links != "" {
		role = "group" // assistive technology ignores links in an img
	}
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" class="ladder" role="%s" width="%d" height="%d" viewBox="0 0 %[2]d %[3]d">`, role, width, height)
	fmt.Fprintf(&b, `<title>%s</title><style>%s</style>`, escapeXML(c.title()), svgStyle)
	fmt.Fprintf(&b, `<rect class="paper" width="%d" height="%d"/>`, width, height)
	fmt.Fprintf(&b, `<text class="title" x="20" y="30">%s</text>`, escapeXML(c.parties(&l)))
	fmt.Fprintf(&b, `<text class="note" x="20" y="49">%s</text>`, escapeXML(c.title()))
	for i, col := range l.columns {
		class, y := "end", headTop+28
		if col.end < 0 {
			class = "hop"
		}
		if col.address != "" {
			y = headTop + 20
		}
		fmt.Fprintf(&b, `<g class="%s"><path class="life" d="M%d %dV%d"/><rect class="head" x="%d" y="%d" width="%d" height="%d" rx="8"/>`,
			class, x(i), headTop+headHeight, bottom-8, x(i)-headWidth/2, headTop, headWidth, headHeight)
		fmt.Fprintf(&b, `<text class="name" x="%d" y="%d">%s</text>`, x(i), y, escapeXML(truncateText(col.name, 15)))
		if col.address != "" {
			fmt.Fprintf(&b, `<text class="address" x="%d" y="%d">%s</text>`, x(i), headTop+36, escapeXML(truncateText(col.address, 23)))
		}
		b.WriteString("</g>")
	}
	y := firstRow
	for i := range c.Messages {
		m := &c.Messages[i]
		if c.hasPauseBefore(i) {
			fmt.Fprintf(&b, `<path class="gap" d="M%d %dH%d"/>`, timeWidthPx, y-10, width-24)
			y += pauseHeight
		}
		from, to, through := l.arrowPath(m)
		if links != "" {
			fmt.Fprintf(&b, `<a href="%s%d" target="_parent"><rect class="row" y="%d" width="%d" height="%d"/>`, escapeXML(links), i, y-rowHeight+10, width, rowHeight)
		}
		c.drawArrow(&b, m, x, y, from, to, through)
		if links != "" {
			b.WriteString("</a>")
		}
		y += rowHeight
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// hasPauseBefore reports whether a second or more passed between message i and the
// message before it. The drawing shows a gap there.
func (c *Call) hasPauseBefore(i int) bool {
	return i > 0 && (c.Messages[i].After-c.Messages[i-1].After).Seconds() >= 1
}

// parties returns the heading of the drawing: callers → callees.
func (c *Call) parties(l *ladder) string {
	var left, right []string
	for _, col := range l.columns {
		if col.end > 0 && c.Ends[col.end].Calls {
			left = append(left, col.name)
		} else if col.end > 0 {
			right = append(right, col.name)
		}
	}
	heading := truncateText(strings.Join(left, ", "), 60)
	if len(right) > 0 {
		heading += " → " + truncateText(strings.Join(right, ", "), 60)
	}
	return heading
}

// drawArrow draws one message: time, arrow, label, and a dot at each column of bellhop
// that the arrow crosses.
func (c *Call) drawArrow(b *strings.Builder, m *Message, x func(int) int, y, from, to int, through []int) {
	x1, x2, dir := x(from), x(to), 1
	if x2 < x1 {
		dir = -1
	}
	fmt.Fprintf(b, `<g class="%s"><title>%s</title>`, m.colorClass(), escapeXML(m.Summary()))
	fmt.Fprintf(b, `<text class="time" x="%d" y="%d">%.3f s</text>`, timeWidthPx-10, y+4, m.After.Seconds())
	fmt.Fprintf(b, `<path class="arrow" d="M%d %dH%d"/>`, x1, y, x2-dir*7)
	fmt.Fprintf(b, `<path class="tip" d="M%d %dl%d -5v10z"/>`, x2, y, -dir*9)
	room := max(x1-x2, x2-x1)/8 - 4
	fmt.Fprintf(b, `<text class="label" x="%d" y="%d">%s`, (x1+x2)/2, y-8, escapeXML(truncateText(m.arrowLabel(), room)))
	if m.hasSDP() {
		b.WriteString(`<tspan class="sdp" dx="6">SDP</tspan>`)
	}
	b.WriteString("</text>")
	for _, h := range through {
		fmt.Fprintf(b, `<circle class="bead" cx="%d" cy="%d" r="3"/>`, x(h), y)
	}
	b.WriteString("</g>")
}

// colorClass returns the CSS class that colors the message.
func (m *Message) colorClass() string {
	switch s := m.Status; {
	case m.Own:
		return "own"
	case s == 0:
		return "request"
	case s == 100:
		return "trying"
	case s < 200:
		return "ringing"
	case s < 300:
		return "success"
	case s < 400 || s == 401 || s == 407:
		return "redirect"
	}
	return "failure"
}

// truncateText returns s without unprintable characters, truncated to room characters.
func truncateText(s string, room int) string {
	r := []rune(replaceUnprintable(s))
	if len(r) > room {
		r = append(r[:max(room-1, 0)], '…')
	}
	return string(r)
}

// escapeXML returns s escaped for XML, without unprintable characters.
func escapeXML(s string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(replaceUnprintable(s)))
	return b.String()
}
