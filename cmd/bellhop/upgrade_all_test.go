package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/admin"
	"bellhop/admin/ops"
	"bellhop/cmd/bellhop/config"
	"bellhop/cmd/bellhop/store"
	"bellhop/cmd/bellhop/store/storetest"
	"bellhop/dialog"
	"bellhop/dialog/flowtest"
	"bellhop/notify"
	"bellhop/sip"
	"bellhop/sip/siptest"
)

// An olderReceiver replaces all receivers of an older store. It accepts everything.
type olderReceiver struct {
	mu   sync.Mutex
	came map[string][]string // bodies by host, in their order
	ids  map[string][]string // webhook-ids likewise
}

func (r *olderReceiver) RoundTrip(q *http.Request) (*http.Response, error) {
	body := q.URL.RawQuery
	if q.Body != nil {
		b, err := io.ReadAll(q.Body)
		if err != nil {
			return nil, err
		}
		body += string(b)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	host := q.URL.Hostname()
	r.came[host] = append(r.came[host], body)
	r.ids[host] = append(r.ids[host], q.Header.Get("webhook-id"))
	return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody, Request: q}, nil
}

// TestUpgradeKeepsAll starts with a store of an older build that has subscriptions of
// every dialect, tokens, events, pending deliveries, the delivery and audit logs,
// extension numbers, a binding and a live call. All data is there, pending deliveries
// are made once, and the call has its hangup. The older build was stopped in virtual
// time, in the third minute of the year 2000; the responses of its API are in want.json.
func TestUpgradeKeepsAll(t *testing.T) {
	for _, name := range storetest.OlderBuilds {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Dir(storetest.Older(t, name))
			synctest.Test(t, func(t *testing.T) { upgradeAll(t, dir) })
		})
	}
}

