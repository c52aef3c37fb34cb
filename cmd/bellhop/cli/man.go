package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func manCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "man [COMMAND...]",
		Short: "Print the manual page of a command, or write all pages with --dir",
		Example: `  bellhop man | man -l -
  bellhop man subscriptions apply | man -l -
  bellhop man --dir /usr/local/share/man/man1`,
		ValidArgsFunction: completeCommand,
	}
	dir := cmd.Flags().String("dir", "", "write the pages of all commands to this `directory`")
	cmd.MarkFlagDirname("dir")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *dir != "" {
			if len(args) > 0 {
				return usageError{errors.New("give --dir or a command, not both: --dir writes all pages")}
			}
			return writeManPages(cmd.Root(), *dir, cmd.OutOrStdout())
		}
		of, err := findCommand(cmd.Root(), args)
		if err != nil {
			return err
		}
		if of.IsAdditionalHelpTopicCommand() {
			return usageError{fmt.Errorf("%s is a topic without a manual page: see bellhop help %[1]s", of.Name())}
		}
		_, err = io.WriteString(cmd.OutOrStdout(), renderManPage(of))
		return err
	}
	return cmd
}

func helpCommand(topics []Topic) *cobra.Command {
	return &cobra.Command{
		Use:               "help [COMMAND... | TOPIC]",
		Short:             "Show help for a command or a topic",
		ValidArgsFunction: completeHelp(topics),
		RunE: func(cmd *cobra.Command, args []string) error {
			of, err := findCommand(cmd.Root(), args)
			if err != nil {
				return err
			}
			of.InitDefaultHelpFlag()
			return of.Help()
		},
	}
}

// findCommand returns the command that words name, or a [usageError].
func findCommand(root *cobra.Command, words []string) (*cobra.Command, error) {
	cmd, rest, err := root.Find(words)
	if err == nil && len(rest) > 0 {
		err = unknownCommandError(cmd, rest[0])
	}
	if err != nil {
		return nil, usageError{err}
	}
	return cmd, nil
}

// completeCommand returns the names of the subcommands of the command that words name,
// for completion in a shell.
func completeCommand(cmd *cobra.Command, words []string, _ string) (names []string, _ cobra.ShellCompDirective) {
	if of, err := findCommand(cmd.Root(), words); err == nil {
		for _, below := range visibleCommands(of) {
			names = append(names, below.Name())
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// writeManPages writes the manual page of each command to dir.
func writeManPages(root *cobra.Command, dir string, stdout io.Writer) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	n := 0
	var write func(*cobra.Command) error
	write = func(cmd *cobra.Command) error {
		if err := os.WriteFile(filepath.Join(dir, pageName(cmd)+".1"), []byte(renderManPage(cmd)), 0o644); err != nil {
			return err
		}
		n++
		for _, below := range visibleCommands(cmd) {
			if err := write(below); err != nil {
				return err
			}
		}
		return nil
	}
	if err := write(root); err != nil {
		return err
	}
	_, err := fmt.Fprintf(stdout, "%d pages written to %s\n", n, dir)
	return err
}

// visibleCommands returns the subcommands that help lists.
func visibleCommands(cmd *cobra.Command) (below []*cobra.Command) {
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			below = append(below, c)
		}
	}
	return below
}

// pageName returns the name of the manual page of cmd, like bellhop-token-list.
func pageName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// renderManPage returns the manual page of cmd in the man macros of roff.
func renderManPage(cmd *cobra.Command) string {
	var b strings.Builder
	name := pageName(cmd)
	fmt.Fprintf(&b, ".TH %q 1 \"\" %q \"bellhop manual\"\n", strings.ToUpper(name), "bellhop")
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", escapeRoff(name), escapeRoff(cmd.Short))
	use := cmd.UseLine()
	if cmd.HasAvailableSubCommands() {
		use = cmd.CommandPath() + " [command]"
	}
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n", escapeRoff(use))
	b.WriteString(".SH DESCRIPTION\n")
	text := cmd.Long
	if text == "" {
		text = cmd.Short + "."
	}
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		fmt.Fprintf(&b, ".PP\n%s\n", escapeRoff(paragraph))
	}
	if below := visibleCommands(cmd); len(below) > 0 {
		b.WriteString(".SH COMMANDS\n")
		for _, c := range below {
			fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", escapeRoff(c.Name()), escapeRoff(c.Short))
		}
	}
	writeManFlags(&b, "OPTIONS", cmd.NonInheritedFlags())
	writeManFlags(&b, "COMMON OPTIONS", cmd.InheritedFlags())
	if cmd.Example != "" {
		fmt.Fprintf(&b, ".SH EXAMPLES\n.EX\n%s\n.EE\n", escapeRoff(cmd.Example))
	}
	b.WriteString(".SH EXIT STATUS\n0 on success, 1 on failure, 2 if the command line is wrong.\n")
	var others []string
	if cmd.HasParent() {
		others = append(others, pageName(cmd.Parent()))
	}
	for _, c := range visibleCommands(cmd) {
		others = append(others, pageName(c))
	}
	if len(others) > 0 {
		b.WriteString(".SH SEE ALSO\n")
		for i, other := range others {
			fmt.Fprintf(&b, ".BR %s (1)%s\n", escapeRoff(other), map[bool]string{true: ",", false: ""}[i < len(others)-1])
		}
	}
	return b.String()
}

// writeManFlags writes a section with the visible flags, or nothing if there are none.
func writeManFlags(b *strings.Builder, title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	fmt.Fprintf(b, ".SH %s\n", title)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, text := pflag.UnquoteUsage(f)
		spelled := "--" + f.Name
		if f.Shorthand != "" {
			spelled = "-" + f.Shorthand + ", " + spelled
		}
		if value != "" {
			spelled += " " + value
		}
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" && f.DefValue != "[]" && f.DefValue != "0s" {
			text += " (default " + f.DefValue + ")"
		}
		fmt.Fprintf(b, ".TP\n.B %s\n%s\n", escapeRoff(spelled), escapeRoff(text))
	})
}

// escapeRoff escapes text for roff.
func escapeRoff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`, "…", `\[u2026]`).Replace(text)
	text = strings.ReplaceAll(text, "\n.", "\n\\&.") // a dot at the start of a line would be a macro
	if strings.HasPrefix(text, ".") {
		text = `\&` + text
	}
	return text
}
