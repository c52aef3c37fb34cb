package resolve_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"bellhop/sip/resolve"
)

var pbx = resolve.Target{Host: "pbx.example", Port: 5060, Transport: resolve.UDP}

// TestLifetime tests how long an answer is used, by its TTL.
func TestLifetime(t *testing.T) {
	for _, tt := range []struct {
		zone string
		want time.Duration
	}{
		{"pbx.example. 0 A 192.0.2.1", 5 * time.Second},
		{"pbx.example. 60 A 192.0.2.1", time.Minute},
		{"pbx.example. 86400 A 192.0.2.1", time.Hour},
		{"pbx.example. 4294967295 A 192.0.2.1", 5 * time.Second}, // RFC 2181 §8
		{"pbx.example. 600 CNAME b.example.\nb.example. 60 A 192.0.2.1", time.Minute},
		{"pbx.example. 60 CNAME b.example.\nb.example. 600 A 192.0.2.1", time.Minute},
		{"", 30 * time.Second},
		{"example. 3600 SOA ns.example. me.example. 1 2 3 4 3600", 30 * time.Second},
		{"example. 3600 SOA ns.example. me.example. 1 2 3 4 10", 10 * time.Second},
	} {
		t.Run(tt.zone, func(t *testing.T) {
			run(t, tt.zone, func(b *testbed) {
				b.lookup(pbx, time.Minute)
				time.Sleep(tt.want - time.Nanosecond)
				b.lookup(pbx, time.Minute)
				if n := b.server.Questions("A pbx.example"); n != 1 {
					t.Errorf("%d questions before %v, want 1", n, tt.want)
				}
				time.Sleep(time.Nanosecond)
				b.lookup(pbx, time.Minute)
				if n := b.server.Questions("A pbx.example"); n != 2 {
					t.Errorf("%d questions after %v, want 2", n, tt.want)
				}
			}, onlyIPv4)
		})
	}
}

// After Reload, other name servers are asked, and at once. The answer to a question that was
// under way is used, but not for its TTL.
func TestReload(t *testing.T) {
	run(t, "pbx.example. 3600 A 192.0.2.1\nother.example. 3600 A 192.0.2.1\nslow.example. 3600 A 192.0.2.1", func(b *testbed) {
		second := netip.MustParseAddrPort("192.0.2.54:53")
		other, slow := resolve.Target{Host: "other.example", Port: 5060, Transport: resolve.UDP}, resolve.Target{Host: "slow.example", Port: 5060, Transport: resolve.UDP}
		var asked sync.Map // name → the server that was asked last
		b.server.Respond = func(_ string, server netip.AddrPort, q *dns.Msg) (*dns.Msg, time.Duration) {
			asked.Store(q.Question[0].Name, server)
			if q.Question[0].Name == "slow.example." && server != second {
				return b.server.Answer(q), time.Second
			}
			return b.server.Answer(q), 0
		}
		w, err := b.Watch(pbx, nil)
		if err != nil {
			t.Fatal(err)
		}
		b.want("before", other, "udp://192.0.2.1:5060")
		b.Lookup(slow, func(resolve.Answer) {})
		synctest.Wait()
		b.server.SetZone(t, "pbx.example. 3600 A 192.0.2.2\nother.example. 3600 A 192.0.2.2\nslow.example. 3600 A 192.0.2.2")
		b.Reload([]netip.AddrPort{second})
		synctest.Wait()
		if got := addrs(w.Load().Answer); !slices.Equal(got, []string{"udp://192.0.2.2:5060"}) {
			t.Errorf("the watched name has %v", got)
		}
		b.want("after", other, "udp://192.0.2.2:5060")
		time.Sleep(2 * time.Second)
		b.want("after the lookup that was under way", slow, "udp://192.0.2.2:5060")
		for name, server := range asked.Range {
			if server != second {
				t.Errorf("%s was asked at %v last, want %v", name, server, second)
			}
		}
		b.server.Lock()
		b.server.Respond = func(string, netip.AddrPort, *dns.Msg) (*dns.Msg, time.Duration) { return nil, 0 }
		b.server.Unlock()
		b.Reload([]netip.AddrPort{serverA})
		time.Sleep(10 * time.Second)
		if got := addrs(w.Load().Answer); !slices.Equal(got, []string{"udp://192.0.2.2:5060"}) {
			t.Errorf("without name servers, the watched name has %v", got)
		}
		b.want("without name servers", other, "udp://192.0.2.2:5060")
	}, onlyIPv4)
}

