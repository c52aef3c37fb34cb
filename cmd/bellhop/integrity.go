package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
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

	"bellhop/admin"
)

// An integrity finds what damage to the files of the embedded store has cost, and
// keeps the damage from costing more.
//
// Before the embedded server opens a store, the blocks of its streams are read, and
// damaged records are taken out, so that the server keeps the records behind them.
// The damaged file is kept in the directory damaged. While bellhop runs, all blocks
// are read again every hour, at a pace that nobody feels.
//
// The file check of store.dir has the state of each stream as it was last seen, and
// the losses that were found. It is written when something changed, every minute at
// most, and at the stop; what a stream gets in the minute before a crash, and then
// loses with the end of its last block, leaves no trace.
//
// A store.nats is not ours: NATS servers check their own files, and have replicas.
// Of it nothing is checked, and a nil integrity has nothing to do.
type integrity struct {
	dir       string // store.dir
	keep      time.Duration
	startSize int64 // see [startSize]
	log       *slog.Logger
	reopen    func()        // has the server open the store anew, which mends it; nil: nobody does
	prepared  chan struct{} // has room for one: the store was prepared

	mu      sync.Mutex
	ledger  ledger
	written []byte          // the ledger as it is in the file
	unread  map[string]bool // streams that were too large to be read at the start
}

// A ledger is what the file check has. Its JSON form is stored: fields are only ever
// added.
type ledger struct {
	Clean   bool                   `json:"clean"` // the server was stopped, and wrote all
	Streams map[string]streamState `json:"streams"`
	Losses  []loss                 `json:"losses"`
}

// A streamState is what a stream had when it was last looked at.
type streamState struct {
	First   uint64    `json:"first"`
	FirstAt time.Time `json:"first_at"`
	Last    uint64    `json:"last"`
	LastAt  time.Time `json:"last_at"`
}

// A loss is a run of messages that cannot be read.
type loss struct {
	Stream   string    `json:"stream"`
	First    uint64    `json:"first"` // sequence numbers
	Last     uint64    `json:"last"`
	Records  uint64    `json:"records"`
	From     time.Time `json:"from,omitzero"` // of the messages around them
	To       time.Time `json:"to,omitzero"`
	Found    time.Time `json:"found"`
	Restored bool      `json:"restored,omitempty"` // what they held is there again
	Mended   bool      `json:"mended,omitempty"`   // the damaged bytes are out of the block
}

// whole are the streams of which nothing is deleted or replaced before it is too
// old: there every sequence number that is missing is a message that is lost. In
// the others a damaged record may have been out of use. The value says what a
// message is.
var whole = map[string]string{
	"bellhop_events":        "events",
	"bellhop_attempts":      "records of the delivery log",
	"bellhop_audit":         "entries of the audit log",
	"KV_bellhop_extensions": "extension numbers",
}

// lasting are the buckets whose last message stays.
var lasting = map[string]bool{"KV_bellhop_subscriptions": true, "KV_bellhop_tokens": true, "KV_bellhop_keys": true}

const (
	checkEvery    = time.Hour
	noteEvery     = time.Minute
	checkRate     = 16 << 20 // bytes a second
	startSize     = 64 << 20 // of a stream that is read whole at every start; of a larger one that was stopped well it is the end
	shownFor      = 24 * time.Hour
	maxLosses     = 100 // of one stream; beyond, neighbors become one
	maxDamaged    = 16  // files in the directory damaged
	expirySlack   = time.Minute
	streamsFolder = "jetstream/$G/streams"
)

// openIntegrity reads the ledger of a store. If it is damaged a new one is begun:
// then only damage that can still be seen is found.
func openIntegrity(c config, log *slog.Logger) *integrity {
	g := &integrity{dir: c.Store.Dir, keep: time.Duration(c.Notify.KeepEvents), startSize: startSize, log: log, prepared: make(chan struct{}, 1), unread: make(map[string]bool)}
	if err := readSealed(g.path("check"), &g.ledger); err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Error("store check begun anew", "err", err)
		g.ledger = ledger{}
	}
	if g.ledger.Streams == nil {
		g.ledger.Streams = make(map[string]streamState)
	}
	return g
}

