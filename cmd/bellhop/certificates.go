package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"bellhop/admin/ops"
	"bellhop/cmd/bellhop/acme"
	"bellhop/cmd/bellhop/config"
	"bellhop/cmd/bellhop/store"
	"bellhop/sip"
	"bellhop/sip/certs"
)

// certificateInterval is how often the files of certificates are compared with what is in
// use, and expiryLogInterval how often a certificate that expires soon is logged.
const (
	certificateInterval = 10 * time.Second
	expiryLogInterval   = 24 * time.Hour
)

// certificates are those of the proxy: of its TLS listeners, and of its connections to PBX
// and trunks.
type certificates struct {
	shared *certs.Store         // of listeners without their own; nil: none
	own    map[int]*certs.Store // of a listener, by its index in the config
	acme   *acme.Manager        // obtains some of shared; nil: none
	log    *slog.Logger

	mu     sync.Mutex               // guards the fields below
	pbx    *certs.Client            // nil: no PBX has had a TLS address
	trunks map[string]*certs.Client // by the trunk's name; the map is replaced, not changed
}

// openACME opens what obtains certificates by ACME, with the certificates that the store
// has. It returns nil if the config has no names for it.
func openACME(ctx context.Context, cfg config.Config, js jetstream.JetStream, log *slog.Logger) (*acme.Manager, error) {
	if len(cfg.ACME.Names) == 0 {
		return nil, nil
	}
	host, http, tls := cfg.ChallengePorts()
	c := acme.Config{
		Names:     cfg.ACMENames(),
		Email:     cfg.ACME.Email,
		Directory: cfg.ACME.Directory,
		Profile:   cfg.ACME.Profile,
		Host:      host,
		NoHTTP:    !http,
		NoTLS:     !tls,
		Replicas:  cfg.Store.Replicas,
		Log:       log,
	}
	if cfg.ACME.CA != "" {
		text, err := cfg.ACME.CA.ReadPEM()
		if err != nil {
			return nil, fmt.Errorf("read acme.ca: %w", err)
		}
		c.Roots = x509.NewCertPool()
		c.Roots.AppendCertsFromPEM(text)
	}
	return acme.Open(ctx, js, c)
}

// openCertificates reads the certificates of the config, and takes those that m obtains.
func openCertificates(cfg config.Config, m *acme.Manager, log *slog.Logger) (c *certificates, err error) {
	c = &certificates{own: map[int]*certs.Store{}, acme: m, log: log}
	if pairs := c.sharedPairs(cfg); len(pairs) > 0 {
		if c.shared, err = certs.New(pairs); err != nil {
			return nil, err
		}
	}
	for i := range cfg.Listeners() {
		if pairs := cfg.OwnCertificates(i); len(pairs) > 0 {
			if c.own[i], err = certs.New(pairs); err != nil {
				return nil, err
			}
		}
	}
	if err := c.configurePBX(cfg); err != nil {
		return nil, err
	}
	return c, c.configureTrunks(cfg)
}

// configurePBX sets the TLS client of the PBX, if a PBX has a TLS address. A client that
// there is already is kept, with new settings.
func (c *certificates) configurePBX(cfg config.Config) error {
	settings, ok := cfg.PBXClient()
	if !ok {
		return nil
	}
	if running := c.pbxClient(); running != nil {
		return running.Configure(settings)
	}
	client, err := certs.NewClient(settings)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pbx = client
	return nil
}

// pbxClient returns the TLS client of the PBX, or nil.
func (c *certificates) pbxClient() *certs.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pbx
}

// sharedPairs returns the certificates of sip.tls_cert, and then those obtained by ACME.
func (c *certificates) sharedPairs(cfg config.Config) []certs.Pair {
	return append(cfg.SharedCertificates(), c.acme.Pairs()...)
}

// tlsServer returns how TLS listeners make handshakes.
func (c *certificates) tlsServer(cfg config.Config) sip.TLSServer {
	server := cfg.TLSServer()
	if c.acme != nil {
		server.Challenge = c.acme.Challenge
	}
	return server
}

