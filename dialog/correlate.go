package dialog

import (
	"iter"
	"slices"
	"strings"

	"bellhop/dialog/siptext"
)

// DefaultCorrelate is the order of the correlation methods if the configuration sets none.
var DefaultCorrelate = []string{"header:X-CID", "session-id", "replaces", "icid", "call-id", "numbers"}

// The confidence that a leg belongs to the call that it was joined to. Subscribers see
// the text after the method's name, so a text must never change.
const (
	exact     = ":exact"    // an id or a transfer identifies the call
	likely    = ":likely"   // the numbers of both ends and the time agree, or the Call-IDs are similar
	possible  = ":possible" // only numbers or the time suggest this call, and no other fits as well
	ambiguous = ":tie"      // two calls fit equally well, so the leg is joined to neither
)

// ownCID is the header field whose value bellhop authenticates.
const ownCID = "X-CID"

// A method finds the call that an INVITE with an unknown Call-ID belongs to.
type method struct {
	name   string // as in the configuration; of header:NAME, the header's name in lower case
	header string // header field to compare, of a method header:NAME other than header:X-CID
}

// A match is the result of a method: no call, one call, or several that fit equally.
type match struct {
	call       *call  // nil: none, or several
	confidence string // exact, likely, possible or ambiguous; "": no call was found
}

// An inviteMatch is an INVITE whose call is being looked for.
type inviteMatch struct {
	*Message
	links       *callHints
	ext         Extension // extension at the phone that the INVITE comes from or goes to; no user: none
	target      string    // extension that the INVITE goes to; if it goes to none, the dialed number
	toExtension bool      // it goes to an extension's phone

	diversion string // number that diverted the call

	eliminated bool   // no number in the INVITE matched a caller, so matchByElimination decides
	refer      *refer // REFER that the INVITE follows; nil: none, or not known
}

// A correlator finds the call that an INVITE with a new Call-ID belongs to.
type correlator struct {
	index   *callIndex
	refers  *recentRefers
	numbers *numberMatcher
}

// parseMethods returns the correlation methods that the configuration names.
func parseMethods(words []string) (ms []method) {
	if words == nil {
		words = DefaultCorrelate
	}
	for _, w := range words {
		switch name, isHeader := strings.CutPrefix(w, "header:"); {
		case isHeader && siptext.SameName(name, ownCID):
			ms = append(ms, method{name: strings.ToLower(name)})
		case isHeader:
			ms = append(ms, method{strings.ToLower(name), name})
		default:
			ms = append(ms, method{name: w})
		}
	}
	return ms
}

// correlateInvite looks for the call of an INVITE with a new Call-ID. The first method
// that finds one or several calls decides; several are ambiguous, and c is then nil. It
// also returns the method:confidence for events. An INVITE that comes from neither the
// PBX nor a trunk could be forged. It is matched only by an X-CID that bellhop has
// authenticated, by both tags of a dialog, or by a REFER that asks for it.
func (s *correlator) correlateInvite(i *inviteMatch) (c *call, correlation string) {
	for _, by := range s.index.methods {
		var v match
		switch {
		case !i.trusted() && by.name != "x-cid" && by.name != "replaces":
		case by.header != "":
			v = s.matchHeader(by, i)
		case by.name == "x-cid":
			v = s.index.matchOwnID(i.CID)
		case by.name == "session-id":
			v = s.matchSessionID(i)
		case by.name == "replaces":
			v = s.matchTransfer(i)
		case by.name == "icid":
			v = s.index.matchKey(key{by.name, i.links.icid})
		case by.name == "call-id":
			v = s.matchSimilarCallID(i)
		case by.name == "numbers":
			if v = s.numbers.matchNumbers(i); v.confidence == ambiguous {
				s.numbers.noteAmbiguous(i)
			}
		}
		if v.confidence != "" {
			return v.call, by.name + v.confidence
		}
	}
	return nil, ""
}

// liveMatch returns a match with c and its confidence. It returns no match if c is nil or
// over, because a call that is over gets no further legs.
func liveMatch(c *call, sure string) match {
	if c == nil || !c.live() {
		return match{}
	}
	return match{c, sure}
}