func onlyIPv4(c *resolve.Config) {
	c.Families = map[resolve.Transport]resolve.Families{resolve.UDP: {IPv4: true}}
}

func TestConcurrentCallersShareALookup(t *testing.T) {
	run(t, "pbx.example. 60 A 192.0.2.1", func(b *testbed) {
		b.server.Respond = func(_ string, _ netip.AddrPort, q *dns.Msg) (*dns.Msg, time.Duration) {
			return b.server.Answer(q), 200 * time.Millisecond
		}
		var called atomic.Int32
		for range 1000 {
			if a := b.Lookup(pbx, func(a resolve.Answer) {
				if len(addrs(a)) == 1 {
					called.Add(1)
				}
			}); !a.Pending() {
				t.Fatal("an answer without a lookup")
			}
		}
		time.Sleep(200*time.Millisecond + 1)
		synctest.Wait()
		if n, asked := called.Load(), b.server.Questions("A pbx.example"); n != 1000 || asked != 1 {
			t.Errorf("%d of 1000 callers have the answer after %d questions, want all after 1", n, asked)
		}
	}, onlyIPv4)
}

// TestBadServers tests what a caller gets if the first name server does not work.
func TestBadServers(t *testing.T) {
	type respond = func(m *dns.Msg, network string) (*dns.Msg, time.Duration)
	rcode := func(code int) respond {
		return func(m *dns.Msg, _ string) (*dns.Msg, time.Duration) {
			m.Answer, m.Rcode = nil, code
			return m, 0
		}
	}
	silent := func(*dns.Msg, string) (*dns.Msg, time.Duration) { return nil, 0 }
	late := func(m *dns.Msg, _ string) (*dns.Msg, time.Duration) { return m, 5 * time.Second }
	truncated := func(m *dns.Msg, network string) (*dns.Msg, time.Duration) {
		if network == "udp" {
			m.Truncated, m.Answer = true, nil
		}
		return m, 0
	}
	withoutEDNS := func(m *dns.Msg, _ string) (*dns.Msg, time.Duration) {
		return m, 0
	}
	for _, tt := range []struct {
		name         string
		first, other respond
		after        time.Duration
		reason       string
	}{
		{"refuses", rcode(dns.RcodeRefused), nil, 0, ""},
		{"fails", rcode(dns.RcodeServerFailure), nil, 0, ""},
		{"never answers", silent, nil, time.Second, ""},
		{"truncates", truncated, nil, 0, ""},
		{"knows no EDNS", withoutEDNS, nil, 0, ""},
		{"all answer after 5 s", late, late, 5 * time.Second, ""},
		{"all fail", rcode(dns.RcodeServerFailure), rcode(dns.RcodeServerFailure), 0, "SERVFAIL"},
		{"none answers", silent, silent, 6 * time.Second, "no name server answers"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			run(t, "pbx.example. 60 A 192.0.2.1", func(b *testbed) {
				b.server.Respond = func(network string, server netip.AddrPort, q *dns.Msg) (*dns.Msg, time.Duration) {
					m := b.server.Answer(q)
					if tt.name == "knows no EDNS" && q.IsEdns0() != nil {
						m.Answer, m.Rcode = nil, dns.RcodeFormatError
					}
					switch {
					case server == serverA:
						return tt.first(m, network)
					case tt.other != nil:
						return tt.other(m, network)
					}
					return m, 0
				}
				start := time.Now()
				if tt.reason != "" {
					b.wantError(tt.name, pbx, tt.reason)
				} else {
					b.want(tt.name, pbx, "udp://192.0.2.1:5060")
				}
				if d := time.Since(start); d != tt.after {
					t.Errorf("the answer came after %v, want %v", d, tt.after)
				}
			}, onlyIPv4)
		})
	}
}

