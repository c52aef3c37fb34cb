package main

import (
	"flag"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"bellhop/dialog/flowtest"
	"bellhop/notify"
	"bellhop/sip"
)

var update = flag.Bool("update", false, "rewrite what came in testdata/interop, or in testdata/ladders")

// TestDrawsLadders plays flows against all of bellhop, and compares the ladders of their
// first calls with those in testdata/ladders.
func TestDrawsLadders(t *testing.T) {
	for _, name := range []string{"asterisk-x-cid", "asterisk-ring-group", "challenged", "pbx-silent", "picked-up-with-replaces"} {
		t.Run(name, func(t *testing.T) {
			f, err := flowtest.Load("../../testdata/flows/" + name + ".txt")
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				h := newTestPipeline(t, f.Config, dir)
				defer h.stop()
				flowtest.Play(t, f, h)
				events, _, err := h.rooms.notifier.Events(t.Context(), notify.Query{Type: "dial-out", Limit: 1})
				if err != nil || len(events) == 0 {
					t.Fatalf("no dial-out: %v", err)
				}
				c, ok, err := h.rooms.observer.callTrace(t.Context(), events[0].Call)
				if !ok || err != nil {
					t.Fatalf("nothing is kept of call %s: %v", events[0].Call, err)
				}
				_, got, _ := strings.Cut(c.Text(), "\n\n") // the ids of calls are random
				got, _, _ = strings.Cut(got, "\n\n")
				compare(t, filepath.Join("../../testdata/ladders", name+".txt"), got+"\n")
			})
		})
	}
}

// TestKeepsTraceOfCall reads the messages of a busy call from a bellhop process, and
// then turns traces off.
func TestKeepsTraceOfCall(t *testing.T) {
	t.Parallel()
	s := newSite(t, sip.UDP, sip.UDP)
	p := s.serve()
	pbx := newPeer(t, s.pbx.AddrPort)
	phone := newPeer(t, netip.MustParseAddrPort("127.0.0.2:0"))
	phone.invite(s, "busy")
	request := pbx.gets("INVITE ")
	pbx.reply(s, request, "180 Ringing")
	phone.gets("SIP/2.0 180 ")
	pbx.reply(s, request, "486 Busy Here")
	pbx.gets("ACK ")
	phone.gets("SIP/2.0 486 ")
	var events struct {
		Items []struct {
			CallID string `json:"call_id"`
		}
	}
	s.eventually("the hangup was said", func() bool {
		s.api("GET", "/v1/events?type=hangup", nil, &events)
		return len(events.Items) == 1
	})
	path := "/v1/calls/" + events.Items[0].CallID + "/trace"
	var trace struct {
		Up       bool
		Messages []struct{ From, To, Through, Summary string }
	}
	s.api("GET", path, nil, &trace)
	var got []string
	for _, m := range trace.Messages {
		got = append(got, m.Summary+" "+m.From+" "+m.Through+" "+m.To)
	}
	at := phone.c.LocalAddr()
	want := []string{
		fmt.Sprintf("INVITE sip:102@pbx.example %s %s %s", at, s.hop, s.pbx.AddrPort),
		fmt.Sprintf("180 Ringing %s %s %s", s.pbx.AddrPort, s.hop, at),
		fmt.Sprintf("486 Busy Here %s %s %s", s.pbx.AddrPort, s.hop, at),
	}
	if !slices.Equal(got, want) || trace.Up {
		t.Errorf("up %v, got\n%s\nwant\n%s", trace.Up, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	s.configure("[calls]\ntrace = 0\n")
	p.signal(syscall.SIGHUP)
	s.eventually("nothing is kept", func() bool {
		status, _ := s.request("GET", path, nil)
		return status == http.StatusNotFound
	})
	p.stop()
}

// compare compares text with a file; -update rewrites the file.
func compare(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s has\n%sgot\n%s", file, want, got)
	}
}
