// Package eventlog holds the event log.
package eventlog

import "bellhop/dialog"

// An Entry is an event and its position in the log.
type Entry struct {
	Seq   uint64
	Event *dialog.Event
}