func TestServerThatAnsweredIsAskedFirst(t *testing.T) {
	run(t, "pbx.example. 60 A 192.0.2.1", func(b *testbed) {
		b.server.Respond = func(_ string, server netip.AddrPort, q *dns.Msg) (*dns.Msg, time.Duration) {
			if server == serverA {
				return nil, 0
			}
			return b.server.Answer(q), 0
		}
		b.want("after the first one was silent", pbx, "udp://192.0.2.1:5060")
		start := time.Now()
		b.want("another name", resolve.Target{Host: "PBX.example", Transport: resolve.UDP}, "udp://192.0.2.1:5060")
		if d := time.Since(start); d != 0 {
			t.Errorf("the second name took %v, want no wait", d)
		}
	}, onlyIPv4)
}

// TestForgedResponses tests that a response counts only with the ID and the question that
// were sent.
func TestForgedResponses(t *testing.T) {
	forge := func(change func(m *dns.Msg)) func(q *dns.Msg) [][]byte {
		return func(q *dns.Msg) [][]byte {
			m := new(dns.Msg)
			m.SetReply(q)
			rr, _ := dns.NewRR(q.Question[0].Name + " 60 A 203.0.113.66")
			m.Answer = []dns.RR{rr}
			change(m)
			b, _ := m.Pack()
			return [][]byte{b}
		}
	}
	for name, raw := range map[string]func(q *dns.Msg) [][]byte{
		"ID":          forge(func(m *dns.Msg) { m.Id++ }),
		"question":    forge(func(m *dns.Msg) { m.Question[0].Name = "other.example." }),
		"type":        forge(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA }),
		"no question": forge(func(m *dns.Msg) { m.Question = nil }),
		"no response": forge(func(m *dns.Msg) { m.Response = false }),
		"owner":       nil,
		"garbage":     func(*dns.Msg) [][]byte { return [][]byte{nil, {0}, []byte(strings.Repeat("\xff", 600))} },
	} {
		t.Run(name, func(t *testing.T) {
			run(t, "pbx.example. 60 A 192.0.2.1", func(b *testbed) {
				b.server.Raw = raw
				if name == "owner" {
					b.server.Respond = func(_ string, _ netip.AddrPort, q *dns.Msg) (*dns.Msg, time.Duration) {
						m := b.server.Answer(q)
						rr, _ := dns.NewRR("other.example. 60 A 203.0.113.66")
						m.Answer = append([]dns.RR{rr}, m.Answer...)
						return m, 0
					}
				}
				b.want(name, pbx, "udp://192.0.2.1:5060")
			}, onlyIPv4)
		})
	}
}

// TestStaleAnswers tests that the last addresses stay in use for a day without a name
// server.
func TestStaleAnswers(t *testing.T) {
	run(t, "pbx.example. 60 A 192.0.2.1", func(b *testbed) {
		b.want("the server answers", pbx, "udp://192.0.2.1:5060")
		b.server.Lock()
		b.server.Respond = func(string, netip.AddrPort, *dns.Msg) (*dns.Msg, time.Duration) { return nil, 0 }
		b.server.Unlock()
		time.Sleep(time.Minute)
		start := time.Now()
		b.want("the TTL has ended", pbx, "udp://192.0.2.1:5060")
		if d := time.Since(start); d > time.Second {
			t.Errorf("the stale answer came after %v, want within 1 s", d)
		}
		time.Sleep(time.Minute)
		start = time.Now()
		b.want("no name server answers", pbx, "udp://192.0.2.1:5060")
		if d := time.Since(start); d != 0 {
			t.Errorf("the stale answer came after %v although no name server is known to answer", d)
		}
		time.Sleep(24*time.Hour - 3*time.Minute)
		b.want("almost a day later", pbx, "udp://192.0.2.1:5060")
		time.Sleep(3 * time.Minute)
		b.wantError("a day later", pbx, "no name server answers")
		b.server.Lock()
		b.server.Respond = nil
		b.server.Unlock()
		time.Sleep(time.Minute)
		b.want("the server is back", pbx, "udp://192.0.2.1:5060")
	}, onlyIPv4)
}

