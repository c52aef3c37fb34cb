package sip

// shrinkingMap is a map that frees memory. It is copied into a new map if it has held at
// least 4,096 entries and has shrunk to an eighth of its largest length.
type shrinkingMap[K comparable, V any] struct {
	m       map[K]V
	peakLen int // largest length since m was made
}

func (t *shrinkingMap[K, V]) put(k K, v V) {
	if t.m == nil {
		t.m = make(map[K]V)
	}
	t.m[k] = v
	t.peakLen = max(t.peakLen, len(t.m))
}

func (t *shrinkingMap[K, V]) remove(k K) {
	delete(t.m, k)
	n := len(t.m)
	if t.peakLen < 4096 || n > t.peakLen/8 {
		return
	}
	m := make(map[K]V, n)
	for k, v := range t.m {
		m[k] = v
	}
	t.m, t.peakLen = m, n
}
