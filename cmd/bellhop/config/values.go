package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nyaruka/phonenumbers"

	"bellhop/dialog"
	"bellhop/sip/websocket"
)

// A CIDR is an address range. A single address is a range of one.
type CIDR struct{ netip.Prefix }

func (c *CIDR) UnmarshalText(b []byte) error {
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

// Prefixes converts address ranges to prefixes.
func Prefixes(cs []CIDR) []netip.Prefix {
	ps := make([]netip.Prefix, len(cs))
	for i, c := range cs {
		ps[i] = c.Prefix
	}
	return ps
}

// An Origin is the origin of a web page, such as https://phone.example.com.
type Origin string

func (o *Origin) UnmarshalText(b []byte) error {
	v, err := websocket.ParseOrigin(string(b))
	*o = Origin(v)
	return err
}

// A Duration is a string like 100ms, 30s, 15m or 720h.
type Duration time.Duration

func (d Duration) String() string { return time.Duration(d).String() }

func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%q is not a duration: use a form like 100ms, 30s, 15m or 720h", b)
	}
	*d = Duration(v)
	return nil
}

// A SyncInterval is the interval at which the store is synced to disk. 0, written "always",
// syncs before each acknowledgement.
type SyncInterval time.Duration

func (s SyncInterval) String() string {
	if s == 0 {
		return "always"
	}
	return time.Duration(s).String()
}

func (s *SyncInterval) UnmarshalText(b []byte) error {
	if string(b) == "always" {
		*s = 0
		return nil
	}
	var d Duration
	if d.UnmarshalText(b) != nil || d <= 0 {
		return fmt.Errorf(`%q is neither a duration above zero, like "100ms", nor "always"`, b)
	}
	*s = SyncInterval(d)
	return nil
}

// A Secret is a secret string. In the file it may be a reference: env:NAME or
// file:PATH. Its value is never printed.
type Secret string

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[secret]"
}

func (s Secret) GoString() string { return s.String() }

func (s *Secret) UnmarshalText(b []byte) error {
	v, err := Resolve(string(b))
	if err != nil {
		return err
	}
	if strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("a token must be printable ASCII without spaces")
	}
	*s = Secret(v)
	return nil
}