// matchHeader finds the call by a header field that the PBX adds to all INVITEs of a
// call. Its value is the same as in another INVITE of the call, or is the Call-ID of a
// leg.
func (s *correlator) matchHeader(by method, i *inviteMatch) match {
	v := i.links.fieldValue(by.header)
	if v == "" {
		return match{}
	}
	if v := s.index.matchKey(key{by.name, v}); v.confidence != "" {
		return v
	}
	return liveMatch(s.index.callByCallID[v], exact)
}

// fieldValue returns the value of a method's header field.
func (k *callHints) fieldValue(header string) string {
	for _, f := range k.configured {
		if f[0] == header {
			return f[1]
		}
	}
	return ""
}

// matchSessionID finds the call by the two UUIDs of Session-ID (RFC 7989 §5). If they
// belong to two calls, the match is ambiguous.
func (s *correlator) matchSessionID(i *inviteMatch) (v match) {
	for _, id := range sessionIDs(i.links.session) {
		switch one := s.index.matchKey(key{"session-id", id}); {
		case one.confidence == "":
		case v.confidence == "" || v.call == one.call:
			v = one
		default:
			return match{nil, ambiguous}
		}
	}
	return v
}

// sessionIDs returns the UUIDs in a Session-ID. It leaves out the null UUID, which
// identifies no session.
func sessionIDs(value string) []string {
	local, params, _ := strings.Cut(value, ";")
	remote, _ := siptext.Param(params, "remote")
	var ids []string
	for _, id := range []string{strings.TrimSpace(local), remote} {
		if len(id) == 32 && strings.Trim(id, "0") != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

// matchTransfer finds the call by the dialog that Replaces names (RFC 3891), or by a
// REFER that a phone of the call has sent within progressWindow (RFC 3515). An INVITE
// with Referred-By matches only a REFER with the same Referred-By. An INVITE without one
// must come from the PBX and go to the target of the REFER; matchReferTarget then
// decides.
func (s *correlator) matchTransfer(i *inviteMatch) (v match) {
	if i.links.replaces != "" {
		callID, toTag, fromTag := readReplaces(i.links.replaces)
		if l := s.index.findDialog(callID, toTag, fromTag); l != nil {
			return match{l.call, exact}
		}
		if i.trusted() {
			if v := liveMatch(s.index.callByCallID[callID], exact); v.confidence != "" {
				return v
			}
		}
	}
	var followed *refer
	for _, r := range *s.refers {
		switch {
		case r.replaces != "" || i.At.Sub(r.sentAt) > progressWindow:
		case !i.trusted() && !r.asksForInvite(i):
		case i.links.referredBy != "" && i.links.referredBy != r.referredBy:
		case i.links.referredBy == "" && (i.Src != PBX || i.target != r.target):
		case !r.leg.call.live():
		case v.confidence != "" && v.call != r.leg.call:
			return match{nil, ambiguous}
		default:
			v, followed = match{r.leg.call, exact}, r
		}
	}
	if followed != nil {
		i.refer = followed
		if c := s.callToConnect(i, followed); c != nil {
			return match{c, exact}
		}
		if i.links.referredBy == "" {
			return s.matchReferTarget(i, followed)
		}
	}
	return v
}

// callToConnect returns the call that the REFER r transfers, if that is another call than
// the one of r's phone. A phone that has picked up a call, or has retrieved it from
// parking, is alone in its own call, and its REFER transfers the call that it has picked
// up. The number that the INVITE shows identifies that call. callToConnect returns nil if
// r transfers the call of its own phone, or if the other call is not known.
func (s *correlator) callToConnect(i *inviteMatch, r *refer) *call {
	if i.Src != PBX || len(r.leg.call.legs) > 1 {
		return nil
	}
	var others candidates
	for _, number := range i.links.numbers {
		if !identifiesCaller(number) || r.leg.hasNumber(number) {
			continue
		}
		for _, l := range s.numbers.legsByNumber[numberTail(number)] {
			if l.hasNumber(number) && l.state == talking && l.call != r.leg.call && !l.call.otherLegTalks(l) {
				others.add(l.call, weakMatch)
			}
		}
	}
	return others.decide().call
}

// matchReferTarget decides whether the REFER r caused an INVITE to the REFER's target, if
// only the called number and the time match. A caller in another call may be the cause
// too, if that caller dialed the same number and no phone rings yet. Then the number that
// the INVITE shows decides. If the number belongs to both or to neither, the match is
// ambiguous.
func (s *correlator) matchReferTarget(i *inviteMatch, r *refer) match {
	c := r.leg.call
	connects := false
	var dialer *leg
	for _, number := range i.links.numbers {
		if !identifiesCaller(number) {
			continue
		}
		connects = connects || r.connectsNumber(number)
		for _, l := range s.numbers.legsByNumber[numberTail(number)] {
			if f := s.numbers.rankLeg(l, i, number); l.call != c && (f == rankDialer || f == rankDialerSimilar) {
				dialer = l
			}
		}
	}
	switch {
	case dialer != nil && (!connects || c.ringsTarget(i.target) && !c.mayBeFork(i)):
		return match{} // matchNumbers finds the dialer's call
	case dialer != nil:
		return match{nil, ambiguous}
	case connects:
		return match{c, likely}
	case slices.ContainsFunc(s.numbers.callersByDialed[numberTail(i.target)], func(l *leg) bool {
		return l.call != c && l.dialedTarget(i) && l.state != talking && s.numbers.awaitsPBX(l, i.At) && !l.call.ringsTarget(i.target)
	}):
		return match{nil, ambiguous} // the shown number belongs to neither
	}
	return match{c, possible}
}

// connectsNumber reports whether number belongs to the person that the REFER transfers:
// another answered phone of the call has it, or the sender of the REFER has called it or
// was called by it.
func (r *refer) connectsNumber(number string) bool {
	l := r.leg
	other := l.callerNum
	if l.origin == Edge {
		other = l.calledUser
	}
	return similarNumbers(other, number) || slices.ContainsFunc(l.call.legs, func(o *leg) bool {
		return o != l && o.state == talking && (o.hasNumber(number) || similarNumbers(o.phoneNumber, number))
	})
}

// asksForInvite reports whether the REFER asks for this INVITE from a phone: the INVITE
// comes from the address of a phone in the same call, and goes to the REFER's target or
// to the contact that the REFER named.
func (r *refer) asksForInvite(i *inviteMatch) bool {
	if i.target != r.target && (i.target != r.contact || r.contact == "") {
		return false
	}
	for _, l := range r.leg.call.legs {
		if l.state != over && l.matchesHost(i.From) {
			return true
		}
	}
	return false
}

// matchSimilarCallID finds the call by a Call-ID that the PBX has derived from another.
// The INVITE's Call-ID contains the other one, as 1234@pbx_b2b-1 contains 1234@pbx, or
// both begin with the same 30 characters.
func (s *correlator) matchSimilarCallID(i *inviteMatch) match {
	if i.Src != PBX {
		return match{}
	}
	id := i.CallID
	for inner := range innerCallIDs(id) {
		if v := liveMatch(s.index.callByCallID[inner], likely); v.confidence != "" {
			return v
		}
	}
	if len(id) < sameCallIDStart {
		return match{}
	}
	if v := s.index.matchKey(key{"call-id", id[:sameCallIDStart]}); v.confidence == exact {
		return match{v.call, likely}
	}
	return match{} // also if Call-IDs of several calls begin with these characters
}

const (
	minCallID       = 8  // shorter Call-IDs are not searched in others
	sameCallIDStart = 30 // two Call-IDs that share so many first characters are similar
	maxSeparators   = 12 // separators in the text that a PBX adds to a Call-ID, at either end
)

// innerCallIDs ranges over the Call-IDs from which a PBX may have derived id. It first
// removes text from the end, a little more each time, and then from the beginning. The
// added text has few separators. A lookup takes time in proportion to a Call-ID's length,
// so maxSeparators limits the number of results.
func innerCallIDs(id string) iter.Seq[string] {
	return func(yield func(string) bool) {
		added := 0
		for n := len(id) - 1; n >= minCallID && added < maxSeparators; n-- {
			if isSeparator(id[n]) {
				added++
				if !yield(id[:n]) {
					return
				}
			}
		}
		added = 0
		for n := 0; n < len(id)-minCallID && added < maxSeparators; n++ {
			if isSeparator(id[n]) {
				added++
				if !yield(id[n+1:]) {
					return
				}
			}
		}
	}
}

// isSeparator reports whether c may separate a Call-ID from the text that a PBX adds to
// it.
func isSeparator(c byte) bool { return strings.IndexByte("-_.@:;+~", c) >= 0 }
