package main

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
		Short: "Write the manual page of a command, or with --dir all of them",
		Example: `  bellhop man | man -l -
  bellhop man subscriptions apply | man -l -
  bellhop man --dir /usr/local/share/man/man1`,
		ValidArgsFunction: completeCommand,
	}
	dir := cmd.Flags().String("dir", "", "write all pages to this `directory`")
	cmd.MarkFlagDirname("dir")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *dir != "" {
			if len(args) > 0 {
				return usage{errors.New("--dir writes all pages: name no command beside it")}
			}
			return manPages(cmd.Root(), *dir, cmd.OutOrStdout())
		}
		of, err := commandOf(cmd.Root(), args)
		if err != nil {
			return err
		}
		if of.IsAdditionalHelpTopicCommand() {
			return usage{fmt.Errorf("%s is a topic without a manual page: see bellhop help %[1]s", of.Name())}
		}
		_, err = io.WriteString(cmd.OutOrStdout(), manPage(of))
		return err
	}
	return cmd
}

func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "help [COMMAND... | TOPIC]",
		Short:             "Help about any command",
		ValidArgsFunction: completeHelp,
		RunE: func(cmd *cobra.Command, args []string) error {
			of, err := commandOf(cmd.Root(), args)
			if err != nil {
				return err
			}
			of.InitDefaultHelpFlag()
			return of.Help()
		},
	}
}

// commandOf finds the command that words name.
func commandOf(root *cobra.Command, words []string) (*cobra.Command, error) {
	cmd, rest, err := root.Find(words)
	if err == nil && len(rest) > 0 {
		err = unknown(cmd, rest[0])
	}
	if err != nil {
		return nil, usage{err}
	}
	return cmd, nil
}

// completeCommand has the shell know which commands there are below those named.
func completeCommand(cmd *cobra.Command, words []string, _ string) (names []string, _ cobra.ShellCompDirective) {
	if of, err := commandOf(cmd.Root(), words); err == nil {
		for _, below := range shown(of) {
			names = append(names, below.Name())
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// manPages writes the page of each command to a directory.
func manPages(root *cobra.Command, dir string, stdout io.Writer) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	n := 0
	var write func(*cobra.Command) error
	write = func(cmd *cobra.Command) error {
		if err := os.WriteFile(filepath.Join(dir, manName(cmd)+".1"), []byte(manPage(cmd)), 0o644); err != nil {
			return err
		}
		n++
		for _, below := range shown(cmd) {
			if err := write(below); err != nil {
				return err
			}
		}
		return nil
	}
	if err := write(root); err != nil {
		return err
	}
	_, err := fmt.Fprintf(stdout, "%d pages are in %s\n", n, dir)
	return err
}

// shown are the commands below one that help shows.
func shown(cmd *cobra.Command) (below []*cobra.Command) {
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			below = append(below, c)
		}
	}
	return below
}

func manName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// manPage is the page of a command, in the man macros of roff.
func manPage(cmd *cobra.Command) string {
	var b strings.Builder
	name := manName(cmd)
	fmt.Fprintf(&b, ".TH %q 1 \"\" %q \"bellhop manual\"\n", strings.ToUpper(name), "bellhop")
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(name), roff(cmd.Short))
	use := cmd.UseLine()
	if cmd.HasAvailableSubCommands() {
		use = cmd.CommandPath() + " [command]"
	}
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n", roff(use))
	b.WriteString(".SH DESCRIPTION\n")
	text := cmd.Long
	if text == "" {
		text = cmd.Short + "."
	}
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		fmt.Fprintf(&b, ".PP\n%s\n", roff(paragraph))
	}
	if below := shown(cmd); len(below) > 0 {
		b.WriteString(".SH COMMANDS\n")
		for _, c := range below {
			fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(c.Name()), roff(c.Short))
		}
	}
	manFlags(&b, "OPTIONS", cmd.NonInheritedFlags())
	manFlags(&b, "COMMON OPTIONS", cmd.InheritedFlags())
	if cmd.Example != "" {
		fmt.Fprintf(&b, ".SH EXAMPLES\n.EX\n%s\n.EE\n", roff(cmd.Example))
	}
	b.WriteString(".SH EXIT STATUS\n0 if it went well, 1 if it failed, 2 if the command line is wrong.\n")
	var others []string
	if cmd.HasParent() {
		others = append(others, manName(cmd.Parent()))
	}
	for _, c := range shown(cmd) {
		others = append(others, manName(c))
	}
	if len(others) > 0 {
		b.WriteString(".SH SEE ALSO\n")
		for i, other := range others {
			fmt.Fprintf(&b, ".BR %s (1)%s\n", roff(other), map[bool]string{true: ",", false: ""}[i < len(others)-1])
		}
	}
	return b.String()
}

func manFlags(b *strings.Builder, title string, flags *pflag.FlagSet) {
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
		fmt.Fprintf(b, ".TP\n.B %s\n%s\n", roff(spelled), roff(text))
	})
}

// roff is text as roff shows it.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`, "…", `\[u2026]`).Replace(text)
	text = strings.ReplaceAll(text, "\n.", "\n\\&.") // else it would be a macro
	if strings.HasPrefix(text, ".") {
		text = `\&` + text
	}
	return text
}
