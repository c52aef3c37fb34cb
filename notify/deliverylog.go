package notify

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
)

// openAttempts opens the delivery log: every attempt, and every end of a
// delivery, as long as the events themselves. What went well at once, as nearly
// all does, is written together, a message for a subscription at a time. All
// else has a message of its own under a subject of the delivery's own, by which
// it is found.
func openDeliveryLog(ctx context.Context, js jetstream.JetStream, c Config) (jetstream.Stream, error) {
	return js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:     "bellhop_attempts",
		Subjects: []string{"bellhop.attempt.>"}, // bellhop.attempt.<subscription>, bellhop.attempt.<subscription>.<event id>
		Storage:  jetstream.FileStorage,
		MaxAge:   c.keepEvents(),
		Replicas: c.Replicas,
	})
}

// The words for how a delivery stands. They are stored and shown: never change
// one, only add.
const (
	Waiting   = "waiting"   // there will be another attempt
	Delivered = "delivered" // the receiver answered 2xx
	Expired   = "expired"   // no longer worth it
	Refused   = "refused"   // the receiver answered 410
	Canceled  = "canceled"  // the subscription is gone or switched off, or another of a group tells it

	Failed = "failed" // of an attempt by hand only: it changed nothing
)

// An Attempt is one try at a delivery, or how the delivery ended without one.
type Attempt struct {
	Number  int       // 1, 2, 3 …; 0: none was made
	At      time.Time // when it began
	Took    time.Duration
	Status  int       // of HTTP; 0: no answer
	Error   string    // why it failed
	Outcome string    // of the delivery, by this attempt
	Next    time.Time // when the delivery is tried again; zero: it is not
	ByHand  bool      // someone asked for it
	Request *Request  // nil: there was none to send
	Answer  *Answer   // nil: none came
}

// ended reports whether a delivery was over with this attempt.
func (a *Attempt) ended() bool { return a.Outcome != Waiting && a.Outcome != Failed }

// A Request is what was sent, or would have been if there had been a connection,
// but for secrets. The JSON form is what the delivery log keeps, and what the API
// shows: fields are only ever added.
type Request struct {
	Method string            `json:"method"`
	URL    string            `json:"url"`
	Header map[string]string `json:"header" doc:"What is secret is [redacted]"`
	Body   string            `json:"body,omitempty"`
}

// An Answer is what came back: some header fields, and the first 4 KiB of the
// body. Its JSON form is kept and shown, too.
type Answer struct {
	Header map[string]string `json:"header,omitempty" doc:"Some of it"`
	Body   string            `json:"body,omitempty" doc:"The first 4 KiB"`
	Cut    bool              `json:"cut,omitempty" doc:"There was more, or it did not come in time"`
}