func (g *integrity) path(name string) string { return filepath.Join(g.dir, name) }

// errUnmended says that a damaged block is as it was. The server must not open it:
// it cuts off the records behind the damage.
var errUnmended = errors.New("a damaged file of the store cannot be mended: make room on the disk, and let bellhop write there")

// prepare checks and mends the store before the server opens it. An error means that
// it must not.
func (g *integrity) prepare() (err error) {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	clean := g.ledger.Clean
	g.ledger.Clean = false
	g.mu.Unlock()
	if !g.understood() {
		g.log.Error("store not checked: no block has a record that bellhop can read", "dir", g.path(streamsFolder))
		return nil
	}
	for _, stream := range g.streams() {
		mode := beforeStart
		if clean && g.size(stream) > g.startSize && !g.damaged(stream) {
			mode = endBeforeStart
			g.mu.Lock()
			g.unread[stream] = true
			g.mu.Unlock()
		}
		bad := g.check(context.Background(), stream, mode)
		if bad != nil {
			g.log.Error("stream not checked", "stream", stream, "err", bad)
		}
		if errors.Is(bad, errUnmended) {
			err = errors.Join(err, bad)
		}
	}
	g.save()
	if err != nil {
		return err
	}
	select {
	case g.prepared <- struct{}{}:
	default:
	}
	return nil
}

