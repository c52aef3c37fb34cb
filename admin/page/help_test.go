package page

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// readGuides returns the READMEs of the repository as guides that are named as their folders.
func readGuides(t *testing.T) (all []Guide) {
	t.Helper()
	for _, folder := range []string{"sip", "dialog", "notify", "admin", "cmd/bellhop", "testdata"} {
		text, err := os.ReadFile(filepath.Join("..", "..", filepath.FromSlash(folder), "README.md"))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, Guide{Name: filepath.Base(folder), Folder: folder, Text: string(text)})
	}
	return all
}

// The READMEs are shown without a trace of Markdown, their HTML is well formed, and each link
// from one to another leads to a heading.
func TestGuidesAreRendered(t *testing.T) {
	code := regexp.MustCompile(`(?s)<code>.*?</code>`)
	tag := regexp.MustCompile(`<(/?)(\w+)[^>]*>`)
	link := regexp.MustCompile(`href="(?:/help/(\w+))?(?:#([^"]*))?"`)
	guides := guidesOf(readGuides(t))
	pages := make(map[string]string)
	for _, g := range guides {
		pages[g.Name] = string(g.HTML)
	}
	links := 0
	for _, g := range guides {
		html := pages[g.Name]
		text := code.ReplaceAllString(html, "")
		for _, mark := range []string{"**", "](", "`", "\n|", "\n* ", "\n#", "\x00", `\*`} {
			if at := strings.Index(text, mark); at >= 0 {
				t.Errorf("%s: %q is left of the Markdown: %.100s", g.Name, mark, text[at:])
			}
		}
		var open []string
		for _, m := range tag.FindAllStringSubmatch(html, -1) {
			if m[1] == "" {
				open = append(open, m[2])
			} else if n := len(open); n == 0 || open[n-1] != m[2] {
				t.Fatalf("%s: </%s> closes %q", g.Name, m[2], open)
			} else {
				open = open[:n-1]
			}
		}
		if len(open) > 0 {
			t.Errorf("%s: %q are not closed", g.Name, open)
		}
		for _, m := range link.FindAllStringSubmatch(html, -1) {
			links++
			name := m[1]
			if name == "" {
				name = g.Name
			}
			if m[2] != "" && !strings.Contains(pages[name], fmt.Sprintf(`id="%s"`, m[2])) {
				t.Errorf("%s links to %s#%s, which is not there", g.Name, name, m[2])
			}
		}
	}
	if links < 40 {
		t.Errorf("found only %d links", links)
	}
}

func TestMarkdownIsEscaped(t *testing.T) {
	got := string(renderMarkdown("# <b>\n\na <script> [x<y](z\"w) `</code>` \\*\n\n    <pre>\n\n| a |\n|---|\n| b\\|<i> |\n", func(s string) string { return s }))
	want := `<h1 id="b">&lt;b&gt;</h1>
<p>a &lt;script&gt; <a href="z&#34;w">x&lt;y</a> <code>&lt;/code&gt;</code> *</p>
<pre tabindex="0"><code>&lt;pre&gt;</code></pre>
<div class="scroll" tabindex="0"><table><thead><tr><th>a</th></tr>
</thead><tbody><tr><td>b|&lt;i&gt;</td></tr>
</tbody></table></div>
`
	want = strings.Replace(want, "<th>", `<th scope="col">`, 1)
	if got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}
