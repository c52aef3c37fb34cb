package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	v1 "bellhop/admin/v1"
	"bellhop/cmd/bellhop/config"
	"bellhop/notify"
	"bellhop/notify/subscription"
)

func subscriptionsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "subscriptions",
		Aliases: []string{"subs"},
		Short:   "Manage webhook subscriptions",
		Example: `  bellhop subscriptions add --extension 101 --type dial-in,answer,hangup \
    --url https://crm.example/call
  bellhop subscriptions list --extension 101
  bellhop subscriptions export > subscriptions.toml
  bellhop subscriptions apply -f subscriptions.toml --dry-run`,
	}
	r := addServerFlags(cmd)
	cmd.AddCommand(subscriptionsListCommand(r), subscriptionsAddCommand(r), subscriptionsEditCommand(r), subscriptionsRemoveCommand(r),
		subscriptionsRotateCommand(r), subscriptionsTestCommand(r), subscriptionsReplayCommand(r), subscriptionsExportCommand(r), subscriptionsApplyCommand(r))
	return cmd
}

// listSubscriptions returns the subscriptions that match query, limit at most.
func (r *apiClient) listSubscriptions(ctx context.Context, query url.Values, limit int) ([]notify.Subscription, error) {
	all, _, err := collectItems(listPages[notify.Subscription](ctx, r, "/v1/subscriptions", "cursor", pageSize(limit, 1000), query), limit)
	return all, err
}

// stateColors are the colors of states and actions in tables.
var stateColors = map[string]color{
	"active": green, "paused": yellow, "disabled": red,
	"delivered": green, "waiting": yellow, "expired": red, "refused": red, "canceled": dim, "failed": red,
	"create": green, "change": yellow, "remove": red, "leave": dim,
	"up": green, "resting": yellow, "draining": yellow, "down": red, "unresolved": red, "unknown": dim,
	"valid": green, "expiring": yellow,
}

func subscriptionsListCommand(r *apiClient) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List subscriptions, oldest first",
		Args:  cobra.NoArgs,
	}
	f := cmd.Flags()
	f.String("extension", "", "only subscriptions to this `extension`, by its exact name")
	f.String("type", "", "only subscriptions that name this event `type`")
	f.Bool("active", false, "only active subscriptions; --active=false: only inactive ones")
	limit := f.Int("limit", 0, "largest `number` of subscriptions to list; 0 lists all")
	completeFlag(cmd, "type", subscription.Words()...)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		subs, err := r.listSubscriptions(cmd.Context(), flagQuery(f, "extension", "type", "active"), *limit)
		if err != nil {
			return err
		}
		if r.json {
			return writeJSON(cmd.OutOrStdout(), subs)
		}
		t := table{
			head:     []string{"ID", "EXTENSION", "STATE", "TYPES", "NOTE", "WHY", "URL"},
			cuttable: map[string]bool{"EXTENSION": true, "TYPES": true, "NOTE": true}, colors: stateColors, wrapped: 2,
		}
		for _, sub := range subs {
			t.addRow(sub.ID, extensionLabel(sub), string(sub.State), strings.Join(sub.Types, " "), sub.Note, sub.Why, sub.Method+" "+sub.URL)
		}
		return t.writeTo(terminalOf(cmd.OutOrStdout()))
	}
	return cmd
}

// flagQuery returns a query with those named flags that the command line sets.
func flagQuery(f *pflag.FlagSet, names ...string) url.Values {
	query := url.Values{}
	for _, name := range names {
		if flag := f.Lookup(name); flag.Changed {
			query.Set(name, flag.Value.String())
		}
	}
	return query
}

// extensionLabel returns the extension of a subscription, or its regular expression in
// slashes.
func extensionLabel(sub notify.Subscription) string {
	if sub.ExtensionRegex != "" {
		return "/" + sub.ExtensionRegex + "/"
	}
	return sub.Extension
}

