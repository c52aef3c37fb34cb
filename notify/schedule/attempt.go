package schedule

import (
	"net/url"
	"time"

	"bellhop/dialog"
	"bellhop/notify/subscription"
)

// An Attempt is one HTTP request that is to be made for a delivery. It never changes, and
// any goroutine may read it.
type Attempt struct {
	Seq      uint64        // position of the event in the log; 0: it is in no log
	EventID  string        // "": the outbox did not have it
	Type     dialog.Type   // of the event
	At       time.Time     // time of the event by the wall clock
	Observed time.Time     // At on the monotonic clock; zero: use At
	Event    *dialog.Event // nil: to be read from the log

	Sub    *subscription.Subscription
	URL    *url.URL // of Sub, without variables
	Live   bool     // the event is of use for seconds, else for days
	Number int      // 1, 2, 3 …; 0: the scheduler did not start it
	Replay bool     // part of a replay

	Party          string  // whose newCall this is, or depends on; "": the dialect has no newCall
	NewCallUnknown bool    // this process has not seen the newCall
	PartyNewCall   NewCall // newCall of Party; zero: unknown
	GroupNewCall   NewCall // the newCall of a group of this call whose delivery ended last; zero: unknown
	MayPostpone    bool    // it has not been postponed before

	delivery *delivery
	endpoint *endpoint
}

// A Result is the result of an attempt.
type Result struct {
	Outcome    Outcome
	Status     int           // of HTTP; 0: no response
	Fault      Fault         // kind of failure
	Detail     string        // why it failed
	LocalFault bool          // it failed before a request was sent
	RetryAfter time.Duration // from the response
	NotBefore  time.Time     // the attempt is postponed until then, as other events of the call may follow; zero: it is not

	FoundID    string    // id of the event that was read; "": none was
	NamedURL   *url.URL  // the URL used, if the receiver has named it; nil: the subscription's URL was used
	URLs       *CallURLs // named by the response to a newCall; nil: none
	LoggedURLs *CallURLs // of the newCall, if they were looked up in the delivery log
}

// A Verdict is what the result of an attempt means for its delivery.
type Verdict struct {
	Ended       bool
	Outcome     Outcome   // of the delivery
	Next        time.Time // of the next attempt; zero: it has ended
	Redelivered bool      // a redelivery has delivered it during the attempt
}

// An End is the end of a delivery.
type End struct {
	Seq          uint64      // position of the event in the log
	EventID      string      // "": the outbox did not have it
	Type         dialog.Type // of the event
	At           time.Time   // time of the event by the wall clock
	Subscription string      // its id
	Queue        string      // as the outbox names it
	Failures     int         // failed attempts that count in the retry schedule
	Outcome      Outcome     // never WillRetry
	Reason       string      // why; "": the last attempt or the outcome explains it
	Recorded     bool        // an attempt or a redelivery ended it: the delivery log has the record of that
}

// A Redelivery is a pending delivery that was delivered outside the scheduler.
type Redelivery struct {
	Subscription string    // its id
	Queue        string    // OrderKey of the event
	Seq          uint64    // position of the event in the log
	URLs         *CallURLs // of a newCall
	Named        bool      // it went to a URL that the receiver had named
}

// Health is whether the attempts of a subscription fail, and what pauses it.
type Health struct {
	Subscription *subscription.Subscription
	Failing      time.Time // since when all attempts fail; zero: the last one succeeded
	Paused       time.Time // since when a circuit breaker is open; zero: none is
	Why          string    // the failure that opened the breaker, or that of the last probe
	Breaker      string    // EndpointBreaker or SubscriptionBreaker; "": none is open
}

// Hooks are functions that the scheduler calls while one of its methods runs. They must
// not call the scheduler. All of them must be set.
type Hooks struct {
	Start           func(Attempt)                                        // an attempt is to be made; call FinishAttempt with its result
	Ended           func(End)                                            // just before a delivery ends
	EndpointChanged func(endpoint string, open bool, why string)         // the circuit breaker of an endpoint opens or closes
	HealthChanged   func(Health)                                         // a subscription is paused or resumed, or another breaker pauses it now
	LagChanged      func(subscription string, lagging bool, pending int) // a subscription begins to lag, or has caught up; pending is how many deliveries it has that have not ended
	RecoverPanic    func(part string)                                    // deferred where outside input is handled; it must call recover
}
