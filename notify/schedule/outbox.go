package schedule

import (
	"encoding/json"
	"strconv"
	"time"

	"bellhop/dialog"
)

const (
	outboxDelay        = time.Second            // a delivery that takes longer is written to the outbox, failed or not
	cursorSaveInterval = 100 * time.Millisecond // between two writes of the cursor
	maxRecentEvents    = 16_384                 // events from the oldest that is not settled to the last added
)

// An outboxEntry is the state of the outbox entry of a delivery or a log read.
//
//	upToDate ──save──▶ unsaved ──start──▶ writing ──finish──▶ upToDate
//	                      ▲                  │ save
//	                      └─────finish─── outdated
//
// After a write that failed, the state changes in the same way, and then the item is
// saved again.
type outboxEntry struct {
	state  entryState
	stored bool // the outbox has the entry, or may have it although no acknowledgement came
}

// entryState is the state of an outboxEntry; see its diagram.
type entryState uint8

const (
	upToDate entryState = iota // nothing is to be written
	unsaved                    // enqueued to be written
	writing                    // is being written
	outdated                   // is being written, and is enqueued to be written again
)

// save records that the item has changed, and reports whether it must be enqueued.
func (e *outboxEntry) save() (enqueue bool) {
	switch e.state {
	case upToDate:
		e.state = unsaved
		return true
	case writing:
		e.state = outdated
		return true
	case unsaved, outdated:
	}
	return false
}

// start begins a write of the enqueued item. If the item has ended and was never stored,
// no write is needed: start reports false.
func (e *outboxEntry) start(ended bool) bool {
	if ended && !e.stored {
		e.state = upToDate
		return false
	}
	e.state = writing
	return true
}

// finish records that a write of the entry has ended. ended reports that the write was a
// deletion, because the item had ended. A failed write may have been stored nevertheless,
// so the entry then counts as stored.
func (e *outboxEntry) finish(ended, failed bool) {
	e.stored = failed || !ended
	switch e.state {
	case writing:
		e.state = upToDate
	case outdated:
		e.state = unsaved
	case upToDate, unsaved: // not being written
	}
}

// beingWritten reports whether a write has begun and not ended.
func (e *outboxEntry) beingWritten() bool { return e.state == writing || e.state == outdated }

// A storedItem is a delivery or a log read.
type storedItem interface {
	outboxEntry() *outboxEntry
	hasEnded() bool     // its entry is to be deleted
	outboxName() string // see Update
	encode() any        // the value of its entry
}

// An Update is one write to the outbox: of a delivery, of a log read, or of the cursor.
type Update struct {
	Name     string // <subscription>.<position in the log> of a delivery, <subscription>.<name> of a log read, or CursorName
	Data     []byte // value of the entry; empty: the entry is deleted
	Repeated bool   // the outbox has an entry of this name already, or may have

	item   storedItem // nil: it is of the cursor
	cursor uint64
}

// CursorName is the name of the outbox entry of the cursor. It is stored: never change
// it.
const CursorName = "cursor"

// newUpdate returns the write of an item to the outbox.
func newUpdate(item storedItem) Update {
	u := Update{Name: item.outboxName(), Repeated: item.outboxEntry().stored, item: item}
	if !item.hasEnded() {
		u.Data, _ = json.Marshal(item.encode()) // cannot fail: words, numbers, and times of this century
	}
	return u
}

// A StoredDelivery is a delivery as the outbox stores it: what its queue and retry schedule
// need. The event stays in the log. Fields are only ever added.
type StoredDelivery struct {
	Queue    string      `json:"lane"`
	Event    string      `json:"event,omitempty"` // its id
	Type     dialog.Type `json:"type"`
	At       time.Time   `json:"at"`
	Failures int         `json:"attempts,omitempty"` // failed attempts that count in the retry schedule
	Attempts int         `json:"tries,omitempty"`    // all attempts begun
	Due      time.Time   `json:"due,omitzero"`
	Replay   bool        `json:"replay,omitempty"`

	Backoff time.Duration `json:"wait,omitempty"` // from the last attempt until Due; 0: older versions did not write it

	Party string `json:"party,omitempty"` // see dependency; older versions did not write it
}

