package config

import (
	"fmt"

	"bellhop/notify"
)

// DeclaredSubscriptions returns the subscriptions that a valid config declares, in
// their stored form.
func DeclaredSubscriptions(cfg Config) []notify.Subscription {
	var subs []notify.Subscription
	for i, s := range cfg.Subscription {
		s.Declared = fmt.Sprintf("[[subscription]] %d", i+1)
		s.Normalize()
		subs = append(subs, s)
	}
	return subs
}

// validateSubscriptions reports invalid [[subscription]] tables.
func (c *Config) validateSubscriptions(report func(path, format string, args ...any)) {
	for i, s := range c.Subscription {
		s.Normalize()
		for err := range s.Invalid() {
			report(indexPath("subscription", i)+"."+err.Field, "%s", err.Why)
		}
	}
}
