package config

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"bellhop/sip"
	"bellhop/sip/certs"
)

// A TLSVersion is a version of TLS, such as 1.2.
type TLSVersion string

// tlsVersions are the numbers of the versions in the protocol.
var tlsVersions = map[TLSVersion]uint16{"1.0": 0x0301, "1.1": 0x0302, "1.2": 0x0303, "1.3": 0x0304}

func (v *TLSVersion) UnmarshalText(b []byte) error {
	if tlsVersions[TLSVersion(b)] == 0 {
		return fmt.Errorf(`%q is not a version of TLS: use "1.2" or "1.3", or for old phones "1.0" or "1.1"`, b)
	}
	*v = TLSVersion(b)
	return nil
}

// TLSServer returns how TLS listeners treat old clients.
func (c *Config) TLSServer() sip.TLSServer {
	return sip.TLSServer{MinVersion: tlsVersions[c.SIP.TLSMin], Legacy: c.SIP.TLSLegacy}
}

// newPairs returns the pairs of the arrays tls_cert and tls_key at path.
func newPairs(path string, certificates, keys []PEM) (pairs []certs.Pair) {
	for i := range min(len(certificates), len(keys)) {
		pairs = append(pairs, certs.Pair{Name: indexPath(path+".tls_cert", i), Cert: certificates[i].ReadPEM, Key: keys[i].ReadPEM})
	}
	return pairs
}

// SharedCertificates returns the pairs of sip.tls_cert.
func (c *Config) SharedCertificates() []certs.Pair {
	return newPairs("sip", c.SIP.TLSCert, c.SIP.TLSKey)
}

// OwnCertificates returns the pairs of the listener at an index of [Config.Listeners], or
// none if it has those of sip.tls_cert.
func (c *Config) OwnCertificates(index int) []certs.Pair {
	i := index - len(c.SIP.Listen)
	if i < 0 {
		return nil
	}
	return newPairs(indexPath("listener", i), c.Listener[i].TLSCert, c.Listener[i].TLSKey)
}

// PBXClient returns how TLS is used towards the PBX. ok reports whether a PBX has a TLS
// address.
func (c *Config) PBXClient() (client certs.ClientConfig, ok bool) {
	client = certs.ClientConfig{Name: "sip.tls_ca", ServerName: c.SIP.TLSName}
	if c.SIP.TLSCA != "" {
		client.CA = c.SIP.TLSCA.ReadPEM
	}
	return client, slices.ContainsFunc(c.SIP.PBX, isTLS)
}

// Client returns the settings of TLS towards a trunk. ok is false if the trunk does not
// use TLS.
func (t *Trunk) Client() (client certs.ClientConfig, ok bool) {
	client = certs.ClientConfig{Name: fmt.Sprintf("the TLS settings of trunk %q", t.Name), ServerName: t.TLSName}
	if t.TLSCA != "" {
		client.CA = t.TLSCA.ReadPEM
	}
	if t.TLSCert != "" && t.TLSKey != "" {
		client.Cert = &certs.Pair{Name: fmt.Sprintf("tls_cert of trunk %q", t.Name), Cert: t.TLSCert.ReadPEM, Key: t.TLSKey.ReadPEM}
	}
	return client, len(t.TLSNames) > 0 || t.TLSName != "" || t.TLSCA != "" || slices.ContainsFunc(t.To, isTLS)
}

func isTLS(a sip.Addr) bool { return a.Proto == sip.TLS }

// isSecure reports whether a listener needs a certificate.
func isSecure(a sip.Addr) bool { return a.Proto == sip.TLS || a.Proto == sip.WSS }

// validateTLS reports certificates and keys that are invalid or missing, and TLS addresses
// whose peer cannot be verified.
func (c *Config) validateTLS(report func(path, format string, args ...any)) {
	validatePairs(report, "sip", c.SIP.TLSCert, c.SIP.TLSKey)
	for i, l := range c.Listener {
		path := indexPath("listener", i)
		validatePairs(report, path, l.TLSCert, l.TLSKey)
		if l.Listen.IsValid() && len(l.TLSCert) > 0 && !isSecure(l.Listen) {
			report(path+".tls_cert", "%v does not use TLS: remove tls_cert and tls_key, or listen on tls://%v", l.Listen, l.Listen.AddrPort)
		}
	}
	for i, l := range c.placedListeners() {
		if isSecure(l.Addr) && len(c.SIP.TLSCert) == 0 && len(c.ACME.Names) == 0 && (i < len(c.SIP.Listen) || len(c.Listener[i-len(c.SIP.Listen)].TLSCert) == 0) {
			report(l.path, `%v needs a certificate: set sip.tls_cert = ["file:PATH"] and sip.tls_key = ["file:PATH"], or acme.names`, l.Addr)
		}
	}
	if c.SIP.TLSMin == "1.3" && c.SIP.TLSLegacy {
		report("sip.tls_legacy", `has no effect with tls_min = "1.3": remove it, or set tls_min = "1.2"`)
	}
	validateCA(report, "sip.tls_ca", c.SIP.TLSCA)
	validateName(report, "sip.tls_name", c.SIP.TLSName)
	for i, a := range c.SIP.PBX {
		if isTLS(a) && a.Host == "" && c.SIP.TLSName == "" && c.SIP.TLSCA == "" {
			report(indexPath("sip.pbx", i), "no certificate proves the address %v: set sip.tls_name to the name in the PBX's certificate, or sip.tls_ca to the certificate of the authority that issued it", a)
		}
	}
	for i := range c.Trunk {
		c.validateTrunkTLS(report, indexPath("trunk", i), &c.Trunk[i])
	}
}

