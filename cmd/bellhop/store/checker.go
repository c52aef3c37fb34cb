package store

import (
	"context"
	"errors"
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

	"bellhop/cmd/bellhop/config"
)

// A checker reports the records that damage to the files of the embedded store has
// destroyed, and keeps the damage from destroying more.
//
// Before the embedded server opens a store, the checker reads the blocks of its streams
// and removes damaged records, because the server would drop the records behind them.
// The damaged file is kept in the directory damaged. While bellhop runs, the checker
// reads all blocks again every hour, slowly enough not to disturb.
//
// The checker writes the last known state of each stream and the losses to the file
// check of store.dir: every minute if they have changed, after each check, and at the
// stop. If a crash cuts off messages that a stream got within the last minute, their
// loss is not detected.
//
// The servers of store.nats check their own files and have replicas. So they have no
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
	unchecked map[string]bool // streams of which only the end was read at the start
}

const (
	checkInterval  = time.Hour
	recordInterval = time.Minute
	startSize      = 64 << 20 // bytes; of a larger stream only the end is read at the start after a clean stop
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
// the block, because it would cut off the records behind the damage.
var errUnrepaired = errors.New("repair damaged file of the store: make room on the disk and let bellhop write there")

// prepareStore checks and repairs the store before the server opens it. It returns an
// error if a damaged block cannot be repaired. The server must not open the store then.
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

// formatKnown reports whether a block of the store has a valid record, or all blocks
// are empty. Otherwise the server may use another format, and nothing must be repaired.
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

// runPasses reads the blocks of all streams every hour until ctx ends. The first pass
// reads only the streams of which prepareStore has read only the end.
func (g *checker) runPasses(ctx context.Context) {
	g.mu.Lock()
	unread := maps.Clone(g.unchecked)
	g.mu.Unlock()
	for first := true; ctx.Err() == nil; first = false {
		g.checkStreams(ctx, func(stream string) bool { return !first || unread[stream] })
		sleepContext(ctx, checkInterval)
	}
}

// checkStreams checks the wanted streams while the server runs. If one is damaged, it
// requests that the store is opened anew, because a reader of a damaged stream may wait
// forever for a message that the server cannot read.
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
