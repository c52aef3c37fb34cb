//go:build interop

package main

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"bellhop/sip"
)

// Addresses of a bellhop in a cloud. It and the PBX have private addresses, and a 1:1 NAT
// gives bellhop a public one.
const (
	cloudAddr   = "10.9.3.2"
	cloudPBX    = "10.9.3.3"
	cloudPublic = "203.0.113.10"
	cloudPhone  = "10.9.1.2"
)

// openCloud connects this network namespace to three others:
//
//	phones 10.9.1.2 ── 10.9.1.1 home 203.0.113.1 ── 203.0.113.10 cloud 10.9.3.1 ── 10.9.3.2 bellhop
//	                     masquerade                    1:1 NAT                     10.9.3.3 PBX
//
// home gives each flow a random port. It returns the command that enters phones.
func (s *site) openCloud() []string {
	s.t.Helper()
	run := func(command string) {
		s.t.Helper()
		s.shell("sh", "-ec", command)
	}
	closeAll := `for ns in phones home cloud; do ip netns del bellhop-far-$ns || true; done 2>/dev/null; ip link del bellhop1 2>/dev/null || true`
	run(closeAll) // what an earlier test left
	s.t.Cleanup(func() { run(closeAll) })
	run(`
for ns in phones home cloud; do ip netns add bellhop-far-$ns; ip -n bellhop-far-$ns link set lo up; done
ip link add out netns bellhop-far-phones type veth peer name in netns bellhop-far-home
ip link add out netns bellhop-far-home type veth peer name out netns bellhop-far-cloud
ip link add bellhop1 type veth peer name in netns bellhop-far-cloud
ip -n bellhop-far-phones addr add ` + cloudPhone + `/24 dev out
ip -n bellhop-far-home addr add 10.9.1.1/24 dev in
ip -n bellhop-far-home addr add 203.0.113.1/24 dev out
ip -n bellhop-far-cloud addr add ` + cloudPublic + `/24 dev out
ip -n bellhop-far-cloud addr add 10.9.3.1/24 dev in
ip addr add ` + cloudAddr + `/24 dev bellhop1
ip addr add ` + cloudPBX + `/24 dev bellhop1
for ns in phones home cloud; do for link in in out; do ip -n bellhop-far-$ns link set $link up 2>/dev/null || true; done; done
ip link set bellhop1 up
ip route add 203.0.113.0/24 via 10.9.3.1
ip -n bellhop-far-phones route add default via 10.9.1.1
for ns in home cloud; do ip netns exec bellhop-far-$ns sysctl -qw net.ipv4.ip_forward=1; done
ip netns exec bellhop-far-home nft 'table ip nat { chain post { type nat hook postrouting priority srcnat; oifname "out" masquerade fully-random; }; }'
ip netns exec bellhop-far-cloud nft 'table ip nat {
	chain pre { type nat hook prerouting priority dstnat; iifname "out" ip daddr ` + cloudPublic + ` dnat to ` + cloudAddr + `; }
	chain post { type nat hook postrouting priority srcnat; oifname "out" ip saddr ` + cloudAddr + ` snat to ` + cloudPublic + `; }
}'
`)
	return []string{"ip", "netns", "exec", "bellhop-far-phones"}
}

// TestInteropCloud places calls from and to phones behind a NAT, through a bellhop behind a
// 1:1 NAT. The PBX sees bellhop's private address and the phones its public one, and the
// requests within the calls pass in both directions.
func TestInteropCloud(t *testing.T) {
	s := newSite(t, sip.UDP, sip.UDP)
	inPhones := s.openCloud()
	s.hop = netip.MustParseAddrPort(cloudAddr + ":5060")
	s.pbx = sip.Addr{Proto: sip.UDP, AddrPort: netip.MustParseAddrPort(cloudPBX + ":5060")}
	s.write("config.toml", fmt.Sprintf(`
[sip]
listen = ["udp://%[1]v", "tcp://%[1]v"]
advertise = "%[2]s"
pbx = ["%[3]v"]
[notify]
allow = ["127.0.0.0/8"]
[store]
dir = '%[4]s'
[admin]
listen = "%[5]v"
token = "%[6]s"
`, s.hop, cloudPublic, s.pbx, filepath.Join(s.dir, "data"), s.admin, testToken))
	p := s.serve()
	s.subscribe("json", "POST", "dial-in", "dial-out", "answer", "hangup")
	const calls, events = 20, 3
	for _, tt := range []struct {
		story     string
		transport sip.Proto
	}{
		{"cloud", sip.UDP},
		{"caller-hangs-up", sip.UDP},
		{"callee-hangs-up", sip.UDP},
		{"caller-hangs-up", sip.TCP},
		{"callee-hangs-up", sip.TCP},
	} {
		t.Run(fmt.Sprintf("%s over %v", tt.story, tt.transport), func(t *testing.T) {
			s := *s
			s.t = t
			pbx := s.sipp(tt.story+".pbx", s.pbx, calls)
			s.eventually("the PBX listens", func() bool { return bound(t, s.pbx) })
			at := sip.Addr{Proto: tt.transport, AddrPort: netip.MustParseAddrPort(cloudPhone + ":5060")}
			phones := s.sippIn(inPhones, tt.story+".phone", at, calls, "-r", "20", cloudPublic+":5060")
			phones.exits(0, patience)
			pbx.exits(0, patience)
			s.receiver.wait("the callbacks of all calls", patience, func(came []received) bool { return len(came) >= calls*events })
			<-time.After(100 * time.Millisecond) // for one too many
			answered := 0
			came := s.receiver.take()
			for _, c := range came {
				if c.get("EventType") == "hangup" && c.get("CallStatus") == "ANSWER" {
					answered++
				}
			}
			if answered != calls || len(came) != calls*events {
				t.Errorf("%d callbacks, and %d hangups of answered calls; want %d and %d", len(came), answered, calls*events, calls)
			}
		})
	}
	p.stop()
}
