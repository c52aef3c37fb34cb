package sip

import "time"

// The timers of RFC 3261 §17 and table 4, RFC 6026 §8.
const (
	t1 = instant(500 * time.Millisecond) // round trip
	t2 = instant(4 * time.Second)        // longest wait between retransmissions, except of an INVITE
	t4 = instant(5 * time.Second)        // longest time that a message stays in the network

	timerB = 64 * t1 // no final response to INVITE; Timer F: to another request
	timerD = 64 * t1 // acknowledge retransmitted final responses; 0 on a stream
	timerH = 64 * t1 // wait for ACK
	timerI = t4      // absorb further ACKs; 0 on a stream
	timerJ = 64 * t1 // absorb further non-INVITE requests; 0 on a stream
	timerK = t4      // absorb further non-INVITE responses; 0 on a stream
	timerL = 64 * t1 // forward further 2xx, absorb further INVITEs; also Timer M of the client side

	// timerC ends an INVITE that rings without further provisional responses. It must be
	// more than three minutes (RFC 3261 §16.6).
	timerC = instant(185 * time.Second)

	// closedCheckTime is how long before Timer F a non-INVITE request ends whose flow is
	// closed. By then the system has noticed that a peer has vanished (see userTimeout), and
	// the sender still waits for a response. After Timer F, it would get none (RFC 4320 §4.1).
	closedCheckTime = t1

	// tryingDelay is how long the next hop has to send a response of its own before the
	// proxy sends 100 (RFC 3261 §16.2: within 200 ms).
	tryingDelay = instant(150 * time.Millisecond)
)
