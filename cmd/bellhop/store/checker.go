package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/admin/ops"
	"bellhop/cmd/bellhop/config"
)

// A checker reports the records that damage to the files of the embedded store has
// destroyed, and keeps the damage from destroying more.
//
// Before the embedded server opens a store, the checker reads the blocks of its streams
// and removes damaged records, so that the server keeps the records behind them. The
// damaged file is kept in the directory damaged. While bellhop runs, the checker reads
// all blocks again every hour, slowly enough not to disturb.
//
// The file check of store.dir has the last known state of each stream and the losses
// found. It is written after changes, at most every minute, and at the stop. Messages
// that a stream gets in the minute before a crash, and loses with the end of its last
// block, leave no trace.
//
// The servers of store.nats check their own files and have replicas: they have no
// checker.
type checker struct {
	dir           string // store.dir
	keep          time.Duration
	startSize     int64 // see [startSize]
	log           *slog.Logger
	requestReopen func()        // requests that the store is opened anew and repaired
	prepared      chan struct{} // has room for one: prepareStore has succeeded

	mu        sync.Mutex
	ledger    ledger
	written   []byte          // content of the file check
	unchecked map[string]bool // streams too large to be read at the start
}

// A ledger is the content of the file check. Its JSON form is stored: only add fields.
type ledger struct {
	Clean   bool                   `json:"clean"` // the server was stopped and has written everything
	Streams map[string]streamState `json:"streams"`
	Losses  []loss                 `json:"losses"`
}

// A streamState is the state of a stream when it was last read.
type streamState struct {
	First   uint64    `json:"first"`
	FirstAt time.Time `json:"first_at"`
	Last    uint64    `json:"last"`
	LastAt  time.Time `json:"last_at"`
}

// A loss is a run of unreadable messages.
type loss struct {
	Stream   string    `json:"stream"`
	First    uint64    `json:"first"` // sequence numbers
	Last     uint64    `json:"last"`
	Records  uint64    `json:"records"`
	From     time.Time `json:"from,omitzero"` // times of the messages before and after
	To       time.Time `json:"to,omitzero"`
	Found    time.Time `json:"found"`
	Restored bool      `json:"restored,omitempty"` // the content is restored
	Repaired bool      `json:"mended,omitempty"`   // the damaged bytes are removed from the block
}

// contiguousStreams are the streams in which no message is deleted or replaced before it
// expires: each missing sequence number is a lost message. In other streams a damaged
// record may have been replaced before. The value describes the messages.
var contiguousStreams = map[string]string{
	"bellhop_events":        "events",
	"bellhop_attempts":      "records of the delivery log",
	"bellhop_audit":         "entries of the audit log",
	"KV_bellhop_extensions": "extension numbers",
}

// lastKeptStreams are the buckets whose last message is never deleted.
var lastKeptStreams = map[string]bool{"KV_bellhop_subscriptions": true, "KV_bellhop_tokens": true, "KV_bellhop_keys": true}

const (
	checkInterval  = time.Hour
	recordInterval = time.Minute
	checkRate      = 16 << 20 // bytes a second
	startSize      = 64 << 20 // bytes; of a larger stream only the end is read at the start after a clean stop
	lossRetention  = 24 * time.Hour
	maxLosses      = 100 // of one stream; more are merged with their neighbors
	maxDamaged     = 16  // files in the directory damaged
	expirySlack    = time.Minute
	streamsFolder  = "jetstream/$G/streams"
)

// openChecker reads the ledger of a store. If the ledger is damaged it starts a new
// one, and then finds only damage that is still visible.
func openChecker(c config.Config, log *slog.Logger) *checker {
	g := &checker{dir: c.Store.Dir, keep: time.Duration(c.Notify.KeepEvents), startSize: startSize, log: log, prepared: make(chan struct{}, 1), unchecked: make(map[string]bool)}
	if err := readSealed(g.filePath("check"), &g.ledger); err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Error("store ledger restarted", "err", err)
		g.ledger = ledger{}
	}
	if g.ledger.Streams == nil {
		g.ledger.Streams = make(map[string]streamState)
	}
	return g
}

// filePath returns the path of a file in store.dir.
func (g *checker) filePath(name string) string { return filepath.Join(g.dir, name) }

