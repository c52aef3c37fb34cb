package dialog

import (
	"cmp"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// maxMailboxes is how many mailboxes are remembered; of more, those that no
// NOTIFY was about for the longest time are forgotten, and the next NOTIFY sets
// their base anew. About 350 bytes each.
const maxMailboxes = 1 << 16

// sameNews is how long the same counts are the same news. A phone that was late
// to hear of a message hears it again when others have heard of the next.
const repeatWindow = time.Minute

// maxPassedOn is how many NOTIFYs of phones are known that a PBX which is a proxy
// may pass on.
const maxPhoneNotifies = 1 << 12

// A notifyKey names a NOTIFY, also when a proxy has passed it on.
type notifyKey struct {
	callID, fromTag string
	cseq            uint32
}

// A mailboxKey names a mailbox by whose phone watches it. account is the user
// of its address, and "" when that is the extension's own.
type mailboxKey struct {
	ext     Extension
	account string
}

// A mailbox is what an extension was last told of its voice messages.
type mailbox struct {
	newMessages uint64 // new messages
	lastCounts  string // what the last event told
	emittedAt   time.Time
}

func newPhoneNotifies() *simplelru.LRU[notifyKey, struct{}] {
	notifies, _ := simplelru.NewLRU[notifyKey, struct{}](maxPhoneNotifies, nil) // fails only without a size
	return notifies
}

func newMailboxes() *simplelru.LRU[mailboxKey, *mailbox] {
	mailboxes, _ := simplelru.NewLRU[mailboxKey, *mailbox](maxMailboxes, nil) // fails only without a size
	return mailboxes
}

// summary follows the NOTIFYs of message-summary (RFC 3842) that the PBX sends
// to phones, within a subscription or without one. What they say is so whether
// the phone takes it or not. A phone's own are not believed, also when the PBX, as
// a proxy, passes them on.
//
// An event is said when there are more new messages than the last NOTIFY said
// there were. All devices of an extension are notified, each under a Call-ID of
// its own and perhaps through another node, so the event's ids are derived from
// what they all are told: the mailbox, its counts, the Message-ID if there is
// one, and the minute. It is a call of its own.
func (t *Tracker) observeSummary(m *Message) {
	if m.Body == "" {
		return
	}
	if m.Src == Edge {
		if messageSummaryEvent(headerValue(m.Head, "Event")) {
			t.phoneNotifies.Add(notifyKey{cloneString(m.CallID), cloneString(m.FromTag), m.CSeq}, struct{}{})
		}
		return
	}
	if m.Dst != Edge || m.Trunk != "" {
		return
	}
	var event, from, to, rec string
	for name, value := range headerFields(m.Head) {
		switch {
		case sameHeader(name, "Event"):
			event = value
		case sameHeader(name, "From"):
			from = value
		case sameHeader(name, "To"):
			to = value
		case t.config.RecID != "" && sameHeader(name, t.config.RecID):
			rec = value
		}
	}
	if !messageSummaryEvent(event) || t.phoneNotifies.Contains(notifyKey{m.CallID, m.FromTag, m.CSeq}) {
		return
	}
	first, described := cutBlock(m.Body)
	s, ok := readSummary(first)
	if !ok {
		return
	}
	_, to, _ = parseNameAddr(to)
	ext, ok := t.directory.calledExtension(m, cmp.Or(s.account, to))
	if !ok {
		ext, ok = t.directory.extensionAt(parseURI(to), m.At)
	}
	if !ok || !t.directory.isPhone(ext) {
		return
	}
	if s.account == "" && m.ToTag != "" {
		_, s.account, _ = parseNameAddr(from) // what the phone subscribed to
	}
	key := mailboxKey{ext, parseURI(s.account).user}
	if key.account == ext.User {
		key.account = ""
	}
	box, known := t.mailboxes.Get(key)
	if !known {
		key = mailboxKey{Extension{cloneString(ext.User), cloneString(ext.Domain)}, cloneString(key.account)}
		t.mailboxes.Add(key, &mailbox{newMessages: s.newMessages})
		return
	}
	more := s.newMessages > box.newMessages
	box.newMessages = s.newMessages
	if !more {
		return
	}
	v := readVoiceMessage(described, t.config.RecID)
	news := deriveID("voicemail", ext.User, ext.Domain, key.account,
		strconv.FormatUint(s.newMessages, 10), strconv.FormatUint(s.oldMessages, 10), v.messageID)
	if box.lastCounts == news && m.At.Sub(box.emittedAt).Abs() < repeatWindow {
		return
	}
	box.lastCounts, box.emittedAt = news, m.At
	t.emitVoicemail(ext, &v, cmp.Or(v.rec, rec), deriveID(news, strconv.FormatInt(t.clock.wallTime(m.At).Unix()/60, 10)), m.At)
}

// messageSummaryEvent reports whether an Event header field names the package of
// RFC 3842.
func messageSummaryEvent(event string) bool {
	event, _, _ = strings.Cut(event, ";")
	return strings.EqualFold(strings.TrimSpace(event), "message-summary")
}

// voicemail says that an extension has a new message.
func (t *Tracker) emitVoicemail(ext Extension, v *voiceMessage, rec, call string, at time.Time) {
	f := inviteFacts{callerNum: v.num, callerName: v.name, recID: rec}
	f.cloneStrings(&ext.User, &ext.Domain)
	e := Event{
		Call:            call,
		Seq:             1,
		At:              t.clock.wallTime(at),
		Observed:        at,
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
	}
	e.ID = deriveID(e.Party, string(Voicemail))
	if t.directory.kindOf(f.callerNum, at) != "" {
		e.CallerExtension = &Extension{User: f.callerNum}
	}
	t.events = append(t.events, e)
}

// A messageSummary is the first block of a message-summary's body.
type messageSummary struct {
	account                  string // URI
	newMessages, oldMessages uint64 // voice messages
}

// readSummary reads the first block (RFC 3842 §5.2); ok says that it tells of
// voice messages. Without a line that counts messages, Messages-Waiting is the
// light on the phone: it stands for one.
func readSummary(s string) (sum messageSummary, ok bool) {
	waiting, counted := "", false
	for name, value := range headerFields("\n" + s) {
		switch {
		case sameHeader(name, "Messages-Waiting"):
			waiting = value
		case sameHeader(name, "Message-Account"):
			sum.account = value
			if strings.IndexByte(value, '<') >= 0 {
				_, sum.account, _ = parseNameAddr(value)
			}
		case sameHeader(name, "Voice-Message"):
			sum.newMessages, sum.oldMessages, ok = parseCounts(value)
			counted = true
		default: // another class of messages: Fax-Message
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

// counts reads "new/old", and passes over the urgent ones that may follow:
// they are among them.
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

// A voiceMessage is what a message-summary may say of a new message.
type voiceMessage struct {
	num, name string // the caller's
	length    time.Duration
	messageID string
	rec       string
}

// readDescribed returns the first voice message that the rest of a body
// describes. recID is the name of the field that carries a recording's id.
func readVoiceMessage(rest, recID string) (v voiceMessage) {
	for rest != "" {
		var one, context string
		one, rest = cutBlock(rest)
		v = voiceMessage{}
		for name, value := range headerFields("\n" + one) {
			switch {
			case sameHeader(name, "From"):
				v.name, v.num = parseSender(value)
			case sameHeader(name, "Content-Duration"): // RFC 2424
				v.length = time.Duration(parseSeconds(value, 0)) * time.Second
			case sameHeader(name, "Message-ID"):
				v.messageID = value
			case sameHeader(name, "Message-Context"): // RFC 3458
				context = value
			case recID != "" && sameHeader(name, recID):
				v.rec = value
			}
		}
		if context == "" || strings.EqualFold(context, "voice-message") {
			return v
		}
	}
	return voiceMessage{}
}

// sender returns who a described message is from: the field is that of mail,
// whose addresses have no scheme.
func parseSender(value string) (display, user string) {
	display, addr, _ := parseNameAddr(value)
	if strings.IndexByte(addr, ':') >= 0 {
		return display, parseURI(addr).user
	}
	user, _, _ = strings.Cut(addr, "@")
	return display, user
}

// block cuts off the lines of s up to the first empty one. Empty lines in front
// are passed over.
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
