package main

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"bellhop/sip"
	"bellhop/sip/siptest"
)

// servePages starts a web server for the pages of browsers, and returns its origin.
func servePages(t *testing.T, scripts ...string) (origin string) {
	var page strings.Builder
	page.WriteString("<!DOCTYPE html><title>phone</title>")
	for _, s := range scripts {
		fmt.Fprintf(&page, "<script>%s</script>", s)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		io.WriteString(w, page.String())
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// startPBX starts a small PBX at the site's address.
func (s *site) startPBX() {
	s.t.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(s.pbx.AddrPort))
	if err != nil {
		s.t.Fatal(err)
	}
	pbx := siptest.NewPBX(c)
	s.t.Cleanup(pbx.Close)
}

// A page of an allowed origin opens a WebSocket in a real browser, at the port of TCP. A
// page of another origin cannot.
func TestPageOfAnotherOriginOpensNoWebSocket(t *testing.T) {
	s := newSite(t, sip.TCP, sip.UDP)
	script := fmt.Sprintf(`
		const ws = new WebSocket("ws://%v/", "sip");
		let state = "", answer = "";
		ws.onopen = () => {
			state = "open";
			ws.send("OPTIONS sip:%[1]v SIP/2.0\r\nVia: SIP/2.0/WS abc.invalid;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\n\r\n");
		};
		ws.onmessage = m => answer = m.data;
		ws.onclose = () => state = state || "refused";`, s.hop)
	own, other := servePages(t, script), servePages(t, script)
	s.configure(fmt.Sprintf("[[listener]]\nlisten = \"ws://%v\"\norigins = [%q]\n", s.hop, own))
	s.startPBX()
	s.serve()
	b := s.startChromium()
	b.do(chromedp.Navigate(own))
	b.until("the WebSocket is open", `state === "open"`)
	b.until("an answer comes", `answer.startsWith("SIP/2.0 200 OK\r\n")`)
	var status struct{ Connections map[string]int }
	s.api("GET", "/v1/status", nil, &status)
	if want := map[string]int{"tcp": 0, "tls": 0, "ws": 1, "wss": 0, "refused": 0, "handshakes_failed": 0}; !maps.Equal(status.Connections, want) {
		t.Errorf("connections are %v, want %v", status.Connections, want)
	}
	b.do(chromedp.Navigate(other))
	b.until("the WebSocket is refused", `state === "refused"`)
}
