// Package config reads the settings of bellhop from a TOML file.
//
// [Load] decodes the file over the defaults and validates the result. It reports all
// problems of a file at once, each with its line, column and key, and how to solve it. A
// value may refer to a secret: env:NAME or file:PATH. Secrets are not printed, whatever
// the format.
//
// Reading a config opens the files that its values name, and reads the addresses of this
// machine. It changes nothing and uses no network.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"bellhop/dialog"
	"bellhop/notify"
	"bellhop/sip"
)

// A Config has the settings of config.toml: a struct for each table, and a field for
// each key. The file config.toml in the repository is the manual of the keys.
type Config struct {
	SIP struct {
		Listen        []sip.Addr   `toml:"listen"`
		Advertise     sip.HostPort `toml:"advertise"`
		LocalNet      []CIDR       `toml:"local_net"`
		PBX           []sip.Addr   `toml:"pbx"`
		PBXMode       sip.PBXMode  `toml:"pbx_mode"`
		FailoverAfter Duration     `toml:"failover_after"`
		PBXSources    []CIDR       `toml:"pbx_sources"`
		UDPMax        int          `toml:"udp_max"`
		Register      sip.Register `toml:"register"`

		StripIdentity bool `toml:"strip_identity"`

		TLSCert   []PEM      `toml:"tls_cert"`
		TLSKey    []PEM      `toml:"tls_key"`
		TLSMin    TLSVersion `toml:"tls_min"`
		TLSLegacy bool       `toml:"tls_legacy"`
		TLSName   string     `toml:"tls_name"` // of the PBX
		TLSCA     PEM        `toml:"tls_ca"`   // of the PBX
	} `toml:"sip"`
	Listener []Listener `toml:"listener"`

	ACME struct {
		Names     []string `toml:"names"`
		Email     string   `toml:"email"`
		Directory string   `toml:"directory"`
		CA        PEM      `toml:"ca"` // of the directory
		Profile   string   `toml:"profile"`
	} `toml:"acme"`

	Extensions struct {
		Pattern *regexp.Regexp `toml:"pattern"`
		Learn   bool           `toml:"learn"`
	} `toml:"extensions"`
	Extension []Extension `toml:"extension"`
	Trunk     []Trunk     `toml:"trunk"`

	DNS struct {
		Servers []NameServer `toml:"servers"`
	} `toml:"dns"`

	NAT struct {
		KeepAlive Duration `toml:"keepalive"`
	} `toml:"nat"`

	Guard struct {
		UserAgents     []string `toml:"user_agents"`
		Allow          []CIDR   `toml:"allow"`
		Rate           Rate     `toml:"rate"`
		PerBinding     int      `toml:"per_binding"`
		BanAfter       int      `toml:"ban_after"`
		BanTime        Duration `toml:"ban_time"`
		Connections    int      `toml:"connections"`
		AllConnections int      `toml:"all_connections"`
	} `toml:"guard"`

	Calls struct {
		AddCID      bool                      `toml:"add_cid"`
		Correlate   []CorrelateMethod         `toml:"correlate"`
		MaxDuration Duration                  `toml:"max_duration"`
		Headers     []string                  `toml:"headers"`
		Region      Region                    `toml:"region"`
		Privacy     Privacy                   `toml:"privacy"`
		RecID       string                    `toml:"rec_id"`
		CallbackID  string                    `toml:"callback_id"`
		Tag         string                    `toml:"tag"`
		CallAPIID   string                    `toml:"callapi_id"`
		Trace       int                       `toml:"trace"`
		Status      map[StatusCode]StatusWord `toml:"status"`
	} `toml:"calls"`

	Notify struct {
		Allow            []CIDR   `toml:"allow"`
		Deny             []CIDR   `toml:"deny"`
		KeepEvents       Duration `toml:"keep_events"`
		MaxSubscriptions int      `toml:"max_subscriptions"`
	} `toml:"notify"`
	Subscription []notify.Subscription `toml:"subscription"`

	Store struct {
		Dir      string       `toml:"dir"`
		NATS     []NATSURL    `toml:"nats"`
		Replicas int          `toml:"replicas"`
		Sync     SyncInterval `toml:"sync"`
	} `toml:"store"`

	Admin struct {
		Listen   Socket `toml:"listen"`
		TLSCert  PEM    `toml:"tls_cert"`
		TLSKey   PEM    `toml:"tls_key"`
		Insecure bool   `toml:"insecure"`
		Token    Secret `toml:"token"`

		TrustedProxies []CIDR `toml:"trusted_proxies"`
	} `toml:"admin"`

	Log struct {
		Level  LogLevel  `toml:"level"`
		Format LogFormat `toml:"format"`
	} `toml:"log"`
}

