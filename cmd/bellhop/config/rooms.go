package config

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/nyaruka/phonenumbers"

	"bellhop/dialog"
)

// TrackerConfig returns the tracker's part of the config.
func (c *Config) TrackerConfig() dialog.Config {
	d := dialog.Config{
		Pattern:     c.Extensions.Pattern,
		Learn:       c.Extensions.Learn,
		Correlate:   []string{},
		E164:        e164Formatter(c.Calls.Region),
		MaxDuration: time.Duration(c.Calls.MaxDuration),
		Status:      map[int]dialog.Status{},
		CallAPIID:   c.Calls.CallAPIID,
		CallBackID:  c.Calls.CallbackID,
		RecID:       c.Calls.RecID,
		Tag:         c.Calls.Tag,
		Headers:     c.Calls.Headers,

		IgnorePrivacy: c.Calls.Privacy == IgnorePrivacy,
	}
	for _, m := range c.Calls.Correlate {
		d.Correlate = append(d.Correlate, string(m))
	}
	for code, word := range c.Calls.Status {
		d.Status[int(code)] = dialog.Status(word)
	}
	for _, e := range c.Extension {
		d.Extensions = append(d.Extensions, dialog.Declared{Number: e.Number, Kind: dialog.Kind(e.Kind), DID: e.DID})
	}
	return d
}

// e164Formatter returns a function that returns the E.164 form of a number as dialed in
// region r, or "" if it is not a valid number. The function is nil if r is empty.
func e164Formatter(r Region) func(string) string {
	if r == "" {
		return nil
	}
	return func(number string) string {
		if strings.Trim(number, "+0123456789-.() ") != "" {
			return "" // a name or a feature code like *97
		}
		n, err := phonenumbers.Parse(number, string(r))
		if err != nil || !phonenumbers.IsValidNumber(n) {
			return ""
		}
		return phonenumbers.Format(n, phonenumbers.E164)
	}
}

// AdminURL returns the URL at which programs on this machine reach the admin API.
func (c *Config) AdminURL() string {
	scheme, at := "http://", c.Admin.Listen.AddrPort
	if c.Admin.TLSCert != "" {
		scheme = "https://"
	}
	switch at.Addr() {
	case netip.IPv4Unspecified():
		at = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), at.Port())
	case netip.IPv6Unspecified():
		at = netip.AddrPortFrom(netip.IPv6Loopback(), at.Port())
	}
	return scheme + at.String()
}

// LoadCertificate reads the certificate of the admin API and its key.
func (c *Config) LoadCertificate() (tls.Certificate, error) {
	cert, err := c.Admin.TLSCert.ReadPEM()
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := c.Admin.TLSKey.ReadPEM()
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

// Summary returns a line with the addresses of the PBX, the listeners and the admin
// API, and the place of the store.
func (c *Config) Summary() string {
	scheme := "http"
	if c.Admin.TLSCert != "" {
		scheme = "https"
	}
	store := "the store is in " + c.Store.Dir
	if len(c.Store.NATS) > 0 {
		store = "the store is at " + Join(c.Store.NATS)
	}
	return fmt.Sprintf("phones reach the PBX %s through %s; the admin API is at %s://%v; %s",
		Join(c.SIP.PBX), Join(c.Listeners()), scheme, c.Admin.Listen, store)
}

// Join joins the strings of vs with commas.
func Join[T fmt.Stringer](vs []T) string {
	words := make([]string, len(vs))
	for i, v := range vs {
		words[i] = v.String()
	}
	return strings.Join(words, ", ")
}
