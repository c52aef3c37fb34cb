package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"bellhop/admin/ops"
	"bellhop/sip"
)

// answerAll answers the requests to a UDP socket with a status.
func answerAll(c net.PacketConn, status string) {
	b := make([]byte, 4096)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		answer := []string{"SIP/2.0 " + status}
		for line := range strings.SplitSeq(string(b[:n]), "\r\n") {
			switch name, _, _ := strings.Cut(line, ":"); name {
			case "Via", "From", "To", "Call-ID", "CSeq":
				answer = append(answer, line)
			}
		}
		io.WriteString(writerTo{c, from}, strings.Join(append(answer, "Content-Length: 0", "", ""), "\r\n"))
	}
}

// writerTo writes datagrams to an address.
type writerTo struct {
	net.PacketConn
	to net.Addr
}

func (w writerTo) Write(b []byte) (int, error) { return w.WriteTo(b, w.to) }

// TestShowsStateOfTrunks runs bellhop with a trunk of two addresses, one of which answers.
// Status and metrics show which.
func TestShowsStateOfTrunks(t *testing.T) {
	t.Parallel()
	s := newSite(t, sip.UDP, sip.UDP)
	carrier, err := net.ListenPacket("udp", "127.0.0.6:0")
	if err != nil {
		t.Fatal(err)
	}
	defer carrier.Close()
	go answerAll(carrier, "200 OK")
	up := netip.MustParseAddrPort(carrier.LocalAddr().String())
	down := freePort(t, "127.0.0.6")
	s.configure(fmt.Sprintf("[[trunk]]\nname = \"carrier\"\nto = [\"udp://%v\", \"tcp://%v\"]\nmax_cps = 30\n", up, down))
	p := s.serve()
	var status ops.Status
	states := func() (all string) {
		s.api("GET", "/v1/status", nil, &status)
		for _, trunk := range status.Trunks {
			all += fmt.Sprint(trunk.Name, " ", trunk.Refused)
			for _, to := range trunk.Targets {
				all += fmt.Sprintf(" %s %s %q %q", to.Address, to.State, to.Answer, to.Error)
			}
		}
		return all
	}
	want := fmt.Sprintf(`carrier 0 udp://%v up "200 OK" "" tcp://%v down "" "OPTIONS: unreachable"`, up, down)
	s.eventually("both addresses have been probed", func() bool { return states() == want })
	for _, to := range status.Trunks[0].Targets {
		if to.Since == nil || time.Since(*to.Since) > time.Hour {
			t.Errorf("%s is %s since %v", to.Address, to.State, to.Since)
		}
	}
	if to := status.Trunks[0].Targets[0]; to.RoundTrip <= 0 || to.RoundTrip > 5e6 || to.Answered == nil || to.Failed != nil {
		t.Errorf("got %+v", to)
	}
	pbx := s.pbx.String()
	if to := status.PBX; len(to) != 1 || to[0].Configured != pbx || to[0].Address != pbx || to[0].State != "unknown" || to[0].Since != nil {
		t.Errorf("the PBX, which gets no OPTIONS, is %+v", to)
	}
	for name, want := range map[string]float64{
		fmt.Sprintf(`bellhop_sip_trunk_up{address="udp://%v",trunk="carrier"}`, up):                   1,
		fmt.Sprintf(`bellhop_sip_trunk_up{address="tcp://%v",trunk="carrier"}`, down):                 0,
		fmt.Sprintf(`bellhop_sip_trunk_state{address="tcp://%v",state="down",trunk="carrier"}`, down): 1,
		`bellhop_sip_trunk_calls_refused_total{trunk="carrier"}`:                                      0,
	} {
		if got := s.metric(name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}

	// The trunk gets another name and one address, and nothing starts again.
	s.configure(fmt.Sprintf("[[trunk]]\nname = \"other\"\nto = [\"udp://%v\"]\n", up))
	p.signal(syscall.SIGHUP)
	s.eventually("the new trunk has been probed", func() bool { return states() == fmt.Sprintf(`other 0 udp://%v up "200 OK" ""`, up) })
	s.configure(fmt.Sprintf("[[trunk]]\nname = \"other\"\nto = [\"udp://%v\"]\nprobe = \"often\"\n", up))
	p.signal(syscall.SIGHUP)
	s.eventually("a wrong config changes nothing", func() bool { return strings.Contains(p.out.String(), `"config reload rejected"`) })
	s.configure("")
	p.signal(syscall.SIGHUP)
	s.eventually("there is no trunk", func() bool { return states() == "" })
	for _, line := range []string{`"config reloaded","applied":"trunk","needs_restart":""`} {
		if strings.Count(p.out.String(), line) != 2 {
			t.Errorf("the log has not twice %s:\n%s", line, p.out.String())
		}
	}
}
