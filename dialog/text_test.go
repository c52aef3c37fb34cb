package dialog

import (
	"testing"
	"time"
)

// TestTextToSeveralDevicesIsOneMessage has a PBX send texts to devices of 102, and counts
// the messages.
func TestTextToSeveralDevicesIsOneMessage(t *testing.T) {
	type text struct {
		device, from, body string
		after              time.Duration
		status             int
	}
	for _, tt := range []struct {
		name  string
		texts []text
		want  int
	}{
		{"one message", []text{{"a", "101", "hi", 0, 200}}, 1},
		{"two devices", []text{{"a", "101", "hi", 0, 200}, {"b", "101", "hi", 0, 202}}, 1},
		{"the first refuses", []text{{"a", "101", "hi", 0, 480}, {"b", "101", "hi", 0, 200}}, 1},
		{"both refuse", []text{{"a", "101", "hi", 0, 480}, {"b", "101", "hi", 0, 404}}, 0},
		{"twice to one", []text{{"a", "101", "hi", 0, 200}, {"a", "101", "hi", 0, 200}}, 2},
		{"twice to two", []text{{"a", "101", "hi", 0, 200}, {"b", "101", "hi", 0, 200}, {"a", "101", "hi", time.Second, 200}, {"b", "101", "hi", 0, 200}}, 2},
		{"other text", []text{{"a", "101", "hi", 0, 200}, {"b", "101", "ho", 0, 200}}, 2},
		{"other sender", []text{{"a", "101", "hi", 0, 200}, {"b", "103", "hi", 0, 200}}, 2},
		{"another message later", []text{{"a", "101", "hi", 0, 200}, {"b", "101", "hi", forksWithin + time.Second, 200}}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tracker := New(testConfig())
			at := start
			ids := map[string]bool{}
			for i, x := range tt.texts {
				at = at.Add(x.after)
				l := legToPhone(x.from, "102", "text-"+string(rune('a'+i)))
				l.uri = "sip:102@" + x.device + ".example"
				l.at = at
				m := l.message(PBX, "MESSAGE", 0, "Content-Type: text/plain\r\n")
				m.Body = x.body
				for _, e := range append(tracker.Observe(m), tracker.Observe(l.message(Edge, "MESSAGE", x.status, ""))...) {
					if e.Type != MessageIn || e.Extension.User != "102" || ids[e.ID] {
						t.Errorf("got %+v", e)
					}
					ids[e.ID] = true
				}
			}
			if len(ids) != tt.want {
				t.Errorf("%d messages, want %d", len(ids), tt.want)
			}
		})
	}
}
