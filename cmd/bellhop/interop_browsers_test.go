//go:build interop

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"bellhop/sip"
)

// phonePage is the script of a page that is a phone, with JsSIP for 101 and SIP.js for 102.
// It answers every call, and counts the packets of voice that it receives.
const phonePage = `
	const seen = [];
	let session = null, packets = 0;
	const constraints = {audio: true, video: false}, media = {mediaConstraints: constraints};
	setInterval(async () => {
		if (!session?.connection) return;
		(await session.connection.getStats()).forEach(s => { if (s.type === "inbound-rtp") packets = s.packetsReceived; });
	}, 100);
	async function start(user, url) {
		if (user === "101") startJsSIP(user, url); else await startSIPjs(user, url);
	}
	async function startSIPjs(user, url) {
		const phone = new SIP.Web.SimpleUser(url, {
			aor: "sip:" + user + "@pbx.example",
			media: {constraints, remote: {audio: document.createElement("audio")}},
			userAgentOptions: {authorizationUsername: user, authorizationPassword: "pw" + user},
		});
		phone.delegate = {
			onRegistered: () => seen.push("registered"),
			onCallCreated: () => {
				packets = 0;
				session = {
					get connection() { return phone.session?.sessionDescriptionHandler?.peerConnection; },
					terminate: () => phone.hangup(),
				};
			},
			onCallReceived: () => phone.answer(),
			onCallAnswered: () => seen.push("confirmed"),
			onCallHangup: () => seen.push("ended by somebody"),
		};
		window.ua = {call: to => phone.call(to)};
		await phone.connect();
		await phone.register();
	}
	function startJsSIP(user, url) {
		window.ua = new JsSIP.UA({sockets: [new JsSIP.WebSocketInterface(url)], uri: "sip:" + user + "@pbx.example", password: "pw" + user});
		ua.on("registered", () => seen.push("registered"));
		ua.on("registrationFailed", e => seen.push("registration failed: " + e.cause));
		ua.on("newRTCSession", e => {
			session = e.session;
			packets = 0;
			session.on("confirmed", () => seen.push("confirmed"));
			session.on("ended", e => seen.push("ended by " + e.originator));
			session.on("failed", e => seen.push("failed: " + e.cause + " " + e.originator));
			if (e.originator === "remote") session.answer(media);
		});
		ua.start();
	}`

// bundlePhones returns JsSIP and SIP.js as one script.
func bundlePhones(t *testing.T) string {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "in.js"), []byte(`import JsSIP from "jssip"; import * as SIP from "sip.js"; Object.assign(window, {JsSIP, SIP});`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"npm", "install", "--no-audit", "--no-fund", "jssip@3.13.8", "sip.js@0.21.2", "esbuild"},
		{"npx", "esbuild", "in.js", "--bundle", "--format=iife", "--minify", "--charset=ascii", "--outfile=out.js"},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", args, err, out)
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "out.js"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Two pages in Chromium, with JsSIP and SIP.js, call each other through bellhop and a PBX. Voice goes
// between them, one of them holds the call, and either side hangs up. At last one page is
// closed in the call.
//
// The PBX is the small one of tests, which knows no hold, or the one at the address in the
// environment variable WEBRTC_PBX, such as udp://127.0.0.2:5060. There, 101 and 102 are
// endpoints for WebRTC with the passwords pw101 and pw102.
func TestBrowsersCallEachOther(t *testing.T) {
	s := newSite(t, sip.TCP, sip.UDP)
	realPBX := os.Getenv("WEBRTC_PBX")
	if realPBX == "" {
		s.startPBX()
	} else if err := s.pbx.UnmarshalText([]byte(realPBX)); err != nil {
		t.Fatal(err)
	}
	origin := servePages(t, bundlePhones(t), phonePage)
	cert, key := newCertificate(t, 1, s.hop.Addr().AsSlice())
	at := freePort(t, "127.0.0.4")
	s.configure(fmt.Sprintf("[[listener]]\nlisten = \"wss://%v\"\norigins = [%q]\ntls_cert = ['''%s''']\ntls_key = ['''%s''']\n", at, origin, cert, key))
	s.serve()
	s.subscribe("json", "POST", "dial-out", "dial-in", "answer", "hangup", "hold", "resume")

	pages := map[string]*browser{}
	for _, user := range []string{"101", "102"} {
		b := s.startChromium("use-fake-ui-for-media-stream", "use-fake-device-for-media-stream", "ignore-certificate-errors")
		pages[user] = b
		b.do(chromedp.Navigate(origin))
		b.until("the page is loaded", fmt.Sprintf(`typeof start === "function" && (start(%q, "wss://%v/"), true)`, user, at))
		b.until("it is registered", `seen.includes("registered")`)
	}
	for _, call := range []struct{ caller, callee, ends string }{{"101", "102", "101"}, {"102", "101", "101"}, {"101", "102", "102"}} {
		s.dialPage(pages, call.caller, call.callee)
		for _, b := range pages {
			b.until("voice arrives", "packets > 20")
		}
		var held []string
		if realPBX != "" {
			held = pages["101"].holdAndResume()
		}
		pages[call.ends].until("it hangs up", "(session.terminate(), true)")
		for _, b := range pages {
			b.until("the call has ended", `seen.at(-1).startsWith("ended by")`)
		}
		by := "caller"
		if call.ends != call.caller {
			by = "callee"
		}
		s.wantPageEvents(call.caller, call.callee, by, held...)
	}
	s.dialPage(pages, "101", "102")
	pages["101"].do(chromedp.Navigate("about:blank")) // SIP.js would hang up first
	pages["102"].until("it hangs up", "(session.terminate(), true)")
	s.wantPageEvents("101", "102", "callee")
}

// dialPage lets the page of one extension call that of another, and waits until both are
// connected.
func (s *site) dialPage(pages map[string]*browser, caller, callee string) {
	s.t.Helper()
	pages[caller].until("it calls", fmt.Sprintf(`(ua.call("sip:%s@pbx.example", media), true)`, callee))
	for _, b := range pages {
		b.until("the call is up", `seen.at(-1) === "confirmed"`)
	}
}

// holdAndResume lets the page of 101 hold its call and take it back. It returns the events
// of that.
func (b *browser) holdAndResume() []string {
	b.t.Helper()
	b.until("it holds the call", `session.hold({}, () => seen.push("held"))`)
	b.until("the call is held", `seen.at(-1) === "held"`)
	b.until("it takes the call back", `session.unhold({}, () => seen.push("resumed"))`)
	b.until("the call goes on", `seen.at(-1) === "resumed"`)
	return []string{"hold 101 ANSWER ", "resume 101 ANSWER "}
}

// wantPageEvents checks the events of an answered call. others are further events.
func (s *site) wantPageEvents(caller, callee, hangupBy string, others ...string) {
	s.t.Helper()
	s.receiver.wait("all events of the call", time.Minute, func(came []received) bool { return len(came) == 6+len(others) })
	var got []string
	for _, c := range s.receiver.take() {
		got = append(got, fmt.Sprint(c.fields["event_type"], " ", c.fields["extension"], " ", c.fields["call_status"], " ", c.fields["hangup_by"]))
	}
	slices.Sort(got)
	want := append([]string{
		"dial-out " + caller + " CALLING ", "dial-in " + callee + " CALLING ", "answer " + caller + " ANSWER ", "answer " + callee + " ANSWER ",
		"hangup " + caller + " ANSWER " + hangupBy, "hangup " + callee + " ANSWER " + hangupBy,
	}, others...)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		s.t.Errorf("got events %q, want %q", got, want)
	}
}
