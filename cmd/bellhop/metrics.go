package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"bellhop/dialog/keep"
	"bellhop/sip"
	"bellhop/sip/guard"
)

// newCounter returns a counter that calls read for its value when it is collected.
func newCounter(name, help string, read func() uint64) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "bellhop", Name: name, Help: help},
		func() float64 { return float64(read()) })
}

// observerMetrics returns the metrics of the observer.
func observerMetrics(f *observer) []prometheus.Collector {
	return []prometheus.Collector{
		newCounter("attempts_suppressed_total", "Calls from unregistered sources that the PBX refused before a phone rang, beyond the limit of published events.", f.tracker.Suppressed),
		newCounter("tracker_panics_total", "Panics recovered in the call tracker, each of which lost a message or a call.", f.panics.Load),
		newCounter("trace_panics_total", "Panics recovered in the trace recorder, each of which lost all traces.", f.tracePanics.Load),
	}
}

// proxyMetrics returns the metrics of the SIP proxy.
func proxyMetrics(h *sip.Proxy) []prometheus.Collector {
	counter := func(name, help string, read func(sip.Stats) uint64) prometheus.Collector {
		return newCounter("sip_"+name, help, func() uint64 { return read(h.Stats()) })
	}
	gauge := func(name, help string, read func(sip.Stats) int64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "bellhop", Subsystem: "sip", Name: name, Help: help},
			func() float64 { return float64(read(h.Stats())) })
	}
	connections := func(p sip.Proto) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "bellhop", Subsystem: "sip", Name: "connections",
			Help: "Open connections of SIP, by transport.", ConstLabels: prometheus.Labels{"transport": p.String()}},
			func() float64 { return float64(h.Connections(p)) })
	}
	return []prometheus.Collector{
		connections(sip.TCP), connections(sip.TLS), connections(sip.WS), connections(sip.WSS),
		counter("messages_received_total", "SIP messages received.", func(s sip.Stats) uint64 { return s.Received }),
		counter("messages_malformed_total", "Messages rejected or dropped because of their syntax.", func(s sip.Stats) uint64 { return s.Malformed }),
		counter("messages_stray_total", "Responses without a matching transaction.", func(s sip.Stats) uint64 { return s.Stray }),
		counter("messages_dropped_total", "Messages dropped because a queue was full.", func(s sip.Stats) uint64 { return s.Dropped }),
		counter("messages_unobserved_total", "Messages forwarded but not tracked because the tracker's queue was full.", func(s sip.Stats) uint64 { return s.Unobserved }),
		counter("requests_shed_total", "New requests dropped or rejected because transactions had reached their memory limit.", func(s sip.Stats) uint64 { return s.Shed }),
		counter("requests_failed_over_total", "Requests sent to another PBX or address after the first failed.", func(s sip.Stats) uint64 { return s.FailedOver }),
		counter("responses_withheld_total", "Responses withheld from UDP sources that have not shown that they receive responses.", func(s sip.Stats) uint64 { return s.Withheld }),
		counter("connections_refused_total", "Connections refused because of guard.connections or guard.all_connections.", func(s sip.Stats) uint64 { return s.Refused }),
		counter("tls_handshakes_failed_total", "TLS handshakes that failed, of accepted and of opened connections.", func(s sip.Stats) uint64 { return s.Handshakes }),
		counter("panics_total", "Panics recovered in the proxy, each of which lost a message.", func(s sip.Stats) uint64 { return s.Panics }),
		gauge("transactions", "Pending SIP transactions.", func(s sip.Stats) int64 { return s.Transactions }),
		gauge("streams", "Open connections of SIP, including those that have sent nothing.", func(s sip.Stats) int64 { return s.Streams }),
	}
}

// guardMetrics returns the metrics of limits and bans.
func guardMetrics(h *sip.Proxy) (all []prometheus.Collector) {
	counter := func(name, help, reason string, read func() uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "bellhop", Subsystem: "guard", Name: name, Help: help, ConstLabels: prometheus.Labels{"reason": reason}},
			func() float64 { return float64(read()) })
	}
	for _, r := range guard.DropReasons {
		all = append(all, counter("dropped_total", "Messages and connections of sources dropped or refused, by reason.", r.String(), func() uint64 { return h.Guard().Dropped(r) }))
	}
	for _, r := range guard.BanReasons {
		all = append(all, counter("bans_total", "Bans of sources that have begun, by reason.", r.String(), func() uint64 { return h.Guard().Banned(r) }))
	}
	return append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "bellhop", Subsystem: "guard", Name: "banned", Help: "Sources that are banned now."},
		func() float64 { return float64(len(h.Bans())) }))
}

