package eventlog

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"bellhop/dialog"
)

// A lost part of a response of the store is noticed and requested again.
func TestLostResponsePartIsReadAgain(t *testing.T) {
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	const end = 5 // positions
	for _, tt := range []struct {
		name string
		lost []uint64 // of the first response; end+1 is its end message
		want []uint64
		err  error
	}{
		{"nothing", nil, []uint64{1, 2, 3, 4, 5}, nil},
		{"the first", []uint64{1}, nil, errGap},
		{"one of many", []uint64{3}, []uint64{1, 2}, errGap},
		{"part of the messages", []uint64{2, 3, 4}, []uint64{1}, errGap},
		{"the last", []uint64{5}, []uint64{1, 2, 3, 4}, errGap},
		{"the end", []uint64{end + 1}, []uint64{1, 2, 3, 4, 5}, errNoAnswer},
	} {
		n := &Log{js: js, log: slog.New(slog.DiscardHandler), cache: newCache(), config: Config{
			MonotonicTime: func(at time.Time) time.Time { return at },
			RecoverPanic:  func(string) {},
		}}
		var losing atomic.Pointer[[]uint64] // of the next response
		losing.Store(&tt.lost)
		sub, err := js.Conn().Subscribe("$JS.API.DIRECT.GET.bellhop_events", func(m *nats.Msg) {
			var p readRequest
			if err := json.Unmarshal(m.Data, &p); err != nil {
				t.Error(err)
			}
			var lost []uint64
			if l := losing.Swap(nil); l != nil {
				lost = *l
			}
			before := uint64(0)
			say := func(position uint64, text string) {
				if !slices.Contains(lost, position) {
					m.RespondMsg(&nats.Msg{Data: []byte("{}"), Header: nats.Header{
						"Nats-Sequence": {fmt.Sprint(position)}, "Nats-Last-Sequence": {fmt.Sprint(before)}, "Status": {text},
					}})
				}
			}
			for position := p.Seq; position <= end; position++ {
				say(position, "")
				before = position
			}
			say(end+1, "204")
		})
		if err != nil {
			t.Fatal(err)
		}
		var got []uint64
		err = n.requestEvents(t.Context(), readRequest{Seq: 1, Batch: blockSize}, func(seq uint64, _ *dialog.Event) bool {
			got = append(got, seq)
			return true
		})
		if !slices.Equal(got, tt.want) || !errors.Is(err, tt.err) {
			t.Errorf("%s is lost: %v came, and %v; want %v, and %v", tt.name, got, err, tt.want, tt.err)
		}
		if len(tt.lost) > 0 && tt.lost[0] <= end {
			losing.Store(&tt.lost)
			if all := n.Read(t.Context(), 1, end); len(all) != end || all[0].Seq != 1 {
				t.Errorf("%s is lost: %d of %d events were read in the end", tt.name, len(all), end)
			}
		}
		if err := sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
	}
}