// addSubscriptionFlags adds a flag for each field of a subscription to cmd.
func addSubscriptionFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.String("extension", "", "`extension` to subscribe to, like 101 or 101@pbx.example")
	f.String("extension-regex", "", "RE2 `expression` that matches whole extensions, instead of --extension")
	f.StringSlice("type", nil, "event `types`, like dial-in,answer,hangup (repeatable)")
	f.String("url", "", "`URL` that receives the callbacks")
	f.String("method", "", "HTTP `method`: GET, POST (default) or PUT")
	f.String("dialect", "", "callback `dialect`: json (default), cloudevents, telphin, unified or cti")
	f.Bool("active", true, "send callbacks; --active=false switches the subscription off")
	f.String("note", "", "`text` to describe the subscription")
	f.StringArray("header", nil, "HTTP `header` to send with every callback, like \"X-Api-Key: 1234\"; the value may be env:NAME or file:PATH (repeatable)")
	f.String("secret", "", "signing `secret`, whsec_…, or where it is: env:NAME or file:PATH")
	f.String("tls-ca", "", "PEM `file` of the CAs to trust for the receiver, instead of the system's")
	f.String("tls-cert", "", "PEM `file` of the client certificate to present to the receiver")
	f.String("tls-key", "", "PEM `file` of the key of --tls-cert")
	f.Bool("extended", false, "telphin: also send the fields that the original API does not have")
	f.String("flow-case", "", "`case` of the call flow, in or out: lower (default) or upper")
	f.String("status-words", "", "status `words` at hangup: unified sends only ANSWER and UNKNOWN")
	f.String("group", "", "cti: `grouping` of a call that rings at several extensions: one (a single call) or each (one call per extension)")
	f.Bool("follow-urls", false, "cti: send answer and hangup to the URLs in the response to newCall")
	f.String("live-ttl", "", "stop retrying live callbacks (dial, answer, ringing, hold, resume) after this `duration` (default 60s)")
	f.String("timeout", "", "abort an attempt after this `duration` (default 5s for live callbacks, 15s for others)")
	f.Int("max-in-flight", 0, "largest `number` of callbacks to send at the same time (default 4)")
	completeFlag(cmd, "type", subscription.Words()...)
	completeFlag(cmd, "method", "GET", "POST", "PUT")
	completeFlag(cmd, "dialect", "json", "cloudevents", "telphin", "unified", "cti")
	completeFlag(cmd, "flow-case", "lower", "upper")
	completeFlag(cmd, "status-words", "unified")
	completeFlag(cmd, "group", "one", "each")
	for _, name := range []string{"tls-ca", "tls-cert", "tls-key"} {
		cmd.MarkFlagFilename(name, "pem", "crt", "key")
	}
}

// subscriptionBody returns the fields of a subscription that the command line sets, for
// the body of a request. f has the flags of [addSubscriptionFlags].
func subscriptionBody(f *pflag.FlagSet) (map[string]any, error) {
	if f.Lookup("extension").Value.String() != "" && f.Lookup("extension-regex").Value.String() != "" {
		return nil, usageError{errors.New("give --extension or --extension-regex, not both")}
	}
	body := map[string]any{}
	var wrong error
	f.Visit(func(flag *pflag.Flag) {
		field, text := strings.ReplaceAll(flag.Name, "-", "_"), flag.Value.String()
		var err error
		switch flag.Name {
		case "type":
			body["types"], err = f.GetStringSlice(flag.Name)
		case "secret":
			body[field], err = config.Resolve(text)
		case "tls-ca", "tls-cert", "tls-key":
			var pem []byte
			if text != "" {
				pem, err = config.PEM(text).ReadPEM()
			}
			body[field] = string(pem)
		case "header":
			body["headers"], err = parseHeaders(f)
		default:
			isField := slices.ContainsFunc(subscription.Fields, func(f subscription.Field) bool { return f.Name == field })
			switch kind := flag.Value.Type(); {
			case !isField: // a flag of the command, not of the subscription
			case kind == "bool":
				body[field] = text == "true"
			case kind == "int":
				body[field], err = f.GetInt(flag.Name)
			default:
				body[field] = text
			}
		}
		if err != nil {
			wrong = errors.Join(wrong, fmt.Errorf("--%s: %w", flag.Name, err))
		}
	})
	if wrong != nil {
		return nil, usageError{wrong}
	}
	return body, nil
}

