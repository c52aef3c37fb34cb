package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"bellhop/dialog"
	"bellhop/notify"
	"bellhop/sip"
)

var compareConfigs = cmp.Options{
	cmp.Comparer(func(a, b *regexp.Regexp) bool { return a.String() == b.String() }),
	cmp.Comparer(func(a, b sip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b CIDR) bool { return a == b }),
	cmp.Comparer(func(a, b Socket) bool { return a == b }),
	cmpopts.EquateEmpty(),
}

// wantProblems compares the problems of a config named c with those wanted.
func wantProblems(t *testing.T, text string, want []string) {
	t.Helper()
	_, err := Parse("c", text)
	var got []string
	if err != nil {
		got = strings.Split(err.Error(), "\n")
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("problems (- want, + got):\n%s", d)
	}
}

// TestConfigFileListsAllKeys checks that config.toml lists every key that has an effect,
// at its default.
func TestConfigFileListsAllKeys(t *testing.T) {
	b, err := os.ReadFile("../../../config.toml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse("config.toml", string(b))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(Default(), c, compareConfigs); d != "" {
		t.Errorf("config.toml differs from the defaults (- defaults, + file):\n%s", d)
	}

	// The blocks that can be repeated have no default: they are comments.
	t.Setenv("CRM_SECRET", "whsec_"+strings.Repeat("A", 32)) // which an example names
	t.Setenv("CARRIER_SECRET", strings.Repeat("a", 32))
	examples := regexp.MustCompile(`(?m)^# (\[\[\w+\]\]|\w+ = .*)$`).ReplaceAllString(string(b), "$1")
	if _, err := Parse("config.toml", examples); err != nil {
		t.Errorf("with its examples uncommented: %v", err)
	}
	there := locateKeys(examples).keys
	var want func(path string, typ reflect.Type)
	want = func(path string, typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			key, _ := tomlKey(f)
			if key == "" {
				continue
			}
			path := joinPath(path, key)
			if _, ok := there[path]; !ok {
				t.Errorf("config.toml does not list %s", path)
			}
			switch {
			case isTable(f.Type):
				want(path, f.Type)
			case f.Type.Kind() == reflect.Slice && isTable(f.Type.Elem()):
				want(indexPath(path, 0), f.Type.Elem())
			}
		}
	}
	want("", reflect.TypeFor[Config]())
}

func TestEmptyConfigHasDefaults(t *testing.T) {
	c, err := Parse("config.toml", "")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(Default(), c, compareConfigs); d != "" {
		t.Error(d)
	}
}

// eventTypes are the types that a subscription may name.
var eventTypes = []string{"answer", "answer-in", "answer-out", "dial-in", "dial-out", "hangup", "hold", "message-in", "message-out",
	"registered", "resume", "ringing", "subscription-state", "transfer", "unregistered", "voicemail"}

