package sip

import (
	"bytes"
	"slices"
	"strings"
	"time"
)

// TargetState is the state of an address of a PBX or trunk.
type TargetState string

const (
	TargetUnknown    TargetState = "unknown"    // it has not answered yet, and no request to it has failed
	TargetUp         TargetState = "up"         // it answers
	TargetDown       TargetState = "down"       // it does not answer, or it is a trunk that answers OPTIONS with 403
	TargetResting    TargetState = "resting"    // a request to it has failed a short time ago, so others are tried first
	TargetDraining   TargetState = "draining"   // it answers OPTIONS with 503, because it takes no new calls
	TargetUnresolved TargetState = "unresolved" // its name has no address
)

// TargetStatus is what is known of an address of a PBX or trunk, or of a configured
// element without an address.
type TargetStatus struct {
	Configured Addr // a name or an address
	Addr       Addr // zero if there is none
	State      TargetState
	Since      time.Time // time at which State began; zero if State is TargetUnknown

	Answer     string        // status code and reason of the last response to OPTIONS; "": none
	AnsweredAt time.Time     // time of the last response to any request, within a second; zero: none
	RoundTrip  time.Duration // from the last answered OPTIONS to its response; 0: none
	Error      string        // last error; "": none
	FailedAt   time.Time     // time of the last error, within a second; zero if it is not known
}

// targetReport is the part of a [TargetStatus] that changes seldom. A targetReport does not
// change: each change stores a new one.
type targetReport struct {
	state    TargetState
	since    instant
	answer   string
	err      string
	failedAt instant
}

// reportInterval is the shortest time between two changes of a target that differ only in
// the time of the last answer, or of the same error. So a target that workers share is
// seldom written.
const reportInterval = instant(time.Second)

// currentState returns the state of a target at a time. A target without an alternative
// does not rest, because requests go nowhere else.
func (t *target) currentState(px *Proxy, now instant) TargetState {
	switch {
	case t.down.Load(), t.probeFailed.Load(), t.failing.Load():
		return TargetDown
	case t.refusing.Load():
		return TargetDraining
	case t.resting(now) && px.peers.hasAlternative(t.remote):
		return TargetResting
	case t.answeredAt.Load() != 0:
		return TargetUp
	}
	return TargetUnknown
}

// hasAlternative reports whether requests to a target of r can go to another target.
func (ps *peers) hasAlternative(r *remote) bool {
	if r.pbx != nil {
		return ps.pbxs.Load().severalTargets()
	}
	n := 0
	for _, other := range remotesOf(ps.trunks.Load().named(r.carrier)) {
		n += len(other.view.Load().targets)
	}
	return n > 1
}

// isConfigured reports whether a target is one of its remote. A target that was made for a
// single request is not.
func (t *target) isConfigured() bool {
	v := t.remote.view.Load()
	return v != nil && (slices.Contains(v.targets, t) || slices.Contains(v.former, t))
}

// updateReport stores the current state of a target and what edit changes, if edit is not
// nil. It logs a change of the state, except to up at the first answer. It returns the new
// state, or "" if the state has not changed.
func (t *target) updateReport(px *Proxy, now instant, edit func(*targetReport)) TargetState {
	for {
		old, next := t.report.Load(), targetReport{state: TargetUnknown}
		if old != nil {
			next = *old
		}
		was := next.state
		if edit != nil {
			edit(&next)
		}
		if next.state = t.currentState(px, now); next.state != was {
			if !t.isConfigured() {
				return ""
			}
			next.since = now
		}
		if old != nil && next == *old {
			return ""
		}
		if !t.report.CompareAndSwap(old, &next) {
			continue
		}
		if next.state == was {
			return ""
		}
		if was != TargetUnknown || next.state != TargetUp {
			t.logState(px, was, &next)
		}
		return next.state
	}
}

// logState logs a change of the state of a target.
func (t *target) logState(px *Proxy, was TargetState, r *targetReport) {
	name := t.remote.carrier
	if t.remote.pbx != nil {
		name = t.remote.config.String()
	}
	attrs := []any{strings.ToLower(t.remote.kind()), name, "address", t.Addr.String(), "state", string(r.state), "was", string(was)}
	if r.state != TargetUp && r.state != TargetUnknown {
		attrs = append(attrs, "err", r.err)
	}
	px.log.Warn(t.remote.kind()+" state changed", attrs...)
}

// noteAnswer notes a response of a target to a request.
func (t *target) noteAnswer(px *Proxy, now instant) {
	last := instant(t.answeredAt.Load())
	if last != 0 && now-last < reportInterval && !t.failing.Load() {
		return
	}
	t.answeredAt.Store(int64(max(now, 1)))
	t.failing.Store(false)
	t.updateReport(px, now, nil)
}

