package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"bellhop/sip"
)

var screenshots = flag.String("screenshots", "", "write pictures of the page to this folder")

// A browser is a Chromium that shows the page of a site.
type browser struct {
	*site
	ctx    context.Context
	clicks int
}

// browse starts a Chromium, and signs in.
func (s *site) browse() *browser {
	s.t.Helper()
	b := s.startChromium()
	s.t.Cleanup(func() {
		if s.t.Failed() {
			s.t.Logf("the page shows:\n%s", b.text("body"))
			var deliveries json.RawMessage
			s.api("GET", "/v1/deliveries", nil, &deliveries)
			s.t.Logf("there are the deliveries %s", deliveries)
		}
	})
	b.open("/")
	b.fill("#token", testToken)
	b.click("form button")
	b.until("one is signed in", `location.pathname === "/" && !!document.querySelector("nav")`)
	return b
}

// startChromium starts a Chromium with an empty page, and further flags.
func (s *site) startChromium(flags ...string) *browser {
	s.t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		s.t.Fatal("this test needs Chromium: as root, run: apt-get update && apt-get install -y chromium")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.UserDataDir(s.t.TempDir()),
		chromedp.Flag("no-proxy-server", true), chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("hide-scrollbars", true),
	)
	for _, f := range flags {
		options = append(options, chromedp.Flag(f, true))
	}
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	b := &browser{site: s, ctx: ctx}
	s.t.Cleanup(func() {
		chromedp.Cancel(ctx)
		cancel()
		stop()
	})
	if err := chromedp.Do(ctx); err != nil { // its life is that of ctx
		s.t.Fatalf("Chromium does not start: %v", err)
	}
	if err := chromedp.Listen(ctx, b.heard); err != nil {
		s.t.Fatal(err)
	}
	return b
}

// heard fails the test if a script of the page fails or opens a dialog, as an injected
// script would.
func (b *browser) heard(event any) {
	switch e := event.(type) {
	case *page.EventJavascriptDialogOpening:
		b.t.Errorf("the page opens a dialog: %s", e.Message)
	case *runtime.EventExceptionThrown:
		b.t.Errorf("a script fails: %s", e.ExceptionDetails.Text)
	}
}

// do runs actions in the browser.
func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	for _, a := range actions {
		got(b, a)
	}
}

// got returns the result of an action. It repeats an action that was lost because its
// page was left: the action must have no effect.
func got[T any](b *browser, a chromedp.Action[T]) (v T) {
	b.t.Helper()
	b.eventually("the browser does it", func() (done bool) {
		ctx, cancel := context.WithTimeout(b.ctx, patience)
		defer cancel()
		var err error
		v, err = chromedp.Run(ctx, a)
		if err != nil && !leftPage(err) {
			b.t.Fatal(err)
		}
		return err == nil
	})
	return v
}

// leftPage reports whether an action failed because a click before it left its page.
func leftPage(err error) bool {
	var protocol *cdproto.Error
	var load *chromedp.LoadError
	switch {
	case errors.As(err, &protocol):
		return slices.ContainsFunc([]string{"navigated or closed", "context was destroyed", "Cannot find context", "Cannot find default execution context"},
			func(why string) bool { return strings.Contains(protocol.Message, why) })
	case errors.As(err, &load):
		return load.ErrorText == "net::ERR_ABORTED" // for another page that was to be loaded
	}
	return false
}

func (b *browser) open(path string) {
	b.t.Helper()
	b.do(chromedp.Navigate("http://" + b.admin.String() + path))
}

// click clicks the element of a selector as soon as a person could.
func (b *browser) click(selector string) {
	b.t.Helper()
	b.clickAt(selector, fmt.Sprintf("document.querySelector(%q)", selector))
}

