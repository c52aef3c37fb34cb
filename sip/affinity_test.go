package sip

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// A new target replaces the old one of the same entry, even if another entry of its bucket
// has expired.
func TestAffinityHasOneEntryForAName(t *testing.T) {
	as := newAffinities()
	first, second := &target{}, &target{}
	name := []byte("101@pbx.example")
	bucket, _ := as.find(ofRegistrar, name)
	var other []byte // its entry is in front of that of name
	for i := 0; other == nil; i++ {
		n := fmt.Appendf(nil, "%d@pbx.example", i)
		if b, _ := as.find(ofRegistrar, n); &b[0] == &bucket[0] && string(n) != string(name) {
			other = n
		}
	}
	as.set(0, ofRegistrar, other, first, 10)
	as.set(0, ofRegistrar, name, first, 100)
	as.set(20, ofRegistrar, name, second, 100)
	if to := as.get(21, ofRegistrar, name); to != second {
		t.Error("the old target is used")
	}
	as.set(20, ofRegistrar, name, second, 0)
	if to := as.get(21, ofRegistrar, name); to != nil {
		t.Error("a binding that was removed still has a target")
	}
	for _, tt := range []struct {
		kind affinityKind
		name []byte
		at   instant
	}{{ofRegistrar, other, 21}, {ofChallenger, name, 21}, {ofRegistrar, nil, 21}} {
		if as.get(tt.at, tt.kind, tt.name) != nil {
			t.Errorf("entry %q of %q at %d has a target", tt.kind, tt.name, tt.at)
		}
	}
}

// The request is sent to the next target alone. If it would go elsewhere, because the
// configured names or trunks have changed meanwhile, it is not sent.
func TestFailoverGoesToTheNextTargetAlone(t *testing.T) {
	for _, changed := range []bool{false, true} {
		t.Run(fmt.Sprintf("changed=%t", changed), func(t *testing.T) {
			w, out := newBareWorker(t, func(c *Config) {
				c.PBX = append(c.PBX, Addr{Proto: UDP, AddrPort: netip.MustParseAddrPort("192.0.2.12:5060")})
			})
			w.handleItem(workItem{packet: w.receivePacket(numberedRequest("MESSAGE", 1, ""), barePhone)})
			if out.to != barePBX || out.count != 1 {
				t.Fatalf("%d messages were sent, the last to %v", out.count, out.to)
			}
			want := w.proxy.peers.configured()[1].config.AddrPort
			for _, s := range w.serverTxs.m {
				if changed { // the Request-URI of a PBX leads to the phone that it names
					s.context.failover.request.side = pbxSide
					copy(s.context.failover.request.buf, "MESSAGE sip:102@192.0.2.200;x=y SIP/2.0")
					want = barePBX // a retransmission
				}
			}
			w.advanceClock(2100 * time.Millisecond)
			if out.to != want {
				t.Errorf("after 2 s the last message was sent to %v, want %v", out.to, want)
			}
		})
	}
}
