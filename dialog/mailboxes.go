package dialog

import (
	"cmp"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"bellhop/dialog/siptext"
)

// maxMailboxes is the number of mailboxes in memory. Beyond that the one with the oldest
// NOTIFY is evicted, and its next NOTIFY emits no event. About 350 bytes each.
const maxMailboxes = 1 << 16

// repeatWindow is the time in which NOTIFYs with the same counts report the same message.
// A NOTIFY with other counts may come between them, because one device may get the old
// counts after another device has got the new ones.
const repeatWindow = time.Minute

// maxPhoneNotifies is the number of NOTIFYs from phones in memory. They are kept to
// recognize a NOTIFY that a PBX which is a proxy forwards.
const maxPhoneNotifies = 1 << 12

// A notifyKey identifies a NOTIFY, also after a proxy has forwarded it.
type notifyKey struct {
	callID, fromTag string
	cseq            uint32
}

// A mailboxKey identifies a mailbox by the extension whose phone watches it. account is
// the user of the mailbox's address, "" if that is the extension itself.
type mailboxKey struct {
	ext     Extension
	account string
}

// A mailbox is the state of an extension's voice messages as last notified.
type mailbox struct {
	newMessages uint64    // number of new messages in the last NOTIFY
	lastCounts  string    // hash of the mailbox, the counts and the Message-ID in the last event
	emittedAt   time.Time // time of the last event
}

// mailboxes follows the voice messages of extensions.
type mailboxes struct {
	boxes         *simplelru.LRU[mailboxKey, *mailbox]
	phoneNotifies *simplelru.LRU[notifyKey, struct{}] // NOTIFYs that phones have sent

	config    *Config
	emitter   *emitter
	directory *directory
}

func newMailboxes(c *Config, e *emitter, d *directory) *mailboxes {
	b := &mailboxes{config: c, emitter: e, directory: d}
	b.boxes, _ = simplelru.NewLRU[mailboxKey, *mailbox](maxMailboxes, nil) // fails only without a size
	b.phoneNotifies, _ = simplelru.NewLRU[notifyKey, struct{}](maxPhoneNotifies, nil)
	return b
}

// observeNotify processes the NOTIFYs of message-summary (RFC 3842) that the PBX sends to
// phones, within a subscription or without one. Their counts hold even if the phone does
// not accept them. A NOTIFY that a phone sends is ignored, even if a PBX that is a proxy
// forwards it.
//
// An event is emitted when there are more new messages than in the last NOTIFY. All
// devices of an extension are notified, each under a Call-ID of its own and perhaps
// through another node. The event's ids are therefore derived from data that all of them
// receive: the mailbox, its counts, the Message-ID if there is one, and the minute. Each
// event has a call id of its own.
func (b *mailboxes) observeNotify(m *Message) {
	if m.Body == "" {
		return
	}
	if m.Src == Edge {
		if messageSummaryEvent(siptext.Field(m.Head, "Event")) {
			b.phoneNotifies.Add(notifyKey{cloneString(m.CallID), cloneString(m.FromTag), m.CSeq}, struct{}{})
		}
		return
	}
	n, ok := b.readNotify(m)
	if !ok {
		return
	}
	ext, key := n.key.ext, n.key
	box, known := b.boxes.Get(key)
	if !known {
		key = mailboxKey{Extension{cloneString(ext.User), cloneString(ext.Domain)}, cloneString(key.account)}
		b.boxes.Add(key, &mailbox{newMessages: n.newMessages})
		return
	}
	more := n.newMessages > box.newMessages
	box.newMessages = n.newMessages
	if !more {
		return
	}
	v := readVoiceMessage(n.described, b.config.RecID)
	news := deriveID("voicemail", ext.User, ext.Domain, key.account,
		strconv.FormatUint(n.newMessages, 10), strconv.FormatUint(n.oldMessages, 10), v.messageID)
	if box.lastCounts == news && m.At.Sub(box.emittedAt).Abs() < repeatWindow {
		return
	}
	box.lastCounts, box.emittedAt = news, m.At
	b.emitVoicemail(ext, &v, cmp.Or(v.rec, n.rec), deriveID(news, strconv.FormatInt(b.emitter.wallTime(m.At).Unix()/60, 10)), m.At)
}

// A summaryNotify is the content of a NOTIFY of message-summary. It shares the message's
// memory.
type summaryNotify struct {
	messageSummary
	key       mailboxKey
	described string // blocks that describe messages
	rec       string // id of a recording in the header
}

// readNotify reads a NOTIFY of message-summary that the PBX sends to a phone; ok reports
// that m is one.
func (b *mailboxes) readNotify(m *Message) (n summaryNotify, ok bool) {
	if m.Dst != Edge || m.Trunk != "" {
		return n, false
	}
	var event, from, to string
	for name, value := range siptext.Fields(m.Head) {
		switch {
		case siptext.SameName(name, "Event"):
			event = value
		case siptext.SameName(name, "From"):
			from = value
		case siptext.SameName(name, "To"):
			to = value
		case b.config.RecID != "" && siptext.SameName(name, b.config.RecID):
			n.rec = value
		}
	}
	if !messageSummaryEvent(event) || b.phoneNotifies.Contains(notifyKey{m.CallID, m.FromTag, m.CSeq}) {
		return n, false
	}
	var first string
	first, n.described = cutBlock(m.Body)
	if n.messageSummary, ok = readSummary(first); !ok {
		return n, false
	}
	to = siptext.ParseNameAddr(to).URI
	ext, ok := b.directory.calledExtension(m, cmp.Or(n.account, to))
	if !ok {
		ext, ok = b.directory.extensionAt(parseURI(to), m.At)
	}
	if !ok || !b.directory.isPhone(ext) {
		return n, false
	}
	if n.account == "" && m.ToTag != "" {
		n.account = siptext.ParseNameAddr(from).URI // the mailbox that the phone subscribed to
	}
	n.key = mailboxKey{ext, parseURI(n.account).user}
	if n.key.account == ext.User {
		n.key.account = ""
	}
	return n, true
}