// recorded is an attempt as it is in the log, with the event that was owed.
// Times are microseconds. Fields are only ever added.
type attemptRecord struct {
	Event     string      `json:"event"`
	Seq       uint64      `json:"seq"` // place of the event in its log
	Type      dialog.Type `json:"type"`
	Call      string      `json:"call"`
	Extension string      `json:"extension"` // with its domain, if known
	Said      int64       `json:"said"`      // time of the event
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

// A trace is what the delivery log is told of an attempt beside its outcome. It
// shares memory with what was sent, which nobody changes any more.
type attemptDetails struct {
	sentEvent *dialog.Event // nil: was not read
	startedAt time.Time     // zero: no attempt was made
	took      time.Duration
	sentTo    *url.URL // nil: nothing was sent
	header    http.Header
	payload   []byte

	status         int
	responseHeader http.Header
	responseBody   []byte
	truncated      bool

	number      int
	outcomeWord string
	nextAt      time.Time
	manual      bool
	recorded    bool // the delivery log has it
}

// asks notes what is sent.
func (t *attemptDetails) noteRequest(e *dialog.Event, req *http.Request, payload []byte) {
	t.sentEvent, t.sentTo, t.header = e, req.URL, req.Header
	if req.Body != nil {
		t.payload = payload
	}
}

// bodies are buffers to read the bodies of answers into.
var responseBuffers = sync.Pool{New: func() any { return new([maxResponseBody]byte) }}

// answered notes an answer, and reads what it may of its body: by that the
// connection can be kept. Whoever sends it slowly is cut off by cancel.
func (t *attemptDetails) readResponse(res *http.Response, cancel context.CancelFunc) {
	defer res.Body.Close()
	t.status, t.responseHeader = res.StatusCode, res.Header
	if res.Body == http.NoBody || res.StatusCode == http.StatusSwitchingProtocols { // cancel would not end the reading of the latter
		return
	}
	timer := time.AfterFunc(bodyTimeout, cancel)
	defer timer.Stop()
	buffer := responseBuffers.Get().(*[maxResponseBody]byte)
	defer responseBuffers.Put(buffer)
	n, err := 0, error(nil)
	for n < len(buffer) && err == nil {
		var m int
		m, err = res.Body.Read(buffer[n:])
		n += m
	}
	t.responseBody, t.truncated = bytes.Clone(buffer[:n]), err != io.EOF
}

// shownAnswers are the header fields of an answer that are recorded.
var recordedResponseHeaders = []string{"Content-Type", "Location", "Retry-After", "Server", "Www-Authenticate"}

const redacted = "[redacted]"

// secretHeaders are the fields of a request whose values are not recorded,
// beside those that the subscription sets.
var redactedHeaders = map[string]bool{
	"Webhook-Signature": true, "Authorization": true, "Proxy-Authorization": true, "Cookie": true,
}

// append appends the JSON of a [recorded].
func (a *attempt) appendRecord(dst []byte) []byte {
	w := objectWriter{append(dst, '{')}
	writeRaw(&w, "event", a.id)
	w.writeNumber("seq", int64(a.seq))
	writeRaw(&w, "type", string(a.kind))
	if e := a.sentEvent; e != nil {
		writeRaw(&w, "call", e.Call)
		writeRaw(&w, "extension", clean(e.Extension.String(), maxText))
	}
	w.writeNumber("said", a.delivery.at.UnixMicro())
	w.writeNonZero("number", int64(a.number))
	w.writeNumber("at", a.startedAt.UnixMicro())
	w.writeNonZero("took", a.took.Microseconds())
	w.writeNonZero("status", int64(a.status))
	if a.detail != "" && a.outcomeWord != Delivered {
		writeRaw(&w, "error", clean(a.detail, 500))
	}
	writeRaw(&w, "outcome", a.outcomeWord)
	if !a.nextAt.IsZero() {
		w.writeNumber("next", a.nextAt.UnixMicro())
	}
	w.writeTrue("by_hand", a.manual)
	if a.sentTo != nil {
		a.appendRequest(&w)
	}
	if a.status != 0 {
		a.appendResponse(&w)
	}
	if onAnswer, onHangup := a.urls.asText(); a.urls != nil {
		writeRaw(&w, "on_answer", onAnswer)
		writeRaw(&w, "on_hangup", onHangup)
	}
	return append(w.b, '}')
}

func (a *attempt) appendRequest(w *objectWriter) {
	w.writeKey("request")
	w.b = append(w.b, '{')
	writeRaw(w, "method", a.sub.Method)
	if a.namedURL != nil {
		writeRaw(w, "url", maskURL(a.sentTo))
	} else if a.sub.Method == http.MethodGet || isTemplate(a.sub.URL) {
		writeRaw(w, "url", a.sentTo.String())
	} else {
		writeRaw(w, "url", a.sub.URL)
	}
	w.writeKey("header")
	w.b = append(w.b, '{')
	for name, values := range a.header {
		if len(values) == 0 {
			continue
		}
		value := values[0]
		if _, own := a.sub.Headers[name]; own || redactedHeaders[name] {
			value = redacted
		}
		writeRaw(w, name, value)
	}
	w.b = append(w.b, '}')
	if len(a.payload) > 0 {
		writeRaw(w, "body", a.payload)
	}
	w.b = append(w.b, '}')
}

func (a *attempt) appendResponse(w *objectWriter) {
	w.writeKey("answer")
	w.b = append(w.b, '{')
	begun := false
	for _, name := range recordedResponseHeaders {
		values := a.responseHeader[name]
		if len(values) == 0 {
			continue
		}
		if !begun {
			begun = true
			w.writeKey("header")
			w.b = append(w.b, '{')
		}
		writeRaw(w, name, clean(values[0], maxText))
	}
	if begun {
		w.b = append(w.b, '}')
	}
	switch {
	case len(a.responseBody) == 0:
	case a.sub.followsURLs() && isNewCall(a.kind):
		writeRaw(w, "body", maskResponse(a.responseBody))
	default:
		writeRaw(w, "body", a.responseBody)
	}
	w.writeTrue("cut", a.truncated)
	w.b = append(w.b, '}')
}

// asIs are the bytes that mean themselves in a JSON string.
var plainInJSON = func() (is [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		is[c] = c != '"' && c != '\\'
	}
	return is
}()

// raw writes a member as it is: not for HTML. What is no UTF-8 becomes U+FFFD.
func writeRaw[T string | []byte](w *objectWriter, k string, s T) {
	const hex = "0123456789abcdef"
	w.writeKey(k)
	b := append(w.b, '"')
	from := 0 // up to here s is written
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case plainInJSON[c]:
			i++
			continue
		case c >= utf8.RuneSelf:
			r, size := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
			if r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
			b = append(append(b, s[from:i]...), "\ufffd"...)
		case c < ' ':
			b = append(append(b, s[from:i]...), '\\', 'u', '0', '0', hex[c>>4], hex[c&0xf])
		default:
			b = append(append(b, s[from:i]...), '\\', c)
		}
		i++
		from = i
	}
	w.b = append(append(b, s[from:]...), '"')
}

