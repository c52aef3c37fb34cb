package main

import (
	"fmt"

	"bellhop/notify"
)

// A subscriptionConfig is a [[subscription]]: the fields are those of /v1.
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
	LiveTTL        duration                `toml:"live_ttl"`
	Timeout        duration                `toml:"timeout"`
	MaxInFlight    int                     `toml:"max_in_flight"`
}

func (c *subscriptionConfig) defaults() {
	s := notify.NewSubscription()
	c.Method, c.Dialect, c.Active = s.Method, string(s.Dialect), s.Active
}

// subscription is what the ith [[subscription]] declares.
func (c *subscriptionConfig) subscription(i int) notify.Subscription {
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

// declared are the subscriptions of a config without contradictions.
func declared(cfg config) []notify.Subscription {
	var subs []notify.Subscription
	for i := range cfg.Subscription {
		s := cfg.Subscription[i].subscription(i)
		if s.Validate() == nil { // which fills in what is empty
			subs = append(subs, s)
		}
	}
	return subs
}

func (c *config) subscriptionContradictions(report func(path, format string, args ...any)) {
	for i := range c.Subscription {
		s := c.Subscription[i].subscription(i)
		for err := range s.Invalid() {
			report(index("subscription", i)+"."+err.Field, "%s", err.Why)
		}
	}
}

// A headerName is the name of an HTTP header field; notify knows which may be.
type headerName string

func (n *headerName) UnmarshalText(b []byte) error {
	*n = headerName(b)
	return nil
}

// A withheld value is text of any kind that may be secret: env:NAME and
// file:PATH say where it is. It is never printed.
type withheld string

func (w withheld) String() string   { return secret(w).String() }
func (w withheld) GoString() string { return w.String() }

func (w *withheld) UnmarshalText(b []byte) error {
	v, err := resolve(string(b))
	*w = withheld(v)
	return err
}
