package main

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestHelpPrintsEachTopic(t *testing.T) {
	list, _ := runCommand(t, 0, "help")
	for _, topic := range topics {
		text, err := os.ReadFile(filepath.Join("..", "..", topic.Folder, "README.md"))
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`(?m)^  ` + topic.Name + ` +` + regexp.QuoteMeta(topic.Short) + `$`).MatchString(list) {
			t.Errorf("bellhop help does not list %s:\n%s", topic.Name, list)
		}
		room, _, _ := strings.Cut(topic.Folder, "/")
		for _, name := range []string{topic.Name, room} {
			stdout, stderr := runCommand(t, 0, "help", name)
			if strings.TrimSpace(stdout) != strings.TrimSpace(string(text)) || stderr != "" {
				t.Errorf("bellhop help %s does not print %s/README.md: %.200s %s", name, topic.Folder, stdout, stderr)
			}
		}
		if _, stderr := runCommand(t, 2, "man", topic.Name); !strings.Contains(stderr, "bellhop help "+topic.Name) {
			t.Errorf("bellhop man %s: %q", topic.Name, stderr)
		}
	}
}

// TestReadmeLinksLeadSomewhere checks the relative links of every README.md: the
// file exists, and the heading that a fragment names stands in it.
func TestReadmeLinksLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	folders := []string{"."}
	for _, topic := range topics {
		folders = append(folders, topic.Folder)
	}
	links := 0
	for _, folder := range folders {
		from := path.Join(folder, "README.md")
		for _, m := range link.FindAllStringSubmatch(withoutCode(readRepository(t, from)), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			links++
			file, heading, _ := strings.Cut(m[1], "#")
			to := from
			if file != "" {
				to = path.Join(folder, file)
			}
			if _, err := os.Stat(filepath.Join("..", "..", filepath.FromSlash(to))); err != nil {
				t.Errorf("%s links to %s: %v", from, m[1], err)
				continue
			}
			if heading != "" && !headings(withoutCode(readRepository(t, to)))[heading] {
				t.Errorf("%s links to %s: %s has no such heading", from, m[1], to)
			}
		}
	}
	if links < 20 {
		t.Errorf("found only %d links", links)
	}
}

// readRepository returns the text of a file, by its path from the module's root.
func readRepository(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// withoutCode returns Markdown without its code blocks.
func withoutCode(text string) string {
	var b strings.Builder
	fenced := false
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "```"):
			fenced = !fenced
		case !fenced && !strings.HasPrefix(line, "    "):
			b.WriteString(line)
		}
	}
	return b.String()
}

// headings returns the fragments that name the headings of a text, as GitHub makes
// them.
func headings(text string) map[string]bool {
	drop := regexp.MustCompile(`[^\p{L}\p{N}\p{M}_ -]`)
	found := map[string]bool{}
	for line := range strings.Lines(text) {
		if title := strings.TrimLeft(line, "#"); title != line && strings.HasPrefix(title, " ") {
			fragment := drop.ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), "")
			found[strings.ReplaceAll(fragment, " ", "-")] = true
		}
	}
	return found
}
