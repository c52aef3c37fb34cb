package dialog

import (
	"slices"
	"strings"
	"time"
)

// A Call is the state of one live call, for the API. All its times follow the wall clock
// as it is set now. So the current time minus Since is the call's age, even if the clock
// was set during the call.
type Call struct {
	ID       string    `json:"call_id"`
	State    string    `json:"state"` // calling, ringing or talking
	Since    time.Time `json:"since"`
	Answered time.Time `json:"answered,omitzero"`
	Parties  []Party   `json:"parties"`
}

// CallStates are the states of a Call, in their order.
var CallStates = []string{calling.String(), ringing.String(), talking.String()}

// A Party is the state of one extension in a live call.
type Party struct {
	ID           string    `json:"sub_call_id"`
	Extension    Extension `json:"extension"`
	Flow         Flow      `json:"flow"`
	Status       Status    `json:"status"` // CALLING or ANSWER; after its hangup: the status of the hangup
	Since        time.Time `json:"since"`
	Answered     time.Time `json:"answered,omitzero"`
	Over         bool      `json:"over,omitempty"` // the party has had its hangup
	CallerNum    string    `json:"caller_num,omitempty"`
	CallerName   string    `json:"caller_name,omitempty"`
	CalledNumber string    `json:"called_number,omitempty"`
}

// Calls returns the calls in which a party was dialed and has not ended, the oldest first.
func (t *Tracker) Calls() []Call {
	calls := []Call{}
	for _, c := range t.deadlines {
		if s, live := c.viewCall(&t.clock); live {
			calls = append(calls, s)
		}
	}
	slices.SortFunc(calls, func(a, b Call) int {
		if d := a.Since.Compare(b.Since); d != 0 {
			return d
		}
		return strings.Compare(a.ID, b.ID)
	})
	return calls
}

// viewCall returns the state of a call for the API, and whether any of its parties is live.
func (c *call) viewCall(k *clock) (s Call, live bool) {
	s = Call{ID: c.id, State: calling.String(), Since: k.wallAsSet(c.began)}
	for _, p := range c.parties {
		if !p.dialed {
			continue
		}
		status := Calling
		switch {
		case p.over:
			status = p.outcome.status
		case !p.answered.IsZero():
			status, live = Answered, true
			s.State = talking.String()
			if at := k.wallAsSet(p.answered); s.Answered.IsZero() || at.Before(s.Answered) {
				s.Answered = at
			}
		default:
			live = true
			if !p.rang.IsZero() && s.State == calling.String() {
				s.State = ringing.String()
			}
		}
		number, _ := p.calledNumber()
		s.Parties = append(s.Parties, Party{
			ID: p.id, Extension: p.ext, Flow: p.flow, Status: status,
			Since: k.wallAsSet(p.firstLeg.began), Answered: k.wallAsSet(p.answered), Over: p.over,
			CallerNum: p.firstLeg.callerNum, CallerName: p.firstLeg.callerName, CalledNumber: number,
		})
	}
	return s, live
}

// CallOf returns the id of the call that has a leg with this Call-ID, "" if there is none,
// and whether any leg of the call is up.
func (t *Tracker) CallOf(callID string) (id string, up bool) {
	c := t.index.callByCallID[callID]
	if c == nil {
		return "", false
	}
	return c.id, c.live()
}

// Dialogs returns the dialogs of all legs that have not ended, in no order.
func (t *Tracker) Dialogs() (up []LegID) {
	for _, c := range t.deadlines {
		for _, l := range c.legs {
			if l.state != over {
				up = append(up, t.parties.legID(l))
			}
		}
	}
	return up
}
