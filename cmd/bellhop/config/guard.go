package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"bellhop/sip/guard"
)

// A Rate is a number of requests in a time, written 30/10s. "0" is no limit.
type Rate guard.Rate

func (r Rate) String() string {
	if r.Count == 0 {
		return "0"
	}
	return strconv.Itoa(r.Count) + "/" + shortDuration(r.Per)
}

// Limits of a Rate. A shorter time would refuse the usual burst of a phone, and a longer
// one would allow it for hours. Package guard counts up to 100,000 requests a second.
const (
	maxRateCount = 1e5
	minRateTime  = time.Second
	maxRateTime  = time.Hour
)

func (r *Rate) UnmarshalText(b []byte) error {
	s := string(b)
	if s == "0" {
		*r = Rate{}
		return nil
	}
	count, per, _ := strings.Cut(s, "/")
	n, err := strconv.Atoi(count)
	d, badTime := time.ParseDuration(per)
	switch {
	case err != nil || badTime != nil || n < 1:
		return fmt.Errorf("%q is not a number of requests in a time: use a form like 30/10s, or 0 for no limit", s)
	case n > maxRateCount:
		return fmt.Errorf("%q allows too many requests: use %d or fewer, or 0 for no limit", s, int(maxRateCount))
	case d < minRateTime || d > maxRateTime:
		return fmt.Errorf("%q: use a time between 1s and 1h", s)
	}
	*r = Rate{n, d}
	return nil
}

// shortDuration returns a duration without the zero minutes and seconds at its end.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// GuardSettings returns the limits of sources.
func (c *Config) GuardSettings() guard.Settings {
	return guard.Settings{
		UserAgents: c.Guard.UserAgents,
		Allow:      Prefixes(c.Guard.Allow),
		Rate:       guard.Rate(c.Guard.Rate),
		PerBinding: c.Guard.PerBinding,
		BanAfter:   c.Guard.BanAfter,
		BanTime:    time.Duration(c.Guard.BanTime),
	}
}

// maxBanAfter is the largest ban_after: package guard counts up to 16,383 points.
const maxBanAfter = 10000

// minUserAgent is the shortest text of user_agents. A shorter one is part of the names of
// many phones.
const minUserAgent = 4

// validateGuard reports limits that are invalid.
func (c *Config) validateGuard(report func(path, format string, args ...any)) {
	g := &c.Guard
	for i, name := range g.UserAgents {
		if len(strings.TrimSpace(name)) < minUserAgent {
			report(indexPath("guard.user_agents", i), "%q is part of the names of many phones: use %d characters or more", name, minUserAgent)
		}
	}
	if g.PerBinding < 0 || g.PerBinding > maxRateCount {
		report("guard.per_binding", "%d is not a number of requests: use 0 to %d", g.PerBinding, int(maxRateCount))
	}
	if g.BanAfter < 0 || g.BanAfter > maxBanAfter {
		report("guard.ban_after", "%d is not a number of points: use 1 to %d, or 0 for no bans", g.BanAfter, maxBanAfter)
	}
	if d := time.Duration(g.BanTime); d < time.Second || d > guard.MaxBanTime {
		report("guard.ban_time", "%v is not the time of a ban: use 1s to 24h, or set ban_after = 0 for no bans", d)
	}
	if g.Connections < 0 {
		report("guard.connections", "%d is not a number of connections: use 1 or more, or 0 for no limit", g.Connections)
	}
	if g.AllConnections < 0 {
		report("guard.all_connections", "%d is not a number of connections: use 1 or more, or 0 for as many as the limit of open files allows", g.AllConnections)
	}
}
