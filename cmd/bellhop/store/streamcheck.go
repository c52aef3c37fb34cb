package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	checkRate   = 16 << 20    // bytes a second, while the server runs
	expirySlack = time.Minute // messages count as expired this long before they are
	maxDamaged  = 16          // files in the directory damaged
)

// A checkMode tells how to check a stream.
type checkMode int

const (
	whileRunning   checkMode = iota // the server runs: read blocks slowly and leave them unchanged
	beforeStart                     // no server runs: repair damaged blocks
	endBeforeStart                  // like beforeStart, but only for the last block
)

// checkStream reads the blocks of a stream, repairs them unless the server runs, and
// records losses.
func (g *checker) checkStream(ctx context.Context, stream string, mode checkMode) error {
	c := streamCheck{checker: g, stream: stream, mode: mode, damaged: make(map[int]bool)}
	_, c.contiguous = contiguousStreams[currentName(stream)]
	g.mu.Lock()
	c.before = g.ledger.Streams[stream]
	g.mu.Unlock()
	numbers, err := g.blockNumbers(stream)
	if err != nil {
		return err
	}
	if mode == endBeforeStart {
		numbers = numbers[max(0, len(numbers)-1):]
	}
	for i, n := range numbers {
		end := i == len(numbers)-1
		size, sections, err := g.readBlockFile(ctx, stream, n, mode != whileRunning, end)
		if errors.Is(err, fs.ErrNotExist) && mode == whileRunning {
			continue // it has expired meanwhile
		}
		if err != nil {
			return err
		}
		c.addBlock(n, sections, end)
		if mode == whileRunning {
			sleepContext(ctx, time.Duration(size)*time.Second/checkRate)
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	if mode == endBeforeStart && c.last.last == 0 {
		return g.checkStream(ctx, stream, beforeStart) // the last block has no message: read all blocks for the position
	}
	c.compareLedger()
	if mode != whileRunning {
		err = c.repairBlocks(numbers)
	}
	g.addLosses(stream, c.found, mode != whileRunning && err == nil)
	return err
}

// A streamCheck is what one check of a stream has found so far.
type streamCheck struct {
	*checker
	stream     string
	mode       checkMode
	contiguous bool        // see [contiguousStreams]
	before     streamState // in the ledger

	found       []loss
	first, last section      // the first and the last with messages
	bad         []section    // after the last message
	position    uint64       // highest sequence number of any record
	damaged     map[int]bool // numbers of the blocks to repair
}

// addBlock records the damaged sections and the sections with messages of the next
// block. end is set for the last block of the stream.
func (c *streamCheck) addBlock(number int, sections []section, end bool) {
	for _, s := range sections {
		if s.bad {
			if s.torn && end {
				continue // the server had not acknowledged it; if it had, the ledger shows the loss
			}
			c.bad = append(c.bad, s)
			c.damaged[number] = true
			continue
		}
		c.position = max(c.position, s.position)
		if s.last > 0 {
			c.addMessages(s)
		}
	}
}

// addMessages records the next section with messages, and the loss between the section
// before and this one, unless it has expired. In a contiguous stream, each missing
// sequence number is a lost record. In other streams, and before the first section,
// each damaged record is one.
func (c *streamCheck) addMessages(s section) {
	l := loss{Stream: c.stream, First: c.last.last + 1, Last: s.first - 1, Records: sumRecords(c.bad), From: c.last.lastAt, To: s.firstAt}
	if c.last.last == 0 {
		c.first = s
		l.First = s.first - min(s.first-1, sumRecords(c.bad))
	} else if c.contiguous {
		l.Records = s.first - l.First
	}
	l.Last = max(l.First, l.Last)
	if l.Records > 0 && !c.isExpired(c.stream, s.firstAt) {
		c.found = append(c.found, l)
	}
	c.last, c.bad = s, nil
}

// compareLedger adds the losses that addMessages does not see: messages at the start or
// the end of the stream that the ledger has but no block has, and damaged records
// behind the last message.
func (c *streamCheck) compareLedger() {
	before, first, last := c.before, c.first, c.last
	if c.contiguous && c.mode != endBeforeStart && before.First > 0 && first.first > before.First && !c.isExpired(c.stream, before.FirstAt) {
		c.found = slices.DeleteFunc(c.found, func(l loss) bool { return l.From.IsZero() && l.Last == first.first-1 })
		c.found = append(c.found, loss{Stream: c.stream, First: before.First, Last: first.first - 1, Records: first.first - before.First, From: before.FirstAt, To: first.firstAt})
	}
	reached := last.last
	if !c.contiguous {
		reached = c.position
	}
	keepsLast := c.contiguous || lastKeptStreams[currentName(c.stream)]
	if c.mode != whileRunning && keepsLast && reached < before.Last && before.First <= before.Last && !c.isExpired(c.stream, before.LastAt) {
		l := loss{Stream: c.stream, First: max(reached+1, before.First), Last: before.Last, From: last.lastAt, To: before.LastAt}
		l.Records = max(l.Last-l.First+1, sumRecords(c.bad))
		if last.last == 0 {
			l.From = before.FirstAt
		}
		c.found, c.bad = append(c.found, l), nil
	}
	if n := sumRecords(c.bad); n > 0 {
		c.found = append(c.found, loss{Stream: c.stream, First: last.last + 1, Last: last.last + n, Records: n, From: last.lastAt})
	}
}

// repairBlocks repairs the damaged blocks of the stream; numbers are those of all its
// blocks. If messages at the end were lost, the last block gets the last sequence
// number that was assigned, so that the server does not assign it again.
func (c *streamCheck) repairBlocks(numbers []int) (err error) {
	if len(numbers) == 0 {
		numbers = []int{1} // only to keep the position
	}
	end := numbers[len(numbers)-1]
	position := uint64(0)
	if assigned := max(c.before.Last, c.last.last+sumRecords(c.bad)); len(c.found) > 0 && assigned > c.position {
		position = assigned
		c.damaged[end] = true
	}
	for n := range c.damaged {
		keep := uint64(0)
		if n == end {
			keep = position
		}
		if bad := c.repairBlock(c.stream, n, keep); bad != nil {
			err = fmt.Errorf("%w: %w", errUnrepaired, bad)
		}
	}
	return err
}

// isExpired reports whether messages of a stream from the time at are past their
// retention, or less than expirySlack before it. It is false for all streams except the
// event log, the delivery log and the audit log.
func (g *checker) isExpired(stream string, at time.Time) bool {
	_, contiguous := contiguousStreams[currentName(stream)]
	return contiguous && currentName(stream) != "KV_bellhop_extensions" && time.Since(at) > g.keep-expirySlack
}

// sumRecords returns the number of records in sections.
func sumRecords(bad []section) (n uint64) {
	for _, s := range bad {
		n += s.records
	}
	return n
}

// readBlockFile returns the size and the sections of a block. If repair is false, the
// server may be writing to the block. A damaged block is then read again after a
// second, and damage at the end of the last block counts only if both readings show it.
// end is set for the last block of a stream.
func (g *checker) readBlockFile(ctx context.Context, stream string, number int, repair, end bool) (size int, sections []section, err error) {
	b, err := os.ReadFile(g.blockPath(stream, number))
	if err != nil {
		return 0, nil, err
	}
	sections = readBlock(stream, number, b)
	if repair || !slices.ContainsFunc(sections, func(s section) bool { return s.bad }) {
		return len(b), sections, nil
	}
	sleepContext(ctx, time.Second)
	if b, err = os.ReadFile(g.blockPath(stream, number)); err != nil {
		return 0, nil, err
	}
	again := readBlock(stream, number, b)
	for i, s := range again {
		same := slices.ContainsFunc(sections, func(o section) bool { return o.bad && o.from == s.from })
		if s.bad && end && !same && i == len(again)-1 {
			again = again[:i] // the end is being written
		}
	}
	return len(b), again, nil
}

// repairBlock rewrites a block without its damaged records, and keeps the damaged file.
// If position is not 0, the block records it as assigned (see repairedBlock). A missing
// block is created with only that record. repairBlock removes the index of the stream,
// so that the server reads all blocks.
func (g *checker) repairBlock(stream string, number int, position uint64) error {
	path := g.blockPath(stream, number)
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = os.MkdirAll(g.blockFolder(stream), 0o700)
	case err == nil:
		err = g.keepDamaged(stream, number, path)
	}
	if err != nil {
		return fmt.Errorf("repair %s: %w", path, err)
	}
	if err := os.Remove(filepath.Join(g.blockFolder(stream), "index.db")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writePrivate(path, repairedBlock(stream, number, b, readBlock(stream, number, b), position)); err != nil {
		return fmt.Errorf("repair %s: %w", path, err)
	}
	return nil
}

// keepDamaged links a damaged block into the directory damaged, and removes the oldest
// files there beyond maxDamaged.
func (g *checker) keepDamaged(stream string, number int, path string) error {
	dir := g.filePath("damaged")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	name := fmt.Sprintf("%s-%s-%d.blk", time.Now().UTC().Format("20060102T150405.000000"), stream, number)
	if err := os.Link(path, filepath.Join(dir, name)); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir) // sorted, so the oldest first
	for i := 0; i < len(entries)-maxDamaged; i++ {
		err = errors.Join(err, os.Remove(filepath.Join(dir, entries[i].Name())))
	}
	return err
}