// configureTrunks sets the TLS clients of the trunks. A trunk that has one already keeps
// it, with new settings.
func (c *certificates) configureTrunks(cfg config.Config) (err error) {
	old, clients := c.trunkClients(), map[string]*certs.Client{}
	for i := range cfg.Trunk {
		t := &cfg.Trunk[i]
		client, ok := t.Client()
		switch running := old[t.Name]; {
		case !ok:
			continue
		case running != nil:
			clients[t.Name], err = running, running.Configure(client)
		default:
			clients[t.Name], err = certs.NewClient(client)
		}
		if err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trunks = clients
	return nil
}

// trunkClients returns the TLS clients of the trunks by the names of the trunks.
func (c *certificates) trunkClients() map[string]*certs.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trunks
}

// listeners returns the listeners of the config with their certificates.
func (c *certificates) listeners(cfg config.Config) []sip.Listener {
	ls := cfg.Listeners()
	for i := range ls {
		if ls[i].Certificates = c.own[i]; ls[i].Certificates == nil {
			ls[i].Certificates = c.shared
		}
	}
	return ls
}

// trunksOf returns the trunks of the config with their TLS clients.
func (c *certificates) trunksOf(cfg config.Config) []sip.Trunk {
	ts, clients := cfg.Trunks(), c.trunkClients()
	for i := range ts {
		ts[i].TLS = clients[ts[i].Name]
	}
	return ts
}

// configure applies the settings of cfg that concern certificates, when the config is
// read again. old is the config in use. A setting of listeners is applied only where the
// running config has certificates too, because a restart is needed to listen with TLS.
// configure returns the keys of the settings that it has applied.
func (c *certificates) configure(old, cfg config.Config) (applied []string, err error) {
	if c.shared != nil && len(cfg.SIP.TLSCert) > 0 {
		applied = append(applied, "sip.tls_cert", "sip.tls_key")
		if err := c.shared.Configure(c.sharedPairs(cfg)); err != nil {
			return nil, err
		}
	}
	if reflect.DeepEqual(withoutPairs(old.Listener), withoutPairs(cfg.Listener)) && len(old.SIP.Listen) == len(cfg.SIP.Listen) {
		applied = append(applied, "listener")
		for i, store := range c.own {
			if err := store.Configure(cfg.OwnCertificates(i)); err != nil {
				return nil, err
			}
		}
	}
	applied = append(applied, "sip.tls_name", "sip.tls_ca")
	if err := c.configurePBX(cfg); err != nil {
		return nil, err
	}
	if haveTLSNames(old.Trunk) == haveTLSNames(cfg.Trunk) {
		applied = append(applied, "trunk")
		if err := c.configureTrunks(cfg); err != nil {
			return nil, err
		}
	}
	return applied, nil
}

// withoutPairs returns the listeners without the settings that may change while bellhop
// runs: the advertised name, and where the certificates come from. Two configurations
// that differ only in these are then equal. A listener with certificates still differs
// from one without.
func withoutPairs(ls []config.Listener) []config.Listener {
	ls = slices.Clone(ls)
	for i := range ls {
		ls[i].TLSCert, ls[i].TLSKey = make([]config.PEM, min(len(ls[i].TLSCert), 1)), nil
		ls[i].Advertise = sip.HostPort{}
	}
	return ls
}

// haveTLSNames reports whether a trunk is known by its certificate. Only then do the
// listeners ask clients for certificates. Whether they ask is decided at the start.
func haveTLSNames(ts []config.Trunk) bool {
	return slices.ContainsFunc(ts, func(t config.Trunk) bool { return len(t.TLSNames) > 0 })
}

// run looks every certificateInterval whether the contents of certificates have changed,
// until ctx ends. It logs those that expire soon, at once and then once a day. It also
// obtains certificates by ACME.
func (c *certificates) run(ctx context.Context) {
	if c.acme != nil {
		defer store.StartTask(c.acme.Run)()
	}
	ticker := time.NewTicker(certificateInterval)
	defer ticker.Stop()
	var logged time.Time
	for {
		if now := time.Now(); now.Sub(logged) >= expiryLogInterval {
			c.logExpiry(now)
			logged = now
		}
		select {
		case <-ticker.C:
			c.refresh()
		case <-ctx.Done():
			return
		}
	}
}