func (d *delivery) outboxEntry() *outboxEntry { return &d.entry }
func (d *delivery) hasEnded() bool            { return d.state == ended }
func (d *delivery) outboxName() string {
	return d.queue.subscriber.sub.ID + "." + strconv.FormatUint(d.seq, 10)
}

func (d *delivery) encode() any {
	return StoredDelivery{
		Queue: d.queue.storedName(), Event: d.id, Type: d.kind, At: d.at, Failures: d.failures, Attempts: d.attempts,
		Due: d.backoff.until, Replay: d.queue.replays, Backoff: d.backoff.wait, Party: d.dependency.party,
	}
}

// A StoredRead is a log read as the outbox stores it. Fields are only ever added.
type StoredRead struct {
	After uint64   `json:"after"`
	To    uint64   `json:"to,omitempty"`
	Types []string `json:"types,omitempty"`
}

func (r *logRead) outboxEntry() *outboxEntry { return &r.entry }
func (r *logRead) hasEnded() bool            { return r.state == readEnded }
func (r *logRead) outboxName() string        { return r.subscriber.sub.ID + "." + r.name }
func (r *logRead) encode() any               { return StoredRead{r.after, r.to, r.types} }

// A checkpoint counts the unsettled deliveries of one event, or of one page of a log
// read. A delivery is settled once it has ended or is in the outbox. When all are
// settled, the cursor or the log read may move past seq.
type checkpoint struct {
	seq        uint64      // position of the event, or of the end of the page
	readAt     time.Time   // when the event was read
	deliveries []*delivery // of the event, until saveOld has enqueued them
	unsettled  int         // unsettled deliveries, plus 1 for each lag that begins here, plus 1 while a page is being added
	read       *logRead    // the log read of the page; nil: this is an event
}

// deliveryKey identifies a delivery.
type deliveryKey struct {
	seq uint64
	sub string
}

// outbox tracks which deliveries and log reads must be written to the outbox. It also
// tracks the cursor: the position up to which the log need not be read again after a
// crash.
type outbox struct {
	recent   fifo[*checkpoint]    // of events, in the order of the log
	handled  int                  // how many of recent, from the front, saveOld has handled
	restored map[deliveryKey]bool // restored deliveries whose events will be read from the log again

	unsavedReads      fifo[storedItem] // written first
	unsavedDeliveries fifo[storedItem]

	cursor       uint64    // every event up to here is settled
	savedCursor  uint64    // the cursor in the outbox
	saveCursorAt time.Time // when the cursor may be written next
}

// addEvent adds the checkpoint of the next event of the log.
func (o *outbox) addEvent(c *checkpoint) {
	o.recent.push(c)
	o.advanceCursor()
}

// advanceCursor moves the cursor up to the first event that is not settled.
func (o *outbox) advanceCursor() {
	for o.recent.len() > 0 && o.recent.at(0).unsettled == 0 {
		o.cursor = o.recent.pop().seq
		o.handled = max(0, o.handled-1)
	}
}

// settleDelivery settles d, which has ended or is in the outbox: it releases the event of
// d and counts d in its checkpoint.
func (s *Scheduler) settleDelivery(d *delivery) {
	d.event = nil
	if c := d.checkpoint; c != nil {
		d.checkpoint = nil
		s.settle(c)
	}
}

// settle counts one settled delivery of c. It then moves the cursor if c is an event, or
// finishes the page if c is a page and all its deliveries are settled.
func (s *Scheduler) settle(c *checkpoint) {
	c.unsettled--
	switch {
	case c.read == nil:
		s.outbox.advanceCursor()
	case c.unsettled == 0:
		s.catchUp.finishPage(c)
	}
}

// saveDelivery enqueues d to be written to the outbox, unless it is enqueued already.
func (o *outbox) saveDelivery(d *delivery) {
	if d.entry.save() {
		o.unsavedDeliveries.push(d)
	}
}

