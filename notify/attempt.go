package notify

import (
	"net/url"
	"time"

	"bellhop/dialog"
	"bellhop/notify/deliverylog"
	"bellhop/notify/send"
)

// An attempt is one HTTP request for a delivery: what the scheduler plans, what comes back,
// and what the delivery log records of it.
type attempt struct {
	plannedAttempt
	attemptResult

	signer   *send.Signer // nil: the subscription has no secret
	record   deliverylog.Record
	recorded bool // it is in the delivery log already
}

// A plannedAttempt is an attempt as the scheduler plans it. It never changes, and any
// goroutine may read all but its last two fields.
type plannedAttempt struct {
	seq      uint64        // position of the event in the log; 0: it is in no log
	id       string        // of the event; "": the outbox did not have it
	kind     dialog.Type   // of the event
	at       time.Time     // time of the event by the wall clock
	observed time.Time     // at on the monotonic clock; zero: use at
	event    *dialog.Event // nil: to be read from the log

	sub       *Subscription
	url       *url.URL // of sub, without variables
	retention retention
	number    int  // 1, 2, 3 …; 0: it is not the scheduler's
	replay    bool // part of a replay

	party          string  // see delivery
	newCallUnknown bool    // this process has not seen the newCall
	groupNewCall   newCall // the last newCall of a group of this call that ended
	partyNewCall   newCall // of its own party; zero: unknown
	mayPostpone    bool    // it has not been postponed before

	delivery *delivery // the scheduler's own
	endpoint *endpoint // likewise
}

// An attemptResult is what came of an attempt.
type attemptResult struct {
	outcome    outcome
	status     int           // of HTTP; 0: no response
	fault      fault         // kind of failure
	detail     string        // why it failed
	localFault bool          // it failed before a request was sent
	retryAfter time.Duration // from the response
	notBefore  time.Time     // no request was sent: other events of the call may follow until then; zero: not postponed

	eventID    string    // of the event that was read; "": none was
	namedURL   *url.URL  // a URL named by the receiver was used; nil: the subscription's URL
	urls       *callURLs // named by the response to a newCall; nil: none
	loggedURLs *callURLs // of the newCall, if they were looked up in the delivery log
}

// A verdict is what the result of an attempt means for its delivery.
type verdict struct {
	ended       bool
	outcome     outcome   // of the delivery, if it has ended
	next        time.Time // of the next attempt; zero: it has ended
	redelivered bool      // Redeliver has delivered it during the attempt
}