// noteFailure notes a request to a target that has failed: with the response m or, if m is
// nil, without a response.
//
// A target without an alternative is down after a request without a response, until it
// answers. But if it has answered another request meanwhile, it has only ignored this one.
func (t *target) noteFailure(w *worker, now instant, method []byte, m *message, why failureReason) {
	px := w.proxy
	if m == nil && !px.peers.hasAlternative(t.remote) {
		answered := instant(t.answeredAt.Load())
		if why == unreachable || answered == 0 || now-answered >= timerB {
			t.failing.Store(true)
		}
	}
	r := t.report.Load()
	if r != nil && r.err != "" && now-r.failedAt < reportInterval && r.state == t.currentState(px, now) {
		return
	}
	reason := why.String()
	if m != nil {
		reason = statusText(m)
	}
	text := string(method[:min(len(method), maxMethodShown)]) + ": " + reason
	if t.updateReport(px, now, func(r *targetReport) { r.err, r.failedAt = text, now }) == TargetResting {
		e := &restEnd{worker: w, target: t}
		e.timer.owner = e
		e.handleTimer(now)
	}
}

// maxMethodShown is how many bytes of a method are in an error.
const maxMethodShown = 20

// restEnd stores and logs the end of a target's rest.
type restEnd struct {
	worker *worker
	target *target
	timer  timer
}

// handleTimer ends the rest, or waits for its end.
func (e *restEnd) handleTimer(now instant) {
	if until := instant(e.target.restsUntil.Load()); until > now {
		e.worker.wheel.start(&e.timer, until)
		return
	}
	e.target.updateReport(e.worker.proxy, now, nil)
}

// String returns why there is no response, for errors.
func (why failureReason) String() string {
	if why == unreachable {
		return "unreachable"
	}
	return "no response"
}

// noteProbe notes the result of an OPTIONS: its final response m, or why there is none if m
// is nil. roundTrip is the time to the response.
func (t *target) noteProbe(px *Proxy, now instant, m *message, why failureReason, roundTrip instant) {
	failed := why.String()
	if m != nil {
		t.roundTrip.Store(int64(max(roundTrip, 1)))
		t.answeredAt.Store(int64(max(now, 1)))
		t.failing.Store(false)
		failed = statusText(m)
	}
	t.updateReport(px, now, func(r *targetReport) {
		if m != nil {
			r.answer = failed
		}
		if m == nil || m.status == 503 || m.status == 403 && t.remote.pbx == nil {
			r.err, r.failedAt = "OPTIONS: "+failed, now
		}
	})
}

// maxStatusShown is how many bytes of a status line are remembered.
const maxStatusShown = 80

// statusText returns the status code and reason of a response.
func statusText(m *message) string {
	line, _, _ := bytes.Cut(m.b, crlf)
	text := line[len("SIP/2.0 "):]
	return string(text[:min(len(text), maxStatusShown)])
}

// PBXStates returns the states of the addresses of PBXs, in the order of the
// configuration. It may be called from any goroutine at any time.
func (px *Proxy) PBXStates() (states []TargetStatus) {
	for _, p := range px.peers.configured() {
		states = px.appendStatuses(states, &p.remote)
	}
	return states
}

// TrunkState is the state of a trunk.
type TrunkState struct {
	Name    string
	Refused uint64         // calls of the PBX refused because of [Trunk.MaxCPS]
	Targets []TargetStatus // the addresses of [Trunk.To]
}

// TrunkStates returns the states of the trunks in the order of the configuration. It may be
// called from any goroutine at any time.
func (px *Proxy) TrunkStates() (states []TrunkState) {
	for _, t := range px.peers.trunks.Load().all {
		s := TrunkState{Name: t.Name, Refused: t.refused.Load()}
		for _, r := range t.remotes {
			s.Targets = px.appendStatuses(s.Targets, r)
		}
		states = append(states, s)
	}
	return states
}

// appendStatuses appends the statuses of the targets of a remote to dst. If there are no
// targets, it appends one status that has the reason.
func (px *Proxy) appendStatuses(dst []TargetStatus, r *remote) []TargetStatus {
	v := r.view.Load()
	for _, t := range v.targets {
		dst = append(dst, t.status(px))
	}
	if len(v.targets) > 0 {
		return dst
	}
	s := TargetStatus{Configured: r.config, State: TargetUnresolved, Since: px.wallTime(v.emptySince), Error: v.unusable}
	if r.watch == nil {
		s.State = TargetDown
	} else if err := r.watch.Load().Err(); err != nil {
		s.Error = err.Error()
	}
	return append(dst, s)
}

// status returns the status of a target.
func (t *target) status(px *Proxy) TargetStatus {
	s := TargetStatus{Configured: t.remote.config, Addr: t.Addr, State: TargetUnknown, RoundTrip: time.Duration(t.roundTrip.Load())}
	if at := t.answeredAt.Load(); at != 0 {
		s.AnsweredAt = px.wallTime(instant(at))
	}
	r := t.report.Load()
	if r == nil {
		return s
	}
	if s.State, s.Answer, s.Error = r.state, r.answer, r.err; s.State != TargetUnknown {
		s.Since = px.wallTime(r.since)
	}
	if r.err != "" {
		s.FailedAt = px.wallTime(r.failedAt)
	}
	return s
}

// wallTime returns the time of the wall clock at an instant, if the clock has not been set
// since.
func (px *Proxy) wallTime(i instant) time.Time {
	_, offset := px.Clock()
	return px.epoch.Round(0).Add(time.Duration(i) + offset)
}
