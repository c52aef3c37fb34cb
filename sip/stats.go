package sip

import "sync/atomic"

// Stats are counts since the start of the proxy, except Transactions and Streams, which
// are current.
type Stats struct {
	Received     uint64 `json:"received"`          // SIP messages
	Malformed    uint64 `json:"malformed"`         // messages refused or dropped for their syntax
	Stray        uint64 `json:"stray"`             // responses without a transaction
	Dropped      uint64 `json:"dropped"`           // messages dropped because a queue was full
	Unobserved   uint64 `json:"unobserved"`        // messages forwarded while the observation channel was full
	Shed         uint64 `json:"shed"`              // new requests dropped or refused because transactions held too much memory
	Withheld     uint64 `json:"withheld"`          // responses not sent to UDP sources that have not proved their address
	Refused      uint64 `json:"refused"`           // connections refused because there were too many
	Handshakes   uint64 `json:"handshakes_failed"` // TLS handshakes that failed
	FailedOver   uint64 `json:"failed_over"`       // requests sent to another PBX or address after a failure
	Panics       uint64 `json:"panics"`            // messages lost to a bug
	Transactions int64  `json:"transactions"`      // client transactions without a final response, and requests that wait for a name
	Streams      int64  `json:"streams"`           // open connections
}

type counters struct {
	received, malformed, stray, dropped, unobserved, panics atomic.Uint64
	shed, withheld, refused, handshakesFailed, failedOver   atomic.Uint64
	transactions                                            atomic.Int64
}

// ListenerState is the state of a listener.
type ListenerState struct {
	Addr        Addr
	URI         string // with the advertised name, if there is one; a URL of a WebSocket
	Side        ListenerSide
	Connections int64 // on which messages are exchanged; 0 for UDP
}

// Listeners returns the states of the listeners in the order of the configuration. It may
// be called from any goroutine at any time.
func (px *Proxy) Listeners() []ListenerState {
	states := make([]ListenerState, 0, len(px.listeners.all))
	for _, l := range px.listeners.all {
		states = append(states, ListenerState{Addr{Proto: l.proto, AddrPort: l.addr}, l.publicURI(), l.side, l.connections.Load()})
	}
	return states
}

// publicURI returns the SIP URI at which peers of the edge side reach a listener, or the URL
// of a WebSocket listener, as libraries for browsers take it.
func (l *listener) publicURI() string {
	name := l.names.advertised.Load()
	if name == nil {
		name = &l.names.real
	}
	if l.proto.webSocket() {
		return l.proto.String() + "://" + name.sentBy
	}
	return "sip:" + name.sentBy + ";transport=" + l.proto.String()
}

// Connections returns the number of connections of a transport on which messages are
// exchanged. It may be called from any goroutine at any time.
func (px *Proxy) Connections(p Proto) (n int64) {
	for _, l := range px.listeners.all {
		if l.proto == p {
			n += l.connections.Load()
		}
	}
	return n
}

// Stats returns the current counts. It may be called from any goroutine at any time.
func (px *Proxy) Stats() Stats {
	return Stats{
		Received:     px.stats.received.Load(),
		Malformed:    px.stats.malformed.Load(),
		Stray:        px.stats.stray.Load(),
		Dropped:      px.stats.dropped.Load(),
		Unobserved:   px.stats.unobserved.Load(),
		Shed:         px.stats.shed.Load(),
		Withheld:     px.stats.withheld.Load(),
		Refused:      px.stats.refused.Load(),
		Handshakes:   px.stats.handshakesFailed.Load(),
		FailedOver:   px.stats.failedOver.Load(),
		Panics:       px.stats.panics.Load(),
		Transactions: px.stats.transactions.Load(),
		Streams:      px.streams.count.Load(),
	}
}
