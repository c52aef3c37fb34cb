package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/nyaruka/phonenumbers"

	"bellhop/dialog"
	"bellhop/sip"
)

// A config has the settings of config.toml: a struct for each table, a field for each
// key. The file in the repository is the manual of the keys.
type config struct {
	SIP struct {
		Listen     []sip.Addr   `toml:"listen"`
		Advertise  sip.HostPort `toml:"advertise"`
		PBX        []sip.Addr   `toml:"pbx"`
		PBXSources []cidr       `toml:"pbx_sources"`
		Register   sip.Register `toml:"register"`

		StripIdentity bool `toml:"strip_identity"`
	} `toml:"sip"`

	Extensions struct {
		Pattern *regexp.Regexp `toml:"pattern"`
		Learn   bool           `toml:"learn"`
	} `toml:"extensions"`
	Extension []extensionConfig `toml:"extension"`
	Trunk     []trunkConfig     `toml:"trunk"`

	Guard struct {
		Connections    int `toml:"connections"`
		AllConnections int `toml:"all_connections"`
	} `toml:"guard"`

	Calls struct {
		AddCID      bool                   `toml:"add_cid"`
		Correlate   []correlateMethod      `toml:"correlate"`
		MaxDuration duration               `toml:"max_duration"`
		Headers     []string               `toml:"headers"`
		Region      region                 `toml:"region"`
		Privacy     privacy                `toml:"privacy"`
		RecID       string                 `toml:"rec_id"`
		CallbackID  string                 `toml:"callback_id"`
		Tag         string                 `toml:"tag"`
		CallAPIID   string                 `toml:"callapi_id"`
		Trace       int                    `toml:"trace"`
		Status      map[sipCode]statusWord `toml:"status"`
	} `toml:"calls"`

	Notify struct {
		Allow            []cidr   `toml:"allow"`
		Deny             []cidr   `toml:"deny"`
		KeepEvents       duration `toml:"keep_events"`
		MaxSubscriptions int      `toml:"max_subscriptions"`
	} `toml:"notify"`
	Subscription []subscriptionConfig `toml:"subscription"`

	Store struct {
		Dir      string    `toml:"dir"`
		NATS     []natsURL `toml:"nats"`
		Replicas int       `toml:"replicas"`
		Sync     syncEvery `toml:"sync"`
	} `toml:"store"`

	Admin struct {
		Listen   socket  `toml:"listen"`
		TLSCert  pemText `toml:"tls_cert"`
		TLSKey   pemText `toml:"tls_key"`
		Insecure bool    `toml:"insecure"`
		Token    secret  `toml:"token"`

		TrustedProxies []cidr `toml:"trusted_proxies"`
	} `toml:"admin"`

	Log struct {
		Level  logLevel  `toml:"level"`
		Format logFormat `toml:"format"`
	} `toml:"log"`
}

// An extensionConfig is an [[extension]] table.
type extensionConfig struct {
	Number string        `toml:"number"`
	Kind   extensionKind `toml:"kind"` // "" is a phone
	DID    []string      `toml:"did"`
}

// A trunkConfig is a [[trunk]] table.
type trunkConfig struct {
	Name    string `toml:"name"`
	Sources []cidr `toml:"sources"`
	Secret  secret `toml:"secret"` // "" adds no header to the trunk's requests
}

