package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"bellhop/sip"
)

// Two names of a trunk may have one address. A metric that is exported twice would make
// every request to /metrics fail. The worst state of an address counts.
func TestMetricsOfTargets(t *testing.T) {
	target := func(host, ip string, state sip.TargetState) sip.TargetStatus {
		s := sip.TargetStatus{Configured: sip.Addr{Proto: sip.TLS, Host: host}, State: state}
		if ip != "" {
			s.Addr = sip.Addr{Proto: sip.TLS, AddrPort: netip.AddrPortFrom(netip.MustParseAddr(ip), 5061), Host: host}
			s.RoundTrip = 1500 * time.Microsecond
		}
		return s
	}
	trunks := []sip.TrunkState{
		{Name: "teams", Refused: 3, Targets: []sip.TargetStatus{
			target("a.example", "192.0.2.1", sip.TargetUp), target("b.example", "192.0.2.1", sip.TargetUp),
			target("a.example", "192.0.2.2", sip.TargetUp), target("b.example", "192.0.2.2", sip.TargetDown),
			target("a.example", "192.0.2.3", sip.TargetDraining), target("b.example", "192.0.2.3", sip.TargetUp),
			target("a.example", "192.0.2.4", sip.TargetUnknown), target("b.example", "192.0.2.4", sip.TargetUp),
			target("a.example", "192.0.2.5", sip.TargetUnknown),
			target("c.example", "", sip.TargetUnresolved), target("d.example", "", sip.TargetUnresolved),
		}},
		{Name: "other", Targets: []sip.TargetStatus{target("a.example", "192.0.2.1", sip.TargetResting)}},
	}
	pbxs := []sip.TargetStatus{
		target("pbx.example", "192.0.2.8", sip.TargetUp), target("pbx.example", "192.0.2.9", sip.TargetDown), target("gone.example", "", sip.TargetUnresolved),
	}
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(targetMetrics{func() []sip.TargetStatus { return pbxs }, func() []sip.TrunkState { return trunks }})
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		for _, m := range f.Metric {
			line := strings.TrimPrefix(f.GetName(), "bellhop_sip_")
			for _, l := range m.Label {
				line += " " + l.GetValue()
			}
			got = append(got, fmt.Sprint(line, " ", m.GetGauge().GetValue()+m.GetCounter().GetValue()))
		}
	}
	want := []string{
		"pbx_round_trip_seconds tls://192.0.2.8:5061 tls://pbx.example 0.0015",
		"pbx_round_trip_seconds tls://192.0.2.9:5061 tls://pbx.example 0.0015",
		"pbx_state  tls://gone.example unresolved 1",
		"pbx_state tls://192.0.2.8:5061 tls://pbx.example up 1",
		"pbx_state tls://192.0.2.9:5061 tls://pbx.example down 1",
		"pbx_up  tls://gone.example 0",
		"pbx_up tls://192.0.2.8:5061 tls://pbx.example 1",
		"pbx_up tls://192.0.2.9:5061 tls://pbx.example 0",
		"trunk_calls_refused_total other 0",
		"trunk_calls_refused_total teams 3",
		"trunk_round_trip_seconds tls://192.0.2.1:5061 other 0.0015",
		"trunk_round_trip_seconds tls://192.0.2.1:5061 teams 0.0015",
		"trunk_round_trip_seconds tls://192.0.2.2:5061 teams 0.0015",
		"trunk_round_trip_seconds tls://192.0.2.3:5061 teams 0.0015",
		"trunk_round_trip_seconds tls://192.0.2.4:5061 teams 0.0015",
		"trunk_round_trip_seconds tls://192.0.2.5:5061 teams 0.0015",
		"trunk_state  unresolved teams 1",
		"trunk_state tls://192.0.2.1:5061 resting other 1",
		"trunk_state tls://192.0.2.1:5061 up teams 1",
		"trunk_state tls://192.0.2.2:5061 down teams 1",
		"trunk_state tls://192.0.2.3:5061 draining teams 1",
		"trunk_state tls://192.0.2.4:5061 up teams 1",
		"trunk_state tls://192.0.2.5:5061 unknown teams 1",
		"trunk_up  teams 0",
		"trunk_up tls://192.0.2.1:5061 other 0",
		"trunk_up tls://192.0.2.1:5061 teams 1",
		"trunk_up tls://192.0.2.2:5061 teams 0",
		"trunk_up tls://192.0.2.3:5061 teams 0",
		"trunk_up tls://192.0.2.4:5061 teams 1",
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