const (
	maxBufferedRecords = 16 << 20               // bytes that wait to be written, about
	recordOverhead     = 700                    // bytes of a record beside its texts
	recordInterval     = 200 * time.Millisecond // what comes within is written together
	recordBatchSize    = 256                    // attempts
	maxMessageText     = 128 << 10              // bytes of a message after which no attempt is put into it
)

// A recorder holds attempts until they are in the delivery log.
type recordBuffer struct {
	wakeup chan struct{} // has room for one: there is something to write

	mu      sync.Mutex
	buffer  fifo[*attempt]
	size    int
	dropped uint64
}

func (a *attempt) recordSize() int { return recordOverhead + len(a.payload) + len(a.responseBody) }

// add has an attempt written, unless it is not known of which event: that is gone.
// It never blocks: the oldest make room.
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

// take appends what is to be written next to a wave.
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

// lose counts what will not be written.
func (r *recordBuffer) countDropped(attempts int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropped += uint64(attempts)
}

func (r *recordBuffer) droppedCount() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dropped
}

// recordAttempt records an attempt of a lane that was just taken. What the
// outbox did not know the event of is recorded once it was read.
func (n *Notifier) recordAttempt(a *attempt) {
	d := a.delivery
	if d.id == "" && a.sentEvent != nil {
		d.id = a.sentEvent.ID
	}
	a.number, a.outcomeWord = d.attempts, d.outcome.String()
	switch {
	case d.state != ended:
		a.nextAt = d.dueAt
		if b, _ := d.queue.subscriber.openBreaker(); b != nil && d.held {
			a.nextAt = b.nextProbe
		}
	case d.redelivered && a.outcome == willRetry:
		a.outcomeWord = Failed
	}
	n.records.addRecord(a)
}

// recordEnd records an end that no attempt of a lane brought, and none by hand.
func (n *Notifier) recordEnd(d *delivery, o outcome) {
	if d.state == inFlight || d.redelivered {
		return
	}
	a := &attempt{delivery: d, sub: d.queue.subscriber.sub}
	a.startedAt, a.outcomeWord, a.detail = time.Now(), o.String(), d.reason
	n.records.addRecord(a)
}

// atOnce reports whether an attempt is the only one of its delivery, as far as
// is known. A newCall that is replayed is found by itself: see checkOwed. So is one
// whose receiver named URLs: see lastURLs.
func (a *attempt) deliveredAtOnce() bool {
	return a.number == 1 && a.outcomeWord == Delivered && !a.manual && !(a.replay && a.party != "") && a.urls == nil
}

// startRecording has attempts written until the returned func is called, and
// then what is left, for two seconds at most.
func (n *Notifier) startRecording(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.writeAllRecords(ctx)
	}()
	return func() { cancel(); <-ended }
}