// defaultConfig returns the config of an empty file.
func defaultConfig() config {
	var c config
	c.SIP.Listen = []sip.Addr{{Proto: sip.UDP, AddrPort: netip.MustParseAddrPort("127.0.0.1:5060")}}
	c.SIP.PBX = []sip.Addr{{Proto: sip.UDP, AddrPort: netip.MustParseAddrPort("127.0.0.1:5070")}}
	c.SIP.Register = sip.RegisterPath
	c.SIP.StripIdentity = true
	c.Extensions.Pattern = regexp.MustCompile(`^[0-9]{2,5}$`)
	c.Extensions.Learn = true
	c.Guard.Connections = 256
	c.Guard.AllConnections = 20000
	c.Calls.AddCID = true
	c.Calls.Correlate = []correlateMethod{"header:X-CID", "session-id", "replaces", "icid", "call-id", "numbers"}
	c.Calls.MaxDuration = duration(4 * time.Hour)
	c.Calls.Trace = 1000
	c.Calls.Privacy = respectPrivacy
	c.Calls.Status = map[sipCode]statusWord{603: statusWord(dialog.Busy)}
	c.Notify.KeepEvents = duration(720 * time.Hour)
	c.Notify.MaxSubscriptions = 100
	c.Store.Dir = "data"
	c.Store.Replicas = 1
	c.Store.Sync = syncEvery(100 * time.Millisecond)
	c.Admin.Listen = socket{netip.MustParseAddrPort("127.0.0.1:8080")}
	c.Log.Level = logLevel(slog.LevelInfo)
	c.Log.Format = "text"
	return c
}

// loadConfig reads the file at path over the defaults. The error for wrong content is a
// [problems] with all of them.
func loadConfig(path string) (config, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return config{}, fmt.Errorf("config file %s does not exist: start from the config.toml that comes with bellhop (an empty file is valid: every key has a default), or set --config FILE", path)
	}
	if err != nil {
		return config{}, err
	}
	return parseConfig(path, string(b))
}

// parseConfig reads text over the defaults. file is the name of the file in problems.
func parseConfig(file, text string) (config, error) {
	c := defaultConfig()
	doc, r, err := decodeTOML(file, text)
	if err != nil {
		return c, err
	}
	r.decodeTable("", doc, reflect.ValueOf(&c).Elem())
	c.validateAll(r.addProblem)
	if len(r.problems) > 0 {
		r.problems.sort()
		return c, r.problems
	}
	return c, nil
}

// decodeTOML parses a document. It returns the document and the decoder for it.
func decodeTOML(file, text string) (doc map[string]any, r configDecoder, err error) {
	if _, err := toml.Decode(text, &doc); err != nil {
		p := problem{File: file, Line: 1, Column: 1, Text: err.Error()}
		var pe toml.ParseError
		if errors.As(err, &pe) {
			p.Line, p.Column, p.Text = pe.Position.Line, max(pe.Position.Col, 1), pe.Message
		}
		return nil, r, problems{p}
	}
	return doc, configDecoder{file: file, where: locateKeys(text)}, nil
}

// changedKeys returns the keys whose values differ between a and b, like "sip.listen".
func changedKeys(a, b config) []string {
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

// A cidr is an address range. A single address is a range of one.
type cidr struct{ netip.Prefix }

func (c *cidr) UnmarshalText(b []byte) error {
	s := string(b)
	p, err := netip.ParsePrefix(s)
	if ip, e := netip.ParseAddr(s); e == nil && ip.Zone() == "" {
		p, err = netip.PrefixFrom(ip, ip.BitLen()), nil
	}
	if err != nil {
		return fmt.Errorf("%q is not a range of addresses: use a form like 192.0.2.0/24 or 2001:db8::/32", s)
	}
	if p.Addr().Is4In6() {
		return fmt.Errorf("%q is IPv4 written as IPv6 and never matches: use a form like 192.0.2.0/24", s)
	}
	if p != p.Masked() {
		return fmt.Errorf("%q has host bits beyond its prefix: use %s or %s/%d", s, p.Masked(), p.Addr(), p.Addr().BitLen())
	}
	c.Prefix = p
	return nil
}

// toPrefixes converts address ranges.
func toPrefixes(cs []cidr) []netip.Prefix {
	ps := make([]netip.Prefix, len(cs))
	for i, c := range cs {
		ps[i] = c.Prefix
	}
	return ps
}

// A duration is a string like 100ms, 30s, 15m or 720h.
type duration time.Duration

func (d duration) String() string { return time.Duration(d).String() }

func (d *duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%q is not a duration: use a form like 100ms, 30s, 15m or 720h", b)
	}
	*d = duration(v)
	return nil
}

