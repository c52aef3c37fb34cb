package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"bellhop/cmd/bellhop/config"
)

func checkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check a config file and print every problem",
		Args:  cobra.NoArgs,
	}
	path := addConfigFlag(cmd)
	asJSON := cmd.Flags().Bool("json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return runCheck(cmd.Context(), *path, *asJSON, cmd.OutOrStdout())
	}
	return cmd
}

// runCheck reads the config at path and prints a summary of it, the resulting addresses
// and the warnings, or returns all its problems. With asJSON it prints one JSON object in
// both cases.
//
// Only the responses of the PBX show that the PBX is set up wrongly. So if a bellhop
// runs with this config, runCheck also prints the reasons why that bellhop is degraded,
// one a line. They do not make the check fail.
func runCheck(ctx context.Context, path string, asJSON bool, stdout io.Writer) error {
	c, warnings, err := config.Check(path)
	var network, found []string
	if err == nil {
		network, found = describeNetwork(&c), queryDegraded(ctx, c.AdminURL())
	}
	if asJSON {
		var report struct {
			OK       bool            `json:"ok"`
			Problems config.Problems `json:"problems"`
			Warnings config.Problems `json:"warnings,omitempty"`
			Network  []string        `json:"network,omitempty"`
			Degraded []string        `json:"degraded,omitempty"`
		}
		report.OK, report.Problems, report.Degraded = err == nil, config.Problems{}, found
		report.Warnings, report.Network = warnings, network
		if err != nil && !errors.As(err, &report.Problems) {
			report.Problems = config.Problems{{File: path, Text: err.Error()}}
		}
		if err := writeJSON(stdout, report); err != nil {
			return err
		}
		if err != nil {
			return ErrReported
		}
		return nil
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s is valid: %s\n", path, c.Summary())
	for _, line := range network {
		fmt.Fprintln(stdout, line)
	}
	for _, w := range warnings {
		fmt.Fprintf(stdout, "warning: %v\n", w)
	}
	for _, f := range found {
		_, err = fmt.Fprintf(stdout, "bellhop is running, but degraded: %s\n", stripControls(f))
	}
	return err
}

// queryDegraded returns the reasons why the bellhop at url is degraded. It returns none
// if no bellhop answers there, or if that bellhop requires a token.
func queryDegraded(ctx context.Context, url string) []string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return nil
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	var answer struct {
		Degraded []string `json:"degraded"`
	}
	if json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&answer) != nil {
		return nil
	}
	return answer.Degraded
}