func (n *Notifier) writeAllRecords(ctx context.Context) {
	w, err := newBatchWriter(n)
	for err != nil {
		n.log.Error("attempts are not recorded", "err", err)
		if sleep(ctx, time.Second); ctx.Err() != nil {
			return
		}
		w, err = newBatchWriter(n)
	}
	defer w.close()
	last, cancel := withDrainTime(ctx, n.js.Conn())
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
			n.log.Error("attempts are not recorded: the store did not take them", "attempts", n.records.droppedCount())
			return
		}
	}
}

// writePage writes a wave of records. One that makes that panic is lost with its
// wave.
func (n *Notifier) writeRecordBatch(ctx context.Context, w *batchWriter, batch *recordBatch) {
	defer func() {
		if v := recover(); v != nil {
			n.reportPanic("record attempts", v)
			n.records.countDropped(len(batch.attempts))
		}
	}()
	n.writeRecords(ctx, w, batch.encodeMessages())
}

func (r *recordBuffer) bufferedCount() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buffer.len()
}

// writeRecords writes messages until the log has them all, or ctx ends.
func (n *Notifier) writeRecords(ctx context.Context, w *batchWriter, records []logMessage) {
	for len(records) > 0 {
		msgs := make([]*nats.Msg, len(records))
		for i := range records {
			msgs[i] = records[i].message
		}
		var again []logMessage
		var failed error
		for i, result := range w.writeBatch(ctx, msgs) {
			switch {
			case result.err == nil:
			case errors.Is(result.err, nats.ErrMaxPayload): // will never fit
				n.records.countDropped(records[i].attempts)
			default:
				again, failed = append(again, records[i]), result.err
			}
		}
		if records = again; failed == nil {
			return
		}
		if ctx.Err() != nil {
			for _, r := range records {
				n.records.countDropped(r.attempts)
			}
			return
		}
		n.log.Warn("the store does not take records of attempts", "messages", len(records), "err", failed)
		sleep(ctx, errorBackoff)
	}
}

// A note is one message of the log.
type logMessage struct {
	message  *nats.Msg
	attempts int
}

// A recordPage is what a wave is written down on, again and again. A message is
// a JSON array, packed with S2 as the store itself would: callbacks resemble
// each other.
type recordBatch struct {
	attempts []*attempt
	text     []byte // of one message
	packed   []byte // of all of them
	messages []logMessage
}

// write writes the wave down.
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

// add makes a message of the text.
func (p *recordBatch) addMessage(subject string, attempts int) {
	p.text[len(p.text)-1] = ']'
	start, room := len(p.packed), s2.MaxEncodedLen(len(p.text))
	p.packed = slices.Grow(p.packed, room) // messages before it keep the memory that they have
	data := s2.Encode(p.packed[start:start+room], p.text)
	p.packed = p.packed[:start+len(data)]
	p.text = append(p.text[:0], '[')
	p.messages = append(p.messages, logMessage{&nats.Msg{Subject: subject, Data: data}, attempts})
}

// maxUnpacked is how many bytes a message of the log may be unpacked to.
const maxDecodedRecords = 64 << 20

// unpack reads a message of the log.
func decodeRecords(data []byte) (all []attemptRecord, err error) {
	switch size, err := s2.DecodedLen(data); {
	case err != nil:
		return nil, err
	case size > maxDecodedRecords:
		return nil, fmt.Errorf("a message of %d bytes", size)
	}
	text, err := s2.Decode(nil, data)
	if err != nil {
		return nil, err
	}
	return all, json.Unmarshal(text, &all)
}

// attemptSubject is where a delivery that did not go well at once is recorded.
func attemptSubject(subscription, event string) string {
	return "bellhop.attempt." + subscription + "." + subjectToken(event)
}

// deliveryID is the webhook-id of a delivery.
func deliveryID(event, subscription string) string { return event + "-" + subscription }

// splitID takes a webhook-id apart.
func splitID(id string) (event, subscription string, ok bool) {
	i := strings.LastIndexByte(id, '-')
	if i <= 0 || len(id)-i-1 != 30 || strings.Trim(id[i+1:], idChars) != "" || len(id) > 256 {
		return "", "", false
	}
	return id[:i], id[i+1:], true
}
