package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"bellhop/dialog"
	"bellhop/sip"
)

// validateAll reports each value that is invalid by itself or in combination with
// others.
func (c *Config) validateAll(report func(path, format string, args ...any)) {
	c.validateListeners(report)
	c.validatePBX(report)
	c.validateFailover(report)
	c.validateTrunks(report)
	c.validateTLS(report)
	c.validateACME(report)
	c.validateNAT(report)
	c.validateCalls(report)
	c.validateGuard(report)
	c.validateAdmin(report)
	c.validateSubscriptions(report)

	if c.Notify.KeepEvents < Duration(time.Second) {
		report("notify.keep_events", "%v is too short: use at least 1s", c.Notify.KeepEvents)
	}
	if c.Notify.MaxSubscriptions < 1 {
		report("notify.max_subscriptions", "%d allows no subscription: use 1 or more", c.Notify.MaxSubscriptions)
	}

	if c.Store.Dir == "" {
		report("store.dir", "must not be empty: bellhop keeps its store, key and token there")
	}
	switch n := c.Store.Replicas; {
	case n < 1 || n > 5:
		report("store.replicas", "%d is not a number of copies: use 1 to 5", n)
	case n > 1 && len(c.Store.NATS) == 0:
		report("store.replicas", "%d copies need a cluster: set its servers in store.nats, or use 1", n)
	}
	if len(c.Store.NATS) > 0 && c.Store.Sync != Default().Store.Sync {
		report("store.sync", "%q has no effect with store.nats: leave it out and set sync_interval on the NATS servers", c.Store.Sync)
	}
}

// validatePBX reports PBX addresses that are invalid, and those that no listener can reach.
func (c *Config) validatePBX(report func(path, format string, args ...any)) {
	if len(c.SIP.PBX) == 0 {
		report("sip.pbx", `no PBX to forward to: set its address, like ["udp://192.0.2.1:5060"]`)
	}
	listeners := c.Listeners()
	for i, a := range c.SIP.PBX {
		path := indexPath("sip.pbx", i)
		if isNoTarget(a) {
			report(path, "%v is not an address to send to: use the PBX's own address and port", a)
		}
		if a.Proto == sip.WS || a.Proto == sip.WSS {
			report(path, "%v: bellhop opens no WebSocket to a PBX: use udp://, tcp:// or tls://", a)
			continue
		}
		for _, l := range listeners {
			if l.Receives(a) {
				report(path, "%v is bellhop's own listener %v: calls would loop: use the PBX's address, or change sip.listen", a, l.Addr)
			}
		}
		if slices.Contains(c.SIP.PBX[:i], a) {
			report(path, "%v is listed twice", a)
		}
		if len(listeners) > 0 && !slices.ContainsFunc(listeners, func(l sip.Listener) bool { return !l.IsValid() || l.ReachesPBX(a) }) {
			report(path, "no listener reaches %v: add to sip.listen %s", a, describeListener(a))
		}
	}
}

// isNoTarget reports whether no request can be sent to an address.
func isNoTarget(a sip.Addr) bool {
	return a.Host == "" && (a.Port() == 0 || a.Addr().IsUnspecified() || a.Addr().IsMulticast())
}

// describeListener describes the listener that would reach the PBX.
func describeListener(pbx sip.Addr) string {
	if pbx.Host != "" {
		return fmt.Sprintf("a %s:// listener", pbx.Proto)
	}
	family, all := "IPv4", "0.0.0.0"
	if !pbx.Addr().Is4() {
		family, all = "IPv6", "[::]"
	}
	if pbx.Addr().IsLoopback() {
		return fmt.Sprintf("a %s:// listener on an %s loopback address or on %s", pbx.Proto, family, all)
	}
	return fmt.Sprintf("a %s:// listener on an %s address other than loopback or on %s", pbx.Proto, family, all)
}

// fieldName matches the name of a SIP header (RFC 3261 §25.1).
var fieldName = regexp.MustCompile("^[A-Za-z0-9.!%*_+`'~-]+$")

