package config

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"bellhop/sip"
)

// letsEncrypt is the directory of Let's Encrypt.
const letsEncrypt = "https://acme-v02.api.letsencrypt.org/directory"

// ACMENames returns the names and addresses of which bellhop obtains certificates, in lower
// case.
func (c *Config) ACMENames() (names []string) {
	for _, name := range c.ACME.Names {
		names = append(names, strings.ToLower(name))
	}
	return names
}

// ChallengePorts returns on which address an authority reaches bellhop, "" for all, and
// whether port 80 is left for HTTP-01 and port 443 for TLS-ALPN-01. A TLS listener on port
// 443 answers TLS-ALPN-01 itself.
func (c *Config) ChallengePorts() (host string, http, tls bool) {
	http, tls = c.Admin.Listen.Port() != 80, c.Admin.Listen.Port() != 443
	for _, l := range c.Listeners() {
		switch port := l.Port(); {
		case l.Proto == sip.UDP:
		case port == 80:
			http = false
		case port == 443 && !isSecure(l.Addr):
			tls = false
		case port == 443 && !l.Addr.Addr().IsUnspecified():
			host = l.Addr.Addr().String()
		}
	}
	return host, http, tls
}

// validateACME reports names of which no certificate can be obtained, and wrong settings of
// the authority.
func (c *Config) validateACME(report func(path, format string, args ...any)) {
	names := c.ACMENames()
	for i, name := range names {
		path := indexPath("acme.names", i)
		switch {
		case strings.HasPrefix(name, "*."):
			report(path, "%q needs DNS-01, which bellhop does not support: list each name", name)
		case !isHost(name):
			report(path, "%q is not a host name or an address: use the name that phones connect to, like sip.example.com", name)
		case slices.Contains(names[:i], name):
			report(path, "%q is listed twice: remove one", name)
		}
	}
	if u, err := url.Parse(c.ACME.Directory); err != nil || u.Scheme != "https" || u.Host == "" {
		report("acme.directory", "%q is not the https:// URL of a directory: use that of your authority, like %s", c.ACME.Directory, letsEncrypt)
	}
	if local, domain, ok := strings.Cut(c.ACME.Email, "@"); c.ACME.Email != "" && (!ok || local == "" || !isHost(domain) || strings.ContainsAny(local, " ,:<>")) {
		report("acme.email", "%q is not an address: use a form like admin@example.com, or leave it out", c.ACME.Email)
	}
	validateCA(report, "acme.ca", c.ACME.CA)
	if len(names) == 0 {
		return
	}
	usesShared := func(i int) bool { return len(c.OwnCertificates(i)) == 0 }
	secure := false
	for i, l := range c.Listeners() {
		secure = secure || isSecure(l.Addr) && usesShared(i)
	}
	if !secure {
		report("acme.names", "no listener uses these certificates: add a tls:// or wss:// address to sip.listen")
	}
	if _, http, tls := c.ChallengePorts(); !http && !tls {
		report("acme.names", "other listeners have the ports 80 and 443, so the authority cannot verify a name: use another port for one of them")
	}
}

// isHost reports whether text is a host name or an address.
func isHost(text string) bool {
	if _, err := netip.ParseAddr(text); err == nil {
		return !strings.Contains(text, "%")
	}
	for label := range strings.SplitSeq(text, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "-") != label || strings.Trim(strings.ToLower(label), "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return len(text) <= 253
}
