package cli

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"bellhop/admin/ops"
)

// statusCommand returns the command bellhop status.
func statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the status of a running bellhop",
		Long: `Show whether bellhop does its work, the state of each address of PBXs and trunks,
SIP connections by transport, and when certificates expire.

The states of addresses: up, down, resting (a request has failed a short time ago,
so others are tried first), draining (it takes no new calls), unresolved (its name
has no address) and unknown (it has not answered yet).`,
		Args: cobra.NoArgs,
	}
	r := addServerFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var s ops.Status
		if err := r.doRequest(cmd.Context(), "GET", "/v1/status", nil, &s); err != nil {
			return err
		}
		if r.json {
			return writeJSON(cmd.OutOrStdout(), s)
		}
		return r.writeStatus(terminalOf(cmd.OutOrStdout()), &s)
	}
	return cmd
}

// writeStatus prints a status for people.
func (r *apiClient) writeStatus(out terminal, s *ops.Status) error {
	up := formatDuration(time.Duration(s.Uptime) * time.Second)
	state := out.colorize(green, "ready")
	if !s.Ready {
		state = out.colorize(red, "not ready")
	}
	fmt.Fprintf(out, "bellhop %s is %s, up for %s\n", stripControls(s.Version), state, up)
	for _, why := range s.Reasons {
		fmt.Fprintf(out, "%s: %s\n", out.colorize(red, "not ready"), stripControls(why))
	}
	for _, why := range s.Degraded {
		fmt.Fprintf(out, "%s: %s\n", out.colorize(yellow, "degraded"), stripControls(why))
	}
	calls := "unknown: the tracker is too busy"
	if s.Calls != nil {
		calls = fmt.Sprint(*s.Calls)
	}
	c := &s.Connections
	for _, f := range []struct{ name, value string }{
		{"live calls", calls},
		{"connections", fmt.Sprintf("TCP %d, TLS %d, WS %d, WSS %d; %d refused, %d handshakes failed", c.TCP, c.TLS, c.WS, c.WSS, c.Refused, c.HandshakesFailed)},
		{"subscriptions", fmt.Sprintf("%d active, %d paused, %d disabled", s.Subscriptions.Active, s.Subscriptions.Paused, s.Subscriptions.Disabled)},
		{"deliveries", fmt.Sprintf("%d pending, %d delivered, %d expired", s.Deliveries.Pending, s.Deliveries.Delivered, s.Deliveries.Expired)},
	} {
		fmt.Fprintf(out, "%-14s %s\n", f.name, f.value)
	}
	for _, t := range []table{r.peerTable(s), listenerTable(s), r.certificateTable(s)} {
		if len(t.rows) == 0 {
			continue
		}
		fmt.Fprintln(out)
		if err := t.writeTo(out); err != nil {
			return err
		}
	}
	return nil
}

// peerTable returns the states of the addresses of PBXs and trunks.
func (r *apiClient) peerTable(s *ops.Status) table {
	t := table{
		head:     []string{"PEER", "ADDRESS", "STATE", "SINCE", "ROUND TRIP", "LAST ANSWER", "LAST ERROR"},
		cuttable: map[string]bool{"PEER": true}, colors: stateColors, wrapped: 1,
	}
	add := func(name string, to *ops.Target) {
		roundTrip, failure := "", to.Error
		if to.RoundTrip > 0 {
			roundTrip = formatDuration(time.Duration(to.RoundTrip) * time.Microsecond)
		}
		if to.Failed != nil {
			failure += ", " + r.formatSecond(to.Failed)
		}
		t.addRow(name, cmp.Or(to.Address, to.Configured), to.State, r.formatSecond(to.Since), roundTrip, r.formatSecond(to.Answered), failure)
	}
	for i := range s.PBX {
		to := &s.PBX[i]
		name := "PBX"
		if to.Address != "" && to.Configured != to.Address {
			name += " " + to.Configured
		}
		add(name, to)
	}
	for _, trunk := range s.Trunks {
		for i := range trunk.Targets {
			add("trunk "+trunk.Name, &trunk.Targets[i])
		}
	}
	return t
}

// listenerTable returns the addresses that bellhop listens on.
func listenerTable(s *ops.Status) table {
	t := table{head: []string{"LISTENER", "SIDE", "CONNECTIONS"}}
	for _, l := range s.Listeners {
		connections := "-"
		if !strings.HasPrefix(l.Address, "udp:") {
			connections = fmt.Sprint(l.Connections)
		}
		t.addRow(l.Address, l.Side, connections)
	}
	return t
}

// certificateTable returns the certificates in use.
func (r *apiClient) certificateTable(s *ops.Status) table {
	t := table{
		head:     []string{"CERTIFICATE", "STATE", "EXPIRES", "HOSTS"},
		cuttable: map[string]bool{"HOSTS": true}, colors: stateColors,
	}
	for _, c := range s.Certificates {
		t.addRow(c.Name, string(c.State), r.formatDay(c.Expires), strings.Join(c.Hosts, " "))
	}
	return t
}

// formatSecond formats a time for a table, or returns "" if there is none.
func (r *apiClient) formatSecond(t *time.Time) string {
	if t == nil {
		return ""
	}
	return r.inZone(*t).Format("2006-01-02 15:04:05")
}
