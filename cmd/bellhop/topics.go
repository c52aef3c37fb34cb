package main

import (
	_ "embed"
	"strings"

	"github.com/spf13/cobra"

	"bellhop/admin"
	"bellhop/dialog"
	"bellhop/notify"
	"bellhop/sip"
	"bellhop/testdata"
)

// readme is the guide for operators: settings, the command line, failures, and
// several nodes. It is Markdown.
//
//go:embed README.md
var readme string

// A topic is a guide that `bellhop help NAME` prints.
type topic struct {
	name   string
	folder string // of its README.md; its first part names the topic too
	short  string
	text   string
}

// topics lists the guides in the order in which a newcomer needs them.
var topics = []topic{
	{"sip", "sip", "Put bellhop in front of your PBX", sip.Readme},
	{"calls", "dialog", "How calls are recognized, and what the status words mean", dialog.Readme},
	{"callbacks", "notify", "Receive callbacks: events, fields, dialects, signatures, retries", notify.Readme},
	{"api", "admin", "The HTTP API, tokens, live events, metrics and the page", admin.Readme},
	{"operations", "cmd/bellhop", "Settings, the command line, failures, several nodes", readme},
	{"tests", "testdata", "Call flows, load scenarios and tests with real PBXs", testdata.Readme},
}

// addTopics makes the help of root list the topics and print them.
func addTopics(root *cobra.Command) {
	for _, t := range topics {
		room, _, _ := strings.Cut(t.folder, "/")
		cmd := &cobra.Command{Use: t.name, Short: t.short, Long: t.text}
		if room != t.name {
			cmd.Aliases = []string{room}
		}
		root.AddCommand(cmd)
	}
	root.SetUsageTemplate(strings.NewReplacer(
		"Additional help topics:", "Topics (bellhop help TOPIC):",
		"{{rpad .CommandPath .CommandPathPadding}}", "{{rpad .Name .NamePadding}}",
	).Replace(root.UsageTemplate()))
}

// completeHelp offers the commands below those named, and the topics.
func completeHelp(cmd *cobra.Command, words []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	names, directive := completeCommand(cmd, words, toComplete)
	if len(words) == 0 {
		for _, t := range topics {
			names = append(names, t.name)
		}
	}
	return names, directive
}
