package storetest

import (
	"fmt"
	"time"

	"bellhop/dialog"
)

// Call returns the events of the i-th answered call of extension 101.
func Call(i int) []dialog.Event {
	id := func(k int) string { return fmt.Sprintf("%031x%d", i, k) }
	at := time.Now()
	e := dialog.Event{Call: id(0), Party: id(1), Extension: dialog.Extension{User: "101", Domain: "pbx.example"},
		Flow: dialog.Out, CallerNum: "101", CalledNumber: "102", At: at}
	var all []dialog.Event
	for k, t := range []dialog.Type{dialog.DialOut, dialog.Answer, dialog.Hangup} {
		e.ID, e.Seq, e.Type = id(k+2), k+1, t
		e.Status = []dialog.Status{dialog.Calling, dialog.Answered, dialog.Answered}[k]
		all = append(all, e)
	}
	return all
}
