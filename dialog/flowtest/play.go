package flowtest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"bellhop/dialog"
)

// A Hop is the SIP hop that a flow is played against: bellhop's proxy with its tracker,
// and in some tests also the event log and the deliveries.
type Hop interface {
	// Send delivers a message from a peer. It returns once everything is done that the
	// message causes without the passing of time.
	Send(from Peer, msg []byte) error

	// Disconnect closes the connection of a peer that sends over TCP, if it is open.
	Disconnect(from Peer)

	// Vanish makes a peer that sends over TCP vanish, without closing its connection.
	Vanish(from Peer)

	// Receive returns the oldest unread message to a peer, if there is one.
	Receive(to Peer) (msg []byte, ok bool)

	// Unread returns the messages to peers that Receive has not returned.
	Unread() []string

	// Sleep lets the time d pass, and does everything that becomes due meanwhile.
	Sleep(d time.Duration)

	// SetClock sets the wall clock forward; a negative by sets it back.
	SetClock(by time.Duration)

	// Events returns the events emitted since the previous call of Events.
	Events() []dialog.Event

	// Now returns the time at the hop, on a clock that SetClock does not change.
	Now() time.Time
}

// Play plays a flow against h, and fails the test at the first difference.
func Play(t testing.TB, f *Flow, h Hop) {
	t.Helper()
	p := newPlayer(f, h)
	if err := p.playSteps(); err != nil {
		t.Error(err)
	}
}

// Rewrite plays a flow and returns its file with the callback sections rewritten to the
// events that h emitted.
func Rewrite(f *Flow, h Hop) ([]byte, error) {
	p := newPlayer(f, h)
	p.update = true
	if err := p.playSteps(); err != nil {
		return nil, err
	}
	return txtar.Format(f.archive), nil
}

// A player plays one flow against a Hop.
type player struct {
	flow      *Flow
	peers     *peerSet
	hop       Hop
	formatter eventFormatter
	update    bool // rewrite callback sections instead of comparing them
}

func newPlayer(f *Flow, h Hop) *player {
	return &player{flow: f, peers: newPeerSet(f.Config.Transports), hop: h, formatter: eventFormatter{began: h.Now()}}
}

func (p *player) playSteps() error {
	for _, s := range p.flow.Steps {
		if err := p.playStep(s); err != nil {
			name := p.flow.archive.Files[s.section].Name
			return fmt.Errorf("%s: section %d, %s at %s: %w", p.flow.Name, s.section+1, name, p.hop.Now().Sub(p.formatter.began), err)
		}
	}
	if err := p.checkNoMessages(); err != nil {
		return fmt.Errorf("%s: at the end: %w", p.flow.Name, err)
	}
	events, err := p.nextEvents()
	if err == nil && len(events) > 0 {
		err = fmt.Errorf("%s: at the end: unexpected event %s", p.flow.Name, p.formatter.formatEvent(events[0], nil))
	}
	return err
}

func (p *player) playStep(s Step) error {
	switch s.Action {
	case Send, Forward:
		msg, err := p.peers.composeStep(s)
		if err != nil {
			return err
		}
		return p.hop.Send(peerByName(s.From), msg)
	case Expect:
		msg, ok := p.hop.Receive(peerByName(s.To))
		if !ok {
			want, _, _ := strings.Cut(s.Text, "\n")
			return fmt.Errorf("%s got nothing, want %s", s.To, want)
		}
		if err := p.checkMessage(msg, s.Text); err != nil {
			return err
		}
		return p.peers.receiveMessage(s.To, msg)
	case Disconnect:
		p.hop.Disconnect(peerByName(s.From))
		return nil
	case Vanish:
		p.hop.Vanish(peerByName(s.From))
		return nil
	case Callback:
		return p.checkCallbacks(s)
	case Wait:
		if err := p.checkNoMessages(); err != nil {
			return err
		}
		p.hop.Sleep(s.After)
		return nil
	case SetClock:
		p.hop.SetClock(s.ClockChange)
		return nil
	}
	return fmt.Errorf("play step %v: unknown action", s) // unreachable: Parse makes no others
}

// checkNoMessages checks that no unexpected message was sent.
func (p *player) checkNoMessages() error {
	if rest := p.hop.Unread(); len(rest) > 0 {
		return fmt.Errorf("unexpected message\n%s", strings.Join(rest, "\n"))
	}
	return nil
}

// checkMessage compares a message with an expectation: the start line, the listed header
// fields, and the body if there is one.
func (p *player) checkMessage(msg []byte, text string) error {
	got, err := parseMessage(string(msg))
	if err != nil {
		return err
	}
	want, err := parseMessage(text)
	if err != nil {
		return err
	}
	differs := got.start != want.start
	if words := strings.Fields(want.start); want.status() == 0 && len(words) == 1 {
		differs = got.status() != 0 || got.method() != words[0]
	} else if want.status() != 0 && len(words) == 2 {
		differs = got.status() != want.status()
	}
	if differs {
		return fmt.Errorf("got %q, want %q", got.start, want.start)
	}
	for _, f := range want.fields {
		switch value := got.fieldValue(f.name); {
		case !got.hasField(f.name):
			return fmt.Errorf("%q has no %s", got.start, f.name)
		case f.value != "*" && f.value != value:
			return fmt.Errorf("%s: got %q, want %q", f.name, value, f.value)
		}
	}
	if want.body != "" && strings.TrimSpace(want.body) != strings.TrimSpace(got.body) {
		return fmt.Errorf("body: got %q, want %q", got.body, want.body)
	}
	return nil
}

// nextEvents returns the events since the previous call of nextEvents, except those of
// types that the flow does not list.
func (p *player) nextEvents() (events []dialog.Event, err error) {
	for _, e := range p.hop.Events() {
		if err := p.formatter.checkSequence(e); err != nil {
			return nil, err
		}
		if p.flow.Config.listsType(e.Type) {
			p.formatter.assignNumbers(e)
			events = append(events, e)
		}
	}
	return events, nil
}

// checkCallbacks compares the events since the previous callback section with this one.
func (p *player) checkCallbacks(s Step) error {
	got, err := p.nextEvents()
	if err != nil {
		return err
	}
	want, err := parseCallbacks(s.Text)
	if err != nil {
		return err
	}
	if p.update {
		p.rewriteSection(s, got, want)
		return nil
	}
	for i, e := range got {
		if i == len(want) {
			return fmt.Errorf("unexpected event %s", p.formatter.formatEvent(e, nil))
		}
		if err := p.formatter.compareEvent(e, want[i]); err != nil {
			return err
		}
	}
	if len(got) < len(want) {
		return fmt.Errorf("missing event %s", want[len(got)])
	}
	return nil
}

// rewriteSection replaces the lines of a callback section with the events got. A line
// keeps its fields if it has the same type as the event in its place.
func (p *player) rewriteSection(s Step, got []dialog.Event, want []callback) {
	var b strings.Builder
	for i, e := range got {
		var names []string
		if i < len(want) && want[i].typ == string(e.Type) {
			for _, f := range want[i].fields {
				names = append(names, f.name)
			}
		}
		fmt.Fprintln(&b, p.formatter.formatEvent(e, names))
	}
	p.flow.archive.Files[s.section].Data = []byte(b.String())
}
