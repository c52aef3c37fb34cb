package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"bellhop/dialog/keep"
	"bellhop/sip"
)

// observerMetrics returns the metrics of the observer.
func observerMetrics(f *observer) []prometheus.Collector {
	counter := func(name, help string, read func() uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "bellhop", Name: name, Help: help},
			func() float64 { return float64(read()) })
	}
	return []prometheus.Collector{
		counter("attempts_suppressed_total", "Calls of unregistered sources that the PBX refused before a phone rang and that were too many to be told.", f.tracker.Suppressed),
		counter("tracker_panics_total", "Messages and calls lost to a bug in what follows calls.", f.panics.Load),
		counter("trace_panics_total", "Times that all traces were forgotten because of a bug.", f.tracePanics.Load),
	}
}

// hopMetrics returns the metrics of the hop.
func hopMetrics(h *sip.Hop) []prometheus.Collector {
	counter := func(name, help string, read func(sip.Stats) uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "bellhop", Subsystem: "sip", Name: name, Help: help},
			func() float64 { return float64(read(h.Stats())) })
	}
	gauge := func(name, help string, read func(sip.Stats) int64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "bellhop", Subsystem: "sip", Name: name, Help: help},
			func() float64 { return float64(read(h.Stats())) })
	}
	return []prometheus.Collector{
		counter("messages_received_total", "Messages that were SIP.", func(s sip.Stats) uint64 { return s.Received }),
		counter("messages_malformed_total", "Messages refused or dropped for their syntax.", func(s sip.Stats) uint64 { return s.Malformed }),
		counter("messages_stray_total", "Responses to nothing of ours.", func(s sip.Stats) uint64 { return s.Stray }),
		counter("messages_dropped_total", "Messages dropped for a full queue.", func(s sip.Stats) uint64 { return s.Dropped }),
		counter("messages_unobserved_total", "Messages forwarded that the tracker had no room for.", func(s sip.Stats) uint64 { return s.Unobserved }),
		counter("requests_shed_total", "New requests dropped or refused: transactions held all the memory they may.", func(s sip.Stats) uint64 { return s.Shed }),
		counter("responses_withheld_total", "Responses not sent to sources over UDP that have not proved to be there.", func(s sip.Stats) uint64 { return s.Withheld }),
		counter("connections_refused_total", "Connections refused: more than guard.connections or guard.all_connections.", func(s sip.Stats) uint64 { return s.Refused }),
		counter("panics_total", "Messages lost to a bug.", func(s sip.Stats) uint64 { return s.Panics }),
		gauge("transactions", "Transactions under way.", func(s sip.Stats) int64 { return s.Transactions }),
		gauge("streams", "Connections open.", func(s sip.Stats) int64 { return s.Streams }),
	}
}

// keeperMetrics returns the metrics of the keeper.
func keeperMetrics(k *keep.Keeper) []prometheus.Collector {
	return []prometheus.Collector{
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "bellhop_live_calls_dropped_total",
			Help: "Changes of live calls that are not kept for a restart: they are too large for the store, or met a bug.",
		}, func() float64 { return float64(k.Dropped()) }),
	}
}
