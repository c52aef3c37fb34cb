package websocket

import "time"

// Limits of silence.
const (
	pingAfter     = 20 * time.Second // shorter than the 30 to 60 s after which middleboxes cut a connection
	maxUnanswered = 2                // Pings without an answer, after which the connection is taken for dead
)

// A Keepalive decides when a client is pinged, and when its connection is dead.
type Keepalive struct {
	deadline   time.Time
	unanswered int // Pings since the client has sent something
}

// NewKeepalive returns the Keepalive of a connection that is opened now.
func NewKeepalive(now time.Time) Keepalive { return Keepalive{deadline: now.Add(pingAfter)} }

// Deadline returns the time at which Expire is to be called.
func (k *Keepalive) Deadline() time.Time { return k.deadline }

// NoteReceived notes that the client has sent something. A Pong does not put off the next Ping:
// without our Pings, a middlebox that counts only our side could cut the connection of a
// client that sends Pongs unasked (RFC 6455 §5.5.3).
func (k *Keepalive) NoteReceived(now time.Time, kind Kind) {
	k.unanswered = 0
	if kind != Pong {
		k.deadline = now.Add(pingAfter)
	}
}

// Expire is called at the deadline. It reports whether a Ping is to be sent; otherwise the
// connection is dead.
func (k *Keepalive) Expire(now time.Time) (ping bool) {
	if k.unanswered == maxUnanswered {
		return false
	}
	k.unanswered++
	k.deadline = now.Add(pingAfter)
	return true
}