func upgradeAll(t *testing.T, dir string) {
	var want map[string]json.RawMessage
	read := func(name string) []byte { return must[[]byte](t)(os.ReadFile(filepath.Join(dir, name))) }
	if err := json.Unmarshal(read("want.json"), &want); err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Minute)

	peers := map[string]*siptest.PacketConn{}
	network := siptest.NewNetwork()
	cfg := storetest.Config(filepath.Join(dir, "data"))
	cfg.SIP.Listen = []sip.Addr{{Proto: sip.UDP, AddrPort: flowtest.Bellhop}}
	cfg.SIP.Register = sip.Register("path")
	cfg.Store.Sync = config.SyncInterval(24 * time.Hour)
	cfg.Notify.KeepEvents = config.Duration(200 * 365 * 24 * time.Hour) // the server tells ages by the machine's clock
	for _, p := range flowtest.Peers {
		peers[p.Name] = must[*siptest.PacketConn](t)(network.ListenPacketConn(p.Addr))
		if p.Side == dialog.PBX {
			cfg.SIP.PBX = []sip.Addr{{Proto: sip.UDP, AddrPort: p.Addr}}
		}
	}
	st, err := store.Open(t.Context(), cfg, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	token, created, err := st.AdminToken()
	if err != nil || created {
		t.Errorf("admin token is new: %v, %v", created, err)
	}
	receiver := &olderReceiver{came: map[string][]string{}, ids: map[string][]string{}}
	rooms, err := buildPipeline(t.Context(), cfg, st, quiet(), environment{own: netip.MustParseAddrPort("192.0.2.5:8080"), network: network, transport: receiver, unbatched: true})
	if err != nil {
		t.Fatal(err)
	}
	api, err := admin.Open(t.Context(), st, admin.Config{
		Token: token,
		Config: ops.Config{
			Notifier:   rooms.notifier,
			KeepEvents: time.Duration(cfg.Notify.KeepEvents),
			Replicas:   1,
			Calls:      rooms.observer.liveCalls,
			Kind:       func(string) dialog.Kind { return "" },
			Ready:      func() []string { return nil },
			Log:        quiet(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(bearer, path string) (int, []byte) {
		q := httptest.NewRequest("GET", "http://127.0.0.1:8080"+path, nil)
		q.Header.Set("Authorization", "Bearer "+bearer)
		w := httptest.NewRecorder()
		api.Handler().ServeHTTP(w, q)
		return w.Code, w.Body.Bytes()
	}

	// Everything that was there is there, with the same ids and fields.
	has := func(list, path string) {
		t.Helper()
		_, got := ask(token, path)
		wantItems(t, list, want[list], got)
	}
	has("deliveries", "/v1/deliveries?limit=200")
	has("subscriptions", "/v1/subscriptions?limit=200")
	run := store.StartTask(rooms.run)
	runAPI := store.StartTask(api.Run)
	defer func() {
		runAPI()
		run()
		for _, c := range peers {
			c.Close()
		}
	}()
	synctest.Wait()
	has("tokens", "/v1/tokens")
	has("events", "/v1/events?limit=200")
	has("audit", "/v1/audit?limit=200")
	has("calls", "/v1/calls?limit=200")
	var numbers map[string]uint64
	if err := json.Unmarshal(want["numbers"], &numbers); err != nil {
		t.Fatal(err)
	}
	if got := must[map[string]uint64](t)(rooms.notifier.Numbers.All(t.Context())); len(numbers) < 2 || !maps.Equal(got, numbers) {
		t.Errorf("extension numbers are %v, want %v", got, numbers)
	}
	for _, name := range []string{"read_token", "write_token"} {
		var made struct {
			Token string `json:"token"`
		}
		if err := json.Unmarshal(want[name], &made); err != nil {
			t.Fatal(err)
		}
		if code, answer := ask(made.Token, "/v1/events"); code != http.StatusOK {
			t.Errorf("%s is answered %d %s", name, code, answer)
		}
	}

	// Pending deliveries come once. Nothing else comes again.
	var deliveries struct {
		Items []struct {
			ID    string `json:"id"`
			State string `json:"state"`
		} `json:"items"`
	}
	if err := json.Unmarshal(want["deliveries"], &deliveries); err != nil {
		t.Fatal(err)
	}
	var pending []string
	for _, d := range deliveries.Items {
		if d.State == "waiting" {
			pending = append(pending, d.ID)
		}
	}
	time.Sleep(3 * time.Hour / 2)
	synctest.Wait()
	receiver.mu.Lock()
	for host, came := range receiver.came {
		if host != "down.example" {
			t.Errorf("%s got %q", host, came)
		}
	}
	got := slices.Clone(receiver.ids["down.example"])
	receiver.mu.Unlock()
	slices.Sort(pending)
	if sorted := slices.Sorted(slices.Values(got)); len(pending) < 4 || !slices.Equal(sorted, pending) {
		t.Errorf("delivered are %q, want %q", sorted, pending)
	}

	// The phone that was registered is reached, and the call that was up ends.
	field := func(message []byte, name string) string {
		for line := range strings.SplitSeq(string(message), "\r\n") {
			if v, ok := strings.CutPrefix(line, name+": "); ok {
				return v
			}
		}
		t.Fatalf("no %s in\n%s", name, message)
		return ""
	}
	passes := func(from, to string, lines ...string) {
		t.Helper()
		m := strings.Join(append(lines, "Max-Forwards: 70", "Content-Length: 0", "", ""), "\r\n")
		if _, err := peers[from].WriteToUDPAddrPort([]byte(m), flowtest.Bellhop); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		b, _, _ := peers[to].TryRead()
		if !strings.HasPrefix(string(b), lines[0]) {
			t.Fatalf("%s got %q, want %s", to, b, lines[0])
		}
		if _, err := peers[to].WriteToUDPAddrPort(okTo(b), flowtest.Bellhop); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if b, _, _ := peers[from].TryRead(); !strings.HasPrefix(string(b), "SIP/2.0 200") {
			t.Fatalf("%s got %q, want 200", from, b)
		}
	}
	register, ok := read("register.txt"), read("ok.txt")
	passes("pbx", "phone", "MESSAGE sip:101@192.0.2.11:5060 SIP/2.0", "Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKagain;rport",
		"Route: "+field(register, "Path"), "From: <sip:102@pbx.example>;tag=m2", "To: <sip:101@pbx.example>", "Call-ID: again", "CSeq: 1 MESSAGE")
	bye := []string{"BYE sip:5551234@192.0.2.1:5060 SIP/2.0", "Via: SIP/2.0/UDP 192.0.2.11:5060;branch=z9hG4bKbye;rport"}
	for line := range strings.SplitSeq(string(ok), "\r\n") {
		if v, found := strings.CutPrefix(line, "Record-Route: "); found {
			bye = slices.Insert(bye, 2, "Route: "+v)
		}
	}
	passes("phone", "pbx", append(bye, "From: "+field(ok, "From"), "To: "+field(ok, "To"), "Call-ID: up-at-the-upgrade", "CSeq: 2 BYE")...)
	time.Sleep(time.Minute)
	synctest.Wait()

	var calls struct {
		Items []struct {
			Call string `json:"call_id"`
		} `json:"items"`
	}
	if err := json.Unmarshal(want["calls"], &calls); err != nil || len(calls.Items) != 1 {
		t.Fatalf("calls were %s, %v", want["calls"], err)
	}
	events, _ := json.Marshal(must[[]*dialog.Event](t)(eventsOf(t, rooms, calls.Items[0].Call)))
	if n := bytes.Count(events, []byte(`"type":"hangup"`)); n != 1 || !bytes.Contains(events, []byte(`"status":"ANSWER"`)) {
		t.Errorf("the call's events are %s", events)
	}
	if code, now := ask(token, "/v1/calls"); code != http.StatusOK || bytes.Contains(now, []byte(calls.Items[0].Call)) {
		t.Errorf("calls are %s", now)
	}
	receiver.mu.Lock()
	defer receiver.mu.Unlock()
	for _, host := range []string{"json.example", "unified.example", "telphin.example", "cti.example", "events.example", "down.example"} {
		wantCount := map[string]int{"cti.example": 1, "down.example": 2 + len(pending)}[host]
		if wantCount == 0 {
			wantCount = 2 // the message and the hangup
		}
		if came := receiver.came[host]; len(came) != wantCount {
			t.Errorf("%s got %d callbacks, want %d: %q", host, len(came), wantCount, came)
		}
	}
	for _, host := range []string{"gone.example", "off.example", "removed.example"} {
		if came := receiver.came[host]; len(came) > 0 {
			t.Errorf("%s got %q", host, came)
		}
	}
}

// wantItems fails the test unless a list has the items of an older one, in order and
// with its fields. It may have more fields.
func wantItems(t *testing.T, list string, older, now []byte) {
	t.Helper()
	var a, b struct {
		Items []map[string]any `json:"items"`
	}
	if err := json.Unmarshal(older, &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(now, &b); err != nil || len(a.Items) == 0 || len(b.Items) != len(a.Items) {
		t.Errorf("%s: %d items, want %d, %v: %.300s", list, len(b.Items), len(a.Items), err, now)
		return
	}
	for i, want := range a.Items {
		for name, value := range want {
			if name == "why" {
				continue // a text for people, which changes
			}
			if got := b.Items[i][name]; !reflect.DeepEqual(got, value) {
				t.Errorf("%s: %s of item %d is %v, want %v", list, name, i, fmt.Sprint(got), fmt.Sprint(value))
			}
		}
	}
}

func eventsOf(t *testing.T, r *pipeline, call string) (all []*dialog.Event, err error) {
	t.Helper()
	events, _, err := r.notifier.Events(t.Context(), notify.Query{Call: call, Limit: 1000})
	return events, err
}
