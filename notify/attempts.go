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
func openAttempts(ctx context.Context, js jetstream.JetStream, c Config) (jetstream.Stream, error) {
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
type recorded struct {
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

func (l *recorded) attempt() Attempt {
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
type trace struct {
	read    *dialog.Event // nil: was not read
	began   time.Time     // zero: no attempt was made
	took    time.Duration
	to      *url.URL // nil: nothing was sent
	header  http.Header
	payload []byte

	status       int
	answerHeader http.Header
	answer       []byte
	cut          bool

	number int
	word   string
	next   time.Time
	byHand bool
	logged bool // the delivery log has it
}

// asks notes what is sent.
func (t *trace) asks(e *dialog.Event, req *http.Request, payload []byte) {
	t.read, t.to, t.header = e, req.URL, req.Header
	if req.Body != nil {
		t.payload = payload
	}
}

// bodies are buffers to read the bodies of answers into.
var bodies = sync.Pool{New: func() any { return new([maxAnswer]byte) }}

// answered notes an answer, and reads what it may of its body: by that the
// connection can be kept. Whoever sends it slowly is cut off by cancel.
func (t *trace) answered(res *http.Response, cancel context.CancelFunc) {
	defer res.Body.Close()
	t.status, t.answerHeader = res.StatusCode, res.Header
	if res.Body == http.NoBody || res.StatusCode == http.StatusSwitchingProtocols { // cancel would not end the reading of the latter
		return
	}
	timer := time.AfterFunc(bodyTime, cancel)
	defer timer.Stop()
	buffer := bodies.Get().(*[maxAnswer]byte)
	defer bodies.Put(buffer)
	n, err := 0, error(nil)
	for n < len(buffer) && err == nil {
		var m int
		m, err = res.Body.Read(buffer[n:])
		n += m
	}
	t.answer, t.cut = bytes.Clone(buffer[:n]), err != io.EOF
}

// shownAnswers are the header fields of an answer that are recorded.
var shownAnswers = []string{"Content-Type", "Location", "Retry-After", "Server", "Www-Authenticate"}

const redacted = "[redacted]"

// secretHeaders are the fields of a request whose values are not recorded,
// beside those that the subscription sets.
var secretHeaders = map[string]bool{
	"Webhook-Signature": true, "Authorization": true, "Proxy-Authorization": true, "Cookie": true,
}

// append appends the JSON of a [recorded].
func (a *attempt) append(dst []byte) []byte {
	w := objectWriter{append(dst, '{')}
	raw(&w, "event", a.id)
	w.number("seq", int64(a.seq))
	raw(&w, "type", string(a.kind))
	if e := a.read; e != nil {
		raw(&w, "call", e.Call)
		raw(&w, "extension", clean(e.Extension.String(), maxText))
	}
	w.number("said", a.delivery.at.UnixMicro())
	w.known("number", int64(a.number))
	w.number("at", a.began.UnixMicro())
	w.known("took", a.took.Microseconds())
	w.known("status", int64(a.status))
	if a.detail != "" && a.word != Delivered {
		raw(&w, "error", clean(a.detail, 500))
	}
	raw(&w, "outcome", a.word)
	if !a.next.IsZero() {
		w.number("next", a.next.UnixMicro())
	}
	w.yes("by_hand", a.byHand)
	if a.to != nil {
		a.appendRequest(&w)
	}
	if a.status != 0 {
		a.appendAnswer(&w)
	}
	if onAnswer, onHangup := a.urls.texts(); a.urls != nil {
		raw(&w, "on_answer", onAnswer)
		raw(&w, "on_hangup", onHangup)
	}
	return append(w.b, '}')
}

func (a *attempt) appendRequest(w *objectWriter) {
	w.key("request")
	w.b = append(w.b, '{')
	raw(w, "method", a.sub.Method)
	if a.named != nil {
		raw(w, "url", maskURL(a.to))
	} else if a.sub.Method == http.MethodGet || isTemplate(a.sub.URL) {
		raw(w, "url", a.to.String())
	} else {
		raw(w, "url", a.sub.URL)
	}
	w.key("header")
	w.b = append(w.b, '{')
	for name, values := range a.header {
		if len(values) == 0 {
			continue
		}
		value := values[0]
		if _, own := a.sub.Headers[name]; own || secretHeaders[name] {
			value = redacted
		}
		raw(w, name, value)
	}
	w.b = append(w.b, '}')
	if len(a.payload) > 0 {
		raw(w, "body", a.payload)
	}
	w.b = append(w.b, '}')
}

func (a *attempt) appendAnswer(w *objectWriter) {
	w.key("answer")
	w.b = append(w.b, '{')
	begun := false
	for _, name := range shownAnswers {
		values := a.answerHeader[name]
		if len(values) == 0 {
			continue
		}
		if !begun {
			begun = true
			w.key("header")
			w.b = append(w.b, '{')
		}
		raw(w, name, clean(values[0], maxText))
	}
	if begun {
		w.b = append(w.b, '}')
	}
	switch {
	case len(a.answer) == 0:
	case a.sub.followsURLs() && isNewCall(a.kind):
		raw(w, "body", maskAnswer(a.answer))
	default:
		raw(w, "body", a.answer)
	}
	w.yes("cut", a.cut)
	w.b = append(w.b, '}')
}

// asIs are the bytes that mean themselves in a JSON string.
var asIs = func() (is [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		is[c] = c != '"' && c != '\\'
	}
	return is
}()

// raw writes a member as it is: not for HTML. What is no UTF-8 becomes U+FFFD.
func raw[T string | []byte](w *objectWriter, k string, s T) {
	const hex = "0123456789abcdef"
	w.key(k)
	b := append(w.b, '"')
	from := 0 // up to here s is written
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case asIs[c]:
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
	maxRecords   = 16 << 20               // bytes that wait to be written, about
	recordWeight = 700                    // bytes of a record beside its texts
	recordPause  = 200 * time.Millisecond // what comes within is written together
	recordWave   = 256                    // attempts
	maxRecord    = 128 << 10              // bytes of a message after which no attempt is put into it
)

// A recorder holds attempts until they are in the delivery log.
type recorder struct {
	some chan struct{} // has room for one: there is something to write

	mu      sync.Mutex
	waits   fifo[*attempt]
	size    int
	dropped uint64
}

func (a *attempt) weight() int { return recordWeight + len(a.payload) + len(a.answer) }

// add has an attempt written, unless it is not known of which event: that is gone.
// It never blocks: the oldest make room.
func (r *recorder) add(a *attempt) {
	if a.id == "" || a.logged {
		return
	}
	r.mu.Lock()
	r.waits.push(a)
	r.size += a.weight()
	for r.size > maxRecords {
		r.size -= r.waits.pop().weight()
		r.dropped++
	}
	r.mu.Unlock()
	wake(r.some)
}

// take appends what is to be written next to a wave.
func (r *recorder) take(wave []*attempt) []*attempt {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.waits.len() > 0 && len(wave) < recordWave {
		a := r.waits.pop()
		r.size -= a.weight()
		wave = append(wave, a)
	}
	return wave
}

// lose counts what will not be written.
func (r *recorder) lose(attempts int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropped += uint64(attempts)
}

func (r *recorder) lost() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dropped
}

// recordAttempt records an attempt of a lane that was just taken. What the
// outbox did not know the event of is recorded once it was read.
func (n *Notifier) recordAttempt(a *attempt) {
	d := a.delivery
	if d.id == "" && a.read != nil {
		d.id = a.read.ID
	}
	a.number, a.word = d.tries, d.outcome.String()
	switch {
	case d.state != over:
		a.next = d.due
		if b, _ := d.lane.target.openBreaker(); b != nil && d.held {
			a.next = b.next
		}
	case d.handed && a.outcome == waiting:
		a.word = Failed
	}
	n.record.add(a)
}

// recordEnd records an end that no attempt of a lane brought, and none by hand.
func (n *Notifier) recordEnd(d *delivery, o outcome) {
	if d.state == sending || d.handed {
		return
	}
	a := &attempt{delivery: d, sub: d.lane.target.sub}
	a.began, a.word, a.detail = time.Now(), o.String(), d.why
	n.record.add(a)
}

// atOnce reports whether an attempt is the only one of its delivery, as far as
// is known. A newCall that is replayed is found by itself: see checkOwed. So is one
// whose receiver named URLs: see lastURLs.
func (a *attempt) atOnce() bool {
	return a.number == 1 && a.word == Delivered && !a.byHand && !(a.replay && a.party != "") && a.urls == nil
}

// startRecording has attempts written until the returned func is called, and
// then what is left, for two seconds at most.
func (n *Notifier) startRecording(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.recordAll(ctx)
	}()
	return func() { cancel(); <-ended }
}

func (n *Notifier) recordAll(ctx context.Context) {
	w, err := newWaver(n)
	for err != nil {
		n.log.Error("attempts are not recorded", "err", err)
		if pause(ctx, time.Second); ctx.Err() != nil {
			return
		}
		w, err = newWaver(n)
	}
	defer w.close()
	last, cancel := twoSecondsMore(ctx, n.js.Conn())
	defer cancel()
	var page recordPage
	for {
		page.wave = n.record.take(page.wave[:0])
		if len(page.wave) == 0 {
			if ctx.Err() != nil {
				return
			}
			select {
			case <-n.record.some:
				pause(ctx, recordPause)
			case <-ctx.Done():
			}
			continue
		}
		n.writePage(last, w, &page)
		clear(page.wave)
		if last.Err() != nil {
			n.record.lose(n.record.waiting())
			n.log.Error("attempts are not recorded: the store did not take them", "attempts", n.record.lost())
			return
		}
	}
}

// writePage writes a wave of records. One that makes that panic is lost with its
// wave.
func (n *Notifier) writePage(ctx context.Context, w *waver, page *recordPage) {
	defer func() {
		if v := recover(); v != nil {
			n.panicked("record attempts", v)
			n.record.lose(len(page.wave))
		}
	}()
	n.writeRecords(ctx, w, page.write())
}

func (r *recorder) waiting() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waits.len()
}