// TestStaleAnswerForLateCaller tests that a caller during a lookup gets
// the expired answer at once if the lookup has taken longer than a caller waits for it.
func TestStaleAnswerForLateCaller(t *testing.T) {
	run(t, "pbx.example. 60 A 192.0.2.1", func(b *testbed) {
		b.want("the server answers", pbx, "udp://192.0.2.1:5060")
		b.server.Lock()
		b.server.Respond = func(string, netip.AddrPort, *dns.Msg) (*dns.Msg, time.Duration) { return nil, 0 }
		b.server.Unlock()
		time.Sleep(time.Minute)
		start := time.Now()
		b.Lookup(pbx, func(resolve.Answer) {})
		for _, after := range []time.Duration{500 * time.Millisecond, 1500 * time.Millisecond, 5 * time.Second} {
			time.Sleep(after - time.Since(start))
			b.want("the TTL has ended", pbx, "udp://192.0.2.1:5060")
			if got, want := time.Since(start), max(after, time.Second); got != want {
				t.Errorf("a caller after %v has the stale answer after %v, want %v", after, got, want)
			}
		}
	}, onlyIPv4)
}

// TestNameThatIsGone tests that an answer of a name server counts more than old addresses.
func TestNameThatIsGone(t *testing.T) {
	run(t, "pbx.example. 60 A 192.0.2.1", func(b *testbed) {
		b.want("at first", pbx, "udp://192.0.2.1:5060")
		b.server.SetZone(t, "")
		time.Sleep(time.Minute)
		b.wantError("NXDOMAIN", pbx, "has no address")
	}, onlyIPv4)
}

// TestFloodOfNames tests that many names take bounded memory, lookups and time, and that a
// watched name is not affected.
func TestFloodOfNames(t *testing.T) {
	run(t, "pbx.example. 60 A 192.0.2.1", func(b *testbed) {
		w, err := b.Watch(pbx, nil)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		b.server.Lock()
		b.server.Respond = func(string, netip.AddrPort, *dns.Msg) (*dns.Msg, time.Duration) { return nil, 0 }
		b.server.Unlock()
		var answered atomic.Int32
		refused := 0
		for i := range 20000 {
			target := resolve.Target{Host: fmt.Sprintf("n%d.example", i), Port: 5060, Transport: resolve.UDP}
			if a := b.Lookup(target, func(resolve.Answer) { answered.Add(1) }); !a.Pending() {
				refused++
			}
		}
		if pending := 20000 - refused; pending > 32 {
			t.Errorf("%d lookups are under way, want at most 32", pending)
		}
		if n := b.Names(); n > 1024 {
			t.Errorf("%d names are kept, want at most 1024", n)
		}
		if got := addrs(w.Load().Answer); len(got) != 1 {
			t.Errorf("the watched name has %v", got)
		}
		time.Sleep(time.Minute)
		if n := int(answered.Load()); n != 20000-refused {
			t.Errorf("%d of %d callers have been called", n, 20000-refused)
		}
	}, onlyIPv4)
}

// TestStop tests that callers are called when the resolver stops.
func TestStop(t *testing.T) {
	var called atomic.Int32
	var r *testbed
	run(t, "", func(b *testbed) {
		r = b
		b.server.Respond = func(string, netip.AddrPort, *dns.Msg) (*dns.Msg, time.Duration) { return nil, 0 }
		b.Lookup(pbx, func(a resolve.Answer) {
			if a.Err() != nil {
				called.Add(1)
			}
		})
	}, onlyIPv4)
	if called.Load() != 1 {
		t.Error("the caller was not called")
	}
	if a := r.Lookup(pbx, nil); a.Err() == nil {
		t.Error("a lookup after the end")
	}
}

