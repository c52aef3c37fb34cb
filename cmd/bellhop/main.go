// Bellhop is a SIP hop that rings web addresses: it stands between phones and a
// PBX, forwards every message, and tells subscribers what happened to the calls.
//
// README.md is the guide, config.toml the manual of its settings.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"bellhop/dialog"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run does what args ask for, and returns the exit status: 1 after an error, 2
// if args are wrong. Of either, stderr has a line.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cmd := commands()
	began := false
	cmd.InitDefaultCompletionCmd()
	cmd.InitDefaultHelpCmd()
	watch(cmd, &began)
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	last, err := cmd.ExecuteContextC(ctx)
	var ps problems
	var wrong usage
	switch {
	case err == nil:
		return 0
	case !began:
		fmt.Fprintf(stderr, "bellhop: %s: see %s --help\n", dialog.Harmless(err.Error()), last.CommandPath())
		return 2
	case errors.As(err, &wrong):
		fmt.Fprintln(stderr, "bellhop:", dialog.Harmless(err.Error()))
		return 2
	case errors.Is(err, errReported):
	case errors.As(err, &ps):
		fmt.Fprintln(stderr, dialog.Harmless(ps.Error()))
	default:
		fmt.Fprintln(stderr, "bellhop:", dialog.Harmless(err.Error()))
	}
	return 1
}

// errReported ends a command that has said itself what is wrong.
var errReported = errors.New("already reported")

// A usage error is about the arguments.
type usage struct{ error }

func (u usage) Unwrap() error { return u.error }

// watch has began set when a command of the tree begins: what fails earlier is
// about the arguments. Of a command that only has others below it, a word that
// is none of them is refused.
func watch(cmd *cobra.Command, began *bool) {
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
			return unknown(cmd, args[0])
		}
		cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
			if cmd.HasSubCommands() && cmd.Flags().NArg() > 0 { // the flag may be of the command that is meant
				return unknown(cmd, cmd.Flags().Arg(0))
			}
			return err
		})
		cmd.Args, cmd.SuggestionsMinimumDistance = cobra.ArbitraryArgs, 2
	}
	for _, below := range cmd.Commands() {
		watch(below, began)
	}
}

// unknown says that a word is none of the commands below cmd.
func unknown(cmd *cobra.Command, word string) error {
	text := fmt.Sprintf("unknown command %q for %q", word, cmd.CommandPath())
	if near := cmd.SuggestionsFor(word); len(near) > 0 {
		text += " (did you mean " + strings.Join(near, " or ") + "?)"
	}
	return errors.New(text)
}

func commands() *cobra.Command {
	root := &cobra.Command{
		Use:           "bellhop",
		Short:         "The SIP hop that rings your web apps",
		SilenceErrors: true,
		SilenceUsage:  true,
	}

	root.SetUsageTemplate(strings.NewReplacer(
		".FlagUsages", ".FlagUsagesWrapped 80",
		"{{if .Runnable}}", "{{if not .HasAvailableSubCommands}}",
	).Replace(root.UsageTemplate()))
	// Shells offer files only for flags that are marked.
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)

	serveCmd := &cobra.Command{
		Use:   "serve",
		Short: "Stand between phones and the PBX until told to stop",
		Long: `Stand between phones and the PBX, and tell subscribers of their calls.

SIGTERM drains: calls go on, new ones are refused. SIGHUP reads the config again.`,
		Args: cobra.NoArgs,
	}
	serveConfig := configFlag(serveCmd)
	serveCmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return serve(cmd.Context(), *serveConfig, cmd.OutOrStdout())
	}

	demoCmd := &cobra.Command{
		Use:   "demo",
		Short: "Place calls, all in this process, and show every callback",
		Args:  cobra.NoArgs,
	}
	stay := demoCmd.Flags().Bool("stay", false, "stay up afterwards, until interrupted")
	demoCmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return demo(cmd.Context(), *stay, cmd.OutOrStdout())
	}

	checkCmd := &cobra.Command{
		Use:   "check",
		Short: "Say what is wrong with a config, all of it, or what it means",
		Args:  cobra.NoArgs,
	}
	checkConfig := configFlag(checkCmd)
	asJSON := checkCmd.Flags().Bool("json", false, "write JSON")
	checkCmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return check(cmd.Context(), *checkConfig, *asJSON, cmd.OutOrStdout())
	}

	versionCmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "bellhop %s %s %s/%s\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}

	root.SetHelpCommand(helpCommand())
	root.AddCommand(serveCmd, demoCmd, checkCmd, tokenCommand(), subscriptionsCommand(), eventsCommand(), deliveriesCommand(), verifyCommand(), manCommand(), versionCmd)
	addTopics(root)
	return root
}

func configFlag(cmd *cobra.Command) *string {
	file := cmd.Flags().StringP("config", "c", "config.toml", "the config `file`")
	cmd.MarkFlagFilename("config", "toml")
	return file
}

// writeJSON writes v for a program, and a person, to read.
func writeJSON(w io.Writer, v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := w.Write(escapeSteering(b.Bytes()))
	return err
}

// release is the version of a released build: -ldflags "-X main.release=v1.2.3".
var release string

// version is the release, else what the go command knew when it built this.
func version() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	at := map[string]string{}
	for _, s := range info.Settings {
		at[s.Key] = s.Value
	}
	if rev := at["vcs.revision"]; rev != "" {
		if at["vcs.modified"] == "true" {
			return "devel-" + rev[:12] + "-modified"
		}
		return "devel-" + rev[:12]
	}
	return "devel"
}
