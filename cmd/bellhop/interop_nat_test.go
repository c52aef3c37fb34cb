//go:build interop

package main

import "time"

// natAddr is bellhop's address for phones behind the NAT, natPhone that of the phone.
const (
	natAddr  = "203.0.113.10"
	natPhone = "10.9.1.2"
)

// natForgets is the time after which the NAT forgets a silent flow over UDP.
const natForgets = 10 * time.Second

// openNAT connects this network namespace to two others:
//
//	phones 10.9.1.2 ── 10.9.1.1 home 203.0.113.1 ── 203.0.113.10 bellhop
//	                        masquerade
//
// home gives each flow of SIP a random port. It returns the command that enters phones.
func (s *site) openNAT() []string {
	s.t.Helper()
	run := func(command string) {
		s.t.Helper()
		s.shell("sh", "-ec", command)
	}
	closeAll := `for ns in phones home; do ip netns del bellhop-$ns || true; done 2>/dev/null; ip link del bellhop0 2>/dev/null || true`
	run(closeAll) // what an earlier test left
	s.t.Cleanup(func() { run(closeAll) })
	run(`
for ns in phones home; do ip netns add bellhop-$ns; ip -n bellhop-$ns link set lo up; done
ip link add out netns bellhop-phones type veth peer name in netns bellhop-home
ip link add bellhop0 type veth peer name out netns bellhop-home
ip -n bellhop-phones addr add ` + natPhone + `/24 dev out
ip -n bellhop-home addr add 10.9.1.1/24 dev in
ip -n bellhop-home addr add 203.0.113.1/24 dev out
ip addr add ` + natAddr + `/24 dev bellhop0
ip -n bellhop-phones link set out up
ip -n bellhop-home link set in up
ip -n bellhop-home link set out up
ip link set bellhop0 up
ip -n bellhop-phones route add default via 10.9.1.1
ip route add 10.9.1.0/24 via 203.0.113.1
in_home="ip netns exec bellhop-home"
$in_home sysctl -qw net.ipv4.ip_forward=1
$in_home nft 'table ip nat { chain post { type nat hook postrouting priority srcnat; oifname "out" meta l4proto { tcp, udp } th dport { 5060, 5061 } masquerade fully-random; }; }'
$in_home sysctl -qw net.netfilter.nf_conntrack_udp_timeout=10 net.netfilter.nf_conntrack_udp_timeout_stream=10
`)
	return []string{"ip", "netns", "exec", "bellhop-phones"}
}

// resetNAT makes the NAT forget all flows, as a router that restarts.
func (s *site) resetNAT() {
	s.t.Helper()
	s.shell("ip", "netns", "exec", "bellhop-home", "conntrack", "-F")
}