// saveRead enqueues r to be written to the outbox, unless it is enqueued already.
func (o *outbox) saveRead(r *logRead) {
	if r.entry.save() {
		o.unsavedReads.push(r)
	}
}

// saveQueue enqueues the deliveries of q that are not in the outbox to be written there,
// in order, without waiting for outboxDelay. It is called when they cannot end within
// that time, or before a later delivery of q is written.
func (o *outbox) saveQueue(q *queue) {
	for _, d := range q.deliveries {
		if d.checkpoint != nil {
			o.saveDelivery(d)
		}
	}
}

// saveOld enqueues the deliveries of events older than outboxDelay to be written to the
// outbox, unless they have ended, are there, or are being written.
func (o *outbox) saveOld(now time.Time) {
	for o.handled < o.recent.len() && now.Sub(o.recent.at(o.handled).readAt) >= outboxDelay {
		c := o.recent.at(o.handled)
		for _, d := range c.deliveries {
			if d.checkpoint != nil && !d.entry.beingWritten() {
				o.saveDelivery(d)
			}
		}
		c.deliveries = nil
		o.handled++
	}
}

// nextWake reports when the outbox next has something to do. It calls earlier with each
// such time: when saveOld will save the next event, and when Updates may write the
// cursor, if that is after now.
func (o *outbox) nextWake(now time.Time, earlier func(time.Time)) {
	if o.handled < o.recent.len() {
		earlier(o.recent.at(o.handled).readAt.Add(outboxDelay))
	}
	if o.cursor > o.savedCursor && o.saveCursorAt.After(now) {
		earlier(o.saveCursorAt)
	}
}

// Updates returns the writes to the outbox that are due at now: at most limit writes of
// deliveries and log reads, and that of the cursor. Before the next call of Updates,
// FinishUpdate must be called with the result of each write, in order.
func (s *Scheduler) Updates(now time.Time, limit int) (updates []Update) {
	o := &s.outbox
	for _, unsaved := range [...]*fifo[storedItem]{&o.unsavedReads, &o.unsavedDeliveries} {
		for len(updates) < limit && unsaved.len() > 0 {
			if item := unsaved.pop(); item.outboxEntry().start(item.hasEnded()) {
				updates = append(updates, newUpdate(item))
			}
		}
	}
	if o.cursor > o.savedCursor && !now.Before(o.saveCursorAt) {
		o.saveCursorAt = now.Add(cursorSaveInterval)
		updates = append(updates, Update{Name: CursorName, Data: strconv.AppendUint(nil, o.cursor, 10), Repeated: true, cursor: o.cursor})
	}
	return updates
}

// FinishUpdate applies the result of a write to the outbox. A write that failed is
// repeated.
func (s *Scheduler) FinishUpdate(u Update, err error) {
	if u.item == nil {
		if err == nil {
			s.outbox.savedCursor = max(s.outbox.savedCursor, u.cursor)
		}
		return
	}
	gone := len(u.Data) == 0
	u.item.outboxEntry().finish(gone, err != nil)
	switch item := u.item.(type) {
	case *logRead:
		s.catchUp.finishReadUpdate(item, gone, err)
	case *delivery:
		s.finishDeliveryUpdate(item, gone, err)
	}
}

// finishDeliveryUpdate applies the result of a write of d to the outbox. gone reports
// that the write was to delete the entry of d. A write that failed is repeated.
func (s *Scheduler) finishDeliveryUpdate(d *delivery, gone bool, err error) {
	if err == nil {
		if !gone {
			s.settleDelivery(d)
		}
		return
	}
	if r := s.replayOf(d); gone && r != nil {
		d = r // its entry replaces that of d: both have the same name
		d.entry.stored = true
	}
	s.outbox.saveDelivery(d)
}

// replayOf returns the pending replayed delivery of the same event as d, or nil.
func (s *Scheduler) replayOf(d *delivery) *delivery {
	if q := d.queue.subscriber.queues[queueKey{d.queue.order, true}]; q != nil {
		for _, r := range q.deliveries {
			if r.seq == d.seq {
				return r
			}
		}
	}
	return nil
}
