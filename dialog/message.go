package dialog

import (
	"net/netip"
	"strings"
	"time"
)

// Side is the side of bellhop on which a peer is.
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

// A Message is one SIP message as bellhop processed it: received and forwarded, received
// and absorbed, or generated. Retransmissions that bellhop absorbs are not observed.
//
// All strings may share one allocation: clone a string to retain it.
type Message struct {
	// At is when the message was received, or generated if Own. It is a time of the steady
	// clock, which starts with the time of the wall clock and is never set. The tracker
	// orders messages and measures durations by it. WallOffset is how far the wall clock was
	// ahead of the steady clock when the message was observed.
	At         time.Time
	WallOffset time.Duration

	Src, Dst Side           // side of the sender, and of the receiver
	From, To netip.AddrPort // their addresses
	Local    netip.AddrPort // address at which bellhop received it; if Own: from which bellhop sends it
	Stream   bool           // Local is a TCP connection
	Trunk    string         // name of the [[trunk]] at the end that is not the PBX; "": none
	Own      bool           // response that bellhop generates, in place of one that Src did not send

	Method string // of the request, or the CSeq method of a response
	Status int    // 0 in a request
	CallID string
	CSeq   uint32

	FromTag, ToTag string

	// Branch identifies the transaction on the side from which the request came: it is the
	// branch of the topmost Via of the request as received. A response has the branch of its
	// request. If a PBX forks an INVITE, each fork has a different branch.
	Branch string

	// AOR is the user[@host] that registered the binding to which this request is sent, if
	// our own Path or Contact token names it.
	AOR string

	// CID is the correlation id in a verified X-CID, or the one that bellhop adds to this
	// INVITE; 32 hex digits.
	CID string

	Head string // start line and header section, as received
	Body string // at most 8 KiB of it
}

// Request reports whether m is a request.
func (m *Message) Request() bool { return m.Status == 0 }

// Origin returns the side on which the transaction began: of a request the side of its
// sender, of a response the side of its receiver.
func (m *Message) Origin() Side {
	if m.Status == 0 {
		return m.Src
	}
	return m.Dst
}

// Originator returns the address of the peer that began the transaction: of a request its
// sender, of a response its receiver.
func (m *Message) Originator() netip.AddrPort {
	if m.Status == 0 {
		return m.From
	}
	return m.To
}

// phone returns the address of the edge peer that m comes from or goes to. If both peers
// are on the edge side, it is the one that m comes from.
func (m *Message) phone() netip.AddrPort {
	if m.Src == Edge {
		return m.From
	}
	return m.To
}

// trusted reports whether the sender may name other callers: the PBX and the trunks may, a
// phone or a stranger may not.
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

// Phrase returns a copy of the reason phrase, and "" for a request.
func (m *Message) Phrase() string {
	if m.Status == 0 {
		return ""
	}
	line, _, _ := strings.Cut(m.Head, "\r\n")
	_, rest, _ := strings.Cut(line, " ")
	_, phrase, _ := strings.Cut(rest, " ")
	return cloneString(phrase)
}
