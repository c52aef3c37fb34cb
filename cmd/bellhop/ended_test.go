package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/cmd/bellhop/store/storetest"
	"bellhop/dialog"
	"bellhop/dialog/flowtest"
	"bellhop/notify"
	"bellhop/sip"
)

// TestEndedCallsDoNotReturn plays flows whose calls end, and kills bellhop some time
// later. After the restart no call is live, and no further event of them is published,
// even hours later.
func TestEndedCallsDoNotReturn(t *testing.T) {
	for _, flow := range []string{"asterisk-call", "asterisk-attended-transfer", "asterisk-queue-ring-all", "asterisk-trunk-in", "callee-hangs-up"} {
		file := filepath.Join("../../testdata/flows", flow+".txt")
		if _, err := os.Stat(file); err != nil {
			t.Fatal(err)
		}
		for _, after := range []time.Duration{15 * time.Second, 40 * time.Second, time.Hour} {
			t.Run(strings.ReplaceAll(fmt.Sprint(flow, " ", after), " ", "_"), func(t *testing.T) {
				f, err := flowtest.Load(file)
				if err != nil {
					t.Fatal(err)
				}
				dir, killed := t.TempDir(), filepath.Join(t.TempDir(), "store")
				synctest.Test(t, func(t *testing.T) {
					h := newTestPipeline(t, f.Config, dir)
					flowtest.Play(t, f, h)
					time.Sleep(after)
					synctest.Wait()
					err := storetest.Copy(killed, dir)
					h.stop()
					if err != nil {
						t.Error(err)
						return
					}
					h = newTestPipeline(t, f.Config, killed)
					defer h.stop()
					calls, err := h.rooms.observer.liveCalls(t.Context())
					if err != nil || len(calls) > 0 {
						t.Errorf("calls are %+v, %v", calls, err)
					}
					before := loggedEvents(t, h)
					h.Sleep(5 * time.Hour)
					if now := loggedEvents(t, h); before == 0 || now != before {
						t.Errorf("%d events, and then %d", before, now)
					}
				})
			})
		}
	}
}

// TestKillKeepsEndedCallsEnded kills bellhop half a minute after its calls have ended,
// when markers of ended calls once had expired. After the restart no call is live.
func TestKillKeepsEndedCallsEnded(t *testing.T) {
	t.Parallel()
	const calls = 20
	s := newSite(t, sip.UDP, sip.UDP)
	p := s.serve()
	s.subscribe("json", "POST", "dial-out", "answer", "hangup")
	phones, pbx := s.place("caller-hangs-up", calls, 20)
	phones.exits(0, time.Minute)
	pbx.exits(0, time.Minute)
	s.receiver.wait("every hangup", patience, func(came []received) bool { return hangups(came) == calls })
	<-time.After(30 * time.Second)
	for range 2 {
		p.signal(syscall.SIGKILL)
		<-p.done
		p = s.serve()
		var up struct{ Items []struct{ State string } }
		s.api("GET", "/v1/calls?limit=1000", nil, &up)
		if len(up.Items) != 0 {
			t.Errorf("%d calls are taken up again", len(up.Items))
		}
	}
	p.stop()
	s.once(calls, "dial-out 1", "answer 3", "hangup 4")
}

// loggedEvents returns the number of events of a call in the event log.
func loggedEvents(t *testing.T, h *testPipeline) (n int) {
	t.Helper()
	events, _, err := h.rooms.notifier.Events(t.Context(), notify.Query{Limit: 1000})
	if err != nil {
		t.Error(err)
	}
	for _, e := range events {
		if e.Type != dialog.Registered && e.Type != dialog.Unregistered {
			n++
		}
	}
	return n
}