// clickAt clicks once the element of an expression as soon as a person could. It records
// the click beforehand, as the next page may come before the browser's answer.
func (b *browser) clickAt(what, element string) {
	b.t.Helper()
	b.clicks++
	b.until("one can click at "+what, fmt.Sprintf(`(() => {
		if (sessionStorage.getItem("clicked") === "%[1]d") return true;
		const e = %[2]s;
		if (!e || e.disabled || !e.checkVisibility()) return false;
		sessionStorage.setItem("clicked", "%[1]d");
		e.focus();
		e.click();
		return true;
	})()`, b.clicks, element))
}

// fill enters text into the field of a selector as soon as it exists.
func (b *browser) fill(selector, text string) {
	b.t.Helper()
	b.until("one can write into "+selector, fmt.Sprintf(`(() => {
		const e = document.querySelector(%q);
		if (!e || e.disabled) return false;
		e.value = %q;
		return true;
	})()`, selector, text))
}

// text returns the visible text of a selector.
func (b *browser) text(selector string) string {
	b.t.Helper()
	return got(b, chromedp.Evaluate[string](fmt.Sprintf(`document.querySelector(%q)?.innerText ?? ""`, selector)))
}

// until waits until an expression is true.
func (b *browser) until(what, expression string) {
	b.t.Helper()
	b.eventually(what, func() bool { return got(b, chromedp.Evaluate[bool]("!!("+expression+")")) })
}

// reads waits until the text of a selector contains another text.
func (b *browser) reads(selector, text string) {
	b.t.Helper()
	b.until(fmt.Sprintf("%s reads %q", selector, text), fmt.Sprintf(`(document.querySelector(%q)?.innerText ?? "").includes(%q)`, selector, text))
}

// goOn continues a scenario: the PBX answers, or the phone hangs up.
func (s *site) goOn(end *agent) {
	s.t.Helper()
	c, err := net.Dial("udp", end.at.AddrPort.String())
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "MESSAGE sip:end@%[1]v SIP/2.0\r\nVia: SIP/2.0/UDP %[2]v;branch=z9hG4bKgo\r\nFrom: <sip:test@test>;tag=1\r\nTo: <sip:end@test>\r\nCall-ID: 1%[3]s\r\nCSeq: 1 MESSAGE\r\nMax-Forwards: 1\r\nContent-Length: 0\r\n\r\n",
		end.at.AddrPort, c.LocalAddr(), end.calls)
}

