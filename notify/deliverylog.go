package notify

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
	"bellhop/notify/jsontext"
	"bellhop/notify/payload"
	"bellhop/notify/stream"
)

// openDeliveryLog opens the delivery log: every attempt, and every end of a delivery, for
// as long as the events themselves. Deliveries that succeed at once, nearly all, share
// messages, one for each subscription. All other records have a message of their own under
// the subject of their delivery, by which they are found.
func openDeliveryLog(ctx context.Context, js jetstream.JetStream, c Config) (jetstream.Stream, error) {
	return js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:     "bellhop_attempts",
		Subjects: []string{"bellhop.attempt.>"}, // bellhop.attempt.<subscription>, bellhop.attempt.<subscription>.<event id>
		Storage:  jetstream.FileStorage,
		MaxAge:   c.keepEvents(),
		Replicas: c.Replicas,
	})
}

// The words for the state of a delivery. They are stored and shown: never change one, only
// add.
const (
	Waiting   = "waiting"   // there will be another attempt
	Delivered = "delivered" // the receiver answered 2xx
	Expired   = "expired"   // too old, or the retry schedule is over
	Refused   = "refused"   // the receiver answered 410
	Canceled  = "canceled"  // the subscription is deleted or disabled, or another event of its group was sent instead

	Failed = "failed" // only of an attempt by Redeliver or Test: it changed nothing
)

// An Attempt is one HTTP request for a delivery, or the end of a delivery without one.
type Attempt struct {
	Number  int       // 1, 2, 3 …; 0: no attempt was made
	At      time.Time // when it began
	Took    time.Duration
	Status  int       // of HTTP; 0: no response
	Error   string    // why it failed
	Outcome string    // state of the delivery after this attempt
	Next    time.Time // when the next attempt is due; zero: there is none
	ByHand  bool      // made by Redeliver or Test
	Request *Request  // nil: none could be built
	Answer  *Answer   // nil: no response
}

// ended reports whether this attempt ended the delivery.
func (a *Attempt) ended() bool { return a.Outcome != Waiting && a.Outcome != Failed }

// A Request is the HTTP request of an attempt, without secrets, whether or not a connection
// was made. The delivery log stores its JSON form, and the API shows it: fields are only
// ever added.
type Request struct {
	Method string            `json:"method" doc:"HTTP method"`
	URL    string            `json:"url" doc:"URL of the request; the query of a URL that the receiver named is masked"`
	Header map[string]string `json:"header" doc:"Header fields; secret values are [redacted]"`
	Body   string            `json:"body,omitempty" doc:"Body of the request"`
}

// An Answer is the HTTP response: some header fields, and the first 4 KiB of the body. Its
// JSON form is stored and shown too.
type Answer struct {
	Header map[string]string `json:"header,omitempty" doc:"Content-Type, Location, Retry-After, Server and Www-Authenticate, if present"`
	Body   string            `json:"body,omitempty" doc:"First 4 KiB of the body"`
	Cut    bool              `json:"cut,omitempty" doc:"The body was longer, or not complete in time"`
}

// attemptRecord is an attempt and its event as the delivery log stores them. Times are
// microseconds. Fields are only ever added.
type attemptRecord struct {
	Event     string      `json:"event"`
	Seq       uint64      `json:"seq"` // position of the event in the log
	Type      dialog.Type `json:"type"`
	Call      string      `json:"call"`
	Extension string      `json:"extension"` // with its domain, if known
	EventTime int64       `json:"said"`      // time of the event
	Number    int         `json:"number"`
	At        int64       `json:"at"`
	Took      int64       `json:"took"`
	Status    int         `json:"status"`
	Error     string      `json:"error"`
	Outcome   string      `json:"outcome"`
	Next      int64       `json:"next"`
	ByHand    bool        `json:"by_hand"`
	Request   *Request    `json:"request"`
	Answer    *Answer     `json:"answer"`
	OnAnswer  string      `json:"on_answer"` // of a newCall: see callURLs; never shown
	OnHangup  string      `json:"on_hangup"`
}