// parseHeaders returns the headers that the flags --header set.
func parseHeaders(f *pflag.FlagSet) (map[string]string, error) {
	fields, err := f.GetStringArray("header")
	headers := map[string]string{}
	for _, s := range fields {
		name, value, _ := strings.Cut(s, ":")
		if value = strings.TrimSpace(value); value == "" {
			return nil, fmt.Errorf(`parse header %q: use a name and a value, like "X-Api-Key: 1234"`, name)
		}
		if headers[name], err = config.Resolve(value); err != nil {
			return nil, err
		}
	}
	return headers, err
}

// completeFlag registers the words that a shell completes for a flag.
func completeFlag(cmd *cobra.Command, flag string, words ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // unknown flag
	}
}

func subscriptionsAddCommand(r *apiClient) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add",
		Short: "Create a subscription and print its secret once",
		Example: `  bellhop subscriptions add --extension 101 --type dial-in,hangup \
    --url https://crm.example/call
  bellhop subscriptions add --extension-regex '.*' --type hangup \
    --url https://crm.example/cdr --header "X-Api-Key: 1234"`,
		Args: cobra.NoArgs,
	}
	addSubscriptionFlags(cmd)
	cmd.Flags().Lookup("secret").Usage += " (default: a new secret, printed once)"
	cmd.MarkFlagsOneRequired("extension", "extension-regex")
	cmd.MarkFlagRequired("type")
	cmd.MarkFlagRequired("url")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		body, err := subscriptionBody(cmd.Flags())
		if err != nil {
			return err
		}
		var made notify.Subscription
		if err := r.doRequest(cmd.Context(), "POST", "/v1/subscriptions", body, &made); err != nil {
			return err
		}
		if r.json {
			return writeJSON(cmd.OutOrStdout(), made)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "subscription %s created\n", made.ID)
		if _, given := body["secret"]; !given {
			fmt.Fprintf(cmd.OutOrStdout(), "secret (shown once): %s\n", string(made.Secret))
		}
		return nil
	}
	return cmd
}

func subscriptionsEditCommand(r *apiClient) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "edit ID",
		Short: "Change the given fields of a subscription",
		Example: `  bellhop subscriptions edit 4xq7… --type dial-in,hangup --active=false
  bellhop subscriptions edit 4xq7… --header "X-Api-Key: 5678"`,
		Args: cobra.ExactArgs(1),
	}
	addSubscriptionFlags(cmd)
	removed := cmd.Flags().StringArray("remove-header", nil, "`name` of a header to remove (repeatable)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		body, err := subscriptionBody(cmd.Flags())
		if err != nil {
			return err
		}
		ctx := cmd.Context()
		if len(*removed) > 0 || body["headers"] != nil {
			if body["headers"], err = r.mergeHeaders(ctx, args[0], body["headers"], *removed); err != nil {
				return err
			}
		}
		if len(body) == 0 {
			return usageError{errors.New("no field given: see bellhop subscriptions edit --help")}
		}
		// Setting one of the two clears the other.
		if body["extension"] != nil && body["extension_regex"] == nil {
			body["extension_regex"] = ""
		} else if body["extension_regex"] != nil && body["extension"] == nil {
			body["extension"] = ""
		}
		var changed notify.Subscription
		if err := r.requestItem(ctx, "PATCH", "/v1/subscriptions", args[0], "", body, &changed); err != nil {
			return err
		}
		if r.json {
			return writeJSON(cmd.OutOrStdout(), changed)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "subscription %s changed\n", changed.ID)
		return err
	}
	return cmd
}

// mergeHeaders returns the new headers of a subscription: its existing headers without
// the removed ones, and the given headers. An existing header has an empty value, for
// which the server keeps the stored value.
func (r *apiClient) mergeHeaders(ctx context.Context, id string, given any, removed []string) (map[string]string, error) {
	var sub notify.Subscription
	if err := r.requestItem(ctx, "GET", "/v1/subscriptions", id, "", nil, &sub); err != nil {
		return nil, err
	}
	headers := map[string]string{}
	maps.Copy(headers, sub.Headers)
	drop := func(name string) bool {
		n := len(headers)
		maps.DeleteFunc(headers, func(has, _ string) bool { return strings.EqualFold(has, name) })
		return len(headers) < n
	}
	for _, name := range removed {
		if !drop(name) {
			return nil, fmt.Errorf("remove header of subscription %s: unknown header %q: it has %s", id, name, joinOrNone(slices.Sorted(maps.Keys(sub.Headers))))
		}
	}
	if given, ok := given.(map[string]string); ok {
		for name, value := range given {
			drop(name)
			headers[name] = value
		}
	}
	return headers, nil
}

