package page

import (
	"html/template"
	"regexp"
	"strconv"
	"strings"
)

// markdown renders the Markdown of the guides: headings, paragraphs, lists, tables, code,
// emphasis and links, each as the READMEs of bellhop use it. All text is escaped.
type markdown struct {
	html  strings.Builder
	lines []string
	link  func(target string) string // href of a link; "": it leads nowhere on the page
}

// renderMarkdown returns the HTML of a guide.
func renderMarkdown(text string, link func(target string) string) template.HTML {
	m := markdown{lines: strings.Split(text, "\n"), link: link}
	for len(m.lines) > 0 {
		m.renderBlock()
	}
	return template.HTML(m.html.String())
}

var (
	headingLine = regexp.MustCompile(`^(#+) +(.*)$`)
	itemLine    = regexp.MustCompile(`^( *)(\*|-|\d+\.) +(.*)$`)
	notInID     = regexp.MustCompile(`[^\p{L}\p{N}\p{M}_ -]`)
)

// renderBlock writes the block that the lines begin with, and removes its lines.
func (m *markdown) renderBlock() {
	line := m.lines[0]
	switch heading := headingLine.FindStringSubmatch(line); {
	case strings.TrimSpace(line) == "":
		m.lines = m.lines[1:]
	case strings.HasPrefix(line, "```"):
		m.lines = m.lines[1:]
		m.writeCode(m.takeWhile(func(l string) bool { return !strings.HasPrefix(l, "```") }))
		m.lines = m.lines[min(1, len(m.lines)):]
	case strings.HasPrefix(line, "    "):
		code := m.takeWhile(func(l string) bool { return strings.HasPrefix(l, "    ") || strings.TrimSpace(l) == "" })
		for i := range code {
			code[i] = strings.TrimPrefix(code[i], "    ")
		}
		m.writeCode(code)
	case heading != nil:
		m.lines = m.lines[1:]
		level := strconv.Itoa(len(heading[1]))
		m.html.WriteString("<h" + level + ` id="` + headingID(heading[2]) + `">` + m.inline(heading[2]) + "</h" + level + ">\n")
	case strings.HasPrefix(line, "|"):
		m.writeTable(m.takeWhile(func(l string) bool { return strings.HasPrefix(l, "|") }))
	case itemLine.MatchString(line):
		m.writeList()
	default:
		m.html.WriteString("<p>" + m.inline(strings.Join(m.takeParagraph(), "\n")) + "</p>\n")
	}
}

// headingID returns the fragment of a heading, as GitHub makes it.
func headingID(title string) string {
	return strings.ReplaceAll(notInID.ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), ""), " ", "-")
}

// takeWhile removes the first lines that belong to a block, and returns them.
func (m *markdown) takeWhile(belongs func(string) bool) []string {
	n := 0
	for n < len(m.lines) && belongs(m.lines[n]) {
		n++
	}
	taken := m.lines[:n]
	m.lines = m.lines[n:]
	return taken
}

// takeParagraph removes the lines up to the next block, and returns them.
func (m *markdown) takeParagraph() []string {
	first := true
	return m.takeWhile(func(l string) bool {
		starts := strings.TrimSpace(l) == "" || strings.HasPrefix(l, "|") || strings.HasPrefix(l, "```") || headingLine.MatchString(l) || itemLine.MatchString(l)
		belongs := first || !starts
		first = false
		return belongs
	})
}

func (m *markdown) writeCode(lines []string) {
	text := template.HTMLEscapeString(strings.Trim(strings.Join(lines, "\n"), "\n"))
	m.html.WriteString(`<pre tabindex="0"><code>` + text + "</code></pre>\n")
}

// writeTable writes a table. It skips the second row, which separates the head from the
// body.
func (m *markdown) writeTable(rows []string) {
	m.html.WriteString(`<div class="scroll" tabindex="0"><table><thead>`)
	for i, row := range rows {
		cell := "td"
		switch i {
		case 0:
			cell = `th scope="col"`
		case 1:
			m.html.WriteString("</thead><tbody>")
			continue
		}
		m.html.WriteString("<tr>")
		const escaped = "\x00"
		row = strings.Trim(strings.ReplaceAll(strings.TrimSpace(row), `\|`, escaped), "|")
		for text := range strings.SplitSeq(row, "|") {
			text = m.inline(strings.TrimSpace(strings.ReplaceAll(text, escaped, "|")))
			m.html.WriteString("<" + cell + ">" + text + "</" + cell[:2] + ">")
		}
		m.html.WriteString("</tr>\n")
	}
	m.html.WriteString("</tbody></table></div>\n")
}

// writeList writes a list, with the lists that are indented below its items.
func (m *markdown) writeList() {
	first := itemLine.FindStringSubmatch(m.lines[0])
	indent, tag := len(first[1]), "ul"
	if strings.HasSuffix(first[2], ".") {
		tag = "ol"
	}
	m.html.WriteString("<" + tag + ">\n")
	for len(m.lines) > 0 {
		item := itemLine.FindStringSubmatch(m.lines[0])
		if item == nil || len(item[1]) < indent {
			break
		}
		if len(item[1]) > indent {
			m.writeList()
			continue
		}
		m.lines[0] = item[3]
		m.html.WriteString("<li>" + m.inline(strings.Join(m.takeParagraph(), "\n")))
		if len(m.lines) > 0 {
			if below := itemLine.FindStringSubmatch(m.lines[0]); below != nil && len(below[1]) > indent {
				m.writeList()
			}
		}
		m.html.WriteString("</li>\n")
	}
	m.html.WriteString("</" + tag + ">\n")
}

// inlineMarks matches code, images, links, bold and emphasized text, addresses and
// escapes.
var inlineMarks = regexp.MustCompile("(?s)`([^`]+)`" + `|!?\[([^\]]+)\]\(([^)\s]+)\)|\*\*(.+?)\*\*|\*(\w[^*]*)\*|<(https?://[^>]+)>|\\([*|_<>` + "`" + `\\])`)

// inline returns the HTML of text within a block.
func (m *markdown) inline(text string) string {
	var b strings.Builder
	for {
		at := inlineMarks.FindStringSubmatchIndex(text)
		if at == nil {
			b.WriteString(template.HTMLEscapeString(text))
			return b.String()
		}
		part := func(n int) string {
			if at[2*n] < 0 {
				return ""
			}
			return text[at[2*n]:at[2*n+1]]
		}
		b.WriteString(template.HTMLEscapeString(text[:at[0]]))
		switch {
		case part(1) != "":
			b.WriteString("<code>" + template.HTMLEscapeString(part(1)) + "</code>")
		case part(2) != "":
			b.WriteString(m.anchor(m.inline(part(2)), part(3)))
		case part(4) != "":
			b.WriteString("<b>" + m.inline(part(4)) + "</b>")
		case part(5) != "":
			b.WriteString("<em>" + m.inline(part(5)) + "</em>")
		case part(6) != "":
			b.WriteString(m.anchor(template.HTMLEscapeString(part(6)), part(6)))
		default:
			b.WriteString(template.HTMLEscapeString(part(7)))
		}
		text = text[at[1]:]
	}
}

// anchor returns a link to target with the text html, or only html if m.link returns no
// href for target.
func (m *markdown) anchor(html, target string) string {
	href := m.link(target)
	if href == "" {
		return html
	}
	return `<a href="` + template.HTMLEscapeString(href) + `">` + html + "</a>"
}