// asAttempt converts a record to the exported form.
func (l *attemptRecord) asAttempt() Attempt {
	a := Attempt{
		Number: l.Number, At: time.UnixMicro(l.At), Took: time.Duration(l.Took) * time.Microsecond, Status: l.Status, Error: l.Error,
		Outcome: l.Outcome, ByHand: l.ByHand, Request: l.Request, Answer: l.Answer,
	}
	if l.Next != 0 {
		a.Next = time.UnixMicro(l.Next)
	}
	return a
}

// attemptDetails are the details that the delivery log records of an attempt, beside its
// outcome. They share memory with the request, which does not change any more.
type attemptDetails struct {
	sentEvent *dialog.Event // nil: the event was not read
	startedAt time.Time     // zero: no attempt was made
	took      time.Duration
	sentTo    *url.URL // nil: no request was sent
	header    http.Header
	payload   []byte

	responseHeader http.Header
	responseBody   []byte
	truncated      bool

	outcomeWord string
	nextAt      time.Time
	manual      bool
	recorded    bool // it is in the delivery log already
}

// recordedResponseHeaders are the header fields of a response that are recorded.
var recordedResponseHeaders = []string{"Content-Type", "Location", "Retry-After", "Server", "Www-Authenticate"}

const redacted = "[redacted]"

// redactedHeaders are the header fields of a request whose values are not recorded, beside
// those that the subscription sets.
var redactedHeaders = map[string]bool{
	"Webhook-Signature": true, "Authorization": true, "Proxy-Authorization": true, "Cookie": true,
}

// appendRecord appends the JSON of an [attemptRecord].
func (a *attempt) appendRecord(dst []byte) []byte {
	w := &jsontext.Object{B: append(dst, '{')}
	jsontext.WriteText(w, "event", a.id)
	w.WriteNumber("seq", int64(a.seq))
	jsontext.WriteText(w, "type", string(a.kind))
	if e := a.sentEvent; e != nil {
		jsontext.WriteText(w, "call", e.Call)
		jsontext.WriteText(w, "extension", dialog.Clean(e.Extension.String(), dialog.MaxText))
	}
	w.WriteNumber("said", a.plannedAttempt.at.UnixMicro())
	w.WriteNonZero("number", int64(a.number))
	w.WriteNumber("at", a.startedAt.UnixMicro())
	w.WriteNonZero("took", a.took.Microseconds())
	w.WriteNonZero("status", int64(a.status))
	if a.detail != "" && a.outcomeWord != Delivered {
		jsontext.WriteText(w, "error", dialog.Clean(a.detail, 500))
	}
	jsontext.WriteText(w, "outcome", a.outcomeWord)
	if !a.nextAt.IsZero() {
		w.WriteNumber("next", a.nextAt.UnixMicro())
	}
	w.WriteTrue("by_hand", a.manual)
	if a.sentTo != nil {
		a.appendRequest(w)
	}
	if a.status != 0 {
		a.appendResponse(w)
	}
	if onAnswer, onHangup := a.urls.asText(); a.urls != nil {
		jsontext.WriteText(w, "on_answer", onAnswer)
		jsontext.WriteText(w, "on_hangup", onHangup)
	}
	return append(w.B, '}')
}

