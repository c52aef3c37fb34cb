package cli

import (
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"bellhop/admin/ops"
)

// bansCommand returns the command bellhop bans.
func bansCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bans",
		Short: "Manage banned sources",
		Long: `List, add and remove bans of sources: IPv4 addresses, or /64 networks of IPv6.

bellhop accepts nothing from a banned source. It bans sources by itself, see
[guard] in the config. These commands need a running bellhop, and a token of scope
admin to change bans.`,
		Example: `  bellhop bans list
  bellhop bans add 203.0.113.9 --for 24h
  bellhop bans remove 203.0.113.9`,
	}
	r := addServerFlags(cmd)
	cmd.AddCommand(banListCommand(r), banAddCommand(r), banRemoveCommand(r))
	return cmd
}

func banListCommand(r *apiClient) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List banned sources, oldest ban first",
		Args:  cobra.NoArgs,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		all, _, err := collectItems(listPages[ops.Ban](cmd.Context(), r, "/v1/bans", "cursor", 1000, url.Values{}), 0)
		if err != nil {
			return err
		}
		if r.json {
			return writeJSON(cmd.OutOrStdout(), all)
		}
		t := table{head: []string{"SOURCE", "REASON", "SINCE", "UNTIL", "TIMES"}}
		for _, b := range all {
			t.addRow(b.Source, b.Reason, r.formatDay(b.Since), r.formatDay(b.Until), strconv.Itoa(b.Times))
		}
		return t.writeTo(terminalOf(cmd.OutOrStdout()))
	}
	return cmd
}

func banAddCommand(r *apiClient) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add SOURCE...",
		Short: "Ban sources, and close their connections",
		Long: `Ban sources, and close their connections. An IPv6 address stands for its /64
network. A ban that a source already has is replaced.`,
		Args: cobra.MinimumNArgs(1),
	}
	duration := cmd.Flags().Duration("for", 0, "length of the ban as a `duration`, like 24h (default: guard.ban_time of the config)")
	cmd.RunE = func(cmd *cobra.Command, sources []string) error {
		if cmd.Flags().Changed("for") && *duration <= 0 {
			return usageError{fmt.Errorf("--for must be positive: %v", *duration)}
		}
		added := make([]ops.Ban, 0, len(sources))
		for _, source := range sources {
			in := struct {
				Source string    `json:"source"`
				Until  time.Time `json:"until,omitzero"`
			}{Source: source}
			if *duration > 0 {
				in.Until = time.Now().Add(*duration).UTC()
			}
			var b ops.Ban
			if err := r.doRequest(cmd.Context(), "POST", "/v1/bans", in, &b); err != nil {
				return fmt.Errorf("ban %s: %w", source, err)
			}
			added = append(added, b)
			if !r.json {
				fmt.Fprintf(cmd.OutOrStdout(), "%s banned until %s\n", b.Source, r.formatDay(b.Until))
			}
		}
		if r.json {
			return writeJSON(cmd.OutOrStdout(), added)
		}
		return nil
	}
	return cmd
}

func banRemoveCommand(r *apiClient) *cobra.Command {
	return &cobra.Command{
		Use:   "remove SOURCE...",
		Short: "End bans immediately",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, sources []string) error {
			return r.deleteItems(cmd, "/v1/bans", sources, "ban of %s ended\n")
		},
	}
}