// targetMetrics exports the states of the addresses of PBXs and trunks.
type targetMetrics struct {
	pbxs   func() []sip.TargetStatus
	trunks func() []sip.TrunkState
}

// Descriptions of the metrics of PBXs and trunks.
var (
	pbxLabels, trunkLabels = []string{"pbx", "address"}, []string{"trunk", "address"}

	pbxDescs = targetDescs{
		up: prometheus.NewDesc("bellhop_sip_pbx_up",
			"1 if an address of a PBX gets new calls, 0 if it is down, draining or resting, or if its name has no address.", pbxLabels, nil),
		state: prometheus.NewDesc("bellhop_sip_pbx_state",
			"1 for the state of an address of a PBX: unknown, up, down, resting, draining or unresolved.", []string{"pbx", "address", "state"}, nil),
		roundTrip: prometheus.NewDesc("bellhop_sip_pbx_round_trip_seconds",
			"Time from the last answered OPTIONS to its response, by address of a PBX.", pbxLabels, nil),
	}
	trunkDescs = targetDescs{
		up: prometheus.NewDesc("bellhop_sip_trunk_up",
			"1 if an address of a trunk answers OPTIONS with neither 403 nor 503 and has not failed since, else 0.", trunkLabels, nil),
		state: prometheus.NewDesc("bellhop_sip_trunk_state",
			"1 for the state of an address of a trunk: unknown, up, down, resting, draining or unresolved.", []string{"trunk", "address", "state"}, nil),
		roundTrip: prometheus.NewDesc("bellhop_sip_trunk_round_trip_seconds",
			"Time from the last answered OPTIONS to its response, by address of a trunk.", trunkLabels, nil),
	}
	trunkRefusedDesc = prometheus.NewDesc("bellhop_sip_trunk_calls_refused_total",
		"Calls of the PBX refused because of max_cps of their trunk.", []string{"trunk"}, nil)
)

// targetDescs are the descriptions of the metrics of an address.
type targetDescs struct{ up, state, roundTrip *prometheus.Desc }

// Describe implements [prometheus.Collector].
func (m targetMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []targetDescs{pbxDescs, trunkDescs} {
		ch <- d.up
		ch <- d.state
		ch <- d.roundTrip
	}
	ch <- trunkRefusedDesc
}

// Collect implements [prometheus.Collector].
func (m targetMetrics) Collect(ch chan<- prometheus.Metric) {
	byPBX := make(map[string][]sip.TargetStatus)
	for _, t := range m.pbxs() {
		name := t.Configured.String()
		byPBX[name] = append(byPBX[name], t)
	}
	for name, targets := range byPBX {
		pbxDescs.collect(ch, name, targets)
	}
	for _, t := range m.trunks() {
		ch <- prometheus.MustNewConstMetric(trunkRefusedDesc, prometheus.CounterValue, float64(t.Refused), t.Name)
		trunkDescs.collect(ch, t.Name, t.Targets)
	}
}

// badness orders the states from good to bad.
var badness = map[sip.TargetState]int{
	sip.TargetUnknown: 0, sip.TargetUp: 1, sip.TargetResting: 2, sip.TargetDraining: 3, sip.TargetDown: 4, sip.TargetUnresolved: 5,
}

// collect sends the metrics of the addresses of the PBX or trunk with a name. Several names
// of a trunk may have one address; its worst state counts. An address in the state unknown
// is neither up nor not. A name without an address has the empty address.
func (d targetDescs) collect(ch chan<- prometheus.Metric, name string, targets []sip.TargetStatus) {
	worst := make(map[string]sip.TargetStatus) // by address
	for _, t := range targets {
		address := ""
		if t.Addr.IsValid() {
			address = t.Addr.String()
		}
		if other, ok := worst[address]; !ok || badness[t.State] > badness[other.State] {
			worst[address] = t
		}
	}
	send := func(desc *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	for address, t := range worst {
		send(d.state, 1, name, address, string(t.State))
		switch t.State {
		case sip.TargetUnknown:
		case sip.TargetUp:
			send(d.up, 1, name, address)
		default:
			send(d.up, 0, name, address)
		}
		if t.RoundTrip > 0 {
			send(d.roundTrip, t.RoundTrip.Seconds(), name, address)
		}
	}
}

// keeperMetrics returns the metrics of the keeper.
func keeperMetrics(k *keep.Keeper) []prometheus.Collector {
	return []prometheus.Collector{
		newCounter("live_calls_dropped_total", "Changes of live calls that are not stored for a restart, because they are too large for the store or because of a bug.", k.Dropped),
	}
}