// A syncEvery is the interval at which the store is synced to disk. 0, written "always",
// syncs before each acknowledgement.
type syncEvery time.Duration

func (s syncEvery) String() string {
	if s == 0 {
		return "always"
	}
	return time.Duration(s).String()
}

func (s *syncEvery) UnmarshalText(b []byte) error {
	if string(b) == "always" {
		*s = 0
		return nil
	}
	var d duration
	if d.UnmarshalText(b) != nil || d <= 0 {
		return fmt.Errorf(`%q is neither a duration above zero, like "100ms", nor "always"`, b)
	}
	*s = syncEvery(d)
	return nil
}

// A secret is a string or a reference to one: env:NAME or file:PATH. It is never
// printed.
type secret string

func (s secret) String() string {
	if s == "" {
		return ""
	}
	return "[secret]"
}

func (s secret) GoString() string { return s.String() }

func (s *secret) UnmarshalText(b []byte) error {
	v, err := resolveValue(string(b))
	if err != nil {
		return err
	}
	if strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("a token must be printable ASCII without spaces")
	}
	*s = secret(v)
	return nil
}

// resolveValue returns s, or the value that env:NAME or file:PATH refers to, without
// surrounding space.
func resolveValue(s string) (string, error) {
	if name, ok := strings.CutPrefix(s, "env:"); ok {
		v := strings.TrimSpace(os.Getenv(name))
		if v == "" {
			return "", fmt.Errorf("environment variable %q is not set", name)
		}
		return v, nil
	}
	if path, ok := strings.CutPrefix(s, "file:"); ok {
		b, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		v := strings.TrimSpace(string(b))
		if v == "" {
			return "", fmt.Errorf("file %s is empty", path)
		}
		return v, nil
	}
	return s, nil
}

// A pemText is a certificate or a key: PEM, or a reference to it, which is file:PATH,
// PATH or env:NAME. It is never printed.
type pemText string

func (p pemText) String() string   { return secret(p).String() }
func (p pemText) GoString() string { return p.String() }

// readPEM returns the PEM. It reads a file anew at each call.
func (p pemText) readPEM() ([]byte, error) {
	s := string(p)
	if !strings.Contains(s, "-----BEGIN ") && !strings.HasPrefix(s, "env:") && !strings.HasPrefix(s, "file:") {
		s = "file:" + s
	}
	v, err := resolveValue(s)
	return []byte(v), err
}

// A natsURL is the URL of a NATS server, or a reference to it: env:NAME or file:PATH. A
// password in it is not printed.
type natsURL string

func (n natsURL) String() string {
	u, err := url.Parse(string(n))
	if err != nil {
		return "[unreadable]"
	}
	return u.Redacted()
}

func (n *natsURL) UnmarshalText(b []byte) error {
	v, err := resolveValue(string(b))
	if err != nil {
		return err
	}
	u, err := url.Parse(v)
	if err != nil || u.Hostname() == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) {
		return errors.New("not the URL of a NATS server: use a form like nats://192.0.2.1:4222 or tls://nats.example:4222")
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("%s is not a port: use 1 to 65535", p)
		}
	}
	*n = natsURL(v)
	return nil
}

// A socket is a numeric address and a port.
type socket struct{ netip.AddrPort }

func (s *socket) UnmarshalText(b []byte) error {
	text := string(b)
	if port, ok := strings.CutPrefix(text, "localhost:"); ok {
		text = net.JoinHostPort("127.0.0.1", port)
	}
	ap, err := netip.ParseAddrPort(text)
	if err != nil {
		return fmt.Errorf("%q is not address:port: use a form like 127.0.0.1:8080 or [::1]:8080", b)
	}
	s.AddrPort = ap
	return nil
}

// An extensionKind is the kind of an extension. "" is a phone.
type extensionKind dialog.Kind

