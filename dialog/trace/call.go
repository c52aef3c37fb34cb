package trace

import (
	"net/netip"
	"strings"
	"time"

	"bellhop/dialog"
)

// A Call is what is kept of one.
type Call struct {
	ID       string
	Began    time.Time // its first message that is kept
	Up       bool
	Ends     []End // the PBX first
	Legs     []Leg
	Messages []Message
	LeftOut  int // messages that are not kept
}

// An End is somebody whom bellhop talks to in a call.
type End struct {
	Name    string // the extension or number, or the trunk's
	Trunk   string // the name of the [[trunk]] that it is; "": it is none
	Address netip.AddrPort
	Side    dialog.Side
	Calls   bool // it sent the first request that it has part in
}

func (e *End) matches(trunk string, at netip.AddrPort) bool {
	return e.Trunk == trunk && (trunk != "" || e.Address == at)
}

// A Leg is the messages with one Call-ID between one end and the PBX.
type Leg struct {
	CallID string
	Origin dialog.Side
	End    int // 0: both ends are the PBX
}

// A Message is one message of a call.
type Message struct {
	At     time.Time     // by the wall clock of that moment
	After  time.Duration // the call's first message that is kept, also if the clock was set between
	Leg    int
	Method string // of the request, or the CSeq method of a response
	Status int    // 0 in a request
	Own    bool   // an answer of bellhop's own, in place of the sender's
	Absorbed   bool   // bellhop did not send it on
	Truncated    bool   // its text is longer

	Sender, Receiver int // the ends

	From, To netip.AddrPort // their addresses
	Local    netip.AddrPort // where bellhop received it; if Own: where it sent it from
	Stream   bool           // over TCP

	Head, Body string
}

// Text is the message as it came, but for its secrets.
func (m *Message) Text() string {
	head := m.Head
	if !m.Truncated && !strings.HasSuffix(head, "\r\n\r\n") {
		head += "\r\n\r\n"
	}
	return head + m.Body
}

// Summary is its start line without the version.
func (m *Message) Summary() string {
	line, _, _ := strings.Cut(m.Head, "\r\n")
	if m.Status != 0 {
		return strings.TrimPrefix(line, "SIP/2.0 ")
	}
	return strings.TrimSuffix(line, " SIP/2.0")
}

// label is what a ladder's arrow says.
func (m *Message) arrowLabel() string {
	label := m.Method
	if m.Status != 0 {
		label = m.Summary()
		if m.Method != "INVITE" {
			label += " (" + m.Method + ")"
		}
	}
	return label
}

// sdp reports whether the message describes media.
func (m *Message) hasSDP() bool { return strings.HasPrefix(m.Body, "v=") }

// method returns the name of a method without the memory of the message.
func methodName(name string) string {
	for _, m := range [...]string{"INVITE", "ACK", "BYE", "CANCEL", "PRACK", "UPDATE", "INFO", "REFER", "NOTIFY", "SUBSCRIBE", "MESSAGE", "OPTIONS"} {
		if m == name {
			return m
		}
	}
	return strings.Clone(name[:min(len(name), maxName)])
}

// maxName is the longest name in bytes.
const maxName = 64

func truncateName(name string) string {
	return strings.Clone(name[:min(len(name), maxName)])
}

// name is what the first message of a leg calls its end: the user in From of who
// calls, and of who is called the one who registered, or the user in To.
func initialName(m *dialog.Message, calls bool) string {
	if calls {
		return truncateName(headerUser(m.Head, "from", 'f'))
	}
	if aor, _, _ := strings.Cut(m.AOR, "@"); aor != "" {
		return truncateName(aor)
	}
	return truncateName(headerUser(m.Head, "to", 't'))
}

// user is the user of the URI in a header field.
func headerUser(head, name string, short byte) string {
	for line := range strings.SplitSeq(head, "\r\n") {
		field, value, _ := strings.Cut(line, ":")
		if field == "" || !isField(field, name, short) {
			continue
		}
		_, uri, _ := strings.Cut(value[strings.LastIndexByte(value, '<')+1:], ":")
		user, _, ok := strings.Cut(uri, "@")
		if end := strings.IndexAny(user, ":;"); end >= 0 {
			user = user[:end]
		}
		if !ok {
			return ""
		}
		return user
	}
	return ""
}

// A column is a line of a ladder: an end, or bellhop, which stands at both sides
// of the PBX when there are ends at both.
type column struct {
	end     int // -1: bellhop
	name    string
	address string
}

// A ladder is how a call is drawn: who calls on the left, the PBX in the middle,
// who is called on the right.
type ladder struct {
	columns      []column
	endColumns   []int // the column of each end
	proxyColumns []int // bellhop's, as each end sees it; the PBX's is -1
}

func (c *Call) buildLadder() ladder {
	l := ladder{endColumns: make([]int, len(c.Ends)), proxyColumns: make([]int, len(c.Ends))}
	put := func(end int, name, address string) int {
		l.columns = append(l.columns, column{end, name, address})
		return len(l.columns) - 1
	}
	hop := func() int { return put(-1, "bellhop", "") }
	side := func(calls bool) (ends []int) {
		for i := 1; i < len(c.Ends); i++ {
			if c.Ends[i].Calls == calls {
				ends = append(ends, i)
			}
		}
		return ends
	}
	end := func(i int) {
		e := &c.Ends[i]
		address := ""
		if e.Address.IsValid() {
			address = e.Address.String()
		}
		name := e.Name
		if name == "" {
			name, address = address, ""
		}
		l.endColumns[i] = put(i, name, address)
	}
	left, right := side(true), side(false)
	for _, i := range left {
		end(i)
	}
	h := -1
	if len(left) > 0 || len(right) == 0 {
		h = hop()
	}
	for _, i := range left {
		l.proxyColumns[i] = h
	}
	end(0)
	l.proxyColumns[0] = -1
	if len(right) > 0 {
		h = hop()
	}
	for _, i := range right {
		l.proxyColumns[i] = h
		end(i)
	}
	return l
}

// path is the columns that a message's arrow begins and ends at, and the ones of
// bellhop that it passes.
func (l *ladder) arrowPath(m *Message) (from, to int, through []int) {
	from, to = l.endColumns[m.Sender], l.endColumns[m.Receiver]
	near, far := l.proxyColumns[m.Sender], l.proxyColumns[m.Receiver]
	if near < 0 {
		near = far
	}
	if far < 0 {
		far = near
	}
	if near < 0 { // from the PBX to the PBX
		if from == 0 {
			return from, 1, nil
		}
		return from, from - 1, nil
	}
	switch {
	case m.Own:
		return far, to, nil
	case m.Absorbed:
		return from, near, nil
	case near == far:
		return from, to, []int{near}
	}
	return from, to, []int{near, far}
}
