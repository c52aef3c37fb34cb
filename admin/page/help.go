package page

import (
	"html/template"
	"net/http"
	"path"
	"slices"
	"strings"
)

// A Guide is one of the READMEs that bellhop has in its binary.
type Guide struct {
	Name   string // of its page, and for bellhop help
	Folder string // of its README.md in the repository
	Short  string // one line, for the list of guides
	Text   string // Markdown
}

// guide is a Guide as the page shows it.
type guide struct {
	Guide
	Title string
	HTML  template.HTML
}

// guidesOf renders guides. A link to the README of a guide becomes a link to the page of
// that guide. A link to any other file of the repository becomes text.
func guidesOf(all []Guide) []guide {
	shown := make([]guide, len(all))
	for i, g := range all {
		title, text, _ := strings.Cut(strings.TrimPrefix(g.Text, "# "), "\n")
		shown[i] = guide{g, title, renderMarkdown(text, func(target string) string {
			if strings.Contains(target, "://") || strings.HasPrefix(target, "#") {
				return target
			}
			file, fragment, found := strings.Cut(target, "#")
			at := slices.IndexFunc(all, func(other Guide) bool {
				return path.Join(g.Folder, file) == path.Join(other.Folder, "README.md")
			})
			switch {
			case at < 0:
				return ""
			case found:
				return "/help/" + all[at].Name + "#" + fragment
			}
			return "/help/" + all[at].Name
		})}
	}
	return shown
}

// helpData are the data of the help: all guides, and the guide that is shown; nil: only
// the list of guides is shown.
type helpData struct {
	All  []guide
	Here *guide
}

// showHelp shows the list of guides.
func (p *Page) showHelp(w http.ResponseWriter, r *http.Request) error {
	return p.showPage(w, r, "help", "/help", "Help", helpData{All: p.guides})
}

// showGuide shows a guide.
func (p *Page) showGuide(w http.ResponseWriter, r *http.Request) error {
	at := slices.IndexFunc(p.guides, func(g guide) bool { return g.Name == r.PathValue("name") })
	if at < 0 {
		return errNoPage
	}
	return p.showPage(w, r, "help", "/help", p.guides[at].Title, helpData{p.guides, &p.guides[at]})
}
