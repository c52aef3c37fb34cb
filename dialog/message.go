package dialog

import (
	"net/netip"
	"strings"
	"time"
)

// Side says on which side of bellhop a peer stands.
type Side uint8

const (
	Edge Side = iota + 1 // phones and trunks
	PBX
)

func (s Side) String() string {
	switch s {
	case Edge:
		return "edge"
	case PBX:
		return "pbx"
	}
	return "nowhere"
}

// A Message is one SIP message as the hop saw it: received and forwarded, or
// received and absorbed, or made by the hop itself. Retransmissions the hop
// absorbs are not shown.
//
// All strings may share one allocation: whoever keeps one clones it.
type Message struct {
	// At is when it was received; when it was made, if Own. It is the time of a
	// steady clock, which began as the wall clock and which nobody sets: messages
	// are ordered by it, and measured. WallOffset is how far the wall clock was
	// ahead of it when the message was observed.
	At         time.Time
	WallOffset time.Duration

	Src, Dst Side           // who sent it, and where it goes
	From, To netip.AddrPort // their addresses
	Local    netip.AddrPort // where the hop received it; if Own: where it sends it from
	Stream   bool           // that is a TCP connection
	Trunk    string         // the name of the [[trunk]] that the end that is not the PBX is, if it is one
	Own      bool           // a response of bellhop's own, in place of the one Src did not send

	Method string // of the request, or the CSeq method of a response
	Status int    // 0 in a request
	CallID string
	CSeq   uint32

	FromTag, ToTag string

	// Branch names the transaction on the side the request came from: the
	// topmost Via's branch of the request as received. A response carries the
	// branch of the request it answers. The forks of a PBX differ by it.
	Branch string

	// AOR is the user[@host] that registered the binding this request is sent
	// to, when our own Path or Contact token names it.
	AOR string

	// CID is the correlation id in a verified X-CID, or the one that the hop
	// adds to this INVITE; 32 hex digits.
	CID string

	Head string // start line and header section, as received
	Body string // at most 8 KiB of it
}

// Request reports whether m is a request.
func (m *Message) Request() bool { return m.Status == 0 }

// Origin is the side on which the transaction began: a response travels the
// other way.
func (m *Message) Origin() Side {
	if m.Status == 0 {
		return m.Src
	}
	return m.Dst
}

// originator is the address of the peer that began the transaction: a response
// goes back to it.
func (m *Message) originator() netip.AddrPort {
	if m.Status == 0 {
		return m.From
	}
	return m.To
}

// phone is the address of the edge peer that m comes from or goes to; of two,
// the one that it comes from.
func (m *Message) phone() netip.AddrPort {
	if m.Src == Edge {
		return m.From
	}
	return m.To
}

// trusted reports whether the sender may name others: the PBX and the trunks,
// not a phone, nor whoever poses as one.
func (m *Message) trusted() bool { return m.Src == PBX || m.Trunk != "" }

// URI returns the Request-URI, and "" for a response.
func (m *Message) URI() string {
	if m.Status != 0 {
		return ""
	}
	_, rest, _ := strings.Cut(m.Head, " ")
	uri, _, _ := strings.Cut(rest, " ")
	return uri
}

// Phrase returns the reason phrase, and "" for a request.
func (m *Message) Phrase() string {
	if m.Status == 0 {
		return ""
	}
	line, _, _ := strings.Cut(m.Head, "\r\n")
	_, rest, _ := strings.Cut(line, " ")
	_, phrase, _ := strings.Cut(rest, " ")
	return phrase
}
