package sip

import (
	"fmt"
	"net/netip"
	"time"

	"bellhop/sip/guard"
)

// This file has what an operator and the store do with bans. The methods may be called from
// any goroutine.

// A Ban is the time in which nothing is accepted from a source.
type Ban struct {
	Source       netip.Prefix // a /32 or a /64
	Reason       guard.BanReason
	Since, Until time.Time // on the wall clock
	Times        int       // 1 for the first ban, 2 for the next one, which lasts twice as long
}

// BanOf returns the ban of the source that an address belongs to; false: it has none.
func (px *Proxy) BanOf(ip netip.Addr) (Ban, bool) {
	b, ok := px.guard.BanOf(ip, time.Duration(px.now()))
	return px.onWallClock(b), ok
}

// Bans returns the bans that have not ended, by source.
func (px *Proxy) Bans() []Ban {
	return px.allOnWallClock(px.guard.Bans(time.Duration(px.now())))
}

// LastBan returns the last ban of the source that an address belongs to, if it has not
// ended, or ended within the last [guard.MaxBanTime]. The next ban of such a source lasts
// longer.
func (px *Proxy) LastBan(ip netip.Addr) (Ban, bool) {
	b, ok := px.guard.LastBan(ip, time.Duration(px.now()))
	return px.onWallClock(b), ok
}

// BanHistory returns the bans that LastBan returns for all sources, by source.
func (px *Proxy) BanHistory() []Ban {
	return px.allOnWallClock(px.guard.History(time.Duration(px.now())))
}

// Ban bans the source that an address belongs to, in place of the ban that it has, and
// closes its connections. If d is 0, the ban lasts for [guard.Settings].BanTime. Ban returns
// an error for an address that bans do not apply to: that of the PBX, of a trunk or of a
// reverse proxy, and one in [guard.Settings].Allow.
func (px *Proxy) Ban(ip netip.Addr, d time.Duration) (Ban, error) {
	if why := px.exemption(ip); why != "" {
		return Ban{}, fmt.Errorf("cannot be banned: %s", why)
	}
	b := px.guard.Ban(ip, d, time.Duration(px.now()))
	px.enforceBan(b)
	return px.onWallClock(b), nil
}

// exemption returns why bans do not apply to an address, or "" if they do.
func (px *Proxy) exemption(ip netip.Addr) string {
	trunk := px.peers.trunkAt(ip)
	switch {
	case px.peers.isPBXHost(ip):
		return "it is an address of the PBX"
	case trunk != nil:
		return "it is an address of the trunk " + trunk.Name
	case px.listeners.trustProxy(ip):
		return "it is an address of a reverse proxy in proxy_from"
	case px.guard.Allows(ip):
		return "it is in guard.allow"
	}
	return ""
}

// Unban ends the ban of the source that an address belongs to, and forgets the faults of the
// source. It returns false if the source is not banned.
func (px *Proxy) Unban(ip netip.Addr) (Ban, bool) {
	b, ok := px.guard.Unban(ip, time.Duration(px.now()))
	return px.onWallClock(b), ok
}

// ForgetBan removes the ban of a source and the faults of the source, even if the ban has
// ended. The next ban of the source is its first one.
func (px *Proxy) ForgetBan(ip netip.Addr) { px.guard.Forget(ip) }

// RestoreBan adds a ban of the store, in place of the one that the source has. If the ban
// has not ended, RestoreBan closes the connections of the source. It does nothing if the
// ban ended [guard.MaxBanTime] ago, or if the source is in [guard.Settings].Allow.
func (px *Proxy) RestoreBan(b Ban) {
	now, epoch := time.Duration(px.now()), px.wallTime(0)
	restored := guard.Ban{Source: b.Source, Reason: b.Reason, Since: b.Since.Sub(epoch), Until: b.Until.Sub(epoch), Times: b.Times}
	px.guard.Restore(restored, now)
	if restored.Until > now {
		px.streams.closeFrom(b.Source)
	}
}

// allOnWallClock returns bans of the guard with times of the wall clock.
func (px *Proxy) allOnWallClock(bans []guard.Ban) (all []Ban) {
	for _, b := range bans {
		all = append(all, px.onWallClock(b))
	}
	return all
}

// onWallClock returns a ban of the guard with times of the wall clock.
func (px *Proxy) onWallClock(b guard.Ban) Ban {
	at := func(t time.Duration) time.Time { return px.wallTime(instant(t)).UTC().Truncate(time.Second) }
	return Ban{Source: b.Source, Reason: b.Reason, Since: at(b.Since), Until: at(b.Until), Times: b.Times}
}
