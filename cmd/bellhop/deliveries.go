package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"bellhop/admin"
	"bellhop/notify"
)

func deliveriesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "deliveries",
		Short: "Inspect and resend webhook deliveries",
		Example: `  bellhop deliveries list --state waiting
  bellhop deliveries show 3f0c…-4xq7…
  bellhop deliveries redeliver 3f0c…-4xq7…`,
	}
	r := serverFlag(cmd)
	cmd.AddCommand(deliveriesListCommand(r), deliveriesShowCommand(r), deliveriesRedeliverCommand(r))
	return cmd
}

func deliveriesListCommand(r *remote) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List deliveries: pending ones first, then finished ones, newest first",
		Args:  cobra.NoArgs,
	}
	f := cmd.Flags()
	states := []string{notify.Waiting, notify.Delivered, notify.Expired, notify.Refused, notify.Canceled}
	f.String("state", "", "only deliveries in this `state`: "+strings.Join(states, ", "))
	subscription := f.String("subscription", "", "only deliveries to the subscription with this `id`")
	limit := f.Int("limit", 100, "largest `number` of deliveries to list; 0 lists all")
	complete(cmd, "state", states...)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, path := cmd.Context(), "/v1/deliveries"
		if *subscription != "" {
			path = "/v1/subscriptions/" + url.PathEscape(*subscription) + "/deliveries"
			if err := r.doOf(ctx, "GET", "/v1/subscriptions", *subscription, "", nil, nil); err != nil {
				return err
			}
		}
		all, more, err := collect(pages[admin.Delivery](ctx, r, path, "cursor", pageSize(*limit, 200), queryOf(f, "state")), *limit)
		if err != nil {
			return err
		}
		if more {
			fmt.Fprintf(cmd.ErrOrStderr(), "bellhop: only the first %d deliveries are listed: --limit 0 lists all\n", *limit)
		}
		if r.json {
			return writeJSON(cmd.OutOrStdout(), all)
		}
		t := table{
			head: []string{"EVENT TIME", "EXTENSION", "TYPE", "STATE", "ATTEMPTS", "STATUS", "DURATION", "ID"},
			cut:  map[string]bool{"EXTENSION": true, "TYPE": true}, tint: tints, under: 1,
		}
		for _, d := range all {
			status, length := "-", ""
			if n := len(d.Attempts); n > 0 {
				last := d.Attempts[n-1]
				status, length = statusText(last.Status), took(time.Duration(last.Duration)*time.Microsecond)
			}
			t.add(r.local(d.Timestamp).Format("2006-01-02 15:04:05"), d.Extension, d.Type, d.State, fmt.Sprint(tries(d)), status, length, d.ID)
		}
		return t.write(screenOf(cmd.OutOrStdout()))
	}
	return cmd
}

// tries is how many attempts were made.
func tries(d admin.Delivery) int {
	n := 0
	for _, a := range d.Attempts {
		if a.Number > 0 || a.ByHand {
			n++
		}
	}
	return n
}

func deliveriesShowCommand(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Show the attempts of a delivery with their requests and responses",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var d admin.Delivery
			if err := r.doOf(cmd.Context(), "GET", "/v1/deliveries", args[0], "", nil, &d); err != nil {
				return err
			}
			if r.json {
				return writeJSON(cmd.OutOrStdout(), d)
			}
			return r.showDelivery(screenOf(cmd.OutOrStdout()), d)
		},
	}
}

func (r *remote) showDelivery(out screen, d admin.Delivery) error {
	var b strings.Builder
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-13s %s\n", name, value)
		}
	}
	const exact = "2006-01-02 15:04:05.000"
	field("delivery", d.ID)
	field("event", printable(strings.TrimSpace(fmt.Sprintf("%s of %s, %s", d.Type, d.Extension, r.local(d.Timestamp).Format(exact)))))
	field("call", printable(d.Call))
	field("subscription", d.Subscription)
	field("state", out.paint(tints[d.State], d.State))
	if d.Next != nil {
		field("next attempt", r.local(*d.Next).Format(exact))
	}
	for _, a := range d.Attempts {
		title := fmt.Sprintf("attempt %d", a.Number)
		switch {
		case a.ByHand:
			title = "redelivery"
		case a.Number == 0:
			title = "no attempt"
		}
		fmt.Fprintf(&b, "\n%s  %s  %s\n", out.paint(bold, title), r.local(a.At).Format(exact), outcome(out, a))
		if a.Request != nil {
			message(&b, ">", a.Request.Method+" "+a.Request.URL, a.Request.Header, a.Request.Body, false)
		}
		if a.Answer != nil {
			message(&b, "<", strings.TrimSpace(fmt.Sprint(a.Status, " ", http.StatusText(a.Status))), a.Answer.Header, a.Answer.Body, a.Answer.Cut)
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// outcome says in a few words what came of an attempt.
func outcome(out screen, a admin.Attempt) string {
	word := a.Outcome
	if word == notify.Waiting { // for the next attempt
		word = notify.Failed
	}
	text := out.paint(tints[word], word)
	if a.Status != 0 {
		text += ", " + fmt.Sprint(a.Status)
	}
	text += " in " + took(time.Duration(a.Duration)*time.Microsecond)
	if a.Error != "" {
		text += ": " + printable(a.Error)
	}
	return text
}

// message writes a request or an answer, each line behind a mark.
func message(b *strings.Builder, mark, first string, header map[string]string, body string, cut bool) {
	fmt.Fprintf(b, "  %s %s\n", mark, printable(first))
	for _, name := range slices.Sorted(maps.Keys(header)) {
		fmt.Fprintf(b, "  %s %s: %s\n", mark, printable(name), printable(header[name]))
	}
	if body == "" {
		return
	}
	fmt.Fprintf(b, "  %s\n", mark)
	for line := range strings.SplitSeq(strings.TrimRightFunc(body, unicode.IsSpace), "\n") {
		fmt.Fprintf(b, "  %s %s\n", mark, printable(strings.ReplaceAll(line, "\t", "    ")))
	}
	if cut {
		fmt.Fprintf(b, "  %s …\n", mark)
	}
}

func deliveriesRedeliverCommand(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:   "redeliver ID...",
		Short: "Resend deliveries now and show the responses",
		Long: `Resend deliveries now, whatever their state, and show the responses. The exit
status is 0 if the receiver accepted all of them.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, ids []string) error {
			return r.redeliver(cmd.Context(), screenOf(cmd.OutOrStdout()), ids)
		},
	}
}

// A redelivered is what came of sending a delivery again.
type redelivered struct {
	ID string `json:"id"`
	admin.Attempt
}

func (r *remote) redeliver(ctx context.Context, out screen, ids []string) error {
	var all []redelivered
	var failed error
	bad := 0
	for _, id := range ids {
		d := redelivered{ID: id}
		if failed = r.doOf(ctx, "POST", "/v1/deliveries", id, "/redeliver", nil, &d.Attempt); failed != nil {
			break
		}
		all = append(all, d)
		if d.Status/100 != 2 {
			bad++
		}
		if !r.json {
			fmt.Fprintf(out, "%s  %s\n", id, outcome(out, d.Attempt))
		}
	}
	if r.json && len(all) > 0 {
		if err := writeJSON(out, all); err != nil {
			return err
		}
		if failed == nil && bad > 0 {
			return errReported
		}
	}
	if failed == nil && bad > 0 {
		failed = fmt.Errorf("%d of %d deliveries were not accepted", bad, len(ids))
	}
	return failed
}
