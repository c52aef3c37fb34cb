package dialog

import (
	"container/heap"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"bellhop/dialog/siptext"
)

const (
	// maxRegistrations is the number of addresses of record that are followed. About 400
	// bytes each.
	maxRegistrations = 1 << 16

	// maxPeriods is the number of registration periods of an address of record whose call id
	// is derived from the Call-ID alone (see beginPeriod).
	maxPeriods = 8

	// maxRegisters is the number of REGISTERs in memory that await their 2xx, and maxAgent
	// the longest User-Agent of their phones, in bytes.
	maxRegisters = 1 << 10
	maxAgent     = 256
)

// A registrar follows which addresses of record have a binding. A registration period
// lasts from the first binding to the end of the last one. Its two events have a call id
// of their own.
type registrar struct {
	registrations *simplelru.LRU[Extension, *registration]
	expiries      registrationHeap
	pending       *simplelru.LRU[registerKey, pendingRegister] // REGISTERs that await their 2xx

	emitter   *emitter
	directory *directory
	attempts  *attempts
}

// A pendingRegister is a REGISTER that awaits its 2xx.
type pendingRegister struct {
	head      string // "": it was too long
	userAgent string // if it may begin a period
}

// A registerKey identifies a REGISTER transaction.
type registerKey struct{ callID, branch string }

// A registration is the state of an address of record that has a binding, or had one.
type registration struct {
	ext       Extension
	call      string    // call id of the period, or of the last one
	periods   []string  // call ids of the periods that are derived from the Call-ID alone
	userAgent string    // of the phone that began the period
	until     time.Time // when the last binding expires; zero: there is none
	nextCheck time.Time // when the heap checks until: then, or earlier
	heapIndex int       // index in the heap, while there is a binding
}

func newRegistrar(e *emitter, d *directory, a *attempts) *registrar {
	r := &registrar{emitter: e, directory: d, attempts: a}
	r.registrations, _ = simplelru.NewLRU(maxRegistrations, func(_ Extension, g *registration) { // fails only without a size
		r.unschedule(g)
	})
	r.pending, _ = simplelru.NewLRU[registerKey, pendingRegister](maxRegisters, nil)
	return r
}

// observeRegister applies a REGISTER or its response.
func (r *registrar) observeRegister(m *Message) {
	if m.Request() {
		r.storeRegister(m)
		return
	}
	asked, agent := r.takePending(m)
	ext, until, ok := r.directory.learnBindings(m, asked)
	if !ok || m.Trunk != "" {
		return
	}
	r.attempts.noteRegistration(m.To, ext.User, until)
	g, known := r.registrations.Get(ext)
	switch bound := known && !g.until.IsZero(); {
	case bound && until.IsZero():
		r.endRegistration(g, m.At)
	case bound: // refreshed, or moved
		r.extendPeriod(g, until)
	case until.IsZero(), !r.directory.learns(ext.User, m.At):
	default:
		if !known {
			g = &registration{ext: ext}
			r.registrations.Add(ext, g)
		}
		g.beginPeriod(m)
		g.userAgent, g.until, g.nextCheck = cloneString(agent), until, until
		heap.Push(&r.expiries, g)
		r.emitRegistration(g, Registered, m.At)
	}
}

// beginPeriod sets the call id of a new period. The id of the first period with a Call-ID
// is derived from that Call-ID alone. After a restart, a refresh with the same Call-ID,
// which then looks like a beginning, yields the same id. The id of a further period with
// the Call-ID is also derived from the REGISTER that begins it.
func (g *registration) beginPeriod(m *Message) {
	g.call = deriveID("registration", g.ext.User, g.ext.Domain, m.CallID)
	if len(g.periods) == maxPeriods || slices.Contains(g.periods, g.call) {
		g.call = deriveID(g.call, m.Branch, strconv.FormatUint(uint64(m.CSeq), 10))
		return
	}
	g.periods = append(g.periods, g.call)
}