func (k *extensionKind) UnmarshalText(b []byte) error {
	switch dialog.Kind(b) {
	case dialog.Phone, dialog.Queue, dialog.IVR, dialog.Conference:
		*k = extensionKind(b)
		return nil
	}
	return fmt.Errorf(`must be "phone", "queue", "ivr" or "conference", not %q`, b)
}

// A correlateMethod is a method of calls.correlate: header:NAME or one of
// correlateNames.
type correlateMethod string

// correlateNames are the methods other than header:NAME.
var correlateNames = []string{"session-id", "replaces", "icid", "call-id", "numbers"}

func (m *correlateMethod) UnmarshalText(b []byte) error {
	name, isHeader := strings.CutPrefix(string(b), "header:")
	switch {
	case isHeader && !fieldName.MatchString(name):
		return fmt.Errorf("%q is not the name of a header field: use a form like \"header:X-CID\"", name)
	case !isHeader && !slices.Contains(correlateNames, name):
		return fmt.Errorf("unknown method %q: use header:NAME, %s", b, strings.Join(correlateNames, ", "))
	}
	*m = correlateMethod(b)
	return nil
}

// A region is the ISO 3166 code of the country whose numbers are dialed without a
// country code. "" is none.
type region string

func (r *region) UnmarshalText(b []byte) error {
	s := string(b)
	switch known := phonenumbers.GetSupportedRegions(); {
	case s == "" || known[s]:
		*r = region(s)
		return nil
	case known[strings.ToUpper(s)]:
		return fmt.Errorf("%q must be in capitals: use %q", s, strings.ToUpper(s))
	case s == "UK":
		return errors.New(`"UK" is not a code of ISO 3166: use "GB"`)
	}
	return fmt.Errorf("%q is not a region: use the two letters of ISO 3166, like \"GB\", \"DE\" or \"US\"", s)
}

// A sipCode is the status of a final response that ends a call: 300 to 699.
type sipCode int

func (s *sipCode) UnmarshalText(b []byte) error {
	n, err := strconv.Atoi(string(b))
	if err != nil || n < 300 || n > 699 {
		return fmt.Errorf("%q is not the status of a failed call: use 300 to 699", b)
	}
	*s = sipCode(n)
	return nil
}

// A privacy setting tells whether events withhold the number of a caller who asks for it
// (RFC 3323).
type privacy string

const (
	respectPrivacy privacy = "respect"
	ignorePrivacy  privacy = "ignore"
)

func (p *privacy) UnmarshalText(b []byte) error {
	switch privacy(b) {
	case respectPrivacy, ignorePrivacy:
		*p = privacy(b)
		return nil
	}
	return fmt.Errorf(`must be "respect" or "ignore", not %q`, b)
}

// A statusWord is a [dialog.Status] of a hangup.
type statusWord dialog.Status

func (w *statusWord) UnmarshalText(b []byte) error {
	words := []dialog.Status{dialog.Answered, dialog.Busy, dialog.NoAnswer, dialog.Canceled, dialog.Congestion, dialog.ChanUnavail, dialog.Forwarded, dialog.Unknown}
	if !slices.Contains(words, dialog.Status(b)) {
		return fmt.Errorf("%q is not a call status: use one of %v", b, words)
	}
	*w = statusWord(b)
	return nil
}

// A logLevel is debug, info, warn or error.
type logLevel slog.Level

func (l logLevel) String() string { return strings.ToLower(slog.Level(l).String()) }

func (l *logLevel) UnmarshalText(b []byte) error {
	switch string(b) {
	case "debug", "info", "warn", "error":
		return (*slog.Level)(l).UnmarshalText(b)
	}
	return fmt.Errorf(`must be "debug", "info", "warn" or "error", not %q`, b)
}

// A logFormat is text or json.
type logFormat string

func (f *logFormat) UnmarshalText(b []byte) error {
	switch string(b) {
	case "text", "json":
		*f = logFormat(b)
		return nil
	}
	return fmt.Errorf(`must be "text" or "json", not %q`, b)
}
