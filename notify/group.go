package notify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"bellhop/dialog"
	"bellhop/notify/eventlog"
	"bellhop/notify/schedule"
	"bellhop/notify/subscription"
)

// A subscription may group calls. A call that rings at several extensions is then sent as
// one call: one newCall with all ringing extensions, one answer, one hangup. Otherwise a
// receiver would count a missed call at each extension. Which events of the call are sent
// is decided when the attempt is made, by the event log alone. So a restart, another
// node, a replay and a redelivery come to the same result. All other events are canceled,
// and the delivery log tells why.

const (
	// groupGather is how long a newCall waits for others that ring at the same time. The legs
	// of a fork follow each other within milliseconds, and so do a queue's agents once the
	// queue has answered.
	groupGather = 300 * time.Millisecond

	// groupGap is how long a group may be without a ringing party before its call counts as
	// ended. A serial fork rings the next phone within that time. The hangup of the last party
	// waits as long, unless the caller has given up.
	groupGap = 500 * time.Millisecond
)

// errMerged reports that another event of the group is sent instead.
var errMerged = errors.New("not sent")

// A group is the parties that are called in one call, at once or one after another, until
// one of them answers. A party that rings after the answer, or more than groupGap after
// the last party has ended, begins another group.
type group struct {
	first       *dialog.Event // the dial-in that is sent as newCall
	seq         uint64        // position of first in the log
	ringing     []dialog.Extension
	answer      *dialog.Event // of the first party that answered; nil: none has
	end         *dialog.Event // the hangup that is sent; nil: the group has not ended
	openParties map[string]bool
	lastEnded   time.Time // when the last of openParties ended
}

// findGroup returns the group of a party, or nil if the party's dial-in is missing.
// events are the events of its call in the order of the log. names reports whether an
// extension counts.
func findGroup(party string, events []eventlog.Entry, names func(dialog.Extension) bool) *group {
	of := make(map[string]*group)
	var last *group
	for _, entry := range events {
		e := entry.Event
		if e.Flow != dialog.In || e.Party == "" || !names(e.Extension) {
			continue
		}
		if e.Type == dialog.DialIn {
			if last == nil || last.answer != nil || len(last.openParties) == 0 && e.At.Sub(last.lastEnded) > groupGap {
				last = &group{first: e, seq: entry.Seq, openParties: make(map[string]bool)}
			}
			last.addParty(e)
			of[e.Party] = last
			continue
		}
		if g := of[e.Party]; g != nil {
			g.applyEvent(e)
		}
	}
	return of[party]
}

// addParty adds the party of a dial-in.
func (g *group) addParty(e *dialog.Event) {
	g.openParties[e.Party], g.end = true, nil
	if !slices.Contains(g.ringing, e.Extension) {
		g.ringing = append(g.ringing, e.Extension)
	}
}

// applyEvent applies an answer or hangup of a party. The hangup of the party that answered
// ends the group; if none answered, the last hangup does.
func (g *group) applyEvent(e *dialog.Event) {
	switch {
	case e.Type == dialog.Answer && g.answer == nil:
		g.answer, g.end = e, nil
	case e.Type == dialog.Hangup:
		delete(g.openParties, e.Party)
		g.lastEnded = e.At
		if g.answer == nil && len(g.openParties) == 0 || g.answer != nil && g.answer.Party == e.Party {
			g.end = e
		}
	}
}

// eventToSend returns the event that is sent in place of all events of g that have the
// type of e, or nil if it is not decided yet which event that is.
func (g *group) eventToSend(e *dialog.Event) *dialog.Event {
	switch e.Type {
	case dialog.DialIn:
		return g.first
	case dialog.Answer:
		return g.answer
	}
	return g.end
}

