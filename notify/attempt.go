package notify

import (
	"bellhop/notify/deliverylog"
	"bellhop/notify/schedule"
	"bellhop/notify/send"
)

// An attempt is one HTTP request for a delivery. It holds the plan of the scheduler, the
// result, and the record for the delivery log.
type attempt struct {
	schedule.Attempt
	schedule.Result

	signer   *send.Signer // nil: the subscription has no secret
	record   deliverylog.Record
	recorded bool // it is in the delivery log already
}
