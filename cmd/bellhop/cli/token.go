package cli

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"bellhop/admin/access"
)

// tokenCommand returns the command bellhop token.
func tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Manage API tokens",
		Long: `Create, list and revoke tokens of the admin API.

These commands need a running bellhop and a token of scope admin.`,
		Example: `  bellhop token create --scope write --extension 101 --note crm --expires 8760h
  bellhop token list
  bellhop token revoke 4xq7…`,
	}
	r := addServerFlags(cmd)
	cmd.AddCommand(tokenCreateCommand(r), tokenListCommand(r), tokenRevokeCommand(r))
	return cmd
}

func tokenCreateCommand(r *apiClient) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Create a token and print it once",
		Long: `Create a token and print it. It cannot be shown again.

Scope read lists and shows. Scope write also changes subscriptions and sends
callbacks. Scope admin may do everything. With --extension, the token sees and
changes only what belongs to these extensions.`,
		Args: cobra.NoArgs,
	}
	var t struct {
		Note       string    `json:"note,omitempty"`
		Scope      string    `json:"scope"`
		Extensions []string  `json:"extensions,omitempty"`
		Expires    time.Time `json:"expires,omitzero"`
	}
	f := cmd.Flags()
	f.StringVar(&t.Scope, "scope", "", "`scope` of the token: read, write or admin")
	f.StringArrayVar(&t.Extensions, "extension", nil, "limit the token to this `extension`, like 101 or 101@pbx.example (repeatable)")
	f.StringVar(&t.Note, "note", "", "`text` to describe the token")
	lifetime := f.Duration("expires", 0, "lifetime as a `duration`, like 720h; 0 means until revoked")
	cmd.MarkFlagRequired("scope")
	completeFlag(cmd, "scope", string(access.Read), string(access.Write), string(access.Admin))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *lifetime < 0 {
			return usageError{fmt.Errorf("--expires must not be negative: %v", *lifetime)}
		}
		if *lifetime > 0 {
			t.Expires = time.Now().Add(*lifetime).UTC().Truncate(time.Second)
		}
		var made access.Token
		if err := r.doRequest(cmd.Context(), "POST", "/v1/tokens", t, &made); err != nil {
			return err
		}
		if r.json {
			return writeJSON(cmd.OutOrStdout(), made)
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "token %s (shown once):\n", made.ID)
		_, err := fmt.Fprintln(cmd.OutOrStdout(), made.Secret)
		return err
	}
	return cmd
}

func tokenListCommand(r *apiClient) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List tokens, oldest first",
		Args:  cobra.NoArgs,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		all, _, err := collectItems(listPages[access.Token](cmd.Context(), r, "/v1/tokens", "cursor", 1000, url.Values{}), 0)
		if err != nil {
			return err
		}
		if r.json {
			return writeJSON(cmd.OutOrStdout(), all)
		}
		t := table{
			head:     []string{"ID", "SCOPE", "EXTENSIONS", "CREATED", "LAST USED", "EXPIRES", "NOTE"},
			cuttable: map[string]bool{"EXTENSIONS": true, "NOTE": true},
		}
		for _, token := range all {
			extensions := "all"
			if token.Extensions != nil {
				extensions = strings.Join(token.Extensions, " ")
			}
			t.addRow(token.ID, string(token.Scope), extensions, r.formatDay(token.Created), r.formatDay(token.LastUsed), r.formatDay(token.Expires), token.Note)
		}
		return t.writeTo(terminalOf(cmd.OutOrStdout()))
	}
	return cmd
}

func tokenRevokeCommand(r *apiClient) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke ID...",
		Short: "Revoke tokens immediately",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, ids []string) error {
			return r.deleteItems(cmd, "/v1/tokens", ids, "token %s revoked\n")
		},
	}
}
