package main

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"bellhop/sip"
)

// Two names of a trunk may have one address. A metric that is exported twice would make
// every request to /metrics fail.
func TestNamesOfTrunkWithOneAddress(t *testing.T) {
	target := func(host, ip string, known, up bool) sip.TargetState {
		return sip.TargetState{Addr: sip.Addr{Proto: sip.TLS, AddrPort: netip.AddrPortFrom(netip.MustParseAddr(ip), 5061), Host: host}, Known: known, Up: up}
	}
	states := []sip.TrunkState{
		{Name: "teams", Refused: 3, Targets: []sip.TargetState{
			target("a.example", "192.0.2.1", true, true), target("b.example", "192.0.2.1", true, true),
			target("a.example", "192.0.2.2", true, true), target("b.example", "192.0.2.2", true, false),
			target("a.example", "192.0.2.3", true, false), target("b.example", "192.0.2.3", true, true),
			target("a.example", "192.0.2.4", false, false), target("b.example", "192.0.2.4", true, true),
			target("a.example", "192.0.2.5", false, false),
		}},
		{Name: "other", Targets: []sip.TargetState{target("a.example", "192.0.2.1", true, false)}},
	}
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(trunkMetrics{func() []sip.TrunkState { return states }})
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range families[1].Metric {
		got = append(got, fmt.Sprint(m.Label[1].GetValue(), " ", m.Label[0].GetValue(), " ", m.Gauge.GetValue()))
	}
	want := []string{
		"other tls://192.0.2.1:5061 0",
		"teams tls://192.0.2.1:5061 1",
		"teams tls://192.0.2.2:5061 0",
		"teams tls://192.0.2.3:5061 0",
		"teams tls://192.0.2.4:5061 1",
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