func TestConfigReportsProblems(t *testing.T) {
	for _, tt := range []struct {
		name string
		text string
		want []string
	}{
		{"invalid TOML", "[sip]\nlisten =\n", []string{
			`c:2:9: expected value but found '\n' instead`,
		}},
		{"unknown keys", "lissten = 3\n[sip]\nregistr = \"path\"\nlearn = true\n\"a b\" = 1\n[stoer]\n[[trunk]]\nnmae = \"x\"", []string{
			`c:1:1: lissten: unknown key: did you mean "listen" of [sip]?`,
			`c:3:1: sip.registr: unknown key: did you mean "register"?`,
			`c:4:1: sip.learn: unknown key: did you mean "learn" of [extensions]?`,
			`c:5:1: sip."a b": unknown key: known keys are listen, advertise, local_net, pbx, pbx_mode, failover_after, pbx_sources, udp_max, register, strip_identity, tls_cert, tls_key, tls_min, tls_legacy, tls_name, tls_ca`,
			`c:6:1: stoer: unknown key: did you mean "store"?`,
			`c:7:1: trunk.name: a trunk needs a name: set name = "carrier"`,
			`c:7:1: trunk.sources: trunk "" needs the addresses it sends from: set sources = ["192.0.2.0/24"]`,
			`c:8:1: trunk.nmae: unknown key: did you mean "name"?`,
		}},
		{"wrong types", "extension = 3\nstore = 1\n[sip]\nlisten = \"udp://127.0.0.1\"\npbx = [5060]\n[extensions]\nlearn = \"yes\"\npattern = 1\n[calls]\nmax_duration = 4\nrec_id = 1979-05-27\nstatus = 1\n[notify]\nmax_subscriptions = 1.5", []string{
			`c:1:13: extension: must be an array of tables, not a number: use [[extension]]`,
			`c:2:9: store: must be a table, not a number: use [store] on its own line`,
			`c:4:10: sip.listen: must be an array, not a string: use ["udp://127.0.0.1"]`,
			`c:5:8: sip.pbx: must be a string, not a number`,
			`c:7:9: extensions.learn: must be true or false, not a string`,
			`c:8:11: extensions.pattern: must be a string, not a number`,
			`c:10:16: calls.max_duration: must be a string, not a number`,
			`c:11:10: calls.rec_id: must be a string, not a date`,
			`c:12:10: calls.status: must be a table, not a number: use [calls.status] on its own line`,
			`c:14:21: notify.max_subscriptions: must be a whole number, not a fraction`,
		}},
		{"invalid addresses", `[sip]
listen = [
  "udp://127.0.0.1:5060", # "a comment" ] with all sorts
  "tls://127.0.0.1:5061", 'ws://127.0.0.1',
  "wss://127.0.0.1", "127.0.0.1", """sctp://127.0.0.1""",
]
advertise = "a b"
pbx = ["udp://pbx_example:5060"]
pbx_sources = ["10.0.0.1/8", "10.0.0.1", "2001:db8::/129"]
[notify]
allow = ["localhost"]
deny = ["::ffff:10.0.0.0/104", "::ffff:10.0.0.1", "::ffff:0:0/96", "::/0"]
[admin]
listen = "8080"`, []string{
			`c:4:3: sip.listen: tls://127.0.0.1:5061 needs a certificate: set sip.tls_cert = ["file:PATH"] and sip.tls_key = ["file:PATH"], or acme.names`,
			`c:5:3: sip.listen: wss://127.0.0.1:443 needs a certificate: set sip.tls_cert = ["file:PATH"] and sip.tls_key = ["file:PATH"], or acme.names`,
			`c:5:22: sip.listen: address "127.0.0.1" has no transport: write udp://127.0.0.1, tcp://127.0.0.1 or tls://127.0.0.1`,
			`c:5:35: sip.listen: address "sctp://127.0.0.1": unknown transport "sctp": use udp://, tcp://, tls://, ws:// or wss://`,
			`c:7:13: sip.advertise: advertise "a b" is not host[:port]`,
			`c:8:8: sip.pbx: address "udp://pbx_example:5060": "pbx_example:5060" is neither an IP address nor a host name: write udp://192.0.2.1:5060 or udp://pbx.example.com`,
			`c:9:16: sip.pbx_sources: "10.0.0.1/8" has host bits beyond its prefix: use 10.0.0.0/8 or 10.0.0.1/32`,
			`c:9:42: sip.pbx_sources: "2001:db8::/129" is not a range of addresses: use a form like 192.0.2.0/24 or 2001:db8::/32`,
			`c:11:10: notify.allow: "localhost" is not a range of addresses: use a form like 192.0.2.0/24 or 2001:db8::/32`,
			`c:12:9: notify.deny: "::ffff:10.0.0.0/104" is IPv4 written as IPv6 and never matches: use a form like 192.0.2.0/24`,
			`c:12:32: notify.deny: "::ffff:10.0.0.1" is IPv4 written as IPv6 and never matches: use a form like 192.0.2.0/24`,
			`c:12:51: notify.deny: "::ffff:0:0/96" is IPv4 written as IPv6 and never matches: use a form like 192.0.2.0/24`,
			`c:14:10: admin.listen: "8080" is not address:port: use a form like 127.0.0.1:8080 or [::1]:8080`,
		}},
		{"invalid limits of sources", `[guard]
user_agents = ["friendly-scanner", "sip"]
allow = ["192.0.2.1/24"]
rate = "30"
per_binding = -1
ban_after = 100000
ban_time = "48h"`, []string{
			`c:2:36: guard.user_agents: "sip" is part of the names of many phones: use 4 characters or more`,
			`c:3:10: guard.allow: "192.0.2.1/24" has host bits beyond its prefix: use 192.0.2.0/24 or 192.0.2.1/32`,
			`c:4:8: guard.rate: "30" is not a number of requests in a time: use a form like 30/10s, or 0 for no limit`,
			`c:5:15: guard.per_binding: -1 is not a number of requests: use 0 to 100000`,
			`c:6:13: guard.ban_after: 100000 is not a number of points: use 1 to 10000, or 0 for no bans`,
			`c:7:12: guard.ban_time: 48h0m0s is not the time of a ban: use 1s to 24h, or set ban_after = 0 for no bans`,
		}},
		{"too high and too short a rate", "guard.rate = \"2000000/10s\"", []string{
			`c:1:14: guard.rate: "2000000/10s" allows too many requests: use 100000 or fewer, or 0 for no limit`,
		}},
		{"a rate within a day", "guard.rate = \"30/24h\"", []string{
			`c:1:14: guard.rate: "30/24h": use a time between 1s and 1h`,
		}},
		{"negative connection limits", "[guard]\nconnections = -1\nall_connections = -2\n", []string{
			`c:2:15: guard.connections: -1 is not a number of connections: use 1 or more, or 0 for no limit`,
			`c:3:19: guard.all_connections: -2 is not a number of connections: use 1 or more, or 0 for as many as the limit of open files allows`,
		}},
		{"no listener, no PBX", "[sip]\nlisten = []\npbx = []", []string{
			`c:2:10: sip.listen: no address to listen on: set at least one, like ["udp://127.0.0.1:5060"]`,
			`c:3:7: sip.pbx: no PBX to forward to: set its address, like ["udp://192.0.2.1:5060"]`,
		}},
		{"conflicting listeners", `sip.listen = ["udp://127.0.0.1", "udp://127.0.0.1:5060", "tcp://127.0.0.1:5060", "tcp://[::]:5060", "udp://224.0.0.1", "udp://127.0.0.1:0", "udp://127.0.0.1:0", "tcp://0.0.0.0:5060"]`, []string{
			`c:1:34: sip.listen: udp://127.0.0.1:5060 is taken by udp://127.0.0.1:5060: remove one of them`,
			`c:1:101: sip.listen: udp://224.0.0.1:5060 is a multicast address: use a unicast address`,
			`c:1:162: sip.listen: tcp://0.0.0.0:5060 is taken by tcp://127.0.0.1:5060: remove one of them`,
		}},
		{"invalid [[listener]] tables", `sip.advertise = "[::]"
sip.local_net = ["10.0.0.1/8"]
listener = [{side = "inside"}, {listen = "udp://0.0.0.0", advertise = "x y"}, {listen = "udp://127.0.0.1:5060", advertise = "224.0.0.1", sides = "edge"}, {listen = "sip.example.com"}]`, []string{
			`c:1:17: sip.advertise: [::] is not an address to send to: use the address or name at which phones reach bellhop`,
			`c:2:18: sip.local_net: "10.0.0.1/8" has host bits beyond its prefix: use 10.0.0.0/8 or 10.0.0.1/32`,
			`c:3:13: listener.listen: no address to listen on: set listen = "udp://192.0.2.1:5060"`,
			`c:3:21: listener.side: side is "edge", "pbx" or "both", not "inside"`,
			`c:3:71: listener.advertise: advertise "x y" is not host[:port]`,
			`c:3:89: listener.listen: udp://127.0.0.1:5060 is taken by udp://0.0.0.0:5060: remove one of them`,
			`c:3:125: listener.advertise: 224.0.0.1 is not an address to send to: use the address or name at which phones reach bellhop`,
			`c:3:138: listener.sides: unknown key: did you mean "side"?`,
			`c:3:165: listener.listen: address "sip.example.com" has no transport: write udp://sip.example.com, tcp://sip.example.com or tls://sip.example.com`,
		}},
		{"listeners of browsers", `[sip]
listen = ["tcp://127.0.0.1:5060", "ws://127.0.0.1:5060", "ws://127.0.0.1:5060", "ws://0.0.0.0"]
pbx = ["ws://127.0.0.1:5070"]
[[listener]]
listen = "tcp://127.0.0.1:80"
origins = ["https://phone.example.com"]
[[listener]]
listen = "ws://127.0.0.2:81"
origins = ["phone.example.com", "https://phone.example.com/x"]
side = "pbx"
[[listener]]
listen = "tcp://127.0.0.2:81"
proxy_from = ["192.0.2.9"]
[[listener]]
listen = "udp://127.0.0.1:5061"
proxy_from = ["192.0.2.9"]`, []string{
			`c:2:58: sip.listen: ws://127.0.0.1:5060 is taken by ws://127.0.0.1:5060: remove one of them`,
			`c:3:8: sip.pbx: ws://127.0.0.1:5070: bellhop opens no WebSocket to a PBX: use udp://, tcp:// or tls://`,
			`c:5:10: listener.listen: tcp://127.0.0.1:80 is taken by ws://0.0.0.0:80: use another port. Only tcp:// and ws://, or tls:// and wss://, may share an address`,
			`c:6:11: listener.origins: tcp://127.0.0.1:80 has no pages: set origins at a ws:// or wss:// listener`,
			`c:9:12: listener.origins: origin "phone.example.com" has no scheme: write https://phone.example.com`,
			`c:9:33: listener.origins: origin "https://phone.example.com/x" has more than scheme, host and port: write https://phone.example.com`,
			`c:10:8: listener.side: ws://127.0.0.2:81 is for browsers, and the PBX does not use it: remove side, or set side = "edge"`,
			`c:12:10: listener.listen: tcp://127.0.0.2:81 shares its address with ws://127.0.0.2:81: give both the same proxy_from`,
			`c:16:14: listener.proxy_from: udp://127.0.0.1:5061 has no connections: set proxy_from at a listener of another transport`,
		}},
		{"no listener for phones", "[[listener]]\nlisten = \"udp://127.0.0.1:5060\"\nside = \"pbx\"", []string{
			`c:2:10: listener.listen: no listener for phones: set side = "both", or add a listener with side = "edge"`,
		}},
		{"no listener for the PBX", "[[listener]]\nlisten = \"udp://127.0.0.1:5060\"\nside = \"edge\"", []string{
			`c:1:1: sip.pbx: no listener reaches udp://127.0.0.1:5070: add to sip.listen a udp:// listener on an IPv4 loopback address or on 0.0.0.0`,
		}},
		{"an empty array of listeners", "listener = []", []string{
			`c:1:1: sip.listen: no address to listen on: set at least one, like ["udp://127.0.0.1:5060"]`,
		}},
		{"the PBX is a listener", "[sip]\nlisten = [\"udp://0.0.0.0:5060\"]\npbx = [\"udp://127.0.0.9:5060\", \"tcp://192.0.2.1:5060\", \"udp://192.0.2.1:5061\", \"udp://192.0.2.1:5061\", \"udp://0.0.0.0:5070\", \"udp://192.0.2.1:0\"]", []string{
			`c:3:8: sip.pbx: udp://127.0.0.9:5060 is bellhop's own listener udp://0.0.0.0:5060: calls would loop: use the PBX's address, or change sip.listen`,
			`c:3:32: sip.pbx: no listener reaches tcp://192.0.2.1:5060: add to sip.listen a tcp:// listener on an IPv4 address other than loopback or on 0.0.0.0`,
			`c:3:80: sip.pbx: udp://192.0.2.1:5061 is listed twice`,
			`c:3:104: sip.pbx: udp://0.0.0.0:5070 is not an address to send to: use the PBX's own address and port`,
			`c:3:126: sip.pbx: udp://192.0.2.1:0 is not an address to send to: use the PBX's own address and port`,
		}},
		{"a listener is the default PBX", "[sip]\nlisten = [\"udp://127.0.0.1:5070\"]", []string{
			`c:1:1: sip.pbx: udp://127.0.0.1:5070 is bellhop's own listener udp://127.0.0.1:5070: calls would loop: use the PBX's address, or change sip.listen`,
		}},
		{"no way to the PBX", "[sip]\npbx = [\"udp://192.0.2.1:5060\", \"udp://[::1]:5060\", \"udp://127.0.0.2:5060\"]", []string{
			`c:2:8: sip.pbx: no listener reaches udp://192.0.2.1:5060: add to sip.listen a udp:// listener on an IPv4 address other than loopback or on 0.0.0.0`,
			`c:2:32: sip.pbx: no listener reaches udp://[::1]:5060: add to sip.listen a udp:// listener on an IPv6 loopback address or on [::]`,
		}},
		{"unknown register mode", "[sip]\nregister = \"outbound\"", []string{
			`c:2:12: sip.register: register is "path", "contact" or "none", not "outbound"`,
		}},
		{"invalid extensions", "[extensions]\npattern = '['\n[[extension]]\n[[extension]]\nnumber = \"6 0\"\nkind = \"queue\"\ndid = [\"5\", \"5\", \"5 5\"]\n[[extension]]\nnumber = \"600\"\ndid = [\"6\", \"5\"]\n[[extension]]\nnumber = \"600\"\nkind = \"phon\"\ndid = 5", []string{
			"c:2:11: extensions.pattern: error parsing regexp: missing closing ]: `[`",
			`c:3:1: extension.number: an extension needs a number: set number = "600"`,
			`c:5:10: extension.number: "6 0" contains a space: use the user part of the SIP address, like 600 or 0003*210`,
			`c:7:13: extension.did: "5" is listed twice`,
			`c:7:18: extension.did: "5 5" is not a number: use the form of the carrier's Request-URI, like 5551234`,
			`c:10:13: extension.did: "5" leads to extension "6 0": use a number for one extension only`,
			`c:12:10: extension.number: extension "600" is declared twice`,
			`c:13:8: extension.kind: must be "phone", "queue", "ivr" or "conference", not "phon"`,
			`c:14:7: extension.did: must be an array, not a number`,
		}},
		{"a pattern for everybody", "[extensions]\npattern = ''", []string{
			`c:2:11: extensions.pattern: must not be empty: use '.*' for everybody, or '^$' for nobody`,
		}},
		{"overlapping trunks", `trunk = [{name = "a", sources = ["192.0.2.0/24"]}, {name = "a", sources = ["192.0.2.7", "127.0.0.1"]}, {name = "b", sources = ["10.0.0.0/8", "10.1.0.0/16"]}]
sip.pbx_sources = ["10.2.0.0/16"]`, []string{
			`c:1:60: trunk.name: two trunks are called "a": give each its own name`,
			`c:1:76: trunk.sources: 192.0.2.7/32 overlaps with 192.0.2.0/24 of trunk "a": an address belongs to one trunk`,
			`c:1:89: trunk.sources: 127.0.0.1/32 contains the PBX udp://127.0.0.1:5070: use the trunk's own addresses, to tell the two apart`,
			`c:1:128: trunk.sources: 10.0.0.0/8 overlaps with 10.2.0.0/16 of sip.pbx_sources: an address belongs to either the PBX or a trunk`,
			`c:1:142: trunk.sources: 10.1.0.0/16 overlaps with 10.0.0.0/8 of trunk "b": an address belongs to one trunk`,
		}},
		{"the secret of a trunk", "[[trunk]]\nname = \"a\"\nsources = [\"192.0.2.0/24\"]\nsecret = \"guess-me\"", []string{
			`c:4:10: trunk.secret: the secret of trunk "a" has 8 characters: use 16 to 256 random ones, like the output of openssl rand -hex 16`,
		}},
		{"targets of trunks", `[sip]
listen = ["udp://192.0.2.10:5060", "tcp://192.0.2.10:5060"]
pbx = ["udp://192.0.2.1:5060"]
pbx_sources = ["192.0.2.16/28"]
[[trunk]]
name = "a"
to = ["udp://198.51.100.1:5060", "udp://198.51.100.1:5060", "udp://192.0.2.1:5080", "tcp://192.0.2.17:5060", "tcp://192.0.2.10:5060"]
contact = "ours"
probe = "2s"
max_cps = -1
[[trunk]]
name = "b"
sources = ["198.51.100.0/24"]
to = ["udp://198.51.100.1:5062", "tcp://[2001:db8::1]:5060", "tcp://127.0.0.1:5061", "udp://0.0.0.0:5060", "udp://198.51.100.2:0"]
contact = "theirs"
probe = "often"`, []string{
			`c:7:34: trunk.to: udp://198.51.100.1:5060 is listed twice`,
			`c:7:61: trunk.to: udp://192.0.2.1:5080 has the address of the PBX udp://192.0.2.1:5060: use the carrier's own address, to tell the two apart`,
			`c:7:85: trunk.to: tcp://192.0.2.17:5060 is in 192.0.2.16/28 of sip.pbx_sources: use the carrier's own address, to tell the two apart`,
			`c:7:110: trunk.to: tcp://192.0.2.10:5060 is bellhop's own listener tcp://192.0.2.10:5060: calls would loop: use the carrier's address`,
			`c:8:11: trunk.contact: "ours" needs a name that the trunk reaches: set sip.advertise = "sip.example.com"`,
			`c:9:9: trunk.probe: "2s" is too short: use at least 5s, or "0s" for no OPTIONS`,
			`c:10:11: trunk.max_cps: -1 is not a number of calls a second: use 1 to 100000, or 0 for no limit`,
			`c:13:12: trunk.sources: 198.51.100.0/24 contains udp://198.51.100.1:5060 of trunk "a": an address belongs to one trunk`,
			`c:14:7: trunk.to: udp://198.51.100.1:5062 belongs to trunk "a" too: an address belongs to one trunk`,
			`c:14:34: trunk.to: no listener reaches tcp://[2001:db8::1]:5060: add to sip.listen a tcp:// listener on an IPv6 address other than loopback or on [::]`,
			`c:14:62: trunk.to: no listener reaches tcp://127.0.0.1:5061: add to sip.listen a tcp:// listener on an IPv4 loopback address or on 0.0.0.0`,
			`c:14:86: trunk.to: udp://0.0.0.0:5060 is not an address to send to: use the carrier's own address and port`,
			`c:14:108: trunk.to: udp://198.51.100.2:0 is not an address to send to: use the carrier's own address and port`,
			`c:15:11: trunk.contact: must be "" or "ours", not "theirs"`,
			`c:16:9: trunk.probe: "often" is not a duration: use a form like 100ms, 30s, 15m or 720h`,
		}},
		{"too high a limit of calls", "[[trunk]]\nname = \"a\"\nsources = [\"192.0.2.0/24\"]\nmax_cps = 9000000000000000000", []string{
			`c:4:11: trunk.max_cps: 9000000000000000000 is not a number of calls a second: use 1 to 100000, or 0 for no limit`,
		}},
		{"a name at another listener than the trunk's", `sip.pbx = ["udp://192.0.2.1:5060"]
listener = [{listen = "udp://192.0.2.10:5060"}, {listen = "tcp://192.0.2.10:5060", advertise = "sip.example.com"}]
trunk = [{name = "a", to = ["tcp://198.51.100.1"], contact = "ours"}, {name = "b", to = ["tcp://198.51.100.2", "udp://198.51.100.3"], contact = "ours"}]`, []string{
			`c:3:145: trunk.contact: "ours" needs a name that the trunk reaches: set sip.advertise = "sip.example.com"`,
		}},
		{"sources with an address of another trunk", `sip.listen = ["udp://192.0.2.10:5060"]
sip.pbx = ["udp://192.0.2.1:5060"]
trunk = [{name = "a", to = ["udp://198.51.100.1:5060"]}, {name = "b", sources = ["198.51.100.0/24"]}]`, []string{
			`c:3:82: trunk.sources: 198.51.100.0/24 contains udp://198.51.100.1:5060 of trunk "a": an address belongs to one trunk`,
		}},
		{"keep-alive and sizes", "[nat]\nkeepalive = \"1s\"\n[sip]\nudp_max = 100", []string{
			`c:2:13: nat.keepalive: 1s is too short: use at least 5s, or "0s" for no OPTIONS`,
			`c:4:11: sip.udp_max: 100 is not a size of requests: use 500 to 65507 bytes, or 0 for UDP at any size`,
		}},
		{"keep-alive and sizes below zero", "[nat]\nkeepalive = \"-1s\"\n[sip]\nudp_max = -1", []string{
			`c:2:13: nat.keepalive: -1s is too short: use at least 5s, or "0s" for no OPTIONS`,
			`c:4:11: sip.udp_max: -1 is not a size of requests: use 500 to 65507 bytes, or 0 for UDP at any size`,
		}},
		{"header with credentials", "[calls]\nrec_id = \"Authorization\"", []string{
			`c:2:10: calls.rec_id: "Authorization" holds credentials of phones, which bellhop never sends on: use another header field`,
		}},
		{"invalid call settings", "[calls]\nmax_duration = \"0s\"\nheaders = [\"X-Ok\", \"X Y\", \"proxy-authorization\"]\ntag = \"X:\"\nregion = \"XX\"\ntrace = -1\ncorrelate = [\"numbers\", \"header:X Y\", \"header:X-A\", \"x-cid\", \"header:x-a\", \"numbers\"]\n[calls.status]\n\"200\" = \"BUSY\"\n404 = \"GONE\"\n500 = 7\n[[subscription]]\nextension = \"1\"", []string{
			`c:2:16: calls.max_duration: 0s ends every call at once: set how long a call can last, like 4h`,
			`c:3:20: calls.headers: "X Y" is not the name of a header field`,
			`c:3:27: calls.headers: "proxy-authorization" holds credentials of phones, which bellhop never sends on: remove it`,
			`c:4:7: calls.tag: "X:" is not the name of a header field: use a form like "X-Recording-Id"`,
			`c:5:10: calls.region: "XX" is not a region: use the two letters of ISO 3166, like "GB", "DE" or "US"`,
			`c:6:9: calls.trace: -1 is not a number of calls: use 0 to keep none`,
			`c:7:25: calls.correlate: "X Y" is not the name of a header field: use a form like "header:X-CID"`,
			`c:7:53: calls.correlate: unknown method "x-cid": use header:NAME, session-id, replaces, icid, call-id, numbers`,
			`c:7:62: calls.correlate: "header:x-a" is listed twice: remove one`,
			`c:7:76: calls.correlate: "numbers" is listed twice: remove one`,
			`c:9:1: calls.status.200: "200" is not the status of a failed call: use 300 to 699`,
			`c:10:7: calls.status.404: "GONE" is not a call status: use one of [ANSWER BUSY NOANSWER CANCEL CONGESTION CHANUNAVAIL FORWARDED UNKNOWN]`,
			`c:11:7: calls.status.500: must be a string, not a number`,
			`c:12:1: subscription.types: is empty: name at least one event type`,
			`c:12:1: subscription.url: is missing`,
		}},
		{"invalid subscriptions", `
[[subscription]]
extension = "101"
extension_regex = "1.."
types = ["hangup", "hangdown"]
url = "ftp://crm.example/"
method = "DELETE"
active = "yes"
timeout = "5 s"
max_in_flight = 1000
headers = { Host = "x", "X-Key" = "env:BELLHOP_TEST_UNSET" }
password = 1
[[subscription]]
types = "hangup"
url = 1
live_ttl = "2h"
tls_ca = "/etc/ssl/ca.pem"
tls_cert = "file:/nowhere/cert.pem"
[subscription.headers]
"X-A" = """a
b"""`, []string{
			`c:4:19: subscription.extension_regex: and extension exclude each other`,
			`c:5:9: subscription.types: has "hangdown", which is not an event type: they are ` + strings.Join(eventTypes, ", "),
			`c:6:7: subscription.url: must begin with http:// or https://`,
			`c:7:10: subscription.method: must be GET, POST or PUT`,
			`c:8:10: subscription.active: must be true or false, not a string`,
			`c:9:11: subscription.timeout: "5 s" is not a duration: use a form like 100ms, 30s, 15m or 720h`,
			`c:10:17: subscription.max_in_flight: must be between 1 and 100`,
			`c:11:11: subscription.headers: must not set Host`,
			`c:11:35: subscription.headers.X-Key: environment variable "BELLHOP_TEST_UNSET" is not set`,
			`c:12:1: subscription.password: unknown key: known keys are extension, extension_regex, types, url, method, dialect, active, note, headers, tls_ca, tls_cert, tls_key, secret, old_secret, extended, flow_case, status_words, group, follow_urls, live_ttl, timeout, max_in_flight`,
			`c:13:1: subscription.extension: is missing: name an extension, or give extension_regex`,
			`c:14:9: subscription.types: must be an array, not a string: use ["hangup"]`,
			`c:15:7: subscription.url: must be a string, not a number`,
			`c:16:12: subscription.live_ttl: must be between 1s and 1h`,
			`c:17:10: subscription.tls_ca: is not PEM, which begins with -----BEGIN CERTIFICATE-----`,
			`c:18:12: subscription.tls_cert: open /nowhere/cert.pem: no such file or directory`,
			`c:19:1: subscription.headers: has control characters in the value of X-A`,
		}},
		{"a region in small letters", "[calls]\nregion = \"gb\"", []string{
			`c:2:10: calls.region: "gb" must be in capitals: use "GB"`,
		}},
		{"unknown privacy mode", "[calls]\nprivacy = \"keep\"", []string{
			`c:2:11: calls.privacy: must be "respect" or "ignore", not "keep"`,
		}},
		{"a region by its domain", "calls.region = \"UK\"", []string{
			`c:1:16: calls.region: "UK" is not a code of ISO 3166: use "GB"`,
		}},
		{"invalid durations", "[calls]\nmax_duration = \"4 hours\"\n[notify]\nkeep_events = \"-1h\"\nmax_subscriptions = 0\n[store]\nsync = \"0s\"", []string{
			`c:2:16: calls.max_duration: "4 hours" is not a duration: use a form like 100ms, 30s, 15m or 720h`,
			`c:4:15: notify.keep_events: -1h0m0s is too short: use at least 1s`,
			`c:5:21: notify.max_subscriptions: 0 allows no subscription: use 1 or more`,
			`c:7:8: store.sync: "0s" is neither a duration above zero, like "100ms", nor "always"`,
		}},
		{"a store of one's own", "[store]\ndir = \"\"\nreplicas = 3", []string{
			`c:2:7: store.dir: must not be empty: bellhop keeps its store, key and token there`,
			`c:3:12: store.replicas: 3 copies need a cluster: set its servers in store.nats, or use 1`,
		}},
		{"a store elsewhere", "[store]\nnats = [\"nats://127.0.0.1:4222\", \"127.0.0.1\", \"http://127.0.0.1\"]\nreplicas = 0\nsync = \"always\"", []string{
			`c:2:34: store.nats: not the URL of a NATS server: use a form like nats://192.0.2.1:4222 or tls://nats.example:4222`,
			`c:2:47: store.nats: not the URL of a NATS server: use a form like nats://192.0.2.1:4222 or tls://nats.example:4222`,
			`c:3:12: store.replicas: 0 is not a number of copies: use 1 to 5`,
			`c:4:8: store.sync: "always" has no effect with store.nats: leave it out and set sync_interval on the NATS servers`,
		}},
		{"ports that no address has", "[sip]\nlisten = [\"tcp://127.0.0.1:65536\"]\npbx = [\"udp://127.0.0.2:0\"]\n[store]\nnats = [\"nats://127.0.0.1:70000\", \"tls://nats.example:0\"]\n[[subscription]]\nextension = \"101\"\ntypes = [\"hangup\"]\nurl = \"http://192.0.2.9:80800/{call_id}\"\n", []string{
			`c:2:11: sip.listen: address "tcp://127.0.0.1:65536": "65536" is not a port: write 1 to 65535`,
			`c:3:8: sip.pbx: udp://127.0.0.2:0 is not an address to send to: use the PBX's own address and port`,
			`c:5:9: store.nats: 70000 is not a port: use 1 to 65535`,
			`c:5:35: store.nats: 0 is not a port: use 1 to 65535`,
			`c:9:7: subscription.url: has the port 80800: write 1 to 65535`,
		}},
		{"admin in the open", "admin.listen = \"0.0.0.0:8080\"\nadmin.tls_key = \"k\"", []string{
			`c:1:16: admin.listen: 0.0.0.0:8080 is reachable from outside and would receive tokens unencrypted: set admin.tls_cert and admin.tls_key, listen on 127.0.0.1, or set insecure = true`,
			`c:2:17: admin.tls_key: key without a certificate: set admin.tls_cert too`,
		}},
		{"admin beside sip", "[sip]\nlisten = [\"udp://127.0.0.1\", \"tcp://127.0.0.1:8080\"]\n[admin]\ntls_cert = \"/nowhere/cert.pem\"", []string{
			`c:3:1: admin.listen: 127.0.0.1:8080 conflicts with tcp://127.0.0.1:8080 of sip.listen: choose another port`,
			`c:4:12: admin.tls_cert: certificate without a key: set admin.tls_key too`,
		}},
		{"no such certificate", "[admin]\ntls_cert = \"/nowhere/cert.pem\"\ntls_key = \"/nowhere/key.pem\"", []string{
			`c:2:12: admin.tls_cert: open /nowhere/cert.pem: no such file or directory`,
		}},
		{"no key", "[admin]\ntls_cert = '-----BEGIN CERTIFICATE-----'\ntls_key = \"file:/nowhere/key.pem\"", []string{
			`c:2:12: admin.tls_cert: open /nowhere/key.pem: no such file or directory`,
		}},
		{"no PEM", "[admin]\ntls_cert = '-----BEGIN CERTIFICATE-----'\ntls_key = '-----BEGIN PRIVATE KEY-----'", []string{
			`c:2:12: admin.tls_cert: tls: failed to find any PEM data in certificate input`,
		}},
		{"secrets that are not set", "[admin]\ntoken = \"env:BELLHOP_TEST_UNSET\"\n[store]\nnats = [\"file:/nowhere/url\"]\n[log]\nlevel = \"loud\"\nformat = \"xml\"", []string{
			`c:2:9: admin.token: environment variable "BELLHOP_TEST_UNSET" is not set`,
			`c:4:9: store.nats: open /nowhere/url: no such file or directory`,
			`c:6:9: log.level: must be "debug", "info", "warn" or "error", not "loud"`,
			`c:7:10: log.format: must be "text" or "json", not "xml"`,
		}},
		{"a token with a space", "[admin]\ntoken = \"open sesame\"", []string{
			`c:2:9: admin.token: a token must be printable ASCII without spaces`,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("c", tt.text)
			ps, ok := err.(Problems)
			if !ok {
				t.Fatalf("got %v, want problems", err)
			}
			if d := cmp.Diff(tt.want, strings.Split(ps.Error(), "\n")); d != "" {
				t.Errorf("problems (- want, + got):\n%s", d)
			}
		})
	}
}