// TestWatch tests that a watched name is resolved ahead, and that its former addresses
// stay its sources for an hour.
func TestWatch(t *testing.T) {
	one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	run(t, "pbx.example. 60 A 192.0.2.1", func(b *testbed) {
		var changes atomic.Int32
		w, err := b.Watch(pbx, func(*resolve.Watch) { changes.Add(1) })
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := addrs(w.Load().Answer); !slices.Equal(got, []string{"udp://192.0.2.1:5060"}) || changes.Load() != 1 {
			t.Fatalf("%v after %d changes", got, changes.Load())
		}
		for range 100 { // an answer that is always there
			time.Sleep(10 * time.Second)
			if a := w.Load(); a.Err() != nil || !time.Now().Before(a.Expires()) {
				t.Fatalf("the answer has expired: %v", a.Err())
			}
		}
		if changes.Load() != 1 {
			t.Errorf("%d changes of a name that has not moved", changes.Load())
		}
		b.server.SetZone(t, "pbx.example. 60 A 192.0.2.2")
		time.Sleep(time.Minute)
		v := w.Load()
		if got := addrs(v.Answer); !slices.Equal(got, []string{"udp://192.0.2.2:5060"}) || changes.Load() != 2 {
			t.Fatalf("%v after %d changes, want the new address", got, changes.Load())
		}
		if !v.HasSource(one) || !v.HasSource(two) {
			t.Error("the old or the new address is no source")
		}
		time.Sleep(59 * time.Minute)
		if !w.Load().HasSource(one) {
			t.Error("the old address is no source within the hour")
		}
		time.Sleep(2 * time.Minute)
		if w.Load().HasSource(one) || changes.Load() != 3 {
			t.Errorf("the old address is still a source after an hour; %d changes", changes.Load())
		}
		w.Stop()
		n := b.server.Questions("A pbx.example")
		time.Sleep(time.Hour)
		if got := b.server.Questions("A pbx.example"); got != n {
			t.Errorf("%d questions after the end of the watch", got-n)
		}
	}, onlyIPv4)
}

// TestWatchWithoutServers tests that a watched name resolves as soon as a name server
// answers, and keeps its addresses when none does.
func TestWatchWithoutServers(t *testing.T) {
	run(t, "pbx.example. 60 A 192.0.2.1", func(b *testbed) {
		silent := func(string, netip.AddrPort, *dns.Msg) (*dns.Msg, time.Duration) { return nil, 0 }
		b.server.Respond = silent
		w, err := b.Watch(pbx, nil)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		if a := w.Load(); a.Err() == nil {
			t.Fatal("an answer without a name server")
		}
		b.server.Lock()
		b.server.Respond = nil
		b.server.Unlock()
		time.Sleep(40 * time.Second)
		if got := addrs(w.Load().Answer); len(got) != 1 {
			t.Fatalf("%v 40 s after the name server is back", got)
		}
		b.server.Lock()
		b.server.Respond = silent
		b.server.Unlock()
		time.Sleep(23 * time.Hour)
		if got := addrs(w.Load().Answer); len(got) != 1 || !w.Load().Stale() {
			t.Errorf("%v after 23 hours without a name server", got)
		}
		for _, want := range []string{"name lookup failed", "name resolved"} {
			if !strings.Contains(b.log.String(), want) {
				t.Errorf("the log lacks %q:\n%s", want, b.log)
			}
		}
		if n := strings.Count(b.log.String(), "\n"); n > 4 {
			t.Errorf("%d log lines, want one for each change:\n%s", n, b.log)
		}
	}, onlyIPv4)
}

func TestWatchOfAnAddress(t *testing.T) {
	run(t, "", func(b *testbed) {
		w, err := b.Watch(resolve.Target{Host: "192.0.2.9", Transport: resolve.UDP}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := addrs(w.Load().Answer); !slices.Equal(got, []string{"udp://192.0.2.9:5060"}) {
			t.Errorf("%v", got)
		}
		w.Stop()
		if _, err := b.Watch(resolve.Target{Host: "a b"}, nil); err == nil {
			t.Error("no error for an invalid name")
		}
	})
}