// validateCalls reports invalid extensions and settings of calls.
func (c *Config) validateCalls(report func(path, format string, args ...any)) {
	if c.Extensions.Pattern.String() == "" {
		report("extensions.pattern", "must not be empty: use '.*' for everybody, or '^$' for nobody")
	}
	for i, e := range c.Extension {
		path := indexPath("extension", i) + ".number"
		if e.Number == "" {
			report(path, `an extension needs a number: set number = "600"`)
		}
		if strings.ContainsFunc(e.Number, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			report(path, "%q contains a space: use the user part of the SIP address, like 600 or 0003*210", e.Number)
		}
		for _, other := range c.Extension[:i] {
			if other.Number == e.Number {
				report(path, "extension %q is declared twice", e.Number)
			}
		}
	}
	c.validateDIDs(report)
	if c.Calls.MaxDuration <= 0 {
		report("calls.max_duration", "%v ends every call at once: set how long a call can last, like 4h", c.Calls.MaxDuration)
	}
	if c.Calls.Trace < 0 {
		report("calls.trace", "%d is not a number of calls: use 0 to keep none", c.Calls.Trace)
	}
	for i, m := range c.Calls.Correlate {
		same := func(other CorrelateMethod) bool { return strings.EqualFold(string(m), string(other)) }
		if m != "" && slices.ContainsFunc(c.Calls.Correlate[:i], same) {
			report(indexPath("calls.correlate", i), "%q is listed twice: remove one", m)
		}
	}
	for i, name := range c.Calls.Headers {
		switch {
		case !fieldName.MatchString(name):
			report(indexPath("calls.headers", i), "%q is not the name of a header field", name)
		case dialog.CarriesCredentials(name):
			report(indexPath("calls.headers", i), "%q holds credentials of phones, which bellhop never sends on: remove it", name)
		}
	}
	for path, name := range map[string]string{
		"calls.rec_id":      c.Calls.RecID,
		"calls.callback_id": c.Calls.CallbackID,
		"calls.tag":         c.Calls.Tag,
		"calls.callapi_id":  c.Calls.CallAPIID,
	} {
		switch {
		case name != "" && !fieldName.MatchString(name):
			report(path, "%q is not the name of a header field: use a form like \"X-Recording-Id\"", name)
		case dialog.CarriesCredentials(name):
			report(path, "%q holds credentials of phones, which bellhop never sends on: use another header field", name)
		}
	}
}

// validateDIDs reports public numbers that are invalid or listed twice.
func (c *Config) validateDIDs(report func(path, format string, args ...any)) {
	leads := map[string]string{} // extension by public number
	for i, e := range c.Extension {
		for j, did := range e.DID {
			path := indexPath(indexPath("extension", i)+".did", j)
			switch other, taken := leads[did]; {
			case did == "" || strings.ContainsFunc(did, func(r rune) bool { return r <= ' ' || r == 0x7f }):
				report(path, "%q is not a number: use the form of the carrier's Request-URI, like 5551234", did)
			case taken && other == e.Number:
				report(path, "%q is listed twice", did)
			case taken:
				report(path, "%q leads to extension %q: use a number for one extension only", did, other)
			}
			leads[did] = e.Number
		}
	}
}

// validateAdmin reports an invalid certificate, a listener that outsiders would reach
// without encryption, and a port that conflicts with sip.listen.
func (c *Config) validateAdmin(report func(path, format string, args ...any)) {
	a := c.Admin
	switch {
	case a.TLSCert != "" && a.TLSKey == "":
		report("admin.tls_cert", "certificate without a key: set admin.tls_key too")
	case a.TLSCert == "" && a.TLSKey != "":
		report("admin.tls_key", "key without a certificate: set admin.tls_cert too")
	case a.TLSCert != "":
		if _, err := c.LoadCertificate(); err != nil {
			report("admin.tls_cert", "%v", err)
		}
	}
	if a.TLSCert == "" && !a.Insecure && !a.Listen.Addr().Unmap().IsLoopback() {
		report("admin.listen", "%v is reachable from outside and would receive tokens unencrypted: set admin.tls_cert and admin.tls_key, listen on 127.0.0.1, or set insecure = true", a.Listen)
	}
	for _, b := range c.Listeners() {
		if adminConflicts(a.Listen, b.Addr) {
			report("admin.listen", "%v conflicts with %v of sip.listen: choose another port", a.Listen, b.Addr)
		}
	}
}