// validateTrunkTLS reports TLS settings of the trunk at path that are invalid or missing.
func (c *Config) validateTrunkTLS(report func(path, format string, args ...any), path string, t *Trunk) {
	validateCA(report, path+".tls_ca", t.TLSCA)
	validateName(report, path+".tls_name", t.TLSName)
	for i, name := range t.TLSNames {
		if name == "" {
			report(indexPath(path+".tls_names", i), "must not be empty: use a name in the carrier's certificate")
		}
		validateName(report, indexPath(path+".tls_names", i), name)
	}
	if len(t.TLSNames) > 0 && !slices.ContainsFunc(c.Listeners(), func(l sip.Listener) bool { return l.Proto == sip.TLS }) {
		report(path+".tls_names", "no listener sees certificates: add a tls:// address to sip.listen")
	}
	switch {
	case t.TLSCert != "" && t.TLSKey == "":
		report(path+".tls_cert", "certificate without a key: set tls_key too")
	case t.TLSCert == "" && t.TLSKey != "":
		report(path+".tls_key", "key without a certificate: set tls_cert too")
	case t.TLSCert != "":
		if _, err := (certs.Pair{Cert: t.TLSCert.ReadPEM, Key: t.TLSKey.ReadPEM}).Load(); err != nil {
			report(path+".tls_cert", "%v", err)
		}
	}
	for i, a := range t.To {
		if isTLS(a) && a.Host == "" && t.TLSName == "" && t.TLSCA == "" {
			report(indexPath(path+".to", i), "no certificate proves the address %v: set tls_name to the name in the carrier's certificate, or tls_ca to the certificate of the authority that issued it", a)
		}
	}
}

// validatePairs reports the certificates of the arrays tls_cert and tls_key at path that
// are unreadable or have no key that fits.
func validatePairs(report func(path, format string, args ...any), path string, certificates, keys []PEM) {
	switch c, k := len(certificates), len(keys); {
	case c > k:
		report(indexPath(path+".tls_cert", k), "certificate without a key: tls_key needs one for each certificate, in the same order")
	case k > c:
		report(indexPath(path+".tls_key", c), "key without a certificate: tls_cert needs one for each key, in the same order")
	}
	for i, p := range newPairs(path, certificates, keys) {
		if _, err := p.Load(); err != nil {
			report(indexPath(path+".tls_cert", i), "%v", explainPair(err))
		}
	}
}

// explainPair adds a remedy to an error about a certificate and its key.
func explainPair(err error) string {
	switch text := err.Error(); {
	case strings.Contains(text, "does not match"):
		return text + ": tls_key needs the key of each certificate, in the same order"
	case strings.Contains(text, "PEM"):
		return text + `: use "file:PATH" of a file in PEM form`
	default:
		return text
	}
}

// validateCA reports an authority that is unreadable or no certificate.
func validateCA(report func(path, format string, args ...any), path string, ca PEM) {
	if ca == "" {
		return
	}
	text, err := ca.ReadPEM()
	if err == nil && !bytes.Contains(text, []byte("-----BEGIN CERTIFICATE-----")) {
		report(path, `no certificate in PEM form: use "file:PATH" of the authority's certificate`)
	} else if err == nil {
		_, err = certs.NewClient(certs.ClientConfig{CA: func() ([]byte, error) { return text, nil }})
	}
	if err != nil {
		report(path, "%v", err)
	}
}

// validateName reports a name that no certificate has.
func validateName(report func(path, format string, args ...any), path, name string) {
	if name != "" && strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789-.:") != "" {
		report(path, "%q is not a host name or an address: use a name in the certificate, like sip.example.com", name)
	}
}

// warnTLS reports certificates that have expired or do so soon, and advertised names that
// are in no certificate.
func (c *Config) warnTLS(report func(path, format string, args ...any), now time.Time) {
	warnPair := func(path string, p certs.Pair) {
		cert, err := p.Load()
		if err != nil {
			return // reported
		}
		switch i := certs.Describe(p.Name, cert); {
		case now.After(i.NotAfter):
			report(path, "the certificate has expired on %s: renew it", i.NotAfter.Format(time.DateOnly))
		case i.ExpiresSoon(now):
			report(path, "the certificate expires on %s: renew it", i.NotAfter.Format(time.DateOnly))
		}
	}
	for i, p := range c.SharedCertificates() {
		warnPair(indexPath("sip.tls_cert", i), p)
	}
	for i := range c.Listener {
		for j, p := range c.OwnCertificates(len(c.SIP.Listen) + i) {
			warnPair(indexPath(indexPath("listener", i)+".tls_cert", j), p)
		}
	}
	for i := range c.Trunk {
		if client, _ := c.Trunk[i].Client(); client.Cert != nil {
			warnPair(indexPath("trunk", i)+".tls_cert", *client.Cert)
		}
	}
	for i, l := range c.placedListeners() {
		pairs := c.OwnCertificates(i)
		if len(pairs) == 0 {
			if slices.Contains(c.ACMENames(), l.Advertise.Host) {
				continue
			}
			pairs = c.SharedCertificates()
		}
		if isSecure(l.Addr) && l.Advertise.Host != "" && !slices.ContainsFunc(pairs, func(p certs.Pair) bool {
			cert, err := p.Load()
			return err != nil || cert.Leaf.VerifyHostname(l.Advertise.Host) == nil
		}) {
			report(l.path, "no certificate of %v is for %s, the advertised name: phones that verify it will not connect", l.Addr, l.Advertise.Host)
		}
	}
}
