package config

import (
	"fmt"

	"bellhop/notify"
)

// A subscriptionConfig is a [[subscription]] table. Its fields are those of the API.
type subscriptionConfig struct {
	Extension      string                  `toml:"extension"`
	ExtensionRegex string                  `toml:"extension_regex"`
	Types          []string                `toml:"types"`
	URL            string                  `toml:"url"`
	Method         string                  `toml:"method"`
	Dialect        string                  `toml:"dialect"`
	Active         bool                    `toml:"active"`
	Note           string                  `toml:"note"`
	Headers        map[headerName]withheld `toml:"headers"`
	Secret         withheld                `toml:"secret"`
	OldSecret      withheld                `toml:"old_secret"`
	TLSCA          withheld                `toml:"tls_ca"`
	TLSCert        withheld                `toml:"tls_cert"`
	TLSKey         withheld                `toml:"tls_key"`
	Extended       bool                    `toml:"extended"`
	FlowCase       string                  `toml:"flow_case"`
	StatusWords    string                  `toml:"status_words"`
	Group          string                  `toml:"group"`
	FollowURLs     bool                    `toml:"follow_urls"`
	LiveTTL        Duration                `toml:"live_ttl"`
	Timeout        Duration                `toml:"timeout"`
	MaxInFlight    int                     `toml:"max_in_flight"`
}

// setDefaults sets the fields whose default is not zero.
func (c *subscriptionConfig) setDefaults() {
	s := notify.NewSubscription()
	c.Method, c.Dialect, c.Active = s.Method, string(s.Dialect), s.Active
}

// toSubscription returns the subscription that the table with index i declares.
func (c *subscriptionConfig) toSubscription(i int) notify.Subscription {
	s := notify.Subscription{
		Extension:      c.Extension,
		ExtensionRegex: c.ExtensionRegex,
		Types:          c.Types,
		URL:            c.URL,
		Method:         c.Method,
		Dialect:        notify.Dialect(c.Dialect),
		Active:         c.Active,
		Note:           c.Note,
		Secret:         notify.Secret(c.Secret),
		OldSecret:      notify.Secret(c.OldSecret),
		TLSCA:          string(c.TLSCA),
		TLSCert:        string(c.TLSCert),
		TLSKey:         notify.PrivateKey(c.TLSKey),
		Extended:       c.Extended,
		FlowCase:       c.FlowCase,
		StatusWords:    c.StatusWords,
		Group:          c.Group,
		FollowURLs:     c.FollowURLs,
		LiveTTL:        notify.Duration(c.LiveTTL),
		Timeout:        notify.Duration(c.Timeout),
		MaxInFlight:    c.MaxInFlight,
		Declared:       fmt.Sprintf("[[subscription]] %d", i+1),
	}
	if len(c.Headers) > 0 {
		s.Headers = make(map[string]string, len(c.Headers))
	}
	for name, value := range c.Headers {
		s.Headers[string(name)] = string(value)
	}
	return s
}

// DeclaredSubscriptions returns the subscriptions that a valid config declares.
func DeclaredSubscriptions(cfg Config) []notify.Subscription {
	var subs []notify.Subscription
	for i := range cfg.Subscription {
		s := cfg.Subscription[i].toSubscription(i)
		if s.Validate() == nil { // also fills in defaults
			subs = append(subs, s)
		}
	}
	return subs
}

// validateSubscriptions reports invalid [[subscription]] tables.
func (c *Config) validateSubscriptions(report func(path, format string, args ...any)) {
	for i := range c.Subscription {
		s := c.Subscription[i].toSubscription(i)
		for err := range s.Invalid() {
			report(indexPath("subscription", i)+"."+err.Field, "%s", err.Why)
		}
	}
}

// A headerName is the name of an HTTP header. The package notify checks it.
type headerName string

func (n *headerName) UnmarshalText(b []byte) error {
	*n = headerName(b)
	return nil
}

// A withheld value is any text that may be secret, or a reference to it: env:NAME or
// file:PATH. It is never printed.
type withheld string

func (w withheld) String() string   { return Secret(w).String() }
func (w withheld) GoString() string { return w.String() }

func (w *withheld) UnmarshalText(b []byte) error {
	v, err := Resolve(string(b))
	*w = withheld(v)
	return err
}