// errUnrepaired means that a damaged block was not repaired. The server must not open
// it: it would cut off the records behind the damage.
var errUnrepaired = errors.New("repair damaged file of the store: make room on the disk and let bellhop write there")

// prepareStore checks and repairs the store before the server opens it. The server must
// not open the store after an error.
func (g *checker) prepareStore() (err error) {
	g.mu.Lock()
	clean := g.ledger.Clean
	g.ledger.Clean = false
	g.mu.Unlock()
	if !g.formatKnown() {
		g.log.Error("store not checked: unknown format of blocks", "dir", g.filePath(streamsFolder))
		return nil
	}
	for _, stream := range g.streamNames() {
		mode := beforeStart
		if clean && g.streamSize(stream) > g.startSize && !g.hasDamage(stream) {
			mode = endBeforeStart
			g.mu.Lock()
			g.unchecked[stream] = true
			g.mu.Unlock()
		}
		bad := g.checkStream(context.Background(), stream, mode)
		if bad != nil {
			g.log.Error("stream not checked", "stream", stream, "err", bad)
		}
		if errors.Is(bad, errUnrepaired) {
			err = errors.Join(err, bad)
		}
	}
	g.saveLedger()
	if err != nil {
		return err
	}
	select {
	case g.prepared <- struct{}{}:
	default:
	}
	return nil
}

// formatKnown reports whether a block of the store has a valid record, or all are empty.
// If not, the server may use another format, and nothing must be repaired.
func (g *checker) formatKnown() bool {
	empty := true
	for _, stream := range g.streamNames() {
		numbers, _ := g.blockNumbers(stream)
		for _, n := range numbers {
			b, err := os.ReadFile(g.blockPath(stream, n))
			if err != nil || len(b) == 0 {
				continue
			}
			empty = false
			if slices.ContainsFunc(readBlock(stream, n, b), func(s section) bool { return !s.bad }) {
				return true
			}
		}
	}
	return empty
}

// markClean records that the server was stopped and has written everything.
func (g *checker) markClean() {
	g.mu.Lock()
	g.ledger.Clean = true
	g.mu.Unlock()
	g.saveLedger()
}

// run checks every stream every hour until ctx ends, and records their states every
// minute.
func (g *checker) run(ctx context.Context, js jetstream.JetStream) {
	var passes sync.WaitGroup
	defer passes.Wait()
	passes.Go(func() { g.runPasses(ctx) })
	tick := time.NewTicker(recordInterval)
	defer tick.Stop()
	for {
		g.recordStates(ctx, js)
		select {
		case <-tick.C:
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			g.recordStates(last, js)
			return
		}
	}
}

// runPasses reads all blocks every hour until ctx ends. The first pass reads only what
// was not read at the start.
func (g *checker) runPasses(ctx context.Context) {
	g.mu.Lock()
	unread := maps.Clone(g.unchecked)
	g.mu.Unlock()
	for first := true; ctx.Err() == nil; first = false {
		g.checkStreams(ctx, func(stream string) bool { return !first || unread[stream] })
		sleepContext(ctx, checkInterval)
	}
}

// checkStreams checks the wanted streams while the server runs. After damage it requests
// that the store is opened anew: a reader of a damaged stream may wait forever for a
// message that the server cannot read.
func (g *checker) checkStreams(ctx context.Context, wanted func(stream string) bool) {
	damaged := false
	for _, stream := range g.streamNames() {
		if !wanted(stream) {
			continue
		}
		if err := g.checkStream(ctx, stream, whileRunning); err != nil && ctx.Err() == nil {
			g.log.Error("stream not checked", "stream", stream, "err", err)
		}
		damaged = damaged || g.hasDamage(stream)
	}
	g.saveLedger()
	if damaged && ctx.Err() == nil {
		g.requestReopen()
	}
}

// recordStates records the state of every stream.
func (g *checker) recordStates(ctx context.Context, js jetstream.JetStream) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list := js.ListStreams(ctx)
	states := make(map[string]streamState)
	for info := range list.Info() {
		s := info.State
		states[info.Config.Name] = streamState{First: s.FirstSeq, FirstAt: s.FirstTime, Last: s.LastSeq, LastAt: s.LastTime}
	}
	if list.Err() != nil {
		return // the store is slow or gone: others report that
	}
	g.mu.Lock()
	for name, s := range states {
		g.ledger.Streams[name] = s
	}
	g.mu.Unlock()
	g.saveLedger()
}