// A Listener is a [[listener]] table. It stands for a line in sip.listen.
type Listener struct {
	Listen    sip.Addr         `toml:"listen"`
	Advertise sip.HostPort     `toml:"advertise"` // "" is that of [sip]
	Side      sip.ListenerSide `toml:"side"`      // "" is both
	Origins   []Origin         `toml:"origins"`   // none allows every page
	ProxyFrom []CIDR           `toml:"proxy_from"`
	TLSCert   []PEM            `toml:"tls_cert"` // none are those of [sip]
	TLSKey    []PEM            `toml:"tls_key"`
}

// An Extension is an [[extension]] table.
type Extension struct {
	Number string        `toml:"number"`
	Kind   ExtensionKind `toml:"kind"` // "" is a phone
	DID    []string      `toml:"did"`
}

// Default returns the config of an empty file.
func Default() Config {
	var c Config
	c.SIP.Listen = []sip.Addr{{Proto: sip.UDP, AddrPort: netip.MustParseAddrPort("127.0.0.1:5060")}}
	c.SIP.LocalNet = privateNetworks()
	c.SIP.PBX = []sip.Addr{{Proto: sip.UDP, AddrPort: netip.MustParseAddrPort("127.0.0.1:5070")}}
	c.SIP.PBXMode = sip.FirstPBX
	c.SIP.FailoverAfter = Duration(2 * time.Second)
	c.SIP.Register = sip.RegisterPath
	c.SIP.StripIdentity = true
	c.SIP.TLSMin = "1.2"
	c.ACME.Directory = letsEncrypt
	c.Extensions.Pattern = regexp.MustCompile(`^[0-9]{2,5}$`)
	c.Extensions.Learn = true
	c.NAT.KeepAlive = Duration(25 * time.Second)
	c.Guard.UserAgents = []string{"friendly-scanner", "sipvicious", "sipcli", "VaxSIPUserAgent", "pplsip"}
	c.Guard.Rate = Rate{Count: 30, Per: 10 * time.Second}
	c.Guard.PerBinding = 10
	c.Guard.BanAfter = 10
	c.Guard.BanTime = Duration(5 * time.Minute)
	c.Guard.Connections = 256
	c.Guard.AllConnections = 20000
	c.Calls.AddCID = true
	c.Calls.Correlate = []CorrelateMethod{"header:X-CID", "session-id", "replaces", "icid", "call-id", "numbers"}
	c.Calls.MaxDuration = Duration(4 * time.Hour)
	c.Calls.Trace = 1000
	c.Calls.Privacy = RespectPrivacy
	c.Calls.Status = map[StatusCode]StatusWord{603: StatusWord(dialog.Busy)}
	c.Notify.KeepEvents = Duration(720 * time.Hour)
	c.Notify.MaxSubscriptions = 100
	c.Store.Dir = "data"
	c.Store.Replicas = 1
	c.Store.Sync = SyncInterval(100 * time.Millisecond)
	c.Admin.Listen = Socket{netip.MustParseAddrPort("127.0.0.1:8080")}
	c.Log.Level = LogLevel(slog.LevelInfo)
	c.Log.Format = "text"
	return c
}

// privateNetworks returns the networks of RFC 1918 and the unique local addresses of RFC
// 4193. A packet from such an address has passed no NAT to the Internet.
func privateNetworks() (cs []CIDR) {
	for _, n := range []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"} {
		cs = append(cs, CIDR{netip.MustParsePrefix(n)})
	}
	return cs
}

