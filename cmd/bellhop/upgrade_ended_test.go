package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/cmd/bellhop/config"
	"bellhop/cmd/bellhop/store/storetest"
	"bellhop/dialog"
	"bellhop/notify"
)

// TestEndedCallsOfOlderStores opens a store of an older build that marked no floor of
// the bucket of live calls. After a crash it has records of calls again whose hangups
// are in the event log, before the position of the mark: these calls are over. A call
// without a hangup, and one that only one of two parties has left, are still live.
func TestEndedCallsOfOlderStores(t *testing.T) {
	for _, tt := range []struct {
		name          string
		parties, left int
		want          int // calls
	}{
		{"nobody has left", 1, 0, 1},
		{"its one party has left", 1, 1, 0},
		{"one of two has left", 2, 1, 1},
		{"both have left", 2, 2, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := storetest.Config(storetest.Older(t, "378cfc6-all"))
			c.Notify.KeepEvents = config.Duration(200 * 365 * 24 * time.Hour) // the store is of the year 2000
			st := opened(t, c)
			node := strings.TrimSpace(string(must[[]byte](t)(os.ReadFile(filepath.Join(c.Store.Dir, "node")))))
			n := must[*notify.Notifier](t)(notify.Open(t.Context(), st, notify.Config{KeepEvents: time.Duration(c.Notify.KeepEvents), Replicas: 1, Log: quiet()}))

			bucket := must[jetstream.KeyValue](t)(st.KeyValue(t.Context(), "bellhop_calls"))
			call, key, record := storedCall(t, bucket, node)
			if tt.parties == 2 { // as if another phone had been in it
				legs, parties := record["legs"].([]any), record["parties"].([]any)
				leg, party := copyObject(t, legs[0]), copyObject(t, parties[0])
				leg["call_id"], leg["party"] = "another", 2
				party["id"], party["first"] = strings.Repeat("5", 32), 2
				record["legs"], record["parties"] = append(legs, leg), append(parties, party)
				record["has_legs"], record["has_parties"] = 2, 2
				must[uint64](t)(bucket.Put(t.Context(), key, must[[]byte](t)(json.Marshal(record))))
			}
			place := n.EventLog.End()
			for i, p := range record["parties"].([]any)[:tt.left] {
				place = hangUpOn(t, st, n, call, p.(map[string]any)["id"].(string), 10+i)
			}
			must[uint64](t)(bucket.Put(t.Context(), "mark."+node, fmt.Append(nil, place)))
			n = must[*notify.Notifier](t)(notify.Open(t.Context(), st, notify.Config{KeepEvents: time.Duration(c.Notify.KeepEvents), Replicas: 1, Log: quiet()}))

			clock := func() (time.Time, time.Duration) { return time.Date(2000, 1, 1, 0, 5, 0, 0, time.UTC), 0 }
			k, tracker, err := restoreTracker(t.Context(), c, node, st, clock, n, quiet())
			if err != nil {
				t.Fatal(err)
			}
			if got := len(tracker.Calls()); got != tt.want {
				t.Errorf("%d calls are taken up, want %d", got, tt.want)
			}
			if k.Pending() == 0 && tt.want == 0 {
				t.Error("the record stays in the bucket")
			}
		})
	}
}

// storedCall returns the only stored call of a node.
func storedCall(t *testing.T, bucket jetstream.KeyValue, node string) (call, key string, record map[string]any) {
	t.Helper()
	for _, key := range must[[]string](t)(bucket.Keys(t.Context())) {
		if call, ok := strings.CutPrefix(key, "call."+node+"."); ok {
			e := must[jetstream.KeyValueEntry](t)(bucket.Get(t.Context(), key))
			if err := json.Unmarshal(e.Value(), &record); err != nil {
				t.Fatal(err)
			}
			return call, key, record
		}
	}
	t.Fatal("the bucket has no call")
	panic("unreachable")
}

func copyObject(t *testing.T, o any) (c map[string]any) {
	t.Helper()
	if err := json.Unmarshal(must[[]byte](t)(json.Marshal(o)), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// hangUpOn publishes the hangup of a party, made from the first event of its call, and
// returns its position in the log.
func hangUpOn(t *testing.T, js jetstream.JetStream, n *notify.Notifier, call, party string, seq int) uint64 {
	t.Helper()
	first := must[jetstream.Stream](t)(js.Stream(t.Context(), "bellhop_events"))
	for at := first.CachedInfo().State.FirstSeq; ; at++ {
		m := must[*jetstream.RawStreamMsg](t)(first.GetMsg(t.Context(), at))
		var e map[string]any
		if err := json.Unmarshal(m.Data, &e); err != nil {
			t.Fatal(err)
		}
		if e["call"] != call {
			continue
		}
		id := dialog.EventID(party, dialog.Hangup)
		subject := strings.Replace(m.Subject, e["id"].(string), id, 1)
		e["id"], e["party"], e["type"], e["seq"] = id, party, dialog.Hangup, seq
		ack := must[*jetstream.PubAck](t)(js.Publish(t.Context(), subject, must[[]byte](t)(json.Marshal(e))))
		return ack.Sequence
	}
}
