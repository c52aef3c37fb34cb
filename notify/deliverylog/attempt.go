package deliverylog

import (
	"bellhop/dialog"
	"encoding/json"
	"fmt"
	"time"

	"github.com/klauspost/compress/s2"
)

// The states of a delivery. They are stored and shown: never change one, only add.
const (
	Waiting   = "waiting"   // there will be another attempt
	Delivered = "delivered" // the receiver answered 2xx
	Expired   = "expired"   // too old, or the retry schedule is over
	Refused   = "refused"   // the receiver answered 410
	Canceled  = "canceled"  // the subscription is deleted or disabled, or another event of its group was sent instead

	Failed = "failed" // of an attempt only: it failed and did not change the state, as by Redeliver or Test
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

// Ended reports whether this attempt ended the delivery.
func (a *Attempt) Ended() bool { return a.Outcome != Waiting && a.Outcome != Failed }

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

// A Stored is a record as it is read from the delivery log. Times are in microseconds.
// Fields are only ever added.
type Stored struct {
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
	OnAnswer  string      `json:"on_answer"` // URLs that the response to a newCall named; never shown
	OnHangup  string      `json:"on_hangup"`
}

// Attempt returns the attempt of a record.
func (l *Stored) Attempt() Attempt {
	a := Attempt{
		Number: l.Number, At: time.UnixMicro(l.At), Took: time.Duration(l.Took) * time.Microsecond, Status: l.Status, Error: l.Error,
		Outcome: l.Outcome, ByHand: l.ByHand, Request: l.Request, Answer: l.Answer,
	}
	if l.Next != 0 {
		a.Next = time.UnixMicro(l.Next)
	}
	return a
}

// maxDecodedRecords is how many bytes a message of the delivery log may decompress to.
const maxDecodedRecords = 64 << 20

// Decode decodes a message of the delivery log.
func Decode(data []byte) (all []Stored, err error) {
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
