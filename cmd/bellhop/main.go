// Bellhop is a SIP edge proxy that sends webhooks. It runs between phones and a PBX,
// forwards every message, follows the calls and notifies subscribers of their events.
//
// README.md beside this file is the guide of operators. config.toml is the manual of the
// settings.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"bellhop/cmd/bellhop/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(newProgram().Run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// newProgram returns the command line of this bellhop.
func newProgram() cli.Program {
	return cli.Program{Version: buildVersion(), Topics: topics, Serve: runServe, Demo: runDemo}
}

// version is the release that this source is, or will become. CHANGELOG.md starts with
// it.
const version = "0.1.0"

// buildVersion returns the version, followed by the revision if the go command recorded
// one: 0.1.0+3767f3dbce93, or 0.1.0+3767f3dbce93.modified with uncommitted changes.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version
	}
	at := map[string]string{}
	for _, s := range info.Settings {
		at[s.Key] = s.Value
	}
	rev := at["vcs.revision"]
	if len(rev) < 12 {
		return version
	}
	if at["vcs.modified"] == "true" {
		return version + "+" + rev[:12] + ".modified"
	}
	return version + "+" + rev[:12]
}
