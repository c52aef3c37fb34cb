package main

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"bellhop/admin"
)

func tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make, list and revoke tokens of the admin API",
		Long: `Make, list and revoke the tokens by which others use the admin API.

bellhop must run, and the token in use be of scope admin.`,
		Example: `  bellhop token create --scope write --extension 101 --note crm --expires 8760h
  bellhop token list
  bellhop token revoke 4xq7…`,
	}
	r := serverFlag(cmd)
	cmd.AddCommand(tokenCreateCommand(r), tokenListCommand(r), tokenRevokeCommand(r))
	return cmd
}

func tokenCreateCommand(r *remote) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a token, and print it; nobody can see it again",
		Long: `Make a token, and print it; nobody can see it again.

A token of scope read sees what there is; one of scope write changes
subscriptions, and has callbacks sent, too; one of scope admin may do all. A
token that is bound to extensions sees and changes what is of these alone.`,
		Args: cobra.NoArgs,
	}
	var t struct {
		Note       string    `json:"note,omitempty"`
		Scope      string    `json:"scope"`
		Extensions []string  `json:"extensions,omitempty"`
		Expires    time.Time `json:"expires,omitzero"`
	}
	f := cmd.Flags()
	f.StringVar(&t.Scope, "scope", "", "read, write or admin")
	f.StringArrayVar(&t.Extensions, "extension", nil, "bind it to this `extension`, like 101 or 101@pbx.example; may be repeated")
	f.StringVar(&t.Note, "note", "", "`what` it is for")
	lifetime := f.Duration("expires", 0, "how long it is good, like 720h; 0 is until it is revoked")
	cmd.MarkFlagRequired("scope")
	complete(cmd, "scope", string(admin.Read), string(admin.Write), string(admin.Admin))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *lifetime < 0 {
			return usage{fmt.Errorf("--expires %v is over already", *lifetime)}
		}
		if *lifetime > 0 {
			t.Expires = time.Now().Add(*lifetime).UTC().Truncate(time.Second)
		}
		var made admin.Token
		if err := r.do(cmd.Context(), "POST", "/v1/tokens", t, &made); err != nil {
			return err
		}
		if r.json {
			return writeJSON(cmd.OutOrStdout(), made)
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "token %s, shown this once:\n", made.ID)
		_, err := fmt.Fprintln(cmd.OutOrStdout(), made.Secret)
		return err
	}
	return cmd
}

func tokenListCommand(r *remote) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the tokens, the oldest first",
		Args:  cobra.NoArgs,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		all, _, err := collect(pages[admin.Token](cmd.Context(), r, "/v1/tokens", "cursor", 1000, url.Values{}), 0)
		if err != nil {
			return err
		}
		if r.json {
			return writeJSON(cmd.OutOrStdout(), all)
		}
		t := table{
			head: []string{"ID", "SCOPE", "EXTENSIONS", "CREATED", "LAST USED", "EXPIRES", "NOTE"},
			cut:  map[string]bool{"EXTENSIONS": true, "NOTE": true},
		}
		for _, token := range all {
			extensions := "all"
			if token.Extensions != nil {
				extensions = strings.Join(token.Extensions, " ")
			}
			t.add(token.ID, string(token.Scope), extensions, r.day(token.Created), r.day(token.LastUsed), r.day(token.Expires), token.Note)
		}
		return t.write(screenOf(cmd.OutOrStdout()))
	}
	return cmd
}

func tokenRevokeCommand(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke ID...",
		Short: "End tokens: from now on they are good for nothing",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, ids []string) error {
			return r.end(cmd, "/v1/tokens", ids, "token %s is revoked\n")
		},
	}
}