// joinOrNone joins words with commas, or returns "none".
func joinOrNone(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}

func subscriptionsRemoveCommand(r *apiClient) *cobra.Command {
	return &cobra.Command{
		Use:   "remove ID...",
		Short: "Delete subscriptions and cancel their pending deliveries",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, ids []string) error {
			return r.deleteItems(cmd, "/v1/subscriptions", ids, "subscription %s removed\n")
		},
	}
}

func subscriptionsRotateCommand(r *apiClient) *cobra.Command {
	return &cobra.Command{
		Use:   "rotate-secret ID",
		Short: "Create a new secret; the old one also signs for 24 hours",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var sub notify.Subscription
			if err := r.requestItem(cmd.Context(), "POST", "/v1/subscriptions", args[0], "/rotate-secret", nil, &sub); err != nil {
				return err
			}
			if r.json {
				return writeJSON(cmd.OutOrStdout(), sub)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "subscription %s has a new secret (shown once): %s\n", sub.ID, string(sub.Secret))
			return err
		},
	}
}

func subscriptionsTestCommand(r *apiClient) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "test ID",
		Short: "Send a sample of each event type and show the responses",
		Long: `Send a sample of each subscribed event type now, and show the responses. The
exit status is 0 if the receiver accepted all of them.`,
		Args: cobra.ExactArgs(1),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var answer struct{ Items []v1.Trial }
		if err := r.requestItem(cmd.Context(), "POST", "/v1/subscriptions", args[0], "/test", nil, &answer); err != nil {
			return err
		}
		bad := 0
		t := table{head: []string{"TYPE", "RESULT", "STATUS", "DURATION", "WHY"}, cuttable: map[string]bool{"WHY": true}, colors: stateColors}
		for _, trial := range answer.Items {
			if trial.Outcome != notify.Delivered {
				bad++
			}
			t.addRow(trial.Type, trial.Outcome, statusText(trial.Status), formatDuration(time.Duration(trial.Duration)*time.Microsecond), trial.Error)
		}
		var err error
		if r.json {
			err = writeJSON(cmd.OutOrStdout(), answer.Items)
		} else {
			err = t.writeTo(terminalOf(cmd.OutOrStdout()))
		}
		switch {
		case err != nil || bad == 0:
			return err
		case r.json:
			return ErrReported
		}
		return fmt.Errorf("%d of %d samples were not accepted", bad, len(answer.Items))
	}
	return cmd
}

// statusText formats an HTTP status for a table, 0 as a dash.
func statusText(status int) string {
	if status == 0 {
		return "-"
	}
	return fmt.Sprint(status)
}

func subscriptionsReplayCommand(r *apiClient) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "replay ID",
		Short: "Resend past events from the event log",
		Example: `  bellhop subscriptions replay 4xq7… --from 2h
  bellhop subscriptions replay 4xq7… --from 09:00 --to 12:00 --type hangup`,
		Args: cobra.ExactArgs(1),
	}
	f := cmd.Flags()
	from := f.String("from", "", "resend events from this `time` on, like 2h (ago) or \"2026-01-31 09:00\"")
	to := f.String("to", "", "resend events before this `time` (default now)")
	types := f.StringSlice("type", nil, "resend only these event `types` (repeatable)")
	completeFlag(cmd, "type", subscription.Words()...)
	cmd.MarkFlagRequired("from")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		body := struct {
			From  time.Time `json:"from"`
			To    time.Time `json:"to,omitzero"`
			Types []string  `json:"types,omitempty"`
		}{Types: *types}
		var ok bool
		if body.From, ok = r.parseTime(*from); !ok {
			return usageError{fmt.Errorf("parse --from: %q is not a time: %s", *from, timeHint)}
		}
		if *to != "" {
			if body.To, ok = r.parseTime(*to); !ok {
				return usageError{fmt.Errorf("parse --to: %q is not a time: %s", *to, timeHint)}
			}
			if !body.To.After(body.From) {
				return usageError{fmt.Errorf("--to %q is not after --from %q", *to, *from)}
			}
		}
		var answer struct {
			Events int `json:"events"`
		}
		if err := r.requestItem(cmd.Context(), "POST", "/v1/subscriptions", args[0], "/replay", body, &answer); err != nil {
			return err
		}
		if r.json {
			return writeJSON(cmd.OutOrStdout(), answer)
		}
		events := fmt.Sprint(answer.Events, " events")
		if answer.Events == 1 {
			events = "1 event"
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "replaying %s to subscription %s\n", events, args[0])
		return err
	}
	return cmd
}