// appendRequest writes the JSON of a Request, without secrets.
func (a *attempt) appendRequest(w *jsontext.Object) {
	w.WriteKey("request")
	w.B = append(w.B, '{')
	jsontext.WriteText(w, "method", a.sub.Method)
	if a.namedURL != nil {
		jsontext.WriteText(w, "url", maskURL(a.sentTo))
	} else if a.sub.Method == http.MethodGet || payload.IsTemplate(a.sub.URL) {
		jsontext.WriteText(w, "url", a.sentTo.String())
	} else {
		jsontext.WriteText(w, "url", a.sub.URL)
	}
	w.WriteKey("header")
	w.B = append(w.B, '{')
	for name, values := range a.header {
		if len(values) == 0 {
			continue
		}
		value := values[0]
		if _, isOwn := a.sub.Headers[name]; isOwn || redactedHeaders[name] {
			value = redacted
		}
		jsontext.WriteText(w, name, value)
	}
	w.B = append(w.B, '}')
	if len(a.payload) > 0 {
		jsontext.WriteText(w, "body", a.payload)
	}
	w.B = append(w.B, '}')
}

// appendResponse writes the JSON of an Answer.
func (a *attempt) appendResponse(w *jsontext.Object) {
	w.WriteKey("answer")
	w.B = append(w.B, '{')
	opened := false
	for _, name := range recordedResponseHeaders {
		values := a.responseHeader[name]
		if len(values) == 0 {
			continue
		}
		if !opened {
			opened = true
			w.WriteKey("header")
			w.B = append(w.B, '{')
		}
		jsontext.WriteText(w, name, dialog.Clean(values[0], dialog.MaxText))
	}
	if opened {
		w.B = append(w.B, '}')
	}
	switch {
	case len(a.responseBody) == 0:
	case a.sub.FollowsURLs() && isNewCall(a.kind):
		jsontext.WriteText(w, "body", maskResponse(a.responseBody))
	default:
		jsontext.WriteText(w, "body", a.responseBody)
	}
	w.WriteTrue("cut", a.truncated)
	w.B = append(w.B, '}')
}

const (
	maxBufferedRecords = 16 << 20               // bytes of records that wait to be written, about
	recordOverhead     = 700                    // bytes of a record beside its texts
	recordInterval     = 200 * time.Millisecond // records made within it are written together
	recordBatchSize    = 256                    // attempts
	maxMessageText     = 128 << 10              // bytes of a message after which no attempt is added to it
)

// A recordBuffer holds attempts until they are in the delivery log.
type recordBuffer struct {
	wakeup chan struct{} // capacity 1: buffer is not empty

	mu      sync.Mutex
	buffer  fifo[*attempt]
	size    int // bytes of buffer, see recordSize
	dropped uint64
}

// recordSize estimates the bytes of the record of an attempt.
func (a *attempt) recordSize() int { return recordOverhead + len(a.payload) + len(a.responseBody) }

// addRecord buffers an attempt for the delivery log, unless its event id is unknown because
// the log has lost the event. It never blocks: beyond maxBufferedRecords, the oldest records
// are dropped.
func (r *recordBuffer) addRecord(a *attempt) {
	if a.id == "" || a.recorded {
		return
	}
	r.mu.Lock()
	r.buffer.push(a)
	r.size += a.recordSize()
	for r.size > maxBufferedRecords {
		r.size -= r.buffer.pop().recordSize()
		r.dropped++
	}
	r.mu.Unlock()
	signal(r.wakeup)
}

// takeRecords moves records to a batch, up to recordBatchSize.
func (r *recordBuffer) takeRecords(batch []*attempt) []*attempt {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.buffer.len() > 0 && len(batch) < recordBatchSize {
		a := r.buffer.pop()
		r.size -= a.recordSize()
		batch = append(batch, a)
	}
	return batch
}

// countDropped counts records that will not be written.
func (r *recordBuffer) countDropped(attempts int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropped += uint64(attempts)
}

// droppedCount returns how many records were dropped.
func (r *recordBuffer) droppedCount() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dropped
}

// recordAttempt records an attempt that the scheduler has just finished. If the outbox did
// not know the event id, it is taken from the event that was read.
func (n *Notifier) recordAttempt(a *attempt, v verdict) {
	a.id = cmp.Or(a.id, a.eventID)
	a.outcomeWord, a.nextAt = v.outcome.String(), v.next
	if v.redelivered && a.outcome == willRetry {
		a.outcomeWord = Failed
	}
	n.records.addRecord(a)
}

