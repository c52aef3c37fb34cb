package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

// A Topic is a guide that `bellhop help NAME` prints.
type Topic struct {
	Name   string
	Folder string // of its README.md; its first part names the topic too
	Short  string // one line, for the list of topics
	Text   string // Markdown
}

// addTopics makes the help of root list the topics and print them.
func addTopics(root *cobra.Command, topics []Topic) {
	for _, t := range topics {
		room, _, _ := strings.Cut(t.Folder, "/")
		cmd := &cobra.Command{Use: t.Name, Short: t.Short, Long: t.Text}
		if room != t.Name {
			cmd.Aliases = []string{room}
		}
		root.AddCommand(cmd)
	}
	root.SetUsageTemplate(strings.NewReplacer(
		"Additional help topics:", "Topics (bellhop help TOPIC):",
		"{{rpad .CommandPath .CommandPathPadding}}", "{{rpad .Name .NamePadding}}",
	).Replace(root.UsageTemplate()))
}

// completeHelp returns the completion of help: the commands below those named, and the
// topics.
func completeHelp(topics []Topic) cobra.CompletionFunc {
	return func(cmd *cobra.Command, words []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		names, directive := completeCommand(cmd, words, toComplete)
		if len(words) == 0 {
			for _, t := range topics {
				names = append(names, t.Name)
			}
		}
		return names, directive
	}
}
