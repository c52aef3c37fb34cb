package notify

import "testing"

// TestCost holds the CPU of a callback that is durable, signed and delivered to
// twice that of a bare POST of the same body to the same receiver.
func TestCost(t *testing.T) {
	if !*soak {
		t.Skip("measures CPU: make soak")
	}
	const rounds = 5
	var callbacks, posts []float64
	for range rounds {
		c := testing.Benchmark(func(b *testing.B) { callback(b, JSON, 0) })
		p := testing.Benchmark(func(b *testing.B) { barePost(b, JSON) })
		t.Logf("callback %s\n\t\tbare POST %s", c, p)
		callbacks, posts = append(callbacks, c.Extra["cpu-µs/op"]), append(posts, p.Extra["cpu-µs/op"])
	}
	callback, post := median(callbacks), median(posts)
	t.Logf("a callback costs %.1f µs, a bare POST %.1f µs: %.2f times", callback, post, callback/post)
	if callback > 2*post {
		t.Errorf("a callback costs %.2f times what a bare POST does, want 2 at most", callback/post)
	}
}