// writeRecords writes messages until the log has them all, or ctx ends.
func (n *Notifier) writeRecords(ctx context.Context, w *waver, records []note) {
	for len(records) > 0 {
		msgs := make([]*nats.Msg, len(records))
		for i := range records {
			msgs[i] = records[i].message
		}
		var again []note
		var failed error
		for i, result := range w.write(ctx, msgs) {
			switch {
			case result.err == nil:
			case errors.Is(result.err, nats.ErrMaxPayload): // will never fit
				n.record.lose(records[i].attempts)
			default:
				again, failed = append(again, records[i]), result.err
			}
		}
		if records = again; failed == nil {
			return
		}
		if ctx.Err() != nil {
			for _, r := range records {
				n.record.lose(r.attempts)
			}
			return
		}
		n.log.Warn("the store does not take records of attempts", "messages", len(records), "err", failed)
		pause(ctx, errorPause)
	}
}

// A note is one message of the log.
type note struct {
	message  *nats.Msg
	attempts int
}

// A recordPage is what a wave is written down on, again and again. A message is
// a JSON array, packed with S2 as the store itself would: callbacks resemble
// each other.
type recordPage struct {
	wave   []*attempt
	text   []byte // of one message
	packed []byte // of all of them
	notes  []note
}

// write writes the wave down.
func (p *recordPage) write() []note {
	slices.SortStableFunc(p.wave, func(a, b *attempt) int { return cmp.Compare(a.sub.ID, b.sub.ID) })
	if cap(p.packed) > 4<<20 {
		p.packed = nil
	}
	p.text, p.packed, p.notes = append(p.text[:0], '['), p.packed[:0], p.notes[:0]
	var last *attempt
	attempts := 0
	for _, a := range p.wave {
		if !a.atOnce() {
			continue
		}
		if attempts > 0 && (last.sub.ID != a.sub.ID || len(p.text) > maxRecord) {
			p.add("bellhop.attempt."+last.sub.ID, attempts)
			attempts = 0
		}
		last = a
		attempts++
		p.text = append(a.append(p.text), ',')
	}
	if attempts > 0 {
		p.add("bellhop.attempt."+last.sub.ID, attempts)
	}
	for _, a := range p.wave {
		if !a.atOnce() {
			p.text = append(a.append(p.text), ',')
			p.add(attemptSubject(a.sub.ID, a.id), 1)
		}
	}
	return p.notes
}

// add makes a message of the text.
func (p *recordPage) add(subject string, attempts int) {
	p.text[len(p.text)-1] = ']'
	start, room := len(p.packed), s2.MaxEncodedLen(len(p.text))
	p.packed = slices.Grow(p.packed, room) // messages before it keep the memory that they have
	data := s2.Encode(p.packed[start:start+room], p.text)
	p.packed = p.packed[:start+len(data)]
	p.text = append(p.text[:0], '[')
	p.notes = append(p.notes, note{&nats.Msg{Subject: subject, Data: data}, attempts})
}

// maxUnpacked is how many bytes a message of the log may be unpacked to.
const maxUnpacked = 64 << 20

// unpack reads a message of the log.
func unpack(data []byte) (all []recorded, err error) {
	switch size, err := s2.DecodedLen(data); {
	case err != nil:
		return nil, err
	case size > maxUnpacked:
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
	return "bellhop.attempt." + subscription + "." + token(event)
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