// TestPageServesAPerson uses all functions of the page like a person, while calls are placed.
func TestPageServesAPerson(t *testing.T) {
	t.Parallel()
	s := newSite(t, sip.UDP, sip.UDP)
	p := s.serve()
	b := s.browse()

	// The first visit shows what to do, and the address of bellhop for phones.
	b.reads("main", "Three steps to your first callback")
	b.reads("main", "sip:"+s.hop.String()+";transport=udp")
	b.axe("the first visit")

	// Subscribe, with a slip.
	b.click(".steps button[hx-get]")
	b.until("the pop-up is open", `document.querySelector("#pop-up[open] #extension")`)
	b.fill("#extension", "101")
	b.click(`#pop-up input[value="dial-out"]`)
	b.click(`#pop-up input[value="hangup"]`)
	b.fill("#url", "crm.example")
	b.fill("#note", "<b>CRM</b>")
	b.axe("the form")
	b.click("#pop-up button[type=submit]")
	b.reads("#url-error", "must begin with http")
	b.until("the slip has the focus", `document.activeElement.id === "url"`)
	b.axe("the form with a slip")
	b.fill("#url", "http://"+s.receiver.addr+"/json")
	b.click("#pop-up button[type=submit]")
	b.reads("#pop-up", "whsec_")
	b.click("#pop-up a.button")
	b.reads("#subscriptions", "dial-out, hangup")
	b.reads("#subscriptions", "<b>CRM</b>")
	b.reads("#subscriptions", "not configured")
	b.axe("the table")
	b.open("/")
	b.reads("#extensions", "101")
	b.axe("the extensions")
	b.click("#to-101")
	b.reads("#subscriptions", "dial-out, hangup")

	// Off and on again, by keyboard.
	b.click(".switch")
	b.reads("#subscriptions", "disabled: switched off")
	b.until("the switch keeps the focus", `document.activeElement.matches(".switch.disabled")`)
	b.do(chromedp.KeyEvent("\r"))
	b.until("it is on", `document.querySelector(".switch.active[aria-pressed=true]")`)

	// Change the event types of the subscription.
	b.click("[id^=edit-]")
	b.until("the pop-up is open", `document.querySelector("#pop-up[open] #url")`)
	b.reads("#pop-up", s.only().ID)
	b.click(`#pop-up input[value="answer-out"]`)
	b.click("#pop-up button[type=submit]")
	b.reads("#subscriptions", "dial-out, answer-out, hangup")
	b.until("the pop-up is closed", `!document.querySelector("#pop-up[open]")`)

	// A call rings, talks and ends. The caller's name is markup.
	const evil = "<img src=x onerror=alert(1)>"
	b.open("/calls")
	b.reads("main", "No live calls")
	s.receiver.down()
	phones, pbx := s.place("watched", 1, 1)
	b.reads("#live-calls", "ringing")
	b.reads("#live-calls", evil)
	s.goOn(pbx)
	b.reads("#live-calls", "talking")
	pbx.acknowledged(1)
	b.until("its time ticks", `document.querySelector("#live-calls time").innerText >= "00:01"`)
	b.axe("the calls")
	s.goOn(phones)
	b.until("it is no longer up", `!document.querySelector("#live-calls")`)
	b.reads("#ended-calls", "ANSWER")
	b.reads("#ended-calls", evil)
	phones.exits(0, patience)
	pbx.exits(0, patience)
	b.click("#ended-calls a")
	b.reads("#story-title", "Events")
	b.until("one can click at an arrow of its ladder", `(() => {
		const arrow = [...document.querySelector(".ladder object").contentDocument?.querySelectorAll("a") ?? []].find(a => a.textContent.includes("INVITE"));
		arrow?.dispatchEvent(new MouseEvent("click", {bubbles: true, cancelable: true, view: window}));
		return arrow;
	})()`)
	b.until("there is its text", `document.querySelector(".messages details[open] pre:target")?.innerText.startsWith("INVITE sip:201@")`)
	b.until("it has the focus", `document.activeElement === document.querySelector(".messages details[open] summary")`)
	b.eventually("a key does the same", func() bool {
		b.run("go to the next arrow", `document.querySelector(".ladder object").contentDocument.querySelectorAll("a")[1].focus()`)
		b.do(chromedp.KeyEvent("\r"))
		return got(b, chromedp.Evaluate[bool](`!!document.querySelector(".messages details[open] pre:target")?.innerText.startsWith("SIP/2.0 180 ")`))
	})
	b.axe("a call")

	// Events, of one type.
	b.open("/events")
	b.reads("main table", evil)
	b.axe("the events")
	b.run("pick a type", `document.querySelector("#type").value = "hangup"`)
	b.click(".filters button")
	b.until("only hangups are left", `[...document.querySelectorAll("tbody .type")].every(t => t.innerText === "hangup") && location.search.includes("type=hangup")`)

	// The receiver is down: what was tried, and once more by hand.
	b.open("/extensions/101")
	b.click(`.more a[href^="/deliveries"]`)
	b.reads("h1", "Deliveries")
	b.click(`.tabs a[href*="state=waiting"]`)
	b.until("the dial-out was tried", `[...document.querySelectorAll("tbody th")].some(t => t.innerText === "dial-out")`)
	b.axe("the deliveries")
	b.clickAt("it", `[...document.querySelectorAll("tbody th a")].find(a => a.innerText === "dial-out")`)
	b.reads("#delivery", "Attempt 1")
	b.reads("#delivery", "connection refused")
	b.axe("a delivery")
	s.receiver.up()
	b.click("#redeliver")
	b.reads("#delivery", "Manual attempt")
	b.until("it is delivered", `document.querySelector("#delivery .head .state.delivered")`)
	if got := b.text("#delivery summary"); got != "Request" {
		t.Errorf("the request is under %q", got)
	}

	// Test, replay, make a new secret, then clear.
	b.open("/extensions/101")
	b.click(".do button")
	b.reads("#pop-up", "One sample callback of each event type was sent")
	b.reads("#pop-up", "HTTP 204")
	b.axe("a test")
	b.do(chromedp.KeyEvent("\x1b"))
	b.until("the pop-up is closed", `!document.querySelector("#pop-up[open]")`)
	b.click(".do button[hx-get]")
	b.until("the pop-up is open", `document.querySelector("#pop-up[open] #from")`)
	b.axe("the form of a replay")
	b.fill("#from", "2001-01-01 00:00")
	b.fill("#to", "2001-01-02 00:00")
	b.click("#pop-up button[type=submit]")
	b.reads("#confirm", "Send all events of this period")
	b.click("#confirm button[value=ok]")
	b.reads("#pop-up", "No events to resend")
	b.do(chromedp.KeyEvent("\x1b"))
	b.until("the pop-up is closed", `!document.querySelector("#pop-up[open]")`)
	b.click("[id^=edit-]")
	b.click("#rotate")
	b.reads("#confirm", "For 24 hours")
	b.click("#confirm button[value=ok]")
	b.reads("#pop-up", "whsec_")
	b.click("#pop-up [data-close]")
	b.until("the pop-up is closed", `!document.querySelector("#pop-up[open]")`)
	b.until("there is nothing to clear", `document.querySelector(".foot button").disabled`)
	b.click("tbody input[name=id]")
	b.click(".foot button")
	b.reads("#confirm", "Their pending deliveries are canceled")
	b.axe("the question")
	b.click("#confirm button[value=cancel]")
	b.until("the question is gone", `!document.querySelector("#confirm[open]")`)
	b.click(".foot button")
	b.click("#confirm button[value=ok]")
	b.until("it is gone", `!document.querySelector("tbody input[name=id]")`)
	if n := len(s.subscriptions()); n != 0 {
		t.Errorf("%d subscriptions are left", n)
	}

	// Tokens: one that may only read sees no buttons.
	b.open("/tokens")
	b.click(".head button")
	b.until("the pop-up is open", `document.querySelector("#pop-up[open] #note")`)
	b.axe("the form of a token")
	b.fill("#note", "wallboard")
	b.click("#pop-up button[type=submit]")
	b.reads("#pop-up", "bh_")
	secret := b.text("#pop-up code")
	b.click("#pop-up a.button")
	b.reads("#tokens", "wallboard")
	b.axe("the tokens")

	b.open("/bans")
	b.reads("#bans", "No source is banned")
	b.click(".head button")
	b.until("the pop-up is open", `document.querySelector("#pop-up[open] #source")`)
	b.axe("the form of a ban")
	b.fill("#source", "203.0.113.0/24")
	b.click("#pop-up button[type=submit]")
	b.reads("#pop-up", "must be an IPv4 address")
	b.fill("#source", "203.0.113.9")
	b.fill("#until", "24h")
	b.click("#pop-up button[type=submit]")
	b.reads("#pop-up", "203.0.113.9 is banned")
	b.click("#pop-up a.button")
	b.reads("#bans", "203.0.113.9")
	b.axe("the bans")
	b.click("#bans .danger")
	b.click("#confirm button[value=ok]")
	b.reads("#bans", "No source is banned")

	b.open("/health")
	b.reads("main", "Ready")
	b.axe("the health")
	b.click(".who button")
	b.until("one is out", `location.pathname === "/login"`)
	b.axe("the door")
	b.fill("#token", "wrong")
	b.click("form button")
	b.reads("[role=alert]", "Unknown or expired token")
	b.fill("#token", secret)
	b.click("form button")
	b.until("one is in", `location.pathname === "/"`)
	b.until("there are no buttons", `!document.querySelector("main [hx-get], main [hx-post]")`)
	p.stop()
}

