package sip

import (
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A peer that has vanished is noticed on connections in both directions. A lost probe ends
// no connection: the user timeout is not shorter than the time of all probes.
func TestStreamsNoticeDeadPeers(t *testing.T) {
	l, err := systemNetwork{}.Listen(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialed, err := systemNetwork{}.Dial(netip.MustParseAddr("127.0.0.1"), addrPortOf(l.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	defer dialed.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	for name, c := range map[string]net.Conn{"dialed": dialed, "accepted": accepted} {
		raw, err := c.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if probes := tcpKeepAlive.Idle + time.Duration(tcpKeepAlive.Count)*tcpKeepAlive.Interval; userTimeout < probes || instant(userTimeout) >= timerB-closedCheckTime {
			t.Errorf("the user timeout is %v, the probes take %v, and a request ends after %v", userTimeout, probes, time.Duration(timerB-closedCheckTime))
		}
		raw.Control(func(fd uintptr) {
			for _, tt := range []struct {
				name        string
				level, what int
				want        int
			}{
				{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
				{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 20},
				{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 3},
				{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
				{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 29000},
			} {
				if got, err := unix.GetsockoptInt(int(fd), tt.level, tt.what); err != nil || got != tt.want {
					t.Errorf("%s: %s is %d, %v, want %d", name, tt.name, got, err, tt.want)
				}
			}
		})
	}
}
