// Package cli is the command line of bellhop: its commands, their help, manual pages and
// completion.
//
// Most commands are clients of the admin API of a running bellhop. They find it by flags,
// the environment or its config file. [Program] has what the other commands need. Errors
// go to the error output, without control characters.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"bellhop/cmd/bellhop/config"
	"bellhop/dialog"
)

// A Program has what the command line needs from the program bellhop: its version, its
// guides, and the functions that run the commands serve and demo.
type Program struct {
	Version string  // that the command version prints
	Topics  []Topic // in the order in which help lists them

	// Serve runs the proxy with the config at path until ctx ends.
	Serve func(ctx context.Context, path string, stdout io.Writer) error
	// Demo places test calls and prints their callbacks. With stay it then goes on until
	// ctx ends.
	Demo func(ctx context.Context, stay bool, stdout io.Writer) error
}

// Run runs the command that args name and returns the exit status: 0 on success, 1 after
// an error, 2 if args are wrong. Errors are printed to stderr.
func (p Program) Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cmd := p.newRootCommand()
	began := false
	cmd.InitDefaultCompletionCmd()
	cmd.InitDefaultHelpCmd()
	trackCommandStart(cmd, &began)
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	last, err := cmd.ExecuteContextC(ctx)
	var ps config.Problems
	var wrong usageError
	switch {
	case err == nil:
		return 0
	case !began:
		fmt.Fprintf(stderr, "bellhop: %s: see %s --help\n", dialog.ReplaceControls(rewordArgError(err)), last.CommandPath())
		return 2
	case errors.As(err, &wrong):
		fmt.Fprintln(stderr, "bellhop:", dialog.ReplaceControls(err.Error()))
		return 2
	case errors.Is(err, ErrReported):
	case errors.As(err, &ps):
		fmt.Fprintln(stderr, dialog.ReplaceControls(ps.Error()))
	default:
		fmt.Fprintln(stderr, "bellhop:", dialog.ReplaceControls(err.Error()))
	}
	return 1
}

// argErrors are the errors of cobra about arguments, with the words to print instead.
var argErrors = []struct {
	pattern *regexp.Regexp
	text    string
}{
	{regexp.MustCompile(`^at least one of the flags in the group \[(\S+) (\S+)\] is required$`), "give --$1 or --$2"},
	{regexp.MustCompile(`^if any flags in the group .* none of the others can be; \[(\S+) (\S+)\] were all set$`), "give --$1 or --$2, not both"},
	{regexp.MustCompile(`^accepts (\d+) arg\(s\), received (\d+)$`), "want $1 argument, got $2"},
	{regexp.MustCompile(`^requires at least (\d+) arg\(s\), only received (\d+)$`), "want at least $1 argument, got $2"},
	{regexp.MustCompile(`^required flag\(s\) (.*) not set$`), "missing flags: $1"},
	{regexp.MustCompile(`^invalid argument (".*") for "(.*)" flag: (?:strconv\.\w+: parsing ".*": )?(.*)$`), "parse $2: $1: $3"},
}

// rewordArgError returns the text of an error of cobra about arguments in plain words.
func rewordArgError(err error) string {
	text := err.Error()
	for _, e := range argErrors {
		text = e.pattern.ReplaceAllString(text, e.text)
	}
	return text
}

// ErrReported is the error of a command that has already printed its error. The exit status
// is 1.
var ErrReported = errors.New("already reported")

// A usageError is an error in the arguments. The exit status is 2.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

// trackCommandStart makes cmd and its subcommands set began when they start to run,
// because an error before that is about the arguments. It also makes a command that
// only groups subcommands reject an unknown word.
func trackCommandStart(cmd *cobra.Command, began *bool) {
	if do := cmd.RunE; do != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			*began = true
			return do(cmd, args)
		}
	} else if cmd.HasSubCommands() {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownCommandError(cmd, args[0])
		}
		cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
			if cmd.HasSubCommands() && cmd.Flags().NArg() > 0 { // the flag may belong to the misspelled command
				return unknownCommandError(cmd, cmd.Flags().Arg(0))
			}
			return err
		})
		cmd.Args, cmd.SuggestionsMinimumDistance = cobra.ArbitraryArgs, 2
	}
	for _, below := range cmd.Commands() {
		trackCommandStart(below, began)
	}
}

// unknownCommandError returns the error for a word that is not a command below cmd. It
// suggests similar commands.
func unknownCommandError(cmd *cobra.Command, word string) error {
	text := fmt.Sprintf("unknown command %q for %q", word, cmd.CommandPath())
	if near := cmd.SuggestionsFor(word); len(near) > 0 {
		text += " (did you mean " + strings.Join(near, " or ") + "?)"
	}
	return errors.New(text)
}

// newRootCommand returns the command bellhop with all its subcommands.
func (p Program) newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "bellhop",
		Short: "SIP edge proxy that sends webhooks",
		Long: `bellhop is a SIP edge proxy that sends webhooks.

It runs between your phones and any PBX, forwards every SIP message, and calls
your URLs when an extension rings, places a call, answers or hangs up.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetUsageTemplate(strings.NewReplacer(
		".FlagUsages", ".FlagUsagesWrapped 80",
		"{{if .Runnable}}", "{{if not .HasAvailableSubCommands}}",
	).Replace(root.UsageTemplate()))
	// Shells complete file names only for flags marked as files.
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.SetHelpCommand(helpCommand(p.Topics))
	root.AddCommand(p.serveCommand(), p.demoCommand(), checkCommand(), statusCommand(), tokenCommand(), bansCommand(),
		subscriptionsCommand(), eventsCommand(), deliveriesCommand(), verifyCommand(), manCommand(), p.versionCommand())
	addTopics(root, p.Topics)
	return root
}

func (p Program) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the proxy",
		Long: `Run the proxy between phones and the PBX, and send webhooks about their calls.

SIGTERM drains and stops: new calls are refused, established calls go on.
SIGHUP reloads the config.`,
		Args: cobra.NoArgs,
	}
	path := addConfigFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return p.Serve(cmd.Context(), *path, cmd.OutOrStdout())
	}
	return cmd
}

func (p Program) demoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Place test calls in this process and print every callback",
		Args:  cobra.NoArgs,
	}
	stay := cmd.Flags().Bool("stay", false, "keep running after the calls, until interrupted")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return p.Demo(cmd.Context(), *stay, cmd.OutOrStdout())
	}
	return cmd
}

func (p Program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "bellhop %s %s %s/%s\n", p.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// addConfigFlag adds --config to cmd and returns a pointer to its value.
func addConfigFlag(cmd *cobra.Command) *string {
	file := cmd.Flags().StringP("config", "c", "config.toml", "config `file`")
	cmd.MarkFlagFilename("config", "toml")
	return file
}