// refresh uses the certificates whose contents have changed. A wrong one is logged, and the
// last good one stays in use.
func (c *certificates) refresh() {
	report := func(changed []string, err error) {
		if len(changed) > 0 {
			c.log.Info("certificates reloaded", "keys", strings.Join(changed, " "))
		}
		if err != nil {
			c.log.Error("certificate not reloaded", "err", err)
		}
	}
	for _, s := range c.stores() {
		report(s.Refresh())
	}
	for name, t := range c.clients() {
		var changed []string
		ok, err := t.Refresh()
		if ok {
			changed = []string{name}
		}
		report(changed, err)
	}
}

// stores returns the certificates of listeners.
func (c *certificates) stores() (all []*certs.Store) {
	if c.shared != nil {
		all = append(all, c.shared)
	}
	for _, s := range c.own {
		all = append(all, s)
	}
	return all
}

// clients returns the TLS clients by their names in the log.
func (c *certificates) clients() map[string]*certs.Client {
	all := map[string]*certs.Client{}
	if pbx := c.pbxClient(); pbx != nil {
		all["sip.tls_ca"] = pbx
	}
	for name, t := range c.trunkClients() {
		all[fmt.Sprintf("trunk %q", name)] = t
	}
	return all
}

// infos describes the certificates in use, in the order of their names in the config.
func (c *certificates) infos() (all []certs.Info) {
	for _, s := range c.stores() {
		all = append(all, s.Infos()...)
	}
	for _, t := range c.clients() {
		all = append(all, t.Infos()...)
	}
	slices.SortFunc(all, func(a, b certs.Info) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// describe returns the certificates in use as the status shows them.
func (c *certificates) describe(now time.Time) (all []ops.Certificate) {
	for _, i := range c.infos() {
		state := ops.CertificateValid
		switch {
		case now.After(i.NotAfter):
			state = ops.CertificateExpired
		case i.ExpiresSoon(now):
			state = ops.CertificateExpiring
		}
		all = append(all, ops.Certificate{Name: i.Name, Hosts: i.Hosts, Issuer: i.Issuer, Expires: i.NotAfter.UTC(), State: state})
	}
	return all
}

// problems returns a sentence about each certificate that has expired, and about each that
// could not be obtained.
func (c *certificates) problems(now time.Time) []string {
	return append(c.expired(now), c.acme.Problems()...)
}

// expired returns a sentence about each certificate that has expired.
func (c *certificates) expired(now time.Time) (why []string) {
	for _, i := range c.infos() {
		if now.After(i.NotAfter) {
			why = append(why, fmt.Sprintf("certificate %s for %s expired at %s: renew it", i.Name, strings.Join(i.Hosts, " "), i.NotAfter.UTC().Format(time.RFC3339)))
		}
	}
	return why
}

// logExpiry logs the certificates of which at most a third of the life is left.
func (c *certificates) logExpiry(now time.Time) {
	for _, i := range c.infos() {
		if i.ExpiresSoon(now) {
			c.log.Warn("certificate expires soon", "certificate", i.Name, "hosts", strings.Join(i.Hosts, " "), "expires", i.NotAfter, "expired", now.After(i.NotAfter))
		}
	}
}

// expiryDesc describes the metric of the certificates.
var expiryDesc = prometheus.NewDesc("bellhop_tls_expiry_seconds",
	"Seconds until a certificate of SIP expires; negative if it has expired.", []string{"certificate", "host"}, nil)

// Describe implements [prometheus.Collector].
func (c *certificates) Describe(ch chan<- *prometheus.Desc) { ch <- expiryDesc }

// Collect implements [prometheus.Collector].
func (c *certificates) Collect(ch chan<- prometheus.Metric) {
	for _, i := range c.infos() {
		host := ""
		if len(i.Hosts) > 0 {
			host = i.Hosts[0]
		}
		ch <- prometheus.MustNewConstMetric(expiryDesc, prometheus.GaugeValue, time.Until(i.NotAfter).Seconds(), i.Name, host)
	}
}
