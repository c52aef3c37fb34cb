package ops

import (
	"context"
	"time"

	"bellhop/notify"
)

// Status is the status of a node. Its counters start at zero with the process.
type Status struct {
	Version    string    `json:"version" doc:"Version of bellhop"`
	Node       string    `json:"node,omitempty" doc:"Name of this node among those that share the store"`
	Started    time.Time `json:"started" doc:"Time at which the process started"`
	Uptime     int64     `json:"uptime" doc:"Seconds since the start"`
	Delivering bool      `json:"delivering" doc:"This node sends the callbacks; of the nodes that share a store, one does"`
	Ready      bool      `json:"ready" doc:"The node does its work, see reasons"`
	Reasons    []string  `json:"reasons" nullable:"false" doc:"Reasons why the node is not ready"`
	Degraded   []string  `json:"degraded" nullable:"false" doc:"Problems that do not keep the node from its work"`

	Store struct {
		OK  bool   `json:"ok" doc:"The store accepts events"`
		Why string `json:"why,omitempty" doc:"Problem of the store"`

		Losses []Loss `json:"losses" nullable:"false" doc:"Records lost to damage, last found first"`
	} `json:"store" doc:"State of the store"`

	Calls   *int `json:"calls" doc:"Number of live calls; null while the tracker is too busy to count them"`
	Streams int  `json:"streams" doc:"Number of open event streams"`

	Connections  Connections   `json:"connections" doc:"Connections of phones, trunks and the PBX"`
	Listeners    []Listener    `json:"listeners" nullable:"false" doc:"Addresses that bellhop listens on, in the order of the config"`
	Certificates []Certificate `json:"certificates" nullable:"false" doc:"Certificates of the listeners and of connections to PBX and trunks, by name"`

	PBX    []Target `json:"pbx" nullable:"false" doc:"Addresses of the PBXs, in the order of the config"`
	Trunks []Trunk  `json:"trunks" nullable:"false" doc:"Configured trunks, in the order of the config"`

	Suppressed uint64 `json:"attempts_suppressed" doc:"Calls of unregistered sources that the PBX refused before a phone rang, and for which no events were published because they were too many"`

	Subscriptions struct {
		All      int `json:"all" doc:"Number of subscriptions in any state"`
		Active   int `json:"active" doc:"Number of active subscriptions"`
		Paused   int `json:"paused" doc:"Number of subscriptions whose endpoint or URL fails"`
		Disabled int `json:"disabled" doc:"Number of subscriptions that are switched off, or whose receiver answered 410 or failed for five days"`
	} `json:"subscriptions" doc:"Subscriptions by state"`

	Events struct {
		Published   uint64 `json:"published" doc:"Events written to the event log"`
		Dropped     uint64 `json:"dropped" doc:"Events lost because the buffer was full while the store was slow or down"`
		Unpublished int    `json:"unpublished" doc:"Events waiting to be written to the event log"`
	} `json:"events" doc:"Events since the start"`

	Deliveries struct {
		Pending   int    `json:"pending" doc:"Deliveries waiting, due or in flight"`
		Delivered uint64 `json:"delivered" doc:"Deliveries answered with 2xx"`
		Expired   uint64 `json:"expired" doc:"Deliveries that were not delivered in time"`
		Refused   uint64 `json:"refused" doc:"Deliveries answered with 410"`
		Canceled  uint64 `json:"canceled" doc:"Deliveries whose subscription was deleted or switched off, or that another callback of a group call replaced"`
		Failed    uint64 `json:"failed_attempts" doc:"Failed attempts after which the delivery was still pending"`
	} `json:"deliveries" doc:"Deliveries since the start, but for pending"`
}

// Connections are numbers of SIP connections.
type Connections struct {
	TCP int64 `json:"tcp" doc:"Open connections over TCP"`
	TLS int64 `json:"tls" doc:"Open connections over TLS"`
	WS  int64 `json:"ws" doc:"Open connections over WebSocket"`
	WSS int64 `json:"wss" doc:"Open connections over WebSocket with TLS"`

	Refused          uint64 `json:"refused" doc:"Connections refused since the start because too many were open"`
	HandshakesFailed uint64 `json:"handshakes_failed" doc:"TLS handshakes that failed since the start"`
}

// Listener is the state of an address that bellhop listens on.
type Listener struct {
	Address     string `json:"address" doc:"Transport and address"`
	Side        string `json:"side" enum:"edge,pbx,both" doc:"Side whose peers use the listener"`
	Connections int64  `json:"connections" doc:"Open connections; 0 for UDP"`
}

// CertificateState tells whether a certificate is valid, and whether it expires soon.
type CertificateState string

const (
	CertificateValid    CertificateState = "valid"
	CertificateExpiring CertificateState = "expiring" // at most a third of its life is left
	CertificateExpired  CertificateState = "expired"
)

