// Package guard decides which sources a SIP proxy serves: it limits the rate of their
// requests, counts their faults and bans them.
//
// A source is an IPv4 address, or the /64 network of an IPv6 address. The caller passes
// in the time: how long the [Guard] has existed. All methods may be called from any
// goroutine. Those that are called for each message take no lock and allocate nothing.
//
// # Forged sources
//
// The source of a datagram may be forged. So a fault counts only if the caller knows that
// the source is real, because the source has a connection, or because it has used a nonce
// that was sent to it and to nobody else (see [Guard.NoteNonce]). Otherwise anyone could
// have any source banned.
//
// # Memory
//
// All tables have a fixed size. If a table is full, a new source displaces the one that
// matters least: for a rate the one that has used least of its rate, for points the
// oldest, for a ban the one that ends first. A flood of forged sources therefore removes
// no ban, because only real sources are in the tables of points and bans. It may remove
// nonces; then faults of datagrams do not count for as long.
package guard

import (
	"bytes"
	"cmp"
	"hash/maphash"
	"math"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// Settings are the limits of a [Guard]. They may change while it is in use.
type Settings struct {
	UserAgents []string       // texts in the User-Agent of scanners, in any case
	Allow      []netip.Prefix // networks that are neither limited nor banned
	Rate       Rate           // requests outside dialogs of one source; zero: no limit
	PerBinding int            // requests by which Rate.Count grows for each live binding of the source
	BanAfter   int            // points in pointsWindow after which a source is banned; 0: never
	BanTime    time.Duration  // of the first ban; it doubles with each further one up to MaxBanTime
}

// MaxBanTime is the longest ban that BanTime grows to. A source that has not been banned
// for that long gets BanTime again.
const MaxBanTime = 24 * time.Hour

// answerRate is the rate of answers of one kind to a source that may be forged.
var answerRate = Rate{5, time.Second}

// A Guard holds what is known of sources.
type Guard struct {
	settings atomic.Pointer[settings]
	bindings atomic.Pointer[BindingCounts]
	requests [requestKinds]*limiter
	answers  [answerKinds]*limiter
	scores   *scores
	nonces   *nonces
	bans     *bans
	drops    [dropReasons]atomic.Uint64
	banned   [banReasons]atomic.Uint64
}

// settings are the Settings in the form in which they are used.
type settings struct {
	Settings
	userAgents [][]byte // in lower case
}

// New returns a Guard without bans.
func New(s Settings) *Guard {
	seed := maphash.MakeSeed()
	g := &Guard{scores: newScores(seed), nonces: newNonces(seed), bans: newBans(seed)}
	for kind := range g.requests {
		g.requests[kind] = newLimiter(seed)
	}
	for kind := range g.answers {
		g.answers[kind] = newLimiter(seed)
	}
	g.bindings.Store(&BindingCounts{})
	g.Configure(s)
	return g
}

// Configure replaces the settings. It ends the bans of sources whose addresses are all in
// Allow. All other bans stay.
func (g *Guard) Configure(s Settings) {
	used := &settings{Settings: s}
	for _, text := range s.UserAgents {
		used.userAgents = append(used.userAgents, bytes.ToLower([]byte(text)))
	}
	g.settings.Store(used)
	for _, b := range g.bans.all() {
		if used.allowsAll(b.Source) {
			g.bans.remove(sourceOf(b.Source.Addr()), math.MinInt64)
		}
	}
}

// allowsAll reports whether Allow has all addresses of a network.
func (s *settings) allowsAll(network netip.Prefix) bool {
	return slices.ContainsFunc(s.Allow, func(p netip.Prefix) bool { return p.Bits() <= network.Bits() && p.Overlaps(network) })
}

// Allows reports whether a source is in the networks that are neither limited nor banned.
func (g *Guard) Allows(ip netip.Addr) bool {
	for _, p := range g.settings.Load().Allow {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// A DropReason tells why a message is dropped.
type DropReason uint8

const (
	DropBanned    DropReason = iota // its source is banned
	DropUserAgent                   // its User-Agent is that of a scanner
	DropRate                        // its source sends too many requests; on a stream it is refused
	dropReasons                     // number of reasons
)

// DropReasons are all values of DropReason.
var DropReasons = []DropReason{DropBanned, DropUserAgent, DropRate}

func (r DropReason) String() string { return [...]string{"ban", "user_agent", "rate"}[r] }

// Dropped returns how many messages were dropped for a reason.
func (g *Guard) Dropped(r DropReason) uint64 { return g.drops[r].Load() }

// IsBanned reports whether a source is banned.
func (g *Guard) IsBanned(ip netip.Addr, now time.Duration) bool {
	return g.bans.active(sourceOf(ip), now) != nil
}

// CountDrop counts a message or connection that is dropped.
func (g *Guard) CountDrop(r DropReason) { g.drops[r].Add(1) }

// maxUserAgent is the length of the part of a User-Agent in which scanners are looked for.
const maxUserAgent = 256

// DropsUserAgent reports whether a request is dropped because of its User-Agent, and
// counts it.
func (g *Guard) DropsUserAgent(name []byte) bool {
	list := g.settings.Load().userAgents
	if len(list) == 0 || len(name) == 0 {
		return false
	}
	var buf [maxUserAgent]byte
	lower := buf[:0]
	for _, c := range name[:min(len(name), maxUserAgent)] {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		lower = append(lower, c)
	}
	for _, text := range list {
		if bytes.Contains(lower, text) {
			g.drops[DropUserAgent].Add(1)
			return true
		}
	}
	return false
}

// RequestKind is a kind of requests. Each kind has a rate of its own.
type RequestKind uint8

const (
	Datagram     RequestKind = iota // outside dialogs
	OnStream                        // outside dialogs, over a stream: forged datagrams do not use up its rate
	FollowUp                        // a CANCEL or a request within a dialog that may be made up
	requestKinds                    // number of kinds
)

// DropsRequest takes a request from the rate of its source. It reports whether the request
// is dropped because the source has used its rate up, and counts it.
func (g *Guard) DropsRequest(ip netip.Addr, kind RequestKind, now time.Duration) bool {
	set := g.settings.Load()
	if set.Rate.Count <= 0 {
		return false
	}
	s, rate := sourceOf(ip), set.Rate
	if n := (*g.bindings.Load())[s]; n > 0 {
		rate.Count += n * set.PerBinding
	}
	if g.requests[kind].take(s, rate, now) {
		return false
	}
	g.drops[DropRate].Add(1)
	return true
}

// AnswerKind is a kind of answers to sources that may be forged. Each kind has a rate of its
// own.
type AnswerKind uint8

const (
	SIPAnswer   AnswerKind = iota // made by the proxy itself
	STUNAnswer                    // to a STUN request
	answerKinds                   // number of kinds
)

// AllowsAnswer takes an answer from the rate of answers to a source, and reports whether the
// rate allows it.
func (g *Guard) AllowsAnswer(ip netip.Addr, kind AnswerKind, now time.Duration) bool {
	return g.answers[kind].take(sourceOf(ip), answerRate, now)
}

// NoteNonce remembers that a nonce is sent to a source. The caller must note the nonces that
// are sent to all sources, on streams too: a nonce that others know proves nothing.
func (g *Guard) NoteNonce(ip netip.Addr, nonce []byte, now time.Duration) {
	g.nonces.add(sourceOf(ip), nonce, now)
}

// ProvesSource reports whether a nonce was sent to a source within the last hour, and to no
// other source. Whoever uses it receives at an address of the source.
func (g *Guard) ProvesSource(ip netip.Addr, nonce []byte, now time.Duration) bool {
	return g.nonces.proves(sourceOf(ip), nonce, now)
}

// AddPoint counts a fault of a source whose address is not forged. If due is true, the
// source may have enough points for a ban, and the caller calls [Guard.BanIfDue].
func (g *Guard) AddPoint(ip netip.Addr, now time.Duration) (due bool) {
	after := g.settings.Load().BanAfter
	points := g.scores.add(sourceOf(ip), now)
	return after > 0 && points >= after
}

// ClearPoints forgets the faults of a source, because it has used the right password.
func (g *Guard) ClearPoints(ip netip.Addr) { g.scores.clear(sourceOf(ip)) }

// BanIfDue bans a source if it has enough points. A source without live bindings is
// banned at BanAfter points. Each live binding allows BanAfter more, because a ban cuts
// off all phones behind one address even if only one has a wrong password.
func (g *Guard) BanIfDue(ip netip.Addr, reason BanReason, now time.Duration) (b Ban, ok bool) {
	set, s := g.settings.Load(), sourceOf(ip)
	after := min(set.BanAfter*(1+(*g.bindings.Load())[s]), maxPoints)
	if after <= 0 || g.scores.points(s, now) < after || g.bans.active(s, now) != nil || g.Allows(ip) {
		return Ban{}, false
	}
	return g.addBan(s, reason, now), true
}

// addBan bans a source.
func (g *Guard) addBan(s source, reason BanReason, now time.Duration) Ban {
	g.banned[reason].Add(1)
	g.scores.clear(s)
	return g.bans.add(s, reason, g.settings.Load().BanTime, now)
}

// Ban bans a source for a time that an operator chooses, in place of the ban that it has;
// 0: for Settings.BanTime. The caller has checked [Guard.Allows].
func (g *Guard) Ban(ip netip.Addr, d, now time.Duration) Ban {
	d = cmp.Or(d, g.settings.Load().BanTime)
	b := Ban{Source: SourceOf(ip), Reason: BanManual, Since: now, Until: now + d, Times: 1}
	g.banned[BanManual].Add(1)
	g.bans.set(b)
	return b
}

// Restore adds a ban that began at another guard, in place of the one that the source has.
// Its times may be before the time 0. Restore does nothing if the ban ended MaxBanTime
// before now, or if the addresses of the source are all in Allow.
func (g *Guard) Restore(b Ban, now time.Duration) {
	if b.isRemembered(now) && !g.settings.Load().allowsAll(b.Source) {
		g.bans.set(b)
	}
}

// Unban ends the ban of a source, if it has not ended at now, and returns it. The source
// begins anew: its points are forgotten, and its next ban lasts for Settings.BanTime. A ban
// that has ended by itself is still remembered, so that the next one lasts longer.
func (g *Guard) Unban(ip netip.Addr, now time.Duration) (b Ban, ok bool) {
	removed := g.bans.remove(sourceOf(ip), now)
	if removed == nil {
		return Ban{}, false
	}
	g.scores.clear(sourceOf(ip))
	return *removed, true
}

// Forget removes the ban of a source even if it has ended. The source begins anew.
func (g *Guard) Forget(ip netip.Addr) {
	g.bans.remove(sourceOf(ip), math.MinInt64)
	g.scores.clear(sourceOf(ip))
}

// BanOf returns the ban of a source, if it has not ended at now.
func (g *Guard) BanOf(ip netip.Addr, now time.Duration) (b Ban, ok bool) {
	if active := g.bans.active(sourceOf(ip), now); active != nil {
		return *active, true
	}
	return Ban{}, false
}

// LastBan returns the last ban of a source, if that makes the next one longer: it has not
// ended MaxBanTime before now.
func (g *Guard) LastBan(ip netip.Addr, now time.Duration) (b Ban, ok bool) {
	if last := g.bans.find(sourceOf(ip)); last != nil && last.isRemembered(now) {
		return *last, true
	}
	return Ban{}, false
}

// Bans returns the bans that have not ended at now.
func (g *Guard) Bans(now time.Duration) (active []Ban) {
	for _, b := range g.bans.all() {
		if b.Until > now {
			active = append(active, b)
		}
	}
	return active
}

// History returns the bans that [Guard.LastBan] returns for all sources.
func (g *Guard) History(now time.Duration) (bans []Ban) {
	return slices.DeleteFunc(g.bans.all(), func(b Ban) bool { return !b.isRemembered(now) })
}

// Banned returns how many bans began for a reason.
func (g *Guard) Banned(r BanReason) uint64 { return g.banned[r].Load() }

// BindingCounts are the numbers of live bindings of sources.
type BindingCounts map[source]int

// Add counts a binding whose requests come from ip.
func (c BindingCounts) Add(ip netip.Addr) { c[sourceOf(ip)]++ }

// SetBindings replaces the numbers of live bindings. The caller does not change c
// afterwards.
func (g *Guard) SetBindings(c BindingCounts) { g.bindings.Store(&c) }