// saveLedger writes the ledger if it has changed.
func (g *checker) saveLedger() {
	g.mu.Lock()
	defer g.mu.Unlock()
	b, err := json.Marshal(g.ledger)
	if err == nil && bytes.Equal(b, g.written) {
		return
	}
	if err == nil {
		err = writeSealed(g.filePath("check"), b)
	}
	if err != nil {
		g.log.Warn("store ledger not written", "err", err)
		return
	}
	g.written = b
}

// renameStream records that a stream has a new name and the same messages.
func (g *checker) renameStream(from, to string) {
	g.mu.Lock()
	if state, known := g.ledger.Streams[from]; known {
		delete(g.ledger.Streams, from)
		g.ledger.Streams[to] = state
	}
	for i := range g.ledger.Losses {
		if l := &g.ledger.Losses[i]; l.Stream == from {
			l.Stream = to
		}
	}
	g.mu.Unlock()
	g.saveLedger()
}

// streamNames returns the sorted names of the streams that have files or are in the
// ledger.
func (g *checker) streamNames() (names []string) {
	found := make(map[string]bool)
	entries, _ := os.ReadDir(g.filePath(streamsFolder)) // without the folder there are no streams
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			found[e.Name()] = true
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for name := range g.ledger.Streams {
		found[name] = true
	}
	for name := range found {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// hasDamage reports whether a stream has found damage that is not repaired.
func (g *checker) hasDamage(stream string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.ContainsFunc(g.ledger.Losses, func(l loss) bool { return l.Stream == stream && !l.Repaired })
}

// blockNumbers returns the sorted numbers of the blocks of a stream.
func (g *checker) blockNumbers(stream string) (numbers []int, err error) {
	entries, err := os.ReadDir(g.blockFolder(stream))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		name, isBlock := strings.CutSuffix(e.Name(), ".blk")
		if n, err := strconv.Atoi(name); isBlock && err == nil {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, err
}

// blockFolder returns the directory of a stream's blocks.
func (g *checker) blockFolder(stream string) string {
	return filepath.Join(g.filePath(streamsFolder), stream, "msgs")
}

// blockPath returns the path of a block.
func (g *checker) blockPath(stream string, number int) string {
	return filepath.Join(g.blockFolder(stream), strconv.Itoa(number)+".blk")
}

// streamSize returns the size of a stream's blocks in bytes.
func (g *checker) streamSize(stream string) (size int64) {
	numbers, _ := g.blockNumbers(stream)
	for _, n := range numbers {
		if info, err := os.Stat(g.blockPath(stream, n)); err == nil {
			size += info.Size()
		}
	}
	return size
}

// isExpired reports whether messages of a stream from that time are past retention.
func (g *checker) isExpired(stream string, at time.Time) bool {
	_, isWhole := contiguousStreams[currentName(stream)]
	return isWhole && currentName(stream) != "KV_bellhop_extensions" && time.Since(at) > g.keep-expirySlack
}

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
	repair := mode != whileRunning
	g.mu.Lock()
	before := g.ledger.Streams[stream]
	g.mu.Unlock()
	numbers, err := g.blockNumbers(stream)
	if err != nil {
		return err
	}
	if mode == endBeforeStart {
		numbers = numbers[max(0, len(numbers)-1):]
	}
	var (
		found       []loss
		first, last section   // the first and the last with messages
		bad         []section // after the last valid message
		position    uint64
		damage      = make(map[int][]section)
	)
	_, isWhole := contiguousStreams[currentName(stream)]
	for i, n := range numbers {
		b, sections, err := g.readBlockFile(ctx, stream, n, repair, i == len(numbers)-1)
		if errors.Is(err, fs.ErrNotExist) && !repair {
			continue // it has expired meanwhile
		}
		if err != nil {
			return err
		}
		for _, s := range sections {
			if s.bad {
				if s.torn && i == len(numbers)-1 {
					continue // the server had not acknowledged it; if it had, the ledger shows the loss
				}
				bad = append(bad, s)
				damage[n] = sections
				continue
			}
			position = max(position, s.position)
			if s.last == 0 {
				continue
			}
			if first.last == 0 {
				first = s
			}
			l := loss{Stream: stream, First: last.last + 1, Last: s.first - 1, Records: sumRecords(bad), From: last.lastAt, To: s.firstAt}
			if last.last == 0 {
				l.First = s.first - min(s.first-1, sumRecords(bad))
			} else if isWhole {
				l.Records = s.first - l.First
			}
			l.Last = max(l.First, l.Last)
			if l.Records > 0 && !g.isExpired(stream, s.firstAt) {
				found = append(found, l)
			}
			last, bad = s, nil
		}
		if !repair {
			sleepContext(ctx, time.Duration(len(b))*time.Second/checkRate)
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	if mode == endBeforeStart && last.last == 0 {
		return g.checkStream(ctx, stream, beforeStart) // the last block has no message: read all blocks for the position
	}

	// Losses of messages that the ledger has and no block.
	if isWhole && mode != endBeforeStart && before.First > 0 && first.first > before.First && !g.isExpired(stream, before.FirstAt) {
		found = slices.DeleteFunc(found, func(l loss) bool { return l.From.IsZero() && l.Last == first.first-1 })
		found = append(found, loss{Stream: stream, First: before.First, Last: first.first - 1, Records: first.first - before.First, From: before.FirstAt, To: first.firstAt})
	}
	reached := last.last
	if !isWhole {
		reached = position
	}
	if repair && (isWhole || lastKeptStreams[currentName(stream)]) && reached < before.Last && before.First <= before.Last && !g.isExpired(stream, before.LastAt) {
		l := loss{Stream: stream, First: max(reached+1, before.First), Last: before.Last, From: last.lastAt, To: before.LastAt}
		l.Records = max(l.Last-l.First+1, sumRecords(bad))
		if last.last == 0 {
			l.From = before.FirstAt
		}
		found, bad = append(found, l), nil
	}
	if n := sumRecords(bad); n > 0 {
		found = append(found, loss{Stream: stream, First: last.last + 1, Last: last.last + n, Records: n, From: last.lastAt})
	}

	var repairErr error
	if repair {
		if len(numbers) == 0 {
			numbers = []int{1} // only to keep the position
		}
		end := numbers[len(numbers)-1]
		hold := uint64(0)
		if tail := max(before.Last, last.last+sumRecords(bad)); len(found) > 0 && tail > position {
			hold = tail
			if damage[end] == nil {
				damage[end] = []section{}
			}
		}
		for n := range damage {
			h := uint64(0)
			if n == end {
				h = hold
			}
			if err := g.repairBlock(stream, n, h); err != nil {
				repairErr = fmt.Errorf("%w: %w", errUnrepaired, err)
			}
		}
	}
	g.addLosses(stream, found, repair && repairErr == nil)
	return repairErr
}

// sumRecords returns the number of records in sections.
func sumRecords(bad []section) (n uint64) {
	for _, s := range bad {
		n += s.records
	}
	return n
}

// readBlockFile reads a block. A block that the server writes to may look damaged for an
// instant, so without repair only damage that persists for a second counts. end marks
// the last block of a stream.
func (g *checker) readBlockFile(ctx context.Context, stream string, number int, repair, end bool) ([]byte, []section, error) {
	b, err := os.ReadFile(g.blockPath(stream, number))
	if err != nil {
		return nil, nil, err
	}
	sections := readBlock(stream, number, b)
	if repair || !slices.ContainsFunc(sections, func(s section) bool { return s.bad }) {
		return b, sections, nil
	}
	sleepContext(ctx, time.Second)
	if b, err = os.ReadFile(g.blockPath(stream, number)); err != nil {
		return nil, nil, err
	}
	again := readBlock(stream, number, b)
	for i, s := range again {
		same := slices.ContainsFunc(sections, func(o section) bool { return o.bad && o.from == s.from })
		if s.bad && end && !same && i == len(again)-1 {
			again = again[:i] // the end is being written
		}
	}
	return b, again, nil
}

// repairBlock rewrites a block without its damaged records, and keeps the damaged file.
// A position other than 0 is not assigned again; a block that is gone then contains only
// that. The server afterwards reads all blocks of the stream, as its index does not
// match.
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

// addLosses records the losses found in a stream, and logs the new ones.
func (g *checker) addLosses(stream string, found []loss, repaired bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now().UTC()
	var records uint64
	var from, to time.Time
	for _, l := range found {
		l.Found, l.Repaired = now, repaired
		for _, part := range g.unknownParts(l) {
			g.ledger.Losses = append(g.ledger.Losses, part)
			records += part.Records
			if from.IsZero() {
				from = part.From
			}
			to = part.To
		}
	}
	for i := range g.ledger.Losses {
		if l := &g.ledger.Losses[i]; l.Stream == stream && repaired {
			l.Repaired = true
		}
	}
	if records > 0 {
		g.log.Error("store records lost", "stream", stream, "records", records, "after", from, "before", to, "repaired", repaired)
	}
	g.pruneLosses(now)
}

// unknownParts returns the parts of a loss that no recorded loss covers.
func (g *checker) unknownParts(l loss) []loss {
	parts := []loss{l}
	for _, k := range g.ledger.Losses {
		if k.Stream != l.Stream {
			continue
		}
		var rest []loss
		for _, p := range parts {
			switch {
			case p.Last < k.First || p.First > k.Last:
				rest = append(rest, p)
			default:
				_, isWhole := contiguousStreams[currentName(p.Stream)]
				if !isWhole {
					continue // the same damage: sequence numbers between may be unused
				}
				if p.First < k.First {
					before := p
					before.Last, before.Records = k.First-1, k.First-p.First
					rest = append(rest, before)
				}
				if p.Last > k.Last {
					after := p
					after.First, after.Records = k.Last+1, p.Last-k.Last
					rest = append(rest, after)
				}
			}
		}
		parts = rest
	}
	return parts
}

// pruneLosses removes losses past their retention, and merges neighbors where a stream
// has too many. The caller holds mu.
func (g *checker) pruneLosses(now time.Time) {
	g.ledger.Losses = slices.DeleteFunc(g.ledger.Losses, func(l loss) bool {
		return l.Repaired && now.Sub(l.Found) > max(g.keep, lossRetention)
	})
	slices.SortStableFunc(g.ledger.Losses, func(a, b loss) int {
		return cmp.Or(strings.Compare(a.Stream, b.Stream), cmp.Compare(a.First, b.First))
	})
	count := make(map[string]int)
	for _, l := range g.ledger.Losses {
		count[l.Stream]++
	}
	for i := 1; i < len(g.ledger.Losses); {
		a, b := &g.ledger.Losses[i-1], g.ledger.Losses[i]
		if a.Stream != b.Stream || count[a.Stream] <= maxLosses {
			i++
			continue
		}
		a.Last, a.To, a.Records = max(a.Last, b.Last), b.To, a.Records+b.Records
		a.Repaired, a.Restored, a.Found = a.Repaired && b.Repaired, a.Restored && b.Restored, b.Found
		g.ledger.Losses = slices.Delete(g.ledger.Losses, i, i+1)
		count[a.Stream]--
	}
}

// markRestored records that the lost messages of a stream are restored, up to a sequence
// number.
func (g *checker) markRestored(stream string, upTo uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.ledger.Losses {
		if l := &g.ledger.Losses[i]; l.Stream == stream && l.Repaired && l.Last <= upTo {
			l.Restored = true
		}
	}
}

// allLosses returns the losses in the store, newest first.
func (g *checker) allLosses() []ops.Loss {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []ops.Loss
	for _, l := range g.ledger.Losses {
		what := contiguousStreams[currentName(l.Stream)]
		if what == "" {
			what = "records"
		}
		all = append(all, ops.Loss{Stream: l.Stream, What: what, Records: l.Records, From: l.From, To: l.To, Found: l.Found, Restored: l.Restored})
	}
	slices.SortStableFunc(all, func(a, b ops.Loss) int { return b.Found.Compare(a.Found) })
	return all
}

// sleepContext waits for d, or until ctx ends.
func sleepContext(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
