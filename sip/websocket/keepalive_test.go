package websocket

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestSilentClientIsPinged plays what a client sends, by second, and lists our Pings and
// the end of the connection.
func TestSilentClientIsPinged(t *testing.T) {
	for _, tt := range []struct {
		name  string
		sends map[int]Kind
		want  []string
	}{
		{"silence", nil, []string{"20 ping", "40 ping", "60 end"}},
		{"answers the first ping", map[int]Kind{21: Pong}, []string{"20 ping", "40 ping", "60 ping", "80 end"}},
		{"answers the second ping", map[int]Kind{59: Pong}, []string{"20 ping", "40 ping", "60 ping", "80 ping", "100 end"}},
		{"sends a message", map[int]Kind{19: Message}, []string{"39 ping", "59 ping", "79 end"}},
		{"answers by a message", map[int]Kind{45: Message}, []string{"20 ping", "40 ping", "65 ping", "85 ping", "105 end"}},
		{"pings", map[int]Kind{10: Ping, 25: Ping}, []string{"45 ping", "65 ping", "85 end"}},
		{"sends pongs unasked", map[int]Kind{15: Pong, 30: Pong, 45: Pong}, []string{"20 ping", "40 ping", "60 ping", "80 ping", "100 end"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Unix(0, 0)
			k := NewKeepalive(start)
			var got []string
			for second := 0; second < 200; second++ {
				now := start.Add(time.Duration(second) * time.Second)
				if !k.Deadline().After(now) {
					if !k.Expire(now) {
						got = append(got, fmt.Sprint(second, " end"))
						break
					}
					got = append(got, fmt.Sprint(second, " ping"))
				}
				if kind, ok := tt.sends[second]; ok {
					k.NoteReceived(now, kind)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("%q, not %q", got, tt.want)
			}
		})
	}
}
