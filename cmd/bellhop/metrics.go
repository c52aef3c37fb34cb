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
		func() float64 { return float64(h.Bans()) }))
}

// trunkMetrics exports the states of trunks.
type trunkMetrics struct{ states func() []sip.TrunkState }

// Descriptions of the metrics of trunks.
var (
	trunkUpDesc = prometheus.NewDesc("bellhop_sip_trunk_up",
		"1 if an address of a trunk answers OPTIONS with neither 403 nor 503, else 0.", []string{"trunk", "address"}, nil)
	trunkRefusedDesc = prometheus.NewDesc("bellhop_sip_trunk_calls_refused_total",
		"Calls of the PBX refused because of max_cps of their trunk.", []string{"trunk"}, nil)
)

// Describe implements [prometheus.Collector].
func (m trunkMetrics) Describe(ch chan<- *prometheus.Desc) { ch <- trunkUpDesc; ch <- trunkRefusedDesc }

// Collect implements [prometheus.Collector]. An address that has not been probed yet has no
// metric. An address that several names of a trunk have is up if all of them are.
func (m trunkMetrics) Collect(ch chan<- prometheus.Metric) {
	for _, t := range m.states() {
		ch <- prometheus.MustNewConstMetric(trunkRefusedDesc, prometheus.CounterValue, float64(t.Refused), t.Name)
		up := make(map[string]float64) // by address
		for _, to := range t.Targets {
			if !to.Known {
				continue
			}
			address, value := to.Addr.String(), 0.0
			if to.Up {
				value = 1
			}
			if other, ok := up[address]; ok {
				value = min(value, other)
			}
			up[address] = value
		}
		for address, value := range up {
			ch <- prometheus.MustNewConstMetric(trunkUpDesc, prometheus.GaugeValue, value, t.Name, address)
		}
	}
}

// keeperMetrics returns the metrics of the keeper.
func keeperMetrics(k *keep.Keeper) []prometheus.Collector {
	return []prometheus.Collector{
		newCounter("live_calls_dropped_total", "Changes of live calls that are not stored for a restart, because they are too large for the store or because of a bug.", k.Dropped),
	}
}
