package admin

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"bellhop/notify"
)

// metricsHandler answers with the configured collectors, the Notifier's counts, and the
// metrics of the process.
func (s *Server) metricsHandler() http.Handler {
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
	}, func() float64 { open, _ := s.conns.Count(); return float64(open) }))
	r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "bellhop_admin_connections_refused_total", Help: "Connections to the admin API that were refused because too many were open.",
	}, func() float64 { _, refused := s.conns.Count(); return float64(refused) }))
	r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "bellhop_admin_requests_refused_total", Help: "Requests to the admin API that were answered 503 because too many waited.",
	}, func() float64 { return float64(s.gate.RefusedCount() + s.streamGate.RefusedCount()) }))
	r.MustRegister(notifierMetrics{s.config.Notifier})
	r.MustRegister(s.config.Collectors...)
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorLog: metricsLog{s}})
}

// metricsLog logs the errors of the metrics handler.
type metricsLog struct{ s *Server }

func (l metricsLog) Println(v ...any) { l.s.log.Warn("metrics request failed", "err", v) }

// notifierMetrics collects the Stats of a Notifier.
type notifierMetrics struct{ n *notify.Notifier }

var (
	subscriptionsTotal     = prometheus.NewDesc("bellhop_subscriptions", "Subscriptions, active or not.", nil, nil)
	subscriptionsPaused    = prometheus.NewDesc("bellhop_subscriptions_paused", "Paused subscriptions: their endpoint or their own URL fails.", nil, nil)
	subscriptionsDisabled  = prometheus.NewDesc("bellhop_subscriptions_disabled", "Disabled subscriptions: switched off, or their receiver answered 410 or failed for five days.", nil, nil)
	subscriptionsLagging   = prometheus.NewDesc("bellhop_subscriptions_lagging", "Subscriptions with more pending deliveries than memory holds; the rest is read from the event log.", nil, nil)
	eventsPublished        = prometheus.NewDesc("bellhop_events_published_total", "Events written to the event log.", nil, nil)
	eventsUnpublished      = prometheus.NewDesc("bellhop_events_unpublished", "Events waiting to be written to the event log.", nil, nil)
	eventsDropped          = prometheus.NewDesc("bellhop_events_dropped_total", "Events lost before they reached the event log: the buffer was full while the store was slow or down, or no event log could take them.", nil, nil)
	eventsLost             = prometheus.NewDesc("bellhop_events_lost_total", "Events that expired from the event log before a lagging subscription read them, whether or not it wanted them.", nil, nil)
	deliveriesEnded        = prometheus.NewDesc("bellhop_deliveries_total", "Deliveries by final state.", []string{"outcome"}, nil)
	deliveriesPending      = prometheus.NewDesc("bellhop_deliveries_pending", "Deliveries waiting, due or in flight.", nil, nil)
	deliveryAttemptsFailed = prometheus.NewDesc("bellhop_delivery_attempts_failed_total", "Failed attempts after which the delivery was still pending.", nil, nil)
	deliveryLogDropped     = prometheus.NewDesc("bellhop_delivery_log_dropped_total", "Attempts and final states missing from the delivery log: the buffer was full while the store was slow or down.", nil, nil)
	endpointPauses         = prometheus.NewDesc("bellhop_endpoint_pauses_total", "Times an endpoint was paused because connections failed or responses were missing.", nil, nil)
	subscriptionPauses     = prometheus.NewDesc("bellhop_subscription_pauses_total", "Times a single subscription was paused because its URL failed.", nil, nil)
	notifyPanics           = prometheus.NewDesc("bellhop_notify_panics_total", "Panics recovered while publishing and delivering; each is a bug and cost the work in progress.", nil, nil)
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
	var paused, disabled int
	for _, sub := range subs {
		switch sub.State {
		case notify.StatePaused:
			paused++
		case notify.StateDisabled:
			disabled++
		}
	}
	gauge(subscriptionsTotal, len(subs))
	gauge(subscriptionsPaused, paused)
	gauge(subscriptionsDisabled, disabled)
	gauge(subscriptionsLagging, stats.Lagging)
	counter(eventsPublished, stats.Published)
	gauge(eventsUnpublished, stats.Unpublished)
	counter(eventsDropped, stats.Dropped)
	counter(eventsLost, stats.Lost)
	counter(deliveriesEnded, stats.Delivered, "delivered")
	counter(deliveriesEnded, stats.Expired, "expired")
	counter(deliveriesEnded, stats.Refused, "refused")
	counter(deliveriesEnded, stats.Canceled, "canceled")
	gauge(deliveriesPending, stats.Pending)
	counter(deliveryAttemptsFailed, stats.Failed)
	counter(deliveryLogDropped, stats.RecordsDropped)
	counter(endpointPauses, stats.EndpointPauses)
	counter(subscriptionPauses, stats.SubscriptionPauses)
	counter(notifyPanics, stats.Panics)
}
