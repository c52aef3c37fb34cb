package flowtest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"bellhop/dialog"
)

// A Hop is what a flow is played against.
type Hop interface {
	// Send delivers a message from a peer. When it returns, all that the
	// message causes at this instant has happened.
	Send(from Peer, msg []byte) error

	// Receive returns the oldest message to a peer that was not yet received.
	// want is the section that expects it, for a hop that has to be told.
	Receive(to Peer, want string) ([]byte, error)

	// Unread returns the messages that were sent to peers and not received.
	Unread() []string

	// Sleep lets time pass, and all that happens in it.
	Sleep(d time.Duration)

	// SetClock sets the wall clock forward by so much; below zero: back.
	SetClock(by time.Duration)

	// Events returns what was said since it was last called.
	Events() []dialog.Event

	// Now is the time at the hop, on a clock that nobody sets.
	Now() time.Time
}

// Play plays a flow, and fails the test where it goes another way.
func Play(t testing.TB, f *Flow, h Hop) {
	t.Helper()
	p := newPlayer(f, h)
	if err := p.playSteps(); err != nil {
		t.Error(err)
	}
}

// Rewrite plays a flow and returns its file with the callbacks as they came.
func Rewrite(f *Flow, h Hop) ([]byte, error) {
	p := newPlayer(f, h)
	p.update = true
	if err := p.playSteps(); err != nil {
		return nil, err
	}
	return txtar.Format(f.archive), nil
}

type player struct {
	flow      *Flow
	peers     *peerSet
	hop       Hop
	formatter eventFormatter
	update    bool
}

func newPlayer(f *Flow, h Hop) *player {
	return &player{flow: f, peers: newPeerSet(), hop: h, formatter: eventFormatter{began: h.Now()}}
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
		err = fmt.Errorf("%s: at the end: nobody expected %s", p.flow.Name, p.formatter.formatEvent(events[0], nil))
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
		msg, err := p.hop.Receive(peerByName(s.To), s.Text)
		if err != nil {
			return err
		}
		if err := p.checkMessage(msg, s.Text); err != nil {
			return err
		}
		return p.peers.receiveMessage(s.To, msg)
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
	return fmt.Errorf("a step does nothing: %v", s) // unreachable: Parse makes no others
}

// quiet checks that no message was left unexpected.
func (p *player) checkNoMessages() error {
	if rest := p.hop.Unread(); len(rest) > 0 {
		return fmt.Errorf("nobody expected\n%s", strings.Join(rest, "\n"))
	}
	return nil
}

// expect compares a message with what of it matters.
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
			return fmt.Errorf("%q lacks %s", got.start, f.name)
		case f.value != "*" && f.value != value:
			return fmt.Errorf("%s: got %q, want %q", f.name, value, f.value)
		}
	}
	if want.body != "" && strings.TrimSpace(want.body) != strings.TrimSpace(got.body) {
		return fmt.Errorf("body: got %q, want %q", got.body, want.body)
	}
	return nil
}

// events returns what was said, without what this flow does not list.
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
			return fmt.Errorf("nobody expected %s", p.formatter.formatEvent(e, nil))
		}
		if err := p.formatter.compareEvent(e, want[i]); err != nil {
			return err
		}
	}
	if len(got) < len(want) {
		return fmt.Errorf("nobody said %s", want[len(got)])
	}
	return nil
}

// rewrite puts the callbacks that came into the section, each with the fields
// that the line in its place had.
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
