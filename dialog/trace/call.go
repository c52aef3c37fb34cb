package trace

import (
	"net/netip"
	"strings"
	"time"

	"bellhop/dialog"
	"bellhop/dialog/siptext"
)

// A Call is a recorded call.
type Call struct {
	ID       string
	Began    time.Time // time of the first recorded message
	Up       bool      // live: it has not ended
	Ends     []End     // the first is the PBX
	Legs     []Leg
	Messages []Message
	LeftOut  int // number of messages that are not recorded
}

// An End is a party of a call that bellhop exchanges messages with: the PBX, a phone or
// a trunk.
type End struct {
	Name    string // extension, number, or name of the trunk; "": unknown
	Trunk   string // name of the [[trunk]] in the config; "": no trunk
	Address netip.AddrPort
	Side    dialog.Side
	Calls   bool // it is the sender of the first request that it sent or received
}

func (e *End) matches(trunk string, at netip.AddrPort) bool {
	return e.Trunk == trunk && (trunk != "" || e.Address == at)
}

// A Leg is the exchange of messages with one Call-ID between one end and the PBX.
type Leg struct {
	CallID string
	Origin dialog.Side
	End    int // index in Call.Ends; 0: both ends are the PBX
}

// A Message is one message of a call.
type Message struct {
	At        time.Time     // wall clock time of arrival
	After     time.Duration // time since the first recorded message of the call, unaffected by changes of the clock
	Leg       int           // index in Call.Legs
	Method    string        // of the request, or the CSeq method of a response
	Status    int           // 0 in a request
	Own       bool          // bellhop's own response, in place of the sender's
	Absorbed  bool          // bellhop did not forward it
	Truncated bool          // the text is the beginning of a longer one

	Sender, Receiver int // indexes in Call.Ends

	From, To netip.AddrPort // addresses of Sender and Receiver
	Local    netip.AddrPort // bellhop's address that received it; if Own: that sent it
	Stream   bool           // over TCP

	Head, Body string // with secrets masked
}

// Text returns the message as received, with secrets masked.
func (m *Message) Text() string {
	head := m.Head
	if !m.Truncated && !strings.HasSuffix(head, "\r\n\r\n") {
		head += "\r\n\r\n"
	}
	return head + m.Body
}

// Summary returns the start line without the SIP version.
func (m *Message) Summary() string {
	line, _, _ := strings.Cut(m.Head, "\r\n")
	if m.Status != 0 {
		return strings.TrimPrefix(line, "SIP/2.0 ")
	}
	return strings.TrimSuffix(line, " SIP/2.0")
}

// arrowLabel returns the label of the message's arrow in a ladder.
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

// hasSDP reports whether the body of the message is SDP.
func (m *Message) hasSDP() bool { return strings.HasPrefix(m.Body, "v=") }

// methodName returns a copy of the name of a method. Without a copy, name could keep a
// whole message in memory.
func methodName(name string) string {
	for _, m := range [...]string{"INVITE", "ACK", "BYE", "CANCEL", "PRACK", "UPDATE", "INFO", "REFER", "NOTIFY", "SUBSCRIBE", "MESSAGE", "OPTIONS"} {
		if m == name {
			return m
		}
	}
	return strings.Clone(name[:min(len(name), maxName)])
}

// maxName is the length of the longest name, in bytes.
const maxName = 64

// truncateName returns a copy of at most maxName bytes of name.
func truncateName(name string) string {
	return strings.Clone(name[:min(len(name), maxName)])
}

// initialName returns the name for an end from the first message of its leg. The name of
// a caller is the user in From. The name of a callee is the user of its registration, or
// else the user in To.
func initialName(m *dialog.Message, calls bool) string {
	if calls {
		return truncateName(headerUser(m.Head, "From"))
	}
	if aor, _, _ := strings.Cut(m.AOR, "@"); aor != "" {
		return truncateName(aor)
	}
	return truncateName(headerUser(m.Head, "To"))
}

// headerUser returns the user of the URI in the first header field called name, or "".
func headerUser(head, name string) string {
	return siptext.ParseURI(siptext.ParseNameAddr(siptext.Field(head, name)).URI).User
}

// A column is a lifeline of a ladder: an end, or bellhop. There are two columns of
// bellhop if there are ends on both sides of the PBX.
type column struct {
	end     int // index in Call.Ends; -1: bellhop
	name    string
	address string
}

// A ladder is the layout of a ladder diagram: callers on the left, the PBX in the
// middle, callees on the right.
type ladder struct {
	columns      []column
	endColumns   []int // the column of each end
	proxyColumns []int // the column of bellhop next to each end; -1 for the PBX
}

// buildLadder returns the layout of the call.
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

// arrowPath returns the columns at which the arrow of m begins and ends, and the
// columns of bellhop that it crosses.
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