// joinGroup returns the group of the event e, or nil if the subscription does not group
// calls or e is in no group. It also returns nil if it postpones the attempt and sets
// a.NotBefore, because later events may decide which event of the group is sent, or
// because the copy of the log lacks e. The error is errMerged if another event of the
// group is sent instead of e. It is errNotOwed if the newCall of the group is not owed or
// failed. Any other error comes from the store.
func (n *Notifier) joinGroup(ctx context.Context, a *attempt, e *dialog.Event) (*group, error) {
	if !a.Sub.GroupsCalls() || e.Flow != dialog.In || e.Party == "" || a.Seq == 0 { // samples are in no log
		return nil, nil
	}
	if e.Type == dialog.DialIn && a.postponeAttempt(groupGather) {
		return nil, nil
	}
	events, err := n.eventsOfCall(ctx, e)
	switch {
	case errors.Is(err, errNotCopied) && a.MayPostpone:
		a.NotBefore = time.Now().Add(groupGap)
		return nil, nil
	case err != nil:
		return nil, err
	}
	filter := a.Sub.Filter()
	g := findGroup(e.Party, events, filter.Covers)
	if g == nil {
		return nil, nil
	}
	if s := g.eventToSend(e); s == nil || s.ID != e.ID {
		return nil, fmt.Errorf("%w: it is part of the call that rang at %s first, callId %s", errMerged, dialog.Clean(g.first.Extension.User, dialog.MaxText), g.first.Party)
	}
	if e.Type == dialog.Hangup && g.answer == nil && e.HangupBy != dialog.ByCaller && a.postponeAttempt(groupGap) {
		return nil, nil
	}
	if e.Type != dialog.DialIn && subscription.MaskOf(a.Sub.Types...)&subscription.MaskOf(string(dialog.DialIn)) != 0 {
		err = n.checkGroupNewCall(ctx, a, g)
	}
	return g, err
}

// postponeAttempt postpones a until wait has passed since its event, and reports whether
// it did. It does not if that time has passed, or a was postponed before. It waits at
// most wait from now, because the clock of another node may be ahead.
func (a *attempt) postponeAttempt(wait time.Duration) bool {
	since := a.Observed
	if since.IsZero() {
		since = a.At
	}
	left := min(wait, wait-time.Since(since))
	if !a.MayPostpone || left <= 0 {
		return false
	}
	a.NotBefore = time.Now().Add(left)
	return true
}

// checkGroupNewCall returns errNotOwed if the newCall of g failed or is not owed. It uses
// the state that the scheduler has set in the attempt if that is the state of this
// newCall, because it is newer than the delivery log. Any other error comes from the
// store.
func (n *Notifier) checkGroupNewCall(ctx context.Context, a *attempt, g *group) error {
	s := a.Sub
	switch {
	case a.GroupNewCall.Seq != g.seq:
	case a.GroupNewCall.State == schedule.NewCallDelivered:
		return nil
	case a.GroupNewCall.State == schedule.NewCallFailed:
		return fmt.Errorf("%w: %s", errNotOwed, schedule.ReasonUndelivered)
	}
	switch ended, err := n.lastOutcome(ctx, s.ID, g.first.ID); {
	case err != nil:
		return err
	case ended == Expired, ended == Refused, ended == Canceled:
		return fmt.Errorf("%w: %s", errNotOwed, schedule.ReasonUndelivered)
	case ended == "" && g.first.At.Before(s.AskedSince()):
		return fmt.Errorf("%w: %s", errNotOwed, reasonTooEarly)
	}
	return nil
}

// errNotCopied reports that the copy of the log that was read lacks an event.
var errNotCopied = errors.New("the copy of the event log lags")

// eventsOfCall reads all events of the call of e in the order of the log, from any server
// with a copy. The error is errNotCopied if that copy lacks e. Any other error comes from
// the store.
func (n *Notifier) eventsOfCall(ctx context.Context, e *dialog.Event) ([]eventlog.Entry, error) {
	events, err := n.EventLog.Call(ctx, e.Call)
	if err == nil && !slices.ContainsFunc(events, func(o eventlog.Entry) bool { return o.Event.ID == e.ID }) {
		err = fmt.Errorf("read bellhop_events: %w: event %s", errNotCopied, e.ID)
	}
	return events, err
}
