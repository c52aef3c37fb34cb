package keep

import (
	"fmt"
	"regexp"
	"testing"
	"time"

	"bellhop/dialog"
)

// playCalls shows t n calls from 101 to 102, from the INVITE to the BYE. It calls each
// three times: when all ring, when all are answered, when all have ended.
func playCalls(t *dialog.Tracker, n int, each func()) {
	at := time.Now()
	const head = "Via: SIP/2.0/UDP 192.0.2.11:5060;branch=z9hG4bK1;rport\r\nMax-Forwards: 70\r\nFrom: \"Alice\" <sip:101@pbx.example>;tag=f\r\n" +
		"To: <sip:102@pbx.example>\r\nContact: <sip:101@192.0.2.11:5060>\r\nUser-Agent: Phone/1.0\r\n"
	for i := range n {
		m := dialog.Message{
			At: at, Src: dialog.Edge, Dst: dialog.PBX, Method: "INVITE", CallID: fmt.Sprintf("%032x@192.0.2.11", i), CSeq: 1,
			FromTag: "f", Branch: "z9hG4bK1", Head: "INVITE sip:102@pbx.example SIP/2.0\r\n" + head,
		}
		t.Observe(m)
		m.Src, m.Dst, m.ToTag = m.Dst, m.Src, "t"
		m.Status, m.Head = 180, "SIP/2.0 180 Ringing\r\n"+head
		t.Observe(m)
	}
	each()
	for i := range n {
		t.Observe(dialog.Message{
			At: at, Src: dialog.PBX, Dst: dialog.Edge, Method: "INVITE", Status: 200, CallID: fmt.Sprintf("%032x@192.0.2.11", i), CSeq: 1,
			FromTag: "f", ToTag: "t", Branch: "z9hG4bK1", Head: "SIP/2.0 200 OK\r\n" + head,
		})
	}
	each()
	for i := range n {
		t.Observe(dialog.Message{
			At: at, Src: dialog.Edge, Dst: dialog.PBX, Method: "BYE", CallID: fmt.Sprintf("%032x@192.0.2.11", i), CSeq: 2,
			FromTag: "f", ToTag: "t", Branch: "z9hG4bK2", Head: "BYE sip:102@pbx.example SIP/2.0\r\n" + head,
		})
	}
	each()
}

func newTracker() *dialog.Tracker {
	t := dialog.New(dialog.Config{Pattern: regexp.MustCompile(`^[0-9]{3}$`), Correlate: []string{}})
	t.Changed(time.Now())
	return t
}

// BenchmarkStoreCall measures the three writes of a call: ringing, answered, ended.
// The time includes the NATS server's; 50 calls share a batch.
func BenchmarkStoreCall(b *testing.B) {
	js, closeStore := openStore(b, b.TempDir())
	defer closeStore()
	k, _, _, stop := openKeeper(b, js, &fakeLog{})
	defer stop()
	b.ReportAllocs()
	written := 0
	b.ResetTimer()
	for range (b.N + 49) / 50 {
		b.StopTimer()
		t := newTracker()
		playCalls(t, 50, func() {
			b.StartTimer()
			now := time.Now()
			changes := t.Changed(now)
			k.Put(changes, now, now)
			for k.Pending() > 0 {
				time.Sleep(20 * time.Microsecond)
			}
			b.StopTimer()
			for _, c := range changes {
				written += len(c.Record)
			}
		})
	}
	b.ReportMetric(float64(written)/float64(b.N), "bytes/op")
}

// BenchmarkLoadCalls measures a start with 50,000 live calls.
func BenchmarkLoadCalls(b *testing.B) {
	const calls = 50_000
	dir := b.TempDir()
	js, closeStore := openStore(b, dir)
	k, _, _, stop := openKeeper(b, js, &fakeLog{})
	t := newTracker()
	all := 0
	playCalls(t, calls, func() {
		if all++; all == 2 {
			now := time.Now()
			k.Put(t.Changed(now), now, now)
			begin := time.Now()
			for k.Pending() > 0 {
				time.Sleep(time.Millisecond)
			}
			b.Logf("%d calls written in %v", calls, time.Since(begin).Round(time.Millisecond))
		}
	})
	stop()
	closeStore()
	for b.Loop() {
		begin := time.Now()
		js, closeStore := openStore(b, dir)
		opened := time.Since(begin)
		k, err := Open(b.Context(), js, Config{Node: "n1", OldestUnpublished: (&fakeLog{}).oldestUnpublished, LogEnd: (&fakeLog{}).logEnd})
		if err != nil {
			b.Fatal(err)
		}
		changes, _, err := k.Load(b.Context())
		if err != nil || len(changes) != calls {
			b.Fatal(len(changes), err)
		}
		loaded := time.Since(begin)
		fresh := newTracker()
		if err := fresh.Restore("", changes, nil); err != nil {
			b.Fatal(err)
		}
		b.Logf("store open after %v, calls read after %v, restored after %v", opened.Round(time.Millisecond), loaded.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
		closeStore()
	}
}