// storeRegister keeps the contents of a REGISTER for its 2xx, and the User-Agent of a phone
// that may begin a period.
func (r *registrar) storeRegister(m *Message) {
	if m.Src != Edge || m.Dst != PBX || m.Trunk != "" {
		return
	}
	var agent, to string
	for name, value := range siptext.Fields(m.Head) {
		switch {
		case siptext.SameName(name, "User-Agent"):
			agent = value
		case siptext.SameName(name, "To"):
			to = value
		}
	}
	to = siptext.ParseNameAddr(to).URI
	aor := parseURI(to)
	if g, ok := r.registrations.Peek(Extension{aor.user, aor.host}); ok && !g.until.IsZero() || len(agent) > maxAgent {
		agent = "" // a refresh begins no period
	}
	if !r.directory.learns(aor.user, m.At) {
		agent = ""
	}
	var p pendingRegister
	if len(m.Head) <= maxRegister {
		p.head = m.Head
	}
	piece := m.CallID + m.Branch + agent + p.head
	n := len(m.CallID) + len(m.Branch)
	p.userAgent, p.head = piece[n:n+len(agent)], piece[n+len(agent):]
	r.pending.Add(registerKey{piece[:len(m.CallID)], piece[len(m.CallID):n]}, p)
}

// takePending returns the REGISTER that m answers and the User-Agent of its phone, as far
// as they were kept. A final response removes them.
func (r *registrar) takePending(m *Message) (asked *registerRequest, agent string) {
	key := registerKey{m.CallID, m.Branch}
	p, ok := r.pending.Peek(key)
	if ok && m.Status >= 200 {
		r.pending.Remove(key)
	}
	if m.Status/100 != 2 {
		p.head = ""
	}
	return readRegister(p.head), p.userAgent
}

// extendPeriod changes the end of a registration period. A later end leaves the heap as
// it is, because the period is looked at again at its next check. Only an end before that
// check moves it in the heap.
func (r *registrar) extendPeriod(g *registration, until time.Time) {
	g.until = until
	if until.Before(g.nextCheck) {
		g.nextCheck = until
		heap.Fix(&r.expiries, g.heapIndex)
	}
}

// nextExpiry returns when to check the first of the periods.
func (r *registrar) nextExpiry() (time.Time, bool) {
	if len(r.expiries) == 0 {
		return time.Time{}, false
	}
	return r.expiries[0].nextCheck, true
}

// unschedule removes a registration from the heap.
func (r *registrar) unschedule(g *registration) {
	if !g.until.IsZero() {
		heap.Remove(&r.expiries, g.heapIndex)
		g.until = time.Time{}
	}
}

// expireBindings ends the periods whose last binding has expired by now.
func (r *registrar) expireBindings(now time.Time) {
	for len(r.expiries) > 0 && !r.expiries[0].nextCheck.After(now) {
		g := r.expiries[0]
		if g.until.After(now) {
			g.nextCheck = g.until
			heap.Fix(&r.expiries, 0)
			continue
		}
		r.endRegistration(g, g.until)
	}
}

// endRegistration ends a period and emits unregistered.
func (r *registrar) endRegistration(g *registration, at time.Time) {
	r.unschedule(g)
	r.emitRegistration(g, Unregistered, at)
}

// emitRegistration emits that a period begins or ends. The id of unregistered includes
// its time, because after a restart a new period may have the call id of an older one.
func (r *registrar) emitRegistration(g *registration, typ Type, at time.Time) {
	e := r.emitter.emit(at, &Event{
		Call:      g.call,
		Seq:       1,
		Type:      typ,
		Party:     deriveID(g.call, g.ext.User, g.ext.Domain),
		Extension: g.ext,
		UserAgent: g.userAgent,
	})
	e.ID = EventID(e.Party, typ)
	if typ == Unregistered {
		e.Seq = 2
		e.ID = deriveID(e.ID, strconv.FormatInt(e.At.UnixMicro(), 10))
	}
}

// registrationHeap is a heap of the registrations that have a binding, by the time of their
// next check.
type registrationHeap []*registration

func (d registrationHeap) Len() int           { return len(d) }
func (d registrationHeap) Less(i, j int) bool { return d[i].nextCheck.Before(d[j].nextCheck) }
func (d registrationHeap) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].heapIndex, d[j].heapIndex = i, j
}
func (d *registrationHeap) Push(x any) {
	g := x.(*registration)
	g.heapIndex = len(*d)
	*d = append(*d, g)
}
func (d *registrationHeap) Pop() any {
	last := len(*d) - 1
	g := (*d)[last]
	(*d)[last] = nil
	*d = (*d)[:last]
	return g
}
