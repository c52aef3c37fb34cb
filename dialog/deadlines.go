package dialog

import (
	"container/heap"
	"time"
)

// callHeap is a heap of calls, ordered by the time of their next check.
type callHeap []*call

// schedule sets a call's deadline to the earliest of its legs' deadlines. talk is the
// limit of an answered leg. Most messages postpone the deadline. The heap then stays as
// it is, and the call is checked earlier than needed.
func (d *callHeap) schedule(c *call, talk time.Duration) {
	c.deadline = c.legs[0].stateDeadline(talk)
	for _, l := range c.legs[1:] {
		if d := l.stateDeadline(talk); d.Before(c.deadline) {
			c.deadline = d
		}
	}
	if c.deadline.Before(c.nextCheck) {
		c.nextCheck = c.deadline
		heap.Fix(d, c.heapIndex)
	}
}

func (d callHeap) Len() int { return len(d) }

func (d callHeap) Less(i, j int) bool { return d[i].nextCheck.Before(d[j].nextCheck) }

func (d callHeap) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].heapIndex, d[j].heapIndex = i, j
}

func (d *callHeap) Push(x any) {
	c := x.(*call)
	c.heapIndex = len(*d)
	*d = append(*d, c)
}

func (d *callHeap) Pop() any {
	last := len(*d) - 1
	c := (*d)[last]
	(*d)[last] = nil
	*d = (*d)[:last]
	return c
}
