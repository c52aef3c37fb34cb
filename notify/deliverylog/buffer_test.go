package deliverylog

import "testing"

// The buffer holds 16 MB, drops the oldest records, and counts them.
func TestBufferIsBounded(t *testing.T) {
	b := buffer{wakeup: make(chan struct{}, 1)}
	const each = 64 << 10
	for i := range 1000 {
		b.add(&Record{Seq: uint64(i), Event: "e", Body: make([]byte, each)})
	}
	room := maxBufferedRecords / (each + recordOverhead)
	if got := b.bufferedCount(); got != room || b.droppedCount() != uint64(1000-room) {
		t.Errorf("%d wait and %d are lost, want %d and %d", got, b.droppedCount(), room, 1000-room)
	}
	if batch := b.take(nil); len(batch) != room || batch[0].Seq != uint64(1000-room) {
		t.Errorf("the first record of a batch of %d is %d", len(batch), batch[0].Seq)
	}
}