// Certificate describes a TLS certificate in use.
type Certificate struct {
	Name    string           `json:"name" doc:"Key of the certificate in the config"`
	Hosts   []string         `json:"hosts" nullable:"false" doc:"Names and addresses for which the certificate is valid"`
	Issuer  string           `json:"issuer" doc:"Name of the authority that issued the certificate"`
	Expires time.Time        `json:"expires" doc:"Time at which the certificate expires"`
	State   CertificateState `json:"state" enum:"valid,expiring,expired" doc:"Expiring: at most a third of the certificate's life is left"`
}

// Trunk is the state of a configured trunk.
type Trunk struct {
	Name    string   `json:"name" doc:"Name of the trunk"`
	Refused uint64   `json:"calls_refused" doc:"Calls of the PBX refused because of max_cps, since the start"`
	Targets []Target `json:"targets" nullable:"false" doc:"Addresses at which the trunk gets requests"`
}

// Target is the state of one address of a PBX or trunk, or of a name that has no address.
type Target struct {
	Configured string     `json:"configured" doc:"Name or address as in the config"`
	Address    string     `json:"address,omitempty" doc:"Transport and address; missing if the name has none"`
	State      string     `json:"state" enum:"unknown,up,down,resting,draining,unresolved" doc:"Up: it answers. Down: it does not answer, or it is a trunk that answers OPTIONS with 403. Resting: a request has failed, so other addresses are tried first for a time. Draining: it answers OPTIONS with 503, because it takes no new calls. Unresolved: the name has no address. Unknown: it has not answered yet"`
	Since      *time.Time `json:"since,omitempty" doc:"Time since which the address is in this state; missing if it is unknown"`
	Answer     string     `json:"answer,omitempty" doc:"Status code and reason of the last response to OPTIONS"`
	Answered   *time.Time `json:"answered,omitempty" doc:"Time of the last response to any request"`
	RoundTrip  int64      `json:"round_trip,omitempty" doc:"Time from the last answered OPTIONS to its response, in microseconds"`
	Error      string     `json:"error,omitempty" doc:"Last error: method and outcome of a request, or why the name has no address"`
	Failed     *time.Time `json:"failed,omitempty" doc:"Time of the last error of a request"`
}

// Status returns the status of this node, even if a part of bellhop does not respond.
// streams is the number of open event streams.
func (o *Operations) Status(ctx context.Context, streams int) Status {
	v := Status{
		Version:    o.config.Version,
		Node:       o.config.Node,
		Started:    o.started.UTC().Truncate(time.Second),
		Uptime:     int64(time.Since(o.started).Seconds()),
		Delivering: o.notifier.Delivering(),
		Reasons:    append([]string{}, o.Unready()...),
		Degraded:   append([]string{}, o.Degraded()...),
		Streams:    streams,
	}
	if o.config.Suppressed != nil {
		v.Suppressed = o.config.Suppressed()
	}
	v.Connections, v.Listeners, v.Certificates = o.Edge()
	v.PBX, v.Trunks = o.Peers()
	v.Ready = len(v.Reasons) == 0
	v.Store.Losses = append([]Loss{}, o.Losses()...)
	if err := o.notifier.EventLog.Health(); err != nil {
		v.Store.Why = err.Error()
	} else {
		v.Store.OK = true
	}
	if live, err := o.Calls(ctx); err == nil {
		calls := len(live)
		v.Calls = &calls
	}
	for _, sub := range o.notifier.Subscriptions() {
		v.Subscriptions.All++
		switch sub.State {
		case notify.StateActive:
			v.Subscriptions.Active++
		case notify.StatePaused:
			v.Subscriptions.Paused++
		case notify.StateDisabled:
			v.Subscriptions.Disabled++
		}
	}
	stats := o.Stats()
	v.Events.Published, v.Events.Dropped, v.Events.Unpublished = stats.Published, stats.Dropped, stats.Unpublished
	d := &v.Deliveries
	d.Pending, d.Failed = stats.Pending, stats.Failed
	d.Delivered, d.Expired, d.Refused, d.Canceled = stats.Delivered, stats.Expired, stats.Refused, stats.Canceled
	return v
}

// Edge returns the state of the SIP connections, listeners and certificates.
func (o *Operations) Edge() (cs Connections, ls []Listener, certs []Certificate) {
	if o.config.Edge != nil {
		cs, ls, certs = o.config.Edge()
	}
	return cs, append([]Listener{}, ls...), append([]Certificate{}, certs...)
}

// Peers returns the states of the configured PBXs and trunks.
func (o *Operations) Peers() (pbx []Target, trunks []Trunk) {
	if o.config.Peers != nil {
		pbx, trunks = o.config.Peers()
	}
	return append([]Target{}, pbx...), append([]Trunk{}, trunks...)
}

// Stats returns the counters of the Notifier.
func (o *Operations) Stats() notify.Stats { return o.notifier.Stats() }
