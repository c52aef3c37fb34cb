package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/dialog"
	"bellhop/dialog/flowtest"
	"bellhop/notify"
)

// TestEndedCallsDoNotReturn plays flows whose calls end, and kills bellhop a while
// after: the next one has no call up, and says nothing more of them, then or hours
// later.
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
					h := newWholeHop(t, f.Config, dir)
					flowtest.Play(t, f, h)
					time.Sleep(after)
					synctest.Wait()
					err := os.CopyFS(killed, os.DirFS(dir))
					for _, name := range []string{"key", "node"} {
						err = errors.Join(err, os.Chmod(filepath.Join(killed, name), 0o600))
					}
					h.stop()
					if err != nil {
						t.Error(err)
						return
					}
					h = newWholeHop(t, f.Config, killed)
					defer h.stop()
					calls, err := h.rooms.follower.calls(t.Context())
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

// loggedEvents counts the events of the log that are of a call.
func loggedEvents(t *testing.T, h *wholeHop) (n int) {
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