// Resolve returns s, or if s is env:NAME or file:PATH, the value of the environment
// variable or the content of the file, without surrounding space. It is an error if
// that is empty.
func Resolve(s string) (string, error) {
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

// A PEM is a certificate or a key in PEM form, or a reference to it: file:PATH, PATH or
// env:NAME. Its value is never printed.
type PEM string

func (p PEM) String() string   { return Secret(p).String() }
func (p PEM) GoString() string { return p.String() }

// ReadPEM returns the PEM text that p contains or refers to. It reads a file anew at
// each call.
func (p PEM) ReadPEM() ([]byte, error) {
	s := string(p)
	if !strings.Contains(s, "-----BEGIN ") && !strings.HasPrefix(s, "env:") && !strings.HasPrefix(s, "file:") {
		s = "file:" + s
	}
	v, err := Resolve(s)
	return []byte(v), err
}

// A NATSURL is the URL of a NATS server. In the file it may be a reference: env:NAME or
// file:PATH. A password in the URL is not printed.
type NATSURL string

func (n NATSURL) String() string {
	u, err := url.Parse(string(n))
	if err != nil {
		return "[unreadable]"
	}
	return u.Redacted()
}

func (n *NATSURL) UnmarshalText(b []byte) error {
	v, err := Resolve(string(b))
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
	*n = NATSURL(v)
	return nil
}

// A Socket is an IP address and a port. In the file, localhost stands for 127.0.0.1.
type Socket struct{ netip.AddrPort }

func (s *Socket) UnmarshalText(b []byte) error {
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

// An ExtensionKind is the kind of an extension. "" is a phone.
type ExtensionKind dialog.Kind

func (k *ExtensionKind) UnmarshalText(b []byte) error {
	switch dialog.Kind(b) {
	case dialog.Phone, dialog.Queue, dialog.IVR, dialog.Conference:
		*k = ExtensionKind(b)
		return nil
	}
	return fmt.Errorf(`must be "phone", "queue", "ivr" or "conference", not %q`, b)
}

// A CorrelateMethod is a method of calls.correlate: header:NAME or one of
// correlateNames.
type CorrelateMethod string

// correlateNames are the methods other than header:NAME.
var correlateNames = []string{"session-id", "replaces", "icid", "call-id", "numbers"}

func (m *CorrelateMethod) UnmarshalText(b []byte) error {
	name, isHeader := strings.CutPrefix(string(b), "header:")
	switch {
	case isHeader && !fieldName.MatchString(name):
		return fmt.Errorf("%q is not the name of a header field: use a form like \"header:X-CID\"", name)
	case !isHeader && !slices.Contains(correlateNames, name):
		return fmt.Errorf("unknown method %q: use header:NAME, %s", b, strings.Join(correlateNames, ", "))
	}
	*m = CorrelateMethod(b)
	return nil
}

// A Region is the ISO 3166 code of a country. Numbers without a country code are taken
// as numbers of that country. "" is no country.
type Region string

func (r *Region) UnmarshalText(b []byte) error {
	s := string(b)
	switch known := phonenumbers.GetSupportedRegions(); {
	case s == "" || known[s]:
		*r = Region(s)
		return nil
	case known[strings.ToUpper(s)]:
		return fmt.Errorf("%q must be in capitals: use %q", s, strings.ToUpper(s))
	case s == "UK":
		return errors.New(`"UK" is not a code of ISO 3166: use "GB"`)
	}
	return fmt.Errorf("%q is not a region: use the two letters of ISO 3166, like \"GB\", \"DE\" or \"US\"", s)
}

// A StatusCode is the status code of a final response with which a call fails: 300 to
// 699.
type StatusCode int

func (s *StatusCode) UnmarshalText(b []byte) error {
	n, err := strconv.Atoi(string(b))
	if err != nil || n < 300 || n > 699 {
		return fmt.Errorf("%q is not the status of a failed call: use 300 to 699", b)
	}
	*s = StatusCode(n)
	return nil
}

// A Privacy setting decides whether events withhold the number of a caller who asks for
// privacy (RFC 3323).
type Privacy string

const (
	RespectPrivacy Privacy = "respect"
	IgnorePrivacy  Privacy = "ignore"
)

func (p *Privacy) UnmarshalText(b []byte) error {
	switch Privacy(b) {
	case RespectPrivacy, IgnorePrivacy:
		*p = Privacy(b)
		return nil
	}
	return fmt.Errorf(`must be "respect" or "ignore", not %q`, b)
}

// A StatusWord is the [dialog.Status] that a hangup shows for a [StatusCode].
type StatusWord dialog.Status

func (w *StatusWord) UnmarshalText(b []byte) error {
	words := []dialog.Status{dialog.Answered, dialog.Busy, dialog.NoAnswer, dialog.Canceled, dialog.Congestion, dialog.ChanUnavail, dialog.Forwarded, dialog.Unknown}
	if !slices.Contains(words, dialog.Status(b)) {
		return fmt.Errorf("%q is not a call status: use one of %v", b, words)
	}
	*w = StatusWord(b)
	return nil
}

// A LogLevel is debug, info, warn or error.
type LogLevel slog.Level

func (l LogLevel) String() string { return strings.ToLower(slog.Level(l).String()) }

func (l *LogLevel) UnmarshalText(b []byte) error {
	switch string(b) {
	case "debug", "info", "warn", "error":
		return (*slog.Level)(l).UnmarshalText(b)
	}
	return fmt.Errorf(`must be "debug", "info", "warn" or "error", not %q`, b)
}

// A LogFormat is text or json.
type LogFormat string

func (f *LogFormat) UnmarshalText(b []byte) error {
	switch string(b) {
	case "text", "json":
		*f = LogFormat(b)
		return nil
	}
	return fmt.Errorf(`must be "text" or "json", not %q`, b)
}
