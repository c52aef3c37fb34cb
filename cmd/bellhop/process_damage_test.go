package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"bellhop/admin/access"
	"bellhop/admin/ops"
	"bellhop/sip"
)

// TestReportsDamagedStore flips a bit of an event, of a subscription and of a token
// while bellhop is down, after kill -9 and after a stop. bellhop reports one lost event,
// has the subscription and the token, and works. Without damage it reports nothing.
func TestReportsDamagedStore(t *testing.T) {
	t.Parallel()
	const calls = 20
	s := newSite(t, sip.UDP, sip.UDP)
	p := s.serve()
	s.subscribe("json", "POST", "dial-out", "answer", "hangup")
	var token access.Token
	s.api("POST", "/v1/tokens", map[string]any{"scope": "read", "note": "kept"}, &token)
	var revoked access.Token
	s.api("POST", "/v1/tokens", map[string]any{"scope": "read", "note": "revoked"}, &revoked)
	if status, answer := s.request("DELETE", "/v1/tokens/"+revoked.ID, nil); status != http.StatusNoContent {
		t.Fatalf("revoke: %d %s", status, answer)
	}
	s.place("held", calls, 100)
	s.receiver.wait("every answer", patience, func(came []received) bool { return count(came, "answer") == calls })
	s.eventually("the snapshot has the tokens", func() bool {
		var buckets map[string]map[string]struct{ Deleted bool }
		b, _ := os.ReadFile(filepath.Join(s.dir, "data", "snapshot"))
		_, body, _ := bytes.Cut(b, []byte("\n")) // after the checksum
		err := json.Unmarshal(body, &buckets)
		return err == nil && len(buckets["bellhop_subscriptions"]) == 1 && buckets["bellhop_tokens"][revoked.ID].Deleted
	})
	events := func() int {
		var all struct{ Items []json.RawMessage }
		s.api("GET", "/v1/events?since=2026-01-01T00:00:00Z&limit=1000", nil, &all)
		return len(all.Items)
	}
	before := events()

	block := func(stream string) string {
		return filepath.Join(s.dir, "data/jetstream/$G/streams", stream, "msgs/1.blk")
	}
	flipOne := func(stream, text string, from int) { // the first at or behind an offset
		b := must[[]byte](t)(os.ReadFile(block(stream)))
		b[from+bytes.Index(b[from:], []byte(text))+len(text)/2] ^= 0x40
		if err := os.WriteFile(block(stream), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for round, by := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		p.signal(by)
		<-p.done
		if round == 0 { // nothing is damaged yet
			p = s.serve()
			var status ops.Status
			s.api("GET", "/v1/status", nil, &status)
			if len(status.Degraded)+len(status.Store.Losses) > 0 {
				t.Fatalf("without damage: %v %+v", status.Degraded, status.Store.Losses)
			}
			p.signal(by)
			<-p.done
		}
		flipOne("bellhop_events", "bellhop.event.", 10_000*(round+1))
		flipOne("KV_bellhop_subscriptions", s.receiver.addr, 0)
		flipOne("KV_bellhop_tokens", "kept", 0)
		p = s.serve()

		var status ops.Status
		s.api("GET", "/v1/status", nil, &status)
		if !status.Ready || len(status.Degraded) != round+1 || status.Subscriptions.All != 1 {
			t.Errorf("round %d: status %+v", round, status)
		}
		if got := events(); got != before-round-1 {
			t.Errorf("round %d: %d events are left of %d", round, got, before)
		}
		var tokens struct{ Items []access.Token }
		s.api("GET", "/v1/tokens", nil, &tokens)
		if len(tokens.Items) != 1 || tokens.Items[0].ID != token.ID {
			t.Errorf("round %d: tokens %+v", round, tokens.Items)
		}
		if status, answer := s.request("GET", "/readyz", nil); status != http.StatusOK || !bytes.Contains(answer, []byte("events lost: 1")) {
			t.Errorf("round %d: readyz %d %s", round, status, answer)
		}
	}
	p.stop()
}