// recordEnd records the end of a delivery that neither an attempt nor a redelivery brought
// about.
func (n *Notifier) recordEnd(d *delivery, o outcome) {
	if d.state == inFlight || d.redelivered {
		return
	}
	a := &attempt{plannedAttempt: plannedAttempt{seq: d.seq, id: d.id, kind: d.kind, at: d.at, replay: d.replay, party: d.party, sub: d.queue.subscriber.sub}}
	a.startedAt, a.outcomeWord, a.detail = time.Now(), o.String(), d.reason
	n.records.addRecord(a)
}

// deliveredAtOnce reports whether an attempt is the only one of its delivery, as far as is
// known. Two kinds need a message of their own: a newCall that is replayed, see
// checkNewCall, and one whose receiver named URLs, see lastURLs.
func (a *attempt) deliveredAtOnce() bool {
	return a.number == 1 && a.outcomeWord == Delivered && !a.manual && !(a.replay && a.party != "") && a.urls == nil
}

// startRecording writes records until the returned func is called, and then the rest for at
// most two seconds.
func (n *Notifier) startRecording(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.writeAllRecords(ctx)
	}()
	return func() { cancel(); <-ended }
}

// writeAllRecords writes records to the delivery log until ctx ends, and then the rest.
func (n *Notifier) writeAllRecords(ctx context.Context) {
	w, err := stream.NewWriter(n.js.Conn(), n.recoverPanic)
	for err != nil {
		n.log.Error("attempts not recorded", "err", err)
		if sleep(ctx, time.Second); ctx.Err() != nil {
			return
		}
		w, err = stream.NewWriter(n.js.Conn(), n.recoverPanic)
	}
	defer w.Close()
	last, cancel := stream.WithDrainTime(ctx, n.js.Conn())
	defer cancel()
	var batch recordBatch
	for {
		batch.attempts = n.records.takeRecords(batch.attempts[:0])
		if len(batch.attempts) == 0 {
			if ctx.Err() != nil {
				return
			}
			select {
			case <-n.records.wakeup:
				sleep(ctx, recordInterval)
			case <-ctx.Done():
			}
			continue
		}
		n.writeRecordBatch(last, w, &batch)
		clear(batch.attempts)
		if last.Err() != nil {
			n.records.countDropped(n.records.bufferedCount())
			n.log.Error("attempts not recorded: the store did not accept them", "attempts", n.records.droppedCount())
			return
		}
	}
}

// writeRecordBatch writes a batch of records. If that panics, the batch is lost and counted
// as dropped.
func (n *Notifier) writeRecordBatch(ctx context.Context, w *stream.Writer, batch *recordBatch) {
	defer func() {
		if v := recover(); v != nil {
			n.reportPanic("record attempts", v)
			n.records.countDropped(len(batch.attempts))
		}
	}()
	n.writeRecords(ctx, w, batch.encodeMessages())
}

// bufferedCount returns how many records wait to be written.
func (r *recordBuffer) bufferedCount() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buffer.len()
}

// writeRecords writes messages until the delivery log has all of them, or ctx ends.
func (n *Notifier) writeRecords(ctx context.Context, w *stream.Writer, records []logMessage) {
	for len(records) > 0 {
		msgs := make([]*nats.Msg, len(records))
		for i := range records {
			msgs[i] = records[i].message
		}
		var unwritten []logMessage
		var failed error
		for i, result := range w.Write(ctx, msgs) {
			switch {
			case result.Err == nil:
			case errors.Is(result.Err, nats.ErrMaxPayload): // will never fit into a message
				n.records.countDropped(records[i].attempts)
			default:
				unwritten, failed = append(unwritten, records[i]), result.Err
			}
		}
		if records = unwritten; failed == nil {
			return
		}
		if ctx.Err() != nil {
			for _, r := range records {
				n.records.countDropped(r.attempts)
			}
			return
		}
		n.log.Warn("delivery log not written", "messages", len(records), "err", failed)
		sleep(ctx, stream.Backoff)
	}
}