// TestConfigDeclaresSubscriptions checks the subscriptions that [[subscription]] tables
// declare.
func TestConfigDeclaresSubscriptions(t *testing.T) {
	const secret = "whsec_b25jZSBtb3JlLCBhbmQgb25seSBmb3IgdGVzdHMsIG9r"
	t.Setenv("BELLHOP_TEST_KEY", "Bearer from env")
	t.Setenv("BELLHOP_TEST_SECRET", secret)
	c, err := Parse("c", `
[[subscription]]
extension = "101"
types = ["hangup"]
url = "http://crm.example/"
[[subscription]]
extension_regex = "1.."
types = ["dial-in", "answer"]
url = "http://crm.example/x?y=z"
method = "GET"
dialect = "telphin"
active = false
note = "a note"
extended = true
flow_case = "upper"
status_words = "unified"
group = "each"
follow_urls = true
live_ttl = "30s"
timeout = "500ms"
max_in_flight = 7
headers = { authorization = "env:BELLHOP_TEST_KEY" }
secret = "env:BELLHOP_TEST_SECRET"
old_secret = "whsec_b25seSBoZXJlLCBhbmQgb25seSBmb3IgdGVzdHMsIG9r"
`)
	if err != nil {
		t.Fatal(err)
	}
	want := []notify.Subscription{
		{Extension: "101", Types: []string{"hangup"}, URL: "http://crm.example/", Method: "POST", Dialect: "json", Active: true, Declared: "[[subscription]] 1"},
		{ExtensionRegex: "1..", Types: []string{"dial-in", "answer"}, URL: "http://crm.example/x?y=z", Method: "GET", Dialect: "telphin", Note: "a note",
			Headers: map[string]string{"Authorization": "Bearer from env"},
			Secret:  secret, OldSecret: "whsec_b25seSBoZXJlLCBhbmQgb25seSBmb3IgdGVzdHMsIG9r", Extended: true, FlowCase: "upper", StatusWords: "unified", Group: "each", FollowURLs: true,
			LiveTTL: notify.Duration(30 * time.Second), Timeout: notify.Duration(500 * time.Millisecond), MaxInFlight: 7, Declared: "[[subscription]] 2"},
	}
	if d := cmp.Diff(want, DeclaredSubscriptions(c)); d != "" {
		t.Errorf("(- want, + got):\n%s", d)
	}
	if s := fmt.Sprintf("%v %+v %#v", c, c, c.Subscription); strings.Contains(s, "from env") || strings.Contains(s, "whsec_") {
		t.Errorf("the value of a header, or a secret, is printed: %s", s)
	}
}