// Load reads the file at path over the defaults. If the content is wrong, the error is
// a [Problems] with all problems of the file.
func Load(path string) (Config, error) {
	b, err := readFile(path)
	if err != nil {
		return Config{}, err
	}
	return Parse(path, string(b))
}

// Check reads the file at path like [Load]. It also returns warnings: problems that do
// not prevent a start.
func Check(path string) (c Config, warnings Problems, err error) {
	b, err := readFile(path)
	if err != nil {
		return c, nil, err
	}
	c, r, err := parse(path, string(b))
	if err != nil {
		return c, nil, err
	}
	c.warnListeners(r.addProblem)
	c.warnTLS(r.addProblem, time.Now())
	c.warnUDPMax(r.addProblem)
	c.warnNames(r.addProblem)
	r.problems.Sort()
	return c, r.problems, nil
}

// LoadKeys reads the values of keys, such as "admin.listen", from the file at path over
// the defaults, and resolves their references. It is for a client, which uses only some
// keys. It ignores the rest of the file and does not validate the result.
func LoadKeys(path string, keys ...string) (Config, error) {
	c := Default()
	b, err := readFile(path)
	if err != nil {
		return c, err
	}
	doc, r, err := decodeTOML(path, string(b))
	if err != nil {
		return c, err
	}
	maps.DeleteFunc(doc, func(name string, v any) bool {
		table, ok := v.(map[string]any)
		if !ok {
			return !slices.ContainsFunc(keys, func(key string) bool { return strings.HasPrefix(key, name+".") })
		}
		maps.DeleteFunc(table, func(key string, _ any) bool { return !slices.Contains(keys, joinPath(name, key)) })
		return len(table) == 0
	})
	r.decodeTable("", doc, reflect.ValueOf(&c).Elem())
	if len(r.problems) > 0 {
		r.problems.Sort()
		return c, r.problems
	}
	return c, nil
}

// readFile reads a config file.
func readFile(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("config file %s does not exist: start from the config.toml that comes with bellhop (an empty file is valid: every key has a default), or set --config FILE", path)
	}
	return b, err
}

// Parse reads text over the defaults. file is the name of the file that problems show.
func Parse(file, text string) (Config, error) {
	c, _, err := parse(file, text)
	return c, err
}

// parse does the work of Parse. It also returns the decoder, which knows the positions of
// the keys.
func parse(file, text string) (c Config, r decoder, err error) {
	c = Default()
	doc, r, err := decodeTOML(file, text)
	if err != nil {
		return c, r, err
	}
	if _, ok := doc["listener"]; ok {
		c.SIP.Listen = nil // the default is for a file without a listener
	}
	r.decodeTable("", doc, reflect.ValueOf(&c).Elem())
	c.validateAll(r.addProblem)
	if len(r.problems) > 0 {
		r.problems.Sort()
		return c, r, r.problems
	}
	return c, r, nil
}

// decodeTOML parses a document. It returns the document and a decoder that knows the
// positions of its keys and values.
func decodeTOML(file, text string) (doc map[string]any, r decoder, err error) {
	if _, err := toml.Decode(text, &doc); err != nil {
		p := Problem{File: file, Line: 1, Column: 1, Text: err.Error()}
		var pe toml.ParseError
		if errors.As(err, &pe) {
			p.Line, p.Column, p.Text = pe.Position.Line, max(pe.Position.Col, 1), pe.Message
		}
		return nil, r, Problems{p}
	}
	return doc, decoder{file: file, where: locateKeys(text)}, nil
}

// ChangedKeys returns the keys whose values differ between a and b, like "sip.listen".
func ChangedKeys(a, b Config) []string {
	var keys []string
	var walk func(path string, a, b reflect.Value)
	walk = func(path string, a, b reflect.Value) {
		for i := range a.NumField() {
			path := joinPath(path, a.Type().Field(i).Tag.Get("toml"))
			a, b := a.Field(i), b.Field(i)
			if isTable(a.Type()) {
				walk(path, a, b)
			} else if !reflect.DeepEqual(a.Interface(), b.Interface()) {
				keys = append(keys, path)
			}
		}
	}
	walk("", reflect.ValueOf(a), reflect.ValueOf(b))
	return keys
}
