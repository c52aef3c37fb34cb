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
	now, wall := px.bothClocks()
	b, ok := px.guard.BanOf(ip, now)
	return banAt(b, now, wall), ok
}

// Bans returns the bans that have not ended, by source.
func (px *Proxy) Bans() []Ban {
	now, wall := px.bothClocks()
	var bans []Ban
	for _, b := range px.guard.Bans(now) {
		bans = append(bans, banAt(b, now, wall))
	}
	return bans
}

// Ban bans the source that an address belongs to, in place of the ban that it has, and
// closes its connections. If d is 0, the ban lasts for [guard.Settings].BanTime. Ban returns
// an error for an address that bans do not apply to: that of the PBX, of a trunk or of a
// reverse proxy, and one in [guard.Settings].Allow.
func (px *Proxy) Ban(ip netip.Addr, d time.Duration) (Ban, error) {
	if why := px.exemption(ip); why != "" {
		return Ban{}, fmt.Errorf("cannot be banned: %s", why)
	}
	now, wall := px.bothClocks()
	b := px.guard.Ban(ip, d, now)
	px.enforceBan(b)
	return banAt(b, now, wall), nil
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
	now, wall := px.bothClocks()
	b, ok := px.guard.Unban(ip, now)
	return banAt(b, now, wall), ok
}

// RestoreBan adds a ban that the store has, in place of the one that the source has, and
// closes the connections of the source. It does nothing if the ban has ended, or if the
// source is in [guard.Settings].Allow.
func (px *Proxy) RestoreBan(b Ban) {
	now, wall := px.bothClocks()
	restored := guard.Ban{Source: b.Source, Reason: b.Reason, Since: now + b.Since.Sub(wall), Until: now + b.Until.Sub(wall), Times: b.Times}
	if restored.Until > now {
		px.guard.Restore(restored)
		px.streams.closeFrom(b.Source)
	}
}

// bothClocks returns the time of the guard, and that of the wall clock.
func (px *Proxy) bothClocks() (now time.Duration, wall time.Time) {
	steady, ahead := px.Clock()
	return steady.Sub(px.epoch), steady.Add(ahead)
}

// banAt returns a ban of the guard with times of the wall clock. now and wall are the same
// moment on both clocks.
func banAt(b guard.Ban, now time.Duration, wall time.Time) Ban {
	at := func(t time.Duration) time.Time { return wall.Add(t - now).UTC().Truncate(time.Second) }
	return Ban{Source: b.Source, Reason: b.Reason, Since: at(b.Since), Until: at(b.Until), Times: b.Times}
}
