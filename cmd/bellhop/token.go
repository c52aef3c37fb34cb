package main

import (
	"fmt"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"bellhop/admin"
)

func tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make, list and revoke the tokens by which others use the admin API",
		Long: `Make, list and revoke the tokens by which others use the admin API.

bellhop must run. BELLHOP_TOKEN is a token of scope admin: the one of admin.token
in the config, or in the file admin.token of store.dir.`,
		Example: `  export BELLHOP_TOKEN="$(cat data/admin.token)"
  bellhop token create --scope write --extension 101 --extension 102 --note crm --expires 8760h
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
	asJSON := f.Bool("json", false, "write JSON")
	cmd.MarkFlagRequired("scope")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *lifetime < 0 {
			return fmt.Errorf("--expires %v is over already", *lifetime)
		}
		if *lifetime > 0 {
			t.Expires = time.Now().Add(*lifetime).UTC().Truncate(time.Second)
		}
		var made admin.Token
		if err := r.do(cmd.Context(), "POST", "/v1/tokens", t, &made); err != nil {
			return err
		}
		if *asJSON {
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
	asJSON := cmd.Flags().Bool("json", false, "write JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		all := []admin.Token{}
		for cursor, more := "", true; more; more = cursor != "" {
			var page struct {
				Items []admin.Token
				Next  string
			}
			if err := r.do(cmd.Context(), "GET", "/v1/tokens?limit=1000&cursor="+url.QueryEscape(cursor), nil, &page); err != nil {
				return err
			}
			all, cursor = append(all, page.Items...), page.Next
		}
		if *asJSON {
			return writeJSON(cmd.OutOrStdout(), all)
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "ID\tSCOPE\tEXTENSIONS\tCREATED\tLAST USED\tEXPIRES\tNOTE")
		for _, t := range all {
			extensions := "all"
			if t.Extensions != nil {
				extensions = strings.Join(t.Extensions, " ")
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", t.ID, t.Scope, printable(extensions), day(t.Created), day(t.LastUsed), day(t.Expires), printable(t.Note))
		}
		return w.Flush()
	}
	return cmd
}

func tokenRevokeCommand(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke ID...",
		Short: "End tokens: from now on they are good for nothing",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, ids []string) error {
			for _, id := range ids {
				if err := r.do(cmd.Context(), "DELETE", "/v1/tokens/"+url.PathEscape(id), nil, nil); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "token %s is revoked\n", id)
			}
			return nil
		},
	}
}

// day is a time as a table shows it.
func day(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Local().Format("2006-01-02 15:04")
}

// printable is s without what would move the cursor or color the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
}
