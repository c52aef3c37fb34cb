package payload

import "testing"

// BenchmarkPayload encodes the payloads of the hangup of an answered call.
func BenchmarkPayload(b *testing.B) {
	e := sampleEvents()[8]
	for _, dialect := range []Dialect{Unified, Telphin, CTI, JSON, CloudEvents} {
		b.Run(string(dialect), func(b *testing.B) {
			f := Format{Dialect: dialect, Method: "POST"}
			buf := make([]byte, 0, 4096)
			b.ReportAllocs()
			for b.Loop() {
				v := New(&e, f)
				buf = v.Append(buf[:0])
			}
		})
	}
	b.Run("template", func(b *testing.B) {
		f := Format{Dialect: JSON, Method: "GET", URL: "http://crm.example/pop{?event_type,caller_id_num,caller_id_name}"}
		at := baseURL(f.URL)
		b.ReportAllocs()
		for b.Loop() {
			v := New(&e, f)
			if _, err := v.expandURL(at); err != nil {
				b.Fatal(err)
			}
		}
	})
}
