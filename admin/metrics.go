package admin

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"bellhop/notify"
)

// metrics answers with the configured collectors, the Notifier's counts, and
// what is known of the process.
func (s *Server) metrics() http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "bellhop_build_info",
		Help:        "1; the version is in the label.",
		ConstLabels: prometheus.Labels{"version": s.config.Version},
	}, func() float64 { return 1 }))
	r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "bellhop_admin_panics_total", Help: "Requests to the admin API that were answered 500 because of a bug.",
	}, func() float64 { return float64(s.panics.Load()) }))
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "bellhop_admin_connections", Help: "Open connections to the admin API.",
	}, func() float64 { open, _ := s.conns.count(); return float64(open) }))
	r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "bellhop_admin_connections_refused_total", Help: "Connections to the admin API that were refused because too many were open.",
	}, func() float64 { _, refused := s.conns.count(); return float64(refused) }))
	r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "bellhop_admin_requests_refused_total", Help: "Requests to the admin API that were answered 503 because too many waited.",
	}, func() float64 { return float64(s.gate.refusals() + s.streamGate.refusals()) }))
	r.MustRegister(notifierMetrics{s.config.Notifier})
	r.MustRegister(s.config.Collectors...)
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorLog: promLog{s}})
}

type promLog struct{ s *Server }

func (l promLog) Println(v ...any) { l.s.log.Warn("metrics fail", "err", v) }

// notifierMetrics shows the Stats of a Notifier.
type notifierMetrics struct{ n *notify.Notifier }

var (
	subscriptions   = prometheus.NewDesc("bellhop_subscriptions", "Subscriptions, active or not.", nil, nil)
	eventsSaid      = prometheus.NewDesc("bellhop_events_said_total", "Events written to the event log.", nil, nil)
	eventsDropped   = prometheus.NewDesc("bellhop_events_dropped_total", "Events that are lost: they found no room while the store was slow or gone, or no log could take them.", nil, nil)
	eventsUnsaid    = prometheus.NewDesc("bellhop_events_unsaid", "Events that wait to be written.", nil, nil)
	deliveries      = prometheus.NewDesc("bellhop_deliveries_total", "Deliveries, by how they ended.", []string{"outcome"}, nil)
	attemptsFailed  = prometheus.NewDesc("bellhop_delivery_attempts_failed_total", "Attempts that were not the end of their delivery.", nil, nil)
	unrecorded      = prometheus.NewDesc("bellhop_delivery_attempts_unrecorded_total", "Attempts and ends that found no room while the store was slow or gone: the delivery log lacks them.", nil, nil)
	pauses          = prometheus.NewDesc("bellhop_endpoint_pauses_total", "Pauses of endpoints that could not be connected to, or did not answer.", nil, nil)
	ownPauses       = prometheus.NewDesc("bellhop_subscription_pauses_total", "Pauses of single subscriptions whose URL failed.", nil, nil)
	disabled        = prometheus.NewDesc("bellhop_subscriptions_disabled_total", "Subscriptions whose receivers answered 410, or failed for five days.", nil, nil)
	paused          = prometheus.NewDesc("bellhop_subscriptions_paused", "Active subscriptions that are paused: their endpoint or their own URL fails.", nil, nil)
	eventsLost      = prometheus.NewDesc("bellhop_events_lost_total", "Events that left the event log before a subscription that was behind was told, whether or not it wanted them.", nil, nil)
	behind          = prometheus.NewDesc("bellhop_subscriptions_behind", "Subscriptions that are owed more than memory holds, and are given the rest from the event log.", nil, nil)
	notifyPanics    = prometheus.NewDesc("bellhop_notify_panics_total", "Events, deliveries and the like that were lost to a bug.", nil, nil)
	deliveriesOwing = prometheus.NewDesc("bellhop_deliveries_pending", "Deliveries that have not ended.", nil, nil)
)

func (m notifierMetrics) Describe(ch chan<- *prometheus.Desc) {
	prometheus.DescribeByCollect(m, ch)
}

func (m notifierMetrics) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v int) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v))
	}
	stats := m.n.Stats()
	subs := m.n.Subscriptions()
	waiting := 0
	for _, s := range subs {
		if s.State == notify.StatePaused {
			waiting++
		}
	}
	gauge(subscriptions, len(subs))
	gauge(paused, waiting)
	counter(eventsSaid, stats.Published)
	counter(eventsDropped, stats.Dropped)
	counter(notifyPanics, stats.Panics)
	gauge(eventsUnsaid, stats.Unpublished)
	counter(deliveries, stats.Delivered, "delivered")
	counter(deliveries, stats.Expired, "expired")
	counter(deliveries, stats.Refused, "refused")
	counter(deliveries, stats.Canceled, "canceled")
	counter(attemptsFailed, stats.Failed)
	gauge(deliveriesOwing, stats.Pending)
	counter(unrecorded, stats.RecordsDropped)
	counter(eventsLost, stats.Lost)
	gauge(behind, stats.Lagging)
	counter(pauses, stats.EndpointPauses)
	counter(ownPauses, stats.SubscriptionPauses)
	counter(disabled, stats.Disabled)
}