// only returns the only subscription.
func (s *site) only() subscribed {
	s.t.Helper()
	subs := s.subscriptions()
	if len(subs) != 1 {
		s.t.Fatalf("there are %d subscriptions, want one", len(subs))
	}
	return subs[0]
}

type subscribed struct{ ID string }

func (s *site) subscriptions() []subscribed {
	s.t.Helper()
	var list struct{ Items []subscribed }
	s.api("GET", "/v1/subscriptions", nil, &list)
	return list.Items
}

// run runs a script in the page.
func (b *browser) run(what, script string) {
	b.t.Helper()
	if !got(b, chromedp.Evaluate[bool]("(() => { "+script+"; return true })()")) {
		b.t.Fatal(what)
	}
}

// axe checks that axe-core finds no serious problem, in both themes and two widths.
func (b *browser) axe(what string) {
	b.t.Helper()
	script, err := os.ReadFile(filepath.Join("..", "..", "testdata", "axe", "axe.min.js"))
	if err != nil {
		b.t.Fatal(err)
	}
	b.run("load axe-core", "if (!window.axe) { "+string(script)+"\n }")
	for _, theme := range themes {
		for _, width := range widths {
			b.dress(theme, width)
			found := got(b, chromedp.Evaluate[[]string](`axe.run(document, {resultTypes: ["violations"]}).then(r => r.violations
				.filter(v => v.impact === "serious" || v.impact === "critical")
				.map(v => v.id + ": " + v.help + ": " + v.nodes.map(n => n.html + " " + n.failureSummary).join(" | ")))`, chromedp.EvalAwaitPromise))
			for _, f := range found {
				b.t.Errorf("%s, %s at %d: %s", what, theme, width, f)
			}
		}
	}
}

