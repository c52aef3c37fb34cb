package sip

import "testing"

func TestSpliceAppliesEditsInOrder(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(s *splice)
		want string
	}{
		{"no edit", func(*splice) {}, "0123456789"},
		{"two insertions", func(s *splice) { s.insert(4, "a"); s.insert(4, "b") }, "0123ab456789"},
		{"one replacement", func(s *splice) { s.replace(span{2, 5}, "a") }, "01a56789"},
		{"insert, then remove behind it", func(s *splice) { s.insert(4, "a"); s.remove(span{4, 6}) }, "0123a6789"},
		{"remove, then insert before it", func(s *splice) { s.remove(span{4, 6}); s.insert(4, "a") }, "0123a6789"}, // a Route for a strict router, where our own was the last
		{"remove at the end", func(s *splice) { s.remove(span{8, 10}) }, "01234567"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s splice
			tt.edit(&s)
			if got := string(s.apply(nil, []byte("0123456789"))); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