// A logMessage is one message of the delivery log.
type logMessage struct {
	message  *nats.Msg
	attempts int
}

// A recordBatch encodes records into messages, reusing its memory. A message is a JSON
// array, compressed with S2 as the store itself would: callbacks resemble each other.
type recordBatch struct {
	attempts []*attempt
	text     []byte // of one message
	packed   []byte // of all messages
	messages []logMessage
}

// encodeMessages encodes the attempts and returns the messages, valid until the next call.
func (p *recordBatch) encodeMessages() []logMessage {
	slices.SortStableFunc(p.attempts, func(a, b *attempt) int { return cmp.Compare(a.sub.ID, b.sub.ID) })
	if cap(p.packed) > 4<<20 {
		p.packed = nil
	}
	p.text, p.packed, p.messages = append(p.text[:0], '['), p.packed[:0], p.messages[:0]
	var last *attempt
	attempts := 0
	for _, a := range p.attempts {
		if !a.deliveredAtOnce() {
			continue
		}
		if attempts > 0 && (last.sub.ID != a.sub.ID || len(p.text) > maxMessageText) {
			p.addMessage("bellhop.attempt."+last.sub.ID, attempts)
			attempts = 0
		}
		last = a
		attempts++
		p.text = append(a.appendRecord(p.text), ',')
	}
	if attempts > 0 {
		p.addMessage("bellhop.attempt."+last.sub.ID, attempts)
	}
	for _, a := range p.attempts {
		if !a.deliveredAtOnce() {
			p.text = append(a.appendRecord(p.text), ',')
			p.addMessage(attemptSubject(a.sub.ID, a.id), 1)
		}
	}
	return p.messages
}

// addMessage compresses the text into a message.
func (p *recordBatch) addMessage(subject string, attempts int) {
	p.text[len(p.text)-1] = ']'
	start, room := len(p.packed), s2.MaxEncodedLen(len(p.text))
	p.packed = slices.Grow(p.packed, room) // earlier messages keep the old array
	data := s2.Encode(p.packed[start:start+room], p.text)
	p.packed = p.packed[:start+len(data)]
	p.text = append(p.text[:0], '[')
	p.messages = append(p.messages, logMessage{&nats.Msg{Subject: subject, Data: data}, attempts})
}

// maxDecodedRecords is how many bytes a message of the delivery log may decompress to.
const maxDecodedRecords = 64 << 20

// decodeRecords decodes a message of the delivery log.
func decodeRecords(data []byte) (all []attemptRecord, err error) {
	switch size, err := s2.DecodedLen(data); {
	case err != nil:
		return nil, err
	case size > maxDecodedRecords:
		return nil, fmt.Errorf("decode records: %d bytes are too many", size)
	}
	text, err := s2.Decode(nil, data)
	if err != nil {
		return nil, err
	}
	return all, json.Unmarshal(text, &all)
}

// attemptSubject returns the subject for records of a delivery that did not succeed at
// once.
func attemptSubject(subscription, event string) string {
	return "bellhop.attempt." + subscription + "." + stream.Token(event)
}

// deliveryID returns the webhook-id of a delivery.
func deliveryID(event, subscription string) string { return event + "-" + subscription }

// splitID splits a webhook-id into event and subscription; ok is false if it is not valid.
func splitID(id string) (event, subscription string, ok bool) {
	i := strings.LastIndexByte(id, '-')
	if i <= 0 || len(id)-i-1 != 30 || strings.Trim(id[i+1:], idChars) != "" || len(id) > 256 {
		return "", "", false
	}
	return id[:i], id[i+1:], true
}