func subscriptionsExportCommand(r *apiClient) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export [ID...]",
		Short: "Export subscriptions as a file for apply",
		Long: `Export subscriptions as TOML, to edit, keep, and apply again.

Subscriptions that the config declares are left out. Secrets, keys and header
values cannot be read back: headers are exported with empty values, which make
apply keep the stored ones.`,
	}
	noIDs := cmd.Flags().Bool("no-ids", false, "leave out the ids, to apply the file to another bellhop")
	cmd.RunE = func(cmd *cobra.Command, ids []string) error {
		subs, err := r.listSubscriptions(cmd.Context(), url.Values{}, 0)
		if err != nil {
			return err
		}
		if len(ids) > 0 {
			if subs, err = selectByID(subs, ids); err != nil {
				return err
			}
		}
		subs = slices.DeleteFunc(subs, func(sub notify.Subscription) bool { return sub.Declared != "" })
		if r.json {
			return writeJSON(cmd.OutOrStdout(), subs)
		}
		return exportSubscriptions(cmd.OutOrStdout(), subs, !*noIDs)
	}
	return cmd
}

// selectByID returns the subscriptions with the ids, in the order of ids.
func selectByID(subs []notify.Subscription, ids []string) ([]notify.Subscription, error) {
	known := make([]string, len(subs))
	for i, sub := range subs {
		known[i] = sub.ID
	}
	chosen := make([]notify.Subscription, len(ids))
	for i, id := range ids {
		at := slices.Index(known, id)
		if at < 0 {
			return nil, fmt.Errorf("no subscription has the id %q: %s", id, cmp.Or(didYouMean(nearestID(id, known)), "see bellhop subscriptions list"))
		}
		if subs[at].Declared != "" {
			return nil, fmt.Errorf("export subscription %s: it is declared in the server's config (%s)", id, subs[at].Declared)
		}
		chosen[i] = subs[at]
	}
	return chosen, nil
}

func subscriptionsApplyCommand(r *apiClient) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Create and change subscriptions to match a file",
		Long: `Create and change subscriptions to match a file, and print each step: create,
change, remove or leave. Applying a file twice changes nothing.

The file is TOML with [[subscription]] tables, as in config.toml and as export
writes them. A key that is left out has its default. A table is matched by its
id; without one, by its extension and url, and by its types if several fit.

Secrets, keys and header values cannot be read back. They are sent when a
subscription is created; header values also when its header names change, a key
also when its certificate changes, and all of them with --secrets. An empty
header value keeps the stored one.`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	file := f.StringP("file", "f", "", "`file` to apply; - reads stdin")
	var a reconciliation
	f.BoolVar(&a.dryRun, "dry-run", false, "print the steps, and change nothing")
	f.BoolVar(&a.prune, "prune", false, "remove subscriptions that are not in the file, except those that the config declares")
	f.BoolVar(&a.secrets, "secrets", false, "send all secrets, keys and header values of the file; a new secret is a rotation")
	cmd.MarkFlagRequired("file")
	cmd.MarkFlagFilename("file", "toml")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		name, text, err := readFile(*file, cmd.InOrStdin())
		if err != nil {
			return err
		}
		a.wanted, err = config.ReadSubscriptions(name, text)
		if err != nil {
			return err
		}
		return a.applyPlan(cmd.Context(), r, cmd.OutOrStdout())
	}
	return cmd
}

// readFile reads a file, or stdin for "-", and returns its name for messages.
func readFile(path string, stdin io.Reader) (name, text string, err error) {
	if path == "-" {
		b, err := io.ReadAll(stdin)
		return "stdin", string(b), err
	}
	b, err := os.ReadFile(path)
	return path, string(b), err
}
