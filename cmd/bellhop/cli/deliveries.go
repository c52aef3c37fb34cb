package cli

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

	v1 "bellhop/admin/v1"
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
	r := addServerFlags(cmd)
	cmd.AddCommand(deliveriesListCommand(r), deliveriesShowCommand(r), deliveriesRedeliverCommand(r))
	return cmd
}

func deliveriesListCommand(r *apiClient) *cobra.Command {
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
	completeFlag(cmd, "state", states...)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, path := cmd.Context(), "/v1/deliveries"
		if *subscription != "" {
			path = "/v1/subscriptions/" + url.PathEscape(*subscription) + "/deliveries"
			if err := r.requestItem(ctx, "GET", "/v1/subscriptions", *subscription, "", nil, nil); err != nil {
				return err
			}
		}
		all, more, err := collectItems(listPages[v1.Delivery](ctx, r, path, "cursor", pageSize(*limit, 200), flagQuery(f, "state")), *limit)
		if err != nil {
			return err
		}
		if more {
			first := fmt.Sprintf("first %d deliveries are", *limit)
			if *limit == 1 {
				first = "first delivery is"
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "bellhop: only the %s listed: --limit 0 lists all\n", first)
		}
		if r.json {
			return writeJSON(cmd.OutOrStdout(), all)
		}
		t := table{
			head:     []string{"EVENT TIME", "EXTENSION", "TYPE", "STATE", "ATTEMPTS", "STATUS", "DURATION", "ID"},
			cuttable: map[string]bool{"EXTENSION": true, "TYPE": true}, colors: stateColors, wrapped: 1,
		}
		for _, d := range all {
			status, length := "-", ""
			if n := len(d.Attempts); n > 0 {
				last := d.Attempts[n-1]
				status, length = statusText(last.Status), formatDuration(time.Duration(last.Duration)*time.Microsecond)
			}
			t.addRow(r.inZone(d.Timestamp).Format("2006-01-02 15:04:05"), d.Extension, d.Type, d.State, fmt.Sprint(countAttempts(d)), status, length, d.ID)
		}
		return t.writeTo(terminalOf(cmd.OutOrStdout()))
	}
	return cmd
}

// countAttempts returns the number of attempts of a delivery. Records of an end without
// an attempt do not count.
func countAttempts(d v1.Delivery) int {
	n := 0
	for _, a := range d.Attempts {
		if a.Number > 0 || a.ByHand {
			n++
		}
	}
	return n
}

func deliveriesShowCommand(r *apiClient) *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Show the attempts of a delivery with their requests and responses",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var d v1.Delivery
			if err := r.requestItem(cmd.Context(), "GET", "/v1/deliveries", args[0], "", nil, &d); err != nil {
				return err
			}
			if r.json {
				return writeJSON(cmd.OutOrStdout(), d)
			}
			return r.showDelivery(terminalOf(cmd.OutOrStdout()), d)
		},
	}
}

// showDelivery prints a delivery with the requests and responses of its attempts.
func (r *apiClient) showDelivery(out terminal, d v1.Delivery) error {
	var b strings.Builder
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-13s %s\n", name, value)
		}
	}
	const exact = "2006-01-02 15:04:05.000"
	field("delivery", d.ID)
	field("event", stripControls(strings.TrimSpace(fmt.Sprintf("%s of %s, %s", d.Type, d.Extension, r.inZone(d.Timestamp).Format(exact)))))
	field("call", stripControls(d.Call))
	field("subscription", d.Subscription)
	field("state", out.colorize(stateColors[d.State], d.State))
	if d.Next != nil {
		field("next attempt", r.inZone(*d.Next).Format(exact))
	}
	for _, a := range d.Attempts {
		title := fmt.Sprintf("attempt %d", a.Number)
		switch {
		case a.ByHand:
			title = "redelivery"
		case a.Number == 0:
			title = "no attempt"
		}
		fmt.Fprintf(&b, "\n%s  %s  %s\n", out.colorize(bold, title), r.inZone(a.At).Format(exact), formatOutcome(out, a))
		if a.Request != nil {
			writeMessage(&b, ">", a.Request.Method+" "+a.Request.URL, a.Request.Header, a.Request.Body, false)
		}
		if a.Answer != nil {
			writeMessage(&b, "<", strings.TrimSpace(fmt.Sprint(a.Status, " ", http.StatusText(a.Status))), a.Answer.Header, a.Answer.Body, a.Answer.Cut)
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// formatOutcome formats the outcome of an attempt with status, duration and error.
func formatOutcome(out terminal, a v1.Attempt) string {
	word := a.Outcome
	if word == notify.Waiting { // the delivery waits for its next attempt; this one failed
		word = notify.Failed
	}
	text := out.colorize(stateColors[word], word)
	if a.Status != 0 {
		text += ", " + fmt.Sprint(a.Status)
	}
	text += " in " + formatDuration(time.Duration(a.Duration)*time.Microsecond)
	if a.Error != "" {
		text += ": " + stripControls(a.Error)
	}
	return text
}

// writeMessage writes a request or a response, with mark before each line. If cut is
// set, an ellipsis follows the body.
func writeMessage(b *strings.Builder, mark, first string, header map[string]string, body string, cut bool) {
	fmt.Fprintf(b, "  %s %s\n", mark, stripControls(first))
	for _, name := range slices.Sorted(maps.Keys(header)) {
		fmt.Fprintf(b, "  %s %s: %s\n", mark, stripControls(name), stripControls(header[name]))
	}
	if body == "" {
		return
	}
	fmt.Fprintf(b, "  %s\n", mark)
	for line := range strings.SplitSeq(strings.TrimRightFunc(body, unicode.IsSpace), "\n") {
		fmt.Fprintf(b, "  %s %s\n", mark, stripControls(strings.ReplaceAll(line, "\t", "    ")))
	}
	if cut {
		fmt.Fprintf(b, "  %s …\n", mark)
	}
}

func deliveriesRedeliverCommand(r *apiClient) *cobra.Command {
	return &cobra.Command{
		Use:   "redeliver ID...",
		Short: "Resend deliveries now and show the responses",
		Long: `Resend deliveries now, whatever their state, and show the responses. The exit
status is 0 if the receiver accepted all of them.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, ids []string) error {
			return r.redeliverAll(cmd.Context(), terminalOf(cmd.OutOrStdout()), ids)
		},
	}
}

// A redelivery is an attempt by hand to send a delivery again. ID is the id of the
// delivery.
type redelivery struct {
	ID string `json:"id"`
	v1.Attempt
}

// redeliverAll sends deliveries again, one after another, and prints each attempt. It
// stops at the first request to bellhop that fails. It returns an error if a receiver
// did not accept a delivery.
func (r *apiClient) redeliverAll(ctx context.Context, out terminal, ids []string) error {
	var all []redelivery
	var failed error
	bad := 0
	for _, id := range ids {
		d := redelivery{ID: id}
		if failed = r.requestItem(ctx, "POST", "/v1/deliveries", id, "/redeliver", nil, &d.Attempt); failed != nil {
			break
		}
		all = append(all, d)
		if d.Status/100 != 2 {
			bad++
		}
		if !r.json {
			fmt.Fprintf(out, "%s  %s\n", id, formatOutcome(out, d.Attempt))
		}
	}
	if r.json && len(all) > 0 {
		if err := writeJSON(out, all); err != nil {
			return err
		}
		if failed == nil && bad > 0 {
			return ErrReported
		}
	}
	if failed == nil && bad > 0 {
		failed = fmt.Errorf("%d of %d deliveries were not accepted", bad, len(ids))
	}
	return failed
}
