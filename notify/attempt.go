package notify

import (
	"bellhop/notify/deliverylog"
	"bellhop/notify/schedule"
	"bellhop/notify/send"
)

// An attempt is one HTTP request for a delivery: what the scheduler plans, what comes back,
// and what the delivery log records of it.
type attempt struct {
	schedule.Attempt
	schedule.Result

	signer   *send.Signer // nil: the subscription has no secret
	record   deliverylog.Record
	recorded bool // it is in the delivery log already
}
