package notify

import (
	"flag"
	"testing"
)

// TestCallbackCostIsBounded limits the CPU time of a durable, signed and delivered callback to twice that of
// a bare POST of the same body to the same receiver.
func TestCallbackCostIsBounded(t *testing.T) {
	if !*soak {
		t.Skip("measures CPU: make soak")
	}
	each := flag.Lookup("test.benchtime")
	defer each.Value.Set(each.Value.String())
	each.Value.Set("40000x")
	const rounds = 7
	var callbacks, posts, times []float64
	for range rounds {
		c := testing.Benchmark(func(b *testing.B) { deliverCallbacks(b, JSON, 0) })
		p := testing.Benchmark(func(b *testing.B) { barePost(b, JSON) })
		t.Logf("callback %s\n\t\tbare POST %s", c, p)
		callback, post := c.Extra["cpu-µs/op"], p.Extra["cpu-µs/op"]
		callbacks, posts, times = append(callbacks, callback), append(posts, post), append(times, callback/post)
	}
	t.Logf("a callback costs %.1f µs, a bare POST %.1f µs: %.2f times in the middle of %.2f", median(callbacks), median(posts), median(times), times)
	if median(times) > 2 {
		t.Errorf("a callback costs %.2f times what a bare POST does, want 2 at most", median(times))
	}
}
