package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/cmd/bellhop/store/storetest"
	"bellhop/dialog"
	"bellhop/dialog/flowtest"
	"bellhop/notify"
)

// TestCallsAndBindingsOutliveTheUpgrade starts with the store of build 378cfc6, whose
// Record-Route tokens are not bound to a dialog. That build was stopped in virtual time,
// at the sixth second of the year 2000, with extension 101 registered, a subscription to
// everything, and two live calls, one of which the PBX has left to its phones. Its
// keep_events was 876000h, as the store counts in real time. Beside the store are the
// REGISTER and the INVITE as the PBX got them, and each 200 as the phone got it.
func TestCallsAndBindingsOutliveTheUpgrade(t *testing.T) {
	dir := filepath.Dir(storetest.Older(t, "378cfc6"))
	text := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	field := func(message, name string) string {
		for line := range strings.SplitSeq(message, "\r\n") {
			if v, ok := strings.CutPrefix(line, name+": "); ok {
				return v
			}
		}
		t.Fatalf("no %s in\n%s", name, message)
		return ""
	}
	register, invite, ok, direct := text("register.txt"), text("invite.txt"), text("ok.txt"), text("ok2.txt")

	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Minute)
		f, err := flowtest.Load("../../testdata/flows/asterisk-call.txt")
		if err != nil {
			t.Fatal(err)
		}
		f.Config.Register = "path"
		h := newTestPipeline(t, f.Config, filepath.Join(dir, "data"))
		defer h.stop()
		peer := func(name string) flowtest.Peer {
			for _, p := range flowtest.Peers {
				if p.Name == name {
					return p
				}
			}
			panic(name)
		}
		passes := func(from, to string, lines ...string) {
			t.Helper()
			m := strings.Join(append(lines, "Max-Forwards: 70", "Content-Length: 0", "", ""), "\r\n")
			if err := h.Send(peer(from), []byte(m)); err != nil {
				t.Fatal(err)
			}
			got, _ := h.Receive(peer(to))
			if !strings.HasPrefix(string(got), lines[0]) {
				t.Fatalf("%s got %q, want %s", to, got, lines[0])
			}
			h.Send(peer(to), okTo(got))
			if got, _ := h.Receive(peer(from)); !strings.HasPrefix(string(got), "SIP/2.0 200") {
				t.Fatalf("%s got %q", from, got)
			}
		}

		passes("pbx", "phone", "MESSAGE sip:101@10.0.0.7 SIP/2.0", "Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKm;rport",
			"Route: "+field(register, "Path"), "From: <sip:102@pbx.example>;tag=m", "To: <sip:101@pbx.example>", "Call-ID: message", "CSeq: 1 MESSAGE")
		passes("pbx", "phone", "INFO sip:101@10.0.0.7 SIP/2.0", "Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKi;rport",
			"Route: "+field(invite, "Record-Route"), "From: "+field(ok, "To"), "To: "+field(ok, "From"), "Call-ID: up-at-the-upgrade", "CSeq: 2 INFO")
		passes("phone", "pbx", "BYE sip:5551234@192.0.2.1:5060 SIP/2.0", "Via: SIP/2.0/UDP 192.0.2.11:5060;branch=z9hG4bKb;rport",
			"Route: "+field(ok, "Record-Route"), "From: "+field(ok, "From"), "To: "+field(ok, "To"), "Call-ID: up-at-the-upgrade", "CSeq: 3 BYE")
		// The caller has the Routes the other way round.
		rr := strings.Split(direct, "\r\n")
		passes("phone", "bob", "BYE sip:102@192.0.2.12:5060 SIP/2.0", "Via: SIP/2.0/UDP 192.0.2.11:5060;branch=z9hG4bKd;rport",
			"Route: "+strings.TrimPrefix(rr[2], "Record-Route: "), "Route: "+strings.TrimPrefix(rr[1], "Record-Route: "),
			"From: "+field(direct, "From"), "To: "+field(direct, "To"), "Call-ID: left-by-the-pbx", "CSeq: 3 BYE")

		synctest.Wait()
		events, _, err := h.rooms.notifier.Events(t.Context(), notify.Query{Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		var got []dialog.Type
		for _, e := range events {
			got = append(got, e.Type)
			if e.Type == dialog.Hangup && (e.Status != dialog.Answered || !e.Recovered || e.Duration < time.Minute) {
				t.Errorf("hangup is %+v", e)
			}
		}
		want := []dialog.Type{
			dialog.Registered, dialog.DialOut, dialog.Answer,
			dialog.DialIn, dialog.Answer, dialog.DialOut, dialog.Answer,
			dialog.MessageIn, dialog.Hangup, dialog.Hangup, dialog.Hangup,
		}
		if !slices.Equal(got, want) {
			t.Errorf("events are %v, want %v", got, want)
		}
	})
}

// okTo returns the 200 to a request.
func okTo(request []byte) []byte {
	ok := "SIP/2.0 200 OK\r\n"
	for line := range strings.SplitSeq(string(request), "\r\n") {
		switch name, _, _ := strings.Cut(line, ":"); name {
		case "Via", "From", "To", "Call-ID", "CSeq":
			ok += line + "\r\n"
		}
	}
	return []byte(ok + "Content-Length: 0\r\n\r\n")
}