// TestConfigOfTracker checks the part of the config that the tracker gets.
func TestConfigOfTracker(t *testing.T) {
	c, err := Parse("c", `
[[extension]]
number = "600"
kind = "queue"
did = ["5551234", "5551235"]
[[extension]]
number = "door"
[calls]
correlate = ["numbers", "header:X-Call"]
region = "GB"
privacy = "ignore"
`)
	if err != nil {
		t.Fatal(err)
	}
	got := c.TrackerConfig()
	if want := []dialog.Declared{{Number: "600", Kind: dialog.Queue, DID: []string{"5551234", "5551235"}}, {Number: "door"}}; !reflect.DeepEqual(got.Extensions, want) {
		t.Errorf("extensions are %v, want %v", got.Extensions, want)
	}
	if want := []string{"numbers", "header:X-Call"}; !slices.Equal(got.Correlate, want) {
		t.Errorf("legs are joined by %q, want %q", got.Correlate, want)
	}
	if !got.IgnorePrivacy {
		t.Error("privacy is heeded")
	}
	for number, want := range map[string]string{
		"02079460123":     "+442079460123",
		"+4930901820":     "+4930901820",
		"004930901820":    "+4930901820",
		"101":             "",
		"0003*210":        "",
		"anonymous":       "",
		"alice":           "",
		"":                "",
		"999999999999999": "",
	} {
		if got := got.E164(number); got != want {
			t.Errorf("E.164 of %q is %q, want %q", number, got, want)
		}
	}

	c, err = Parse("c", "calls.correlate = []")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.TrackerConfig(); got.Correlate == nil || len(got.Correlate) > 0 || got.E164 != nil || got.IgnorePrivacy {
		t.Errorf("with no method and no region: %q, %v", got.Correlate, got.E164 != nil)
	}
}