var (
	themes = []string{"light", "dark"}
	widths = []int64{390, 1440}
)

// dress sets a theme and a width, and stops animations.
func (b *browser) dress(theme string, width int64) {
	b.t.Helper()
	var options []chromedp.EmulateViewportOption
	if width < 800 {
		options = append(options, chromedp.EmulateMobile)
	}
	b.do(chromedp.EmulateViewport(width, 900, options...), chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: theme}, {Name: "prefers-reduced-motion", Value: "reduce"},
		}})
		return err
	}))
}

// TestTakeScreenshots takes pictures of every view, in both themes and two widths.
func TestTakeScreenshots(t *testing.T) {
	if *screenshots == "" {
		t.Skip("it tests nothing: make screenshots")
	}
	if err := os.MkdirAll(*screenshots, 0o755); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, sip.UDP, sip.UDP)
	cert, key := newCertificate(t, 1, s.hop.Addr().AsSlice())
	s.write("cert.pem", cert)
	s.write("key.pem", key)
	carrier, err := net.ListenPacket("udp", "127.0.0.6:0")
	if err != nil {
		t.Fatal(err)
	}
	defer carrier.Close()
	go answerAll(carrier, "200 OK")
	s.configure(fmt.Sprintf("[[listener]]\nlisten = \"wss://%v\"\ntls_cert = ['file:%[2]s/cert.pem']\ntls_key = ['file:%[2]s/key.pem']\n[[trunk]]\nname = \"carrier\"\nto = [\"udp://%v\", \"udp://%v\"]\n",
		freePort(t, "127.0.0.4"), s.dir, carrier.LocalAddr(), freePort(t, "127.0.0.6")))
	p := s.serve()
	b := s.browse()
	b.picture("first", "/", "")
	b.fillUp()
	for _, source := range []string{"203.0.113.9", "2001:db8::9"} {
		s.api("POST", "/v1/bans", map[string]any{"source": source}, new(any))
	}
	phones, pbx := s.place("watched", 1, 1)
	b.open("/calls")
	b.reads("#live-calls", "ringing")
	s.goOn(pbx)
	b.reads("#live-calls", "talking")
	pbx.acknowledged(1)
	b.open("/deliveries?state=waiting")
	delivery := got(b, chromedp.Evaluate[string](`document.querySelector("tbody th a").pathname`))
	for _, v := range []struct{ name, path, click string }{
		{"calls", "/calls", ""},
		{"extensions", "/", ""},
		{"extension", "/extensions/101", ""},
		{"form", "/extensions/101", "[id^=edit-]"},
		{"test", "/extensions/101", ".do button"},
		{"patterns", "/patterns", ""},
		{"events", "/events", ""},
		{"deliveries", "/deliveries", ""},
		{"delivery", delivery, "#delivery summary"},
		{"tokens", "/tokens", ""},
		{"token", "/tokens", ".head button"},
		{"bans", "/bans", ""},
		{"ban", "/bans", ".head button"},
		{"health", "/health", ""},
	} {
		b.picture(v.name, v.path, v.click)
	}
	s.goOn(phones)
	phones.exits(0, patience)
	b.open("/calls")
	b.until("the call is over", `!document.querySelector("#live-calls")`)
	b.picture("call", got(b, chromedp.Evaluate[string](`[...document.querySelectorAll("#ended-calls a")].at(-1).pathname`)), ".messages summary")
	b.open("/")
	b.click(".who button")
	b.until("one is out", `location.pathname === "/login"`)
	b.picture("login", "/login", "")
	p.stop()
}

