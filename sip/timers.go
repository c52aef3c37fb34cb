package sip

import "time"

// The timers of RFC 3261 §17 and table 4, RFC 6026 §8.
const (
	t1 = instant(500 * time.Millisecond) // round trip
	t2 = instant(4 * time.Second)        // longest pause between retransmissions, INVITE excepted
	t4 = instant(5 * time.Second)        // longest a message stays in the network

	timerB = 64 * t1 // INVITE unanswered; F: other requests
	timerD = 64 * t1 // answers to retransmitted final responses; 0 on a stream
	timerH = 64 * t1 // wait for ACK
	timerI = t4      // absorb further ACKs; 0 on a stream
	timerJ = 64 * t1 // absorb further non-INVITE requests; 0 on a stream
	timerK = t4      // absorb further non-INVITE responses; 0 on a stream
	timerL = 64 * t1 // forward further 2xx, absorb further INVITEs; M is its twin on the client side

	// timerC ends an INVITE that rings and rings: more than three minutes
	// without news (RFC 3261 §16.6).
	timerC = instant(185 * time.Second)

	// trying is how long the next hop has for a response of its own before we
	// say 100 (RFC 3261 §16.2: within 200 ms).
	tryingDelay = instant(150 * time.Millisecond)
)