func TestAllowsInsecureOrLocalAdmin(t *testing.T) {
	for _, text := range []string{
		"admin.listen = \"0.0.0.0:8080\"\nadmin.insecure = true",
		"admin.listen = \"[::1]:8080\"",
		"admin.listen = \"localhost:0\"",
	} {
		if _, err := Parse("c", text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestConfigHidesSecrets(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(" from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("BELLHOP_TEST_TOKEN", "from-env")
	for text, want := range map[string]Secret{
		"plain":                  "plain",
		"env:BELLHOP_TEST_TOKEN": "from-env",
		"file:" + file:           "from-file",
	} {
		c, err := Parse("c", "[admin]\ntoken = \""+text+"\"")
		if err != nil || c.Admin.Token != want {
			t.Errorf("token %q: got %q, %v; want %q", text, string(c.Admin.Token), err, string(want))
		}
		if s := c.Admin.Token.String(); s != "[secret]" {
			t.Errorf("token prints as %q", s)
		}
	}
	c, err := Parse("c", `store.nats = ["nats://me:pass@127.0.0.1:4222"]`)
	if err != nil {
		t.Fatal(err)
	}
	if s := c.Summary(); strings.Contains(s, "pass") {
		t.Errorf("the password is shown: %s", s)
	}
	c.Admin.TLSKey = "-----BEGIN PRIVATE KEY-----"
	if s := fmt.Sprintf("%v %+v %#v", c, c, c.Admin); strings.Contains(s, "BEGIN") {
		t.Errorf("the key is printed: %s", s)
	}
}

func TestListsChangedKeys(t *testing.T) {
	a := Default()
	b := Default()
	b.SIP.Listen = nil
	b.Calls.Status[486] = "BUSY"
	b.Log.Level = -4
	if got, want := ChangedKeys(a, b), []string{"sip.listen", "calls.status", "log.level"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := ChangedKeys(a, Default()); len(got) > 0 {
		t.Errorf("equal configs differ in %v", got)
	}
}

// FuzzLocate checks that every key and value of a document that the parser accepts has a
// position.
func FuzzLocate(f *testing.F) {
	for _, s := range []string{
		"a = 1\n[b.c]\nd = [1, [2, 3], {e = \"}\", f = ''}]\n[[g]]\n[[g]]\n[g.h]\ni.j = 1\n[[g.k]]\nl = true",
		"a = \"\"\"\nx\"\"\"\"\"\nb = '''y''''\n\"c.d\" = \"\\\"#\" # ]\n'e f' = 1979-05-27 07:32:00",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var doc map[string]any
		if _, err := toml.Decode(text, &doc); err != nil {
			return
		}
		w := locateKeys(text)
		var find func(path string, v any)
		find = func(path string, v any) {
			switch v := v.(type) {
			case map[string]any:
				for key, v := range v {
					path := joinPath(path, key)
					if _, ok := w.keys[path]; !ok {
						t.Fatalf("key %s is not found in %q", path, text)
					}
					find(path, v)
				}
			case []map[string]any:
				for i, v := range v {
					find(indexPath(path, i), v)
				}
			case []any:
				for i, v := range v {
					find(indexPath(path, i), v)
				}
			default:
				if _, ok := w.values[path]; !ok {
					t.Fatalf("value of %s is not found in %q", path, text)
				}
			}
		}
		find("", doc)
	})
}
