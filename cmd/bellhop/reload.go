package main

import (
	"context"
	"log/slog"
	"slices"
	"strings"

	"bellhop/cmd/bellhop/config"
	"bellhop/dialog"
	"bellhop/sip"
)

// reloadConfig reads the config again, applies the settings that can change at run
// time, and logs those that need a restart. A file with problems changes nothing.
// reloadConfig returns the config that is now in use, with which the next reload
// compares.
func (s *service) reloadConfig(ctx context.Context, path string, old config.Config, level *slog.LevelVar) config.Config {
	cfg, err := config.Load(path)
	if err != nil {
		s.log.Error("config reload rejected", "err", err)
		return old
	}
	https := old.Admin.TLSCert != "" && cfg.Admin.TLSCert != ""
	if https {
		if err := s.useCertificate(cfg); err != nil {
			s.log.Error("config reload rejected", "err", err)
			return old
		}
	}
	fresh, err := s.certs.configure(old, cfg)
	if err != nil {
		s.log.Error("config reload rejected", "err", err)
		return old
	}
	s.certs.refresh()
	s.proxy.ReloadNames(config.NameServers(cfg.DNS.Servers))
	if !slices.Equal(old.SIP.PBX, cfg.SIP.PBX) {
		if err := s.proxy.SetPBXs(cfg.SIP.PBX, s.certs.pbxClient()); err != nil {
			s.log.Error("PBXs not replaced", "err", err)
		} else {
			fresh = append(fresh, "sip.pbx")
		}
	}
	s.certs.acme.Retry()
	var now, later []string
	for _, key := range config.ChangedKeys(old, cfg) {
		if isReloadable(key) || slices.Contains(fresh, key) || https && strings.HasPrefix(key, "admin.tls_") {
			now = append(now, key)
		} else {
			later = append(later, key)
		}
	}
	level.Set(slog.Level(cfg.Log.Level))
	if err := s.observer.queryTracker(ctx, func(t *dialog.Tracker) {
		t.Configure(cfg.TrackerConfig())
		s.observer.traces.Configure(cfg.Calls.Trace)
	}); err != nil {
		s.log.Error("config reload rejected", "err", err)
		return old
	}
	s.notifier.Declare(config.DeclaredSubscriptions(cfg))
	s.setKinds(cfg)
	connections, _ := capConnections(cfg.Guard.AllConnections, openFileLimit())
	s.proxy.ConfigureGuard(cfg.GuardSettings(), cfg.Guard.Connections, connections)
	s.log.Info("config reloaded", "applied", strings.Join(now, " "), "needs_restart", strings.Join(later, " "))
	// Settings that need a restart keep their old value, so that the next reload logs
	// them again.
	running := old
	running.Log.Level, running.Extensions, running.Extension = cfg.Log.Level, cfg.Extensions, cfg.Extension
	running.Subscription, running.Guard, running.DNS = cfg.Subscription, cfg.Guard, cfg.DNS
	if https {
		running.Admin.TLSCert, running.Admin.TLSKey = cfg.Admin.TLSCert, cfg.Admin.TLSKey
	}
	for _, key := range fresh {
		switch key {
		case "sip.tls_cert":
			running.SIP.TLSCert, running.SIP.TLSKey = cfg.SIP.TLSCert, cfg.SIP.TLSKey
		case "sip.pbx":
			running.SIP.PBX = cfg.SIP.PBX
		case "sip.tls_name":
			running.SIP.TLSName, running.SIP.TLSCA = cfg.SIP.TLSName, cfg.SIP.TLSCA
		case "listener":
			running.Listener = cfg.Listener
		case "trunk":
			running.Trunk = cfg.Trunk
			s.proxy.SetTrunks(s.certs.trunksOf(running))
		}
	}
	running.SIP.Advertise = cfg.SIP.Advertise
	s.proxy.Advertise(advertisedNames(running))
	addCID := running.Calls.AddCID
	running.Calls = cfg.Calls
	running.Calls.AddCID = addCID
	return running
}

// advertisedNames returns the advertised names of the listeners of a config.
func advertisedNames(cfg config.Config) (names []sip.HostPort) {
	for _, l := range cfg.Listeners() {
		names = append(names, l.Advertise)
	}
	return names
}

// setKinds sets the kinds of the configured extensions for the admin API.
func (s *service) setKinds(cfg config.Config) {
	kinds := make(map[string]dialog.Kind, len(cfg.Extension))
	for _, e := range cfg.Extension {
		kinds[e.Number] = dialog.Kind(e.Kind)
	}
	s.kinds.Store(&kinds)
}

// isReloadable reports whether SIGHUP applies a key.
func isReloadable(key string) bool {
	table, _, _ := strings.Cut(key, ".")
	switch table {
	case "extensions", "extension", "subscription", "guard", "dns":
		return true
	case "calls":
		return key != "calls.add_cid"
	}
	return key == "log.level" || key == "sip.advertise"
}