// messageSummaryEvent reports whether an Event header field names the package of
// RFC 3842.
func messageSummaryEvent(event string) bool {
	event, _, _ = strings.Cut(event, ";")
	return strings.EqualFold(strings.TrimSpace(event), "message-summary")
}

// emitVoicemail emits that an extension has a new voice message.
func (b *mailboxes) emitVoicemail(ext Extension, v *voiceMessage, rec, call string, at time.Time) {
	f := inviteFacts{callerNum: v.num, callerName: v.name, recID: rec}
	f.cloneStrings(&ext.User, &ext.Domain)
	e := b.emitter.emit(at, &Event{
		Call:            call,
		Seq:             1,
		Type:            Voicemail,
		Party:           deriveID(call, string(In), ext.User, ext.Domain),
		Extension:       ext,
		Flow:            In,
		CallerNum:       f.callerNum,
		CallerName:      f.callerName,
		CalledNumber:    ext.User,
		CalledExtension: &ext,
		Duration:        v.length,
		RecID:           f.recID,
	})
	e.ID = EventID(e.Party, Voicemail)
	if b.directory.kindOf(f.callerNum, at) != "" {
		e.CallerExtension = &Extension{User: f.callerNum}
	}
}

// A messageSummary is the first block of a message-summary's body.
type messageSummary struct {
	account                  string // URI
	newMessages, oldMessages uint64 // voice messages
}

// readSummary parses the first block (RFC 3842 §5.2). ok reports that it is about voice
// messages. If no line counts messages, "Messages-Waiting: yes" counts as one new
// message.
func readSummary(s string) (sum messageSummary, ok bool) {
	waiting, counted := "", false
	for name, value := range siptext.PartFields(s) {
		switch {
		case siptext.SameName(name, "Messages-Waiting"):
			waiting = value
		case siptext.SameName(name, "Message-Account"):
			sum.account = value
			if strings.IndexByte(value, '<') >= 0 {
				sum.account = siptext.ParseNameAddr(value).URI
			}
		case siptext.SameName(name, "Voice-Message"):
			sum.newMessages, sum.oldMessages, ok = parseCounts(value)
			counted = true
		default: // another class of messages, such as Fax-Message
			counted = true
		}
	}
	switch {
	case counted:
	case strings.EqualFold(waiting, "yes"):
		sum.newMessages, ok = 1, true
	case strings.EqualFold(waiting, "no"):
		ok = true
	}
	return sum, ok
}

// parseCounts parses "new/old". It ignores the counts of urgent messages that may follow,
// because new and old include them.
func parseCounts(s string) (fresh, old uint64, ok bool) {
	s, _, _ = strings.Cut(s, "(")
	a, b, _ := strings.Cut(s, "/")
	fresh, err := strconv.ParseUint(strings.TrimSpace(a), 10, 32)
	if err != nil {
		return 0, 0, false
	}
	old, err = strconv.ParseUint(strings.TrimSpace(b), 10, 32)
	return fresh, old, err == nil
}

// A voiceMessage is the description of a new message in a message-summary.
type voiceMessage struct {
	num, name string // of the caller
	length    time.Duration
	messageID string
	rec       string
}

// readVoiceMessage returns the first voice message that the rest of a body describes. recID
// is the name of the field that carries a recording's id.
func readVoiceMessage(rest, recID string) (v voiceMessage) {
	for rest != "" {
		var one, context string
		one, rest = cutBlock(rest)
		v = voiceMessage{}
		for name, value := range siptext.PartFields(one) {
			switch {
			case siptext.SameName(name, "From"):
				v.name, v.num = parseSender(value)
			case siptext.SameName(name, "Content-Duration"): // RFC 2424
				v.length = time.Duration(parseSeconds(value, 0)) * time.Second
			case siptext.SameName(name, "Message-ID"):
				v.messageID = value
			case siptext.SameName(name, "Message-Context"): // RFC 3458
				context = value
			case recID != "" && siptext.SameName(name, recID):
				v.rec = value
			}
		}
		if context == "" || strings.EqualFold(context, "voice-message") {
			return v
		}
	}
	return voiceMessage{}
}

// parseSender parses the From of a described message. It is a mail header field, whose
// addresses have no scheme.
func parseSender(value string) (display, user string) {
	a := siptext.ParseNameAddr(value)
	if strings.IndexByte(a.URI, ':') >= 0 {
		return a.Display, parseURI(a.URI).user
	}
	user, _, _ = strings.Cut(a.URI, "@")
	return a.Display, user
}

// cutBlock splits s at its first empty line. Empty lines at the start are skipped.
func cutBlock(s string) (first, rest string) {
	s = strings.TrimLeft(s, "\r\n")
	for i := 0; ; {
		n := strings.IndexByte(s[i:], '\n')
		if n < 0 {
			return s, ""
		}
		if n == 0 || n == 1 && s[i] == '\r' {
			return s[:i], s[i+n+1:]
		}
		i += n + 1
	}
}
