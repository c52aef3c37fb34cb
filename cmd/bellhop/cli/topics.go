package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

// A Topic is a guide that `bellhop help NAME` prints.
type Topic struct {
	Name   string
	Folder string // folder of its README.md; the first part is an alias
	Short  string // one line, for the list of topics
	Text   string // Markdown
}

// addTopics adds the topics to root's help: "bellhop help" lists them, and "bellhop help
// TOPIC" prints one.
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

// completeHelp returns the completion function of help. It completes the subcommands of
// the commands named so far, and for the first word also the topics.
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
