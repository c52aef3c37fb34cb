package sip

import (
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// worker owns the transactions of the calls whose Call-ID hashes to it. It handles one
// message or timer at a time.
//
// The goroutine of run handles queued work items. Waking it costs as much as forwarding a
// message. Therefore the goroutine that reads a UDP socket handles a message inline if
// the worker has no queued work and the socket no backlog (see [worker.tryInline]).
//
// mu guards the fields below it.
type worker struct {
	proxy    *Proxy
	index    int
	queue    workQueue
	shedding atomic.Bool // new requests of unknown sources are dropped

	mu sync.Mutex // only run waits for it; readers use TryLock

	serverTxs    shrinkingMap[serverKey, *serverTx]
	clientTxs    shrinkingMap[uint64, *clientTx]
	cancelTxs    shrinkingMap[uint64, *clientTx] // CANCEL transactions, by the id of their INVITE
	lastTxID     uint64
	memory       txMemory
	shedLoggedAt instant // time of the last log line about shed requests
	wheel        wheel
	timer        *time.Timer
	timerSetTo   instant // when timer fires; 0: it is not set

	router   router   // decides where requests go
	composer composer // writes what is sent
	observer observer // passes copies to the tracker

	keepAlives keepAlives

	// Scratch memory, valid until the next message.
	hash      maphash.Hash
	scratch   message // index of a message that a transaction retained
	keyBuf    []byte
	branchBuf []byte
}

// newWorker returns the worker with that index. Its goroutine is started by Run.
func newWorker(px *Proxy, index int) *worker {
	w := &worker{
		proxy:  px,
		index:  index,
		queue:  newWorkQueue(px.backlog),
		memory: txMemory{maxHeldBytes: maxHeldPerWorker * max(px.cfg.Workers, 2) / px.cfg.Workers},
		timer:  time.NewTimer(time.Hour),
	}
	sealer := newSealer(px.cfg.Key)
	w.router = router{proxy: px, peers: &px.peers, listeners: &px.listeners, sealer: sealer, edits: &w.composer.edits}
	w.keepAlives = keepAlives{worker: w, interval: instant(px.cfg.KeepAlive)}
	w.composer = composer{cfg: &px.cfg, peers: &px.peers, listeners: &px.listeners, sealer: sealer, keepAlives: &w.keepAlives}
	w.observer = observer{proxy: px, composer: &w.composer}
	w.hash.SetSeed(px.hashSeed)
	return w
}

func (w *worker) now() instant { return w.proxy.now() }

// run handles messages and timers until ctx ends. New requests of unknown sources wait
// until the other queue is empty.
func (w *worker) run(ctx context.Context) {
	defer w.timer.Stop()
	w.mu.Lock()
	w.startProbers()
	w.resetTimer()
	w.mu.Unlock()
	for {
		select {
		case in := <-w.queue.items:
			w.handleQueued(in)
		case <-w.timer.C:
			w.handleDueTimers()
		case <-ctx.Done():
			return
		default:
			select {
			case in := <-w.queue.items:
				w.handleQueued(in)
			case in := <-w.queue.strangers:
				w.handleQueued(in)
			case <-w.timer.C:
				w.handleDueTimers()
			case <-ctx.Done():
				return
			}
		}
	}
}

// handleDueTimers fires the due timers and sets the next one.
func (w *worker) handleDueTimers() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timerSetTo = 0
	w.fireTimers()
	w.updateShedding(w.now())
	w.resetTimer()
}

// resetTimer sets the worker's timer to the next tick of the wheel that has a timer,
// unless it is already set to that tick or an earlier one.
func (w *worker) resetTimer() {
	at, ok := w.wheel.next()
	if !ok || w.timerSetTo != 0 && w.timerSetTo <= at {
		return
	}
	w.timerSetTo = at
	w.timer.Reset(time.Duration(at - w.now()))
}

// fireTimers fires the due timers. If a timer panics, only that timer is lost. The other
// timers of its tick stay due.
func (w *worker) fireTimers() {
	defer func() {
		if r := recover(); r != nil {
			w.proxy.logPanic("timer", r)
			w.wheel.firedUntil -= tickLength
		}
	}()
	w.wheel.advance(w.now())
}