// understood reports whether some block of the store has a good record, or all are
// empty. Else the server may write blocks in another way than bellhop knows: then
// nothing must be mended.
func (g *integrity) understood() bool {
	empty := true
	for _, stream := range g.streams() {
		numbers, _ := g.blocks(stream)
		for _, n := range numbers {
			b, err := os.ReadFile(g.block(stream, n))
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

// closed notes that the server was stopped and has written all.
func (g *integrity) closed() {
	if g == nil {
		return
	}
	g.mu.Lock()
	g.ledger.Clean = true
	g.mu.Unlock()
	g.save()
}

// run checks every stream every hour until ctx ends, and notes the state of all.
func (g *integrity) run(ctx context.Context, js jetstream.JetStream) {
	if g == nil {
		return
	}
	var passes sync.WaitGroup
	defer passes.Wait()
	passes.Go(func() { g.pass(ctx) })
	tick := time.NewTicker(noteEvery)
	defer tick.Stop()
	for {
		g.note(ctx, js)
		select {
		case <-tick.C:
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			g.note(last, js)
			return
		}
	}
}

// pass reads all blocks every hour until ctx ends, and at once what was not read at
// the start.
func (g *integrity) pass(ctx context.Context) {
	g.mu.Lock()
	unread := maps.Clone(g.unread)
	g.mu.Unlock()
	for first := true; ctx.Err() == nil; first = false {
		g.checkAll(ctx, func(stream string) bool { return !first || unread[stream] })
		sleep(ctx, checkEvery)
	}
}

// checkAll checks the wanted streams while the server runs. Where there is damage,
// it has the store opened anew: a reader of such a stream may wait for ever for the
// message that the server cannot read.
func (g *integrity) checkAll(ctx context.Context, wanted func(stream string) bool) {
	damaged := false
	for _, stream := range g.streams() {
		if !wanted(stream) {
			continue
		}
		if err := g.check(ctx, stream, whileRunning); err != nil && ctx.Err() == nil {
			g.log.Error("stream not checked", "stream", stream, "err", err)
		}
		damaged = damaged || g.damaged(stream)
	}
	g.save()
	if damaged && g.reopen != nil && ctx.Err() == nil {
		g.reopen()
	}
}

// note writes down the state of every stream.
func (g *integrity) note(ctx context.Context, js jetstream.JetStream) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list := js.ListStreams(ctx)
	states := make(map[string]streamState)
	for info := range list.Info() {
		s := info.State
		states[info.Config.Name] = streamState{First: s.FirstSeq, FirstAt: s.FirstTime, Last: s.LastSeq, LastAt: s.LastTime}
	}
	if list.Err() != nil {
		return // the store is slow or gone, which others say
	}
	g.mu.Lock()
	for name, s := range states {
		g.ledger.Streams[name] = s
	}
	g.mu.Unlock()
	g.save()
}

// save writes the ledger if it has changed.
func (g *integrity) save() {
	g.mu.Lock()
	defer g.mu.Unlock()
	b, err := json.Marshal(g.ledger)
	if err == nil && bytes.Equal(b, g.written) {
		return
	}
	if err == nil {
		err = writeSealed(g.path("check"), b)
	}
	if err != nil {
		g.log.Warn("state of the store not written", "err", err)
		return
	}
	g.written = b
}

// renamed notes that a stream has another name from here on, and the same messages.
func (g *integrity) renamed(from, to string) {
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
	g.save()
}

// streams returns the names of the streams that have files, sorted.
func (g *integrity) streams() (names []string) {
	found := make(map[string]bool)
	entries, _ := os.ReadDir(g.path(streamsFolder)) // no folder, no streams
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

// damaged reports whether a stream has a block with damage that was found and not
// mended.
func (g *integrity) damaged(stream string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.ContainsFunc(g.ledger.Losses, func(l loss) bool { return l.Stream == stream && !l.Mended })
}

// blocks returns the numbers of the blocks of a stream, sorted.
func (g *integrity) blocks(stream string) (numbers []int, err error) {
	entries, err := os.ReadDir(g.folder(stream))
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

func (g *integrity) folder(stream string) string {
	return filepath.Join(g.path(streamsFolder), stream, "msgs")
}

func (g *integrity) block(stream string, number int) string {
	return filepath.Join(g.folder(stream), strconv.Itoa(number)+".blk")
}

func (g *integrity) size(stream string) (size int64) {
	numbers, _ := g.blocks(stream)
	for _, n := range numbers {
		if info, err := os.Stat(g.block(stream, n)); err == nil {
			size += info.Size()
		}
	}
	return size
}

// expired reports whether messages of that time are too old to be kept.
func (g *integrity) expired(stream string, at time.Time) bool {
	_, isWhole := whole[currentName(stream)]
	return isWhole && currentName(stream) != "KV_bellhop_extensions" && time.Since(at) > g.keep-expirySlack
}

// A checkMode is how a stream is checked.
type checkMode int

const (
	whileRunning   checkMode = iota // a server runs: blocks are read slowly, and left as they are
	beforeStart                     // none runs: damaged blocks are written anew
	endBeforeStart                  // as beforeStart, but only the last block is read
)

// check reads the blocks of a stream and notes what is lost.
func (g *integrity) check(ctx context.Context, stream string, mode checkMode) error {
	mend := mode != whileRunning
	g.mu.Lock()
	before := g.ledger.Streams[stream]
	g.mu.Unlock()
	numbers, err := g.blocks(stream)
	if err != nil {
		return err
	}
	if mode == endBeforeStart {
		numbers = numbers[max(0, len(numbers)-1):]
	}
	var (
		found       []loss
		first, last section   // the first and the last with messages
		bad         []section // behind the last good message
		position    uint64
		damage      = make(map[int][]section)
	)
	_, isWhole := whole[currentName(stream)]
	for i, n := range numbers {
		b, sections, err := g.read(ctx, stream, n, mend, i == len(numbers)-1)
		if errors.Is(err, fs.ErrNotExist) && !mend {
			continue // expired meanwhile
		}
		if err != nil {
			return err
		}
		for _, s := range sections {
			if s.bad {
				if s.torn && i == len(numbers)-1 {
					continue // the server had not acknowledged it; else the ledger tells
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
			l := loss{Stream: stream, First: last.last + 1, Last: s.first - 1, Records: sum(bad), From: last.lastAt, To: s.firstAt}
			if last.last == 0 {
				l.First = s.first - min(s.first-1, sum(bad))
			} else if isWhole {
				l.Records = s.first - l.First
			}
			l.Last = max(l.First, l.Last)
			if l.Records > 0 && !g.expired(stream, s.firstAt) {
				found = append(found, l)
			}
			last, bad = s, nil
		}
		if !mend {
			sleep(ctx, time.Duration(len(b))*time.Second/checkRate)
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	if mode == endBeforeStart && last.last == 0 {
		return g.check(ctx, stream, beforeStart) // the end has no message: where it is, the others tell
	}

	// What the ledger knows, and no block has.
	if isWhole && mode != endBeforeStart && before.First > 0 && first.first > before.First && !g.expired(stream, before.FirstAt) {
		found = slices.DeleteFunc(found, func(l loss) bool { return l.From.IsZero() && l.Last == first.first-1 })
		found = append(found, loss{Stream: stream, First: before.First, Last: first.first - 1, Records: first.first - before.First, From: before.FirstAt, To: first.firstAt})
	}
	reached := last.last
	if !isWhole {
		reached = position
	}
	if mend && (isWhole || lasting[currentName(stream)]) && reached < before.Last && before.First <= before.Last && !g.expired(stream, before.LastAt) {
		l := loss{Stream: stream, First: max(reached+1, before.First), Last: before.Last, From: last.lastAt, To: before.LastAt}
		l.Records = max(l.Last-l.First+1, sum(bad))
		if last.last == 0 {
			l.From = before.FirstAt
		}
		found, bad = append(found, l), nil
	}
	if n := sum(bad); n > 0 {
		found = append(found, loss{Stream: stream, First: last.last + 1, Last: last.last + n, Records: n, From: last.lastAt})
	}

	var mendErr error
	if mend {
		if len(numbers) == 0 {
			numbers = []int{1} // for the position alone
		}
		end := numbers[len(numbers)-1]
		hold := uint64(0)
		if tail := max(before.Last, last.last+sum(bad)); len(found) > 0 && tail > position {
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
			if err := g.mend(stream, n, h); err != nil {
				mendErr = fmt.Errorf("%w: %w", errUnmended, err)
			}
		}
	}
	g.add(stream, found, mend && mendErr == nil)
	return mendErr
}

func sum(bad []section) (n uint64) {
	for _, s := range bad {
		n += s.records
	}
	return n
}

// read reads one block. What the server is writing may look damaged for a moment, so
// without mend only damage that stays for a second counts.
func (g *integrity) read(ctx context.Context, stream string, number int, mend, end bool) ([]byte, []section, error) {
	b, err := os.ReadFile(g.block(stream, number))
	if err != nil {
		return nil, nil, err
	}
	sections := readBlock(stream, number, b)
	if mend || !slices.ContainsFunc(sections, func(s section) bool { return s.bad }) {
		return b, sections, nil
	}
	sleep(ctx, time.Second)
	if b, err = os.ReadFile(g.block(stream, number)); err != nil {
		return nil, nil, err
	}
	again := readBlock(stream, number, b)
	for i, s := range again {
		same := slices.ContainsFunc(sections, func(o section) bool { return o.bad && o.from == s.from })
		if s.bad && end && !same && i == len(again)-1 {
			again = again[:i] // the end, which is being written
		}
	}
	return b, again, nil
}

// mend writes a block without its damaged records, and keeps the damaged file. A
// position other than 0 is kept from being given again; of a block that is gone that
// is all. The server then reads all blocks of the stream, as its index no longer fits.
func (g *integrity) mend(stream string, number int, position uint64) error {
	path := g.block(stream, number)
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = os.MkdirAll(g.folder(stream), 0o700)
	case err == nil:
		err = g.keepDamaged(stream, number, path)
	}
	if err != nil {
		return fmt.Errorf("mend %s: %w", path, err)
	}
	if err := os.Remove(filepath.Join(g.folder(stream), "index.db")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writePrivate(path, mendedBlock(stream, number, b, readBlock(stream, number, b), position)); err != nil {
		return fmt.Errorf("mend %s: %w", path, err)
	}
	return nil
}

// keepDamaged links a damaged block into the directory damaged, and removes the
// oldest of those that are there when they are too many.
func (g *integrity) keepDamaged(stream string, number int, path string) error {
	dir := g.path("damaged")
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

// add notes losses that were found in a stream, and logs what was not known.
func (g *integrity) add(stream string, found []loss, mended bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now().UTC()
	var records uint64
	var from, to time.Time
	for _, l := range found {
		l.Found, l.Mended = now, mended
		for _, part := range g.unknown(l) {
			g.ledger.Losses = append(g.ledger.Losses, part)
			records += part.Records
			if from.IsZero() {
				from = part.From
			}
			to = part.To
		}
	}
	for i := range g.ledger.Losses {
		if l := &g.ledger.Losses[i]; l.Stream == stream && mended {
			l.Mended = true
		}
	}
	if records > 0 {
		g.log.Error("store records lost", "stream", stream, "records", records, "after", from, "before", to, "mended", mended)
	}
	g.forget(now)
}

// unknown returns the parts of a loss that no known loss covers.
func (g *integrity) unknown(l loss) []loss {
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
				_, isWhole := whole[currentName(p.Stream)]
				if !isWhole {
					continue // sequence numbers between may be out of use: it is the same damage
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

// forget drops losses that would have expired by now, and joins neighbors where a
// stream has too many. The caller holds mu.
func (g *integrity) forget(now time.Time) {
	g.ledger.Losses = slices.DeleteFunc(g.ledger.Losses, func(l loss) bool {
		return l.Mended && now.Sub(l.Found) > max(g.keep, shownFor)
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
		a.Mended, a.Restored, a.Found = a.Mended && b.Mended, a.Restored && b.Restored, b.Found
		g.ledger.Losses = slices.Delete(g.ledger.Losses, i, i+1)
		count[a.Stream]--
	}
}

// restored notes that what a stream has lost is there again, up to a sequence
// number.
func (g *integrity) restored(stream string, upTo uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.ledger.Losses {
		if l := &g.ledger.Losses[i]; l.Stream == stream && l.Mended && l.Last <= upTo {
			l.Restored = true
		}
	}
}

// losses returns what the store has lost, the newest finding first.
func (g *integrity) losses() []admin.Loss {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []admin.Loss
	for _, l := range g.ledger.Losses {
		what := whole[currentName(l.Stream)]
		if what == "" {
			what = "records"
		}
		all = append(all, admin.Loss{Stream: l.Stream, What: what, Records: l.Records, From: l.From, To: l.To, Found: l.Found, Restored: l.Restored})
	}
	slices.SortStableFunc(all, func(a, b admin.Loss) int { return b.Found.Compare(a.Found) })
	return all
}

// readSealed reads a private file that writeSealed has written into v. The error
// says if the file is damaged.
func readSealed(path string, v any) error {
	b, err := readPrivate(path)
	if err != nil {
		return err
	}
	sum, body, _ := bytes.Cut(b, []byte("\n"))
	if want := sha256.Sum256(body); string(sum) != hex.EncodeToString(want[:]) {
		return fmt.Errorf("read %s: it is damaged: its checksum is wrong", path)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// writeSealed makes a private file of JSON behind the SHA-256 of it.
func writeSealed(path string, body []byte) error {
	sum := sha256.Sum256(body)
	return writePrivate(path, append([]byte(hex.EncodeToString(sum[:])+"\n"), body...))
}