// fillUp creates the data to show.
func (b *browser) fillUp() {
	var sub struct{ ID string }
	hook := "http://" + b.receiver.addr + "/json"
	for _, o := range []map[string]any{
		{"extension": "101", "types": []string{"dial-in", "dial-out", "hangup"}, "url": hook, "note": "pops up the customer in the CRM"},
		{"extension": "101", "types": []string{"answer"}, "url": "https://crm.example/pop{?EventType,CallerIDNum}", "method": "GET", "dialect": "telphin", "active": false},
		{"extension": "101", "types": []string{"hangup"}, "url": "http://127.0.0.9:9/billing", "note": "billing, which is down"},
		{"extension": "102", "types": []string{"hangup"}, "url": hook},
		{"extension": "0003*210", "types": []string{"dial-in"}, "url": hook, "note": "reception"},
		{"extension_regex": "2..", "types": []string{"dial-in", "dial-out", "answer", "hangup"}, "url": hook, "note": "wallboard"},
	} {
		b.api("POST", "/v1/subscriptions", o, &sub)
	}
	var token struct{ ID string }
	b.api("POST", "/v1/tokens", map[string]any{"scope": "write", "extensions": []string{"101", "102"}, "note": "CRM"}, &token)
	b.api("POST", "/v1/tokens", map[string]any{"scope": "read", "note": "wallboard"}, &token)
	for _, story := range []string{"caller-hangs-up", "busy", "no-answer"} {
		phones, pbx := b.place(story, 1, 1)
		phones.exits(0, patience)
		pbx.exits(0, patience)
	}
}

// picture takes pictures of a view in both themes and two widths, after a click if one
// is named.
func (b *browser) picture(name, path, click string) {
	b.t.Helper()
	for _, theme := range themes {
		for _, width := range widths {
			b.dress(theme, width)
			b.open(path)
			shot := chromedp.FullScreenshot(100)
			if click != "" {
				b.click(click)
				b.until("it is open", `document.querySelector("dialog[open] h2, details[open]")`)
				got(b, chromedp.Evaluate[bool](`scrollTo(0, 0), new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(() => drawn(true))))`, chromedp.EvalAwaitPromise))
			}
			if got(b, chromedp.Evaluate[bool](`!!document.querySelector("dialog[open]")`)) {
				shot = chromedp.CaptureScreenshot()
			}
			file := filepath.Join(*screenshots, fmt.Sprintf("%s-%s-%d.png", name, theme, width))
			if err := os.WriteFile(file, got(b, shot), 0o644); err != nil {
				b.t.Fatal(err)
			}
		}
	}
}
