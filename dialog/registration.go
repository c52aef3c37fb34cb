package dialog

import (
	"container/heap"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	// maxRegistrations is how many addresses of record are followed. About
	// 400 bytes each.
	maxRegistrations = 1 << 16

	// maxTurns is how many of an address's turns are known by their Call-ID.
	maxTurns = 8

	// maxRegisters is how many REGISTERs that await their 2xx are known, and
	// maxAgent how long the name of their phone may be.
	maxRegisters = 1 << 10
	maxAgent     = 256
)

// A registrar knows which addresses of record have a binding. From the first
// binding to the end of the last is a turn; it is a call of two events.
type registrar struct {
	known   *simplelru.LRU[Extension, *registration]
	due     expiries
	pending *simplelru.LRU[registerKey, pendingRegister]
}

// A pendingRegister is a REGISTER that awaits its 2xx.
type pendingRegister struct {
	head  string // "": it was too long to be kept
	agent string // User-Agent, if it may begin a turn
}

// registerKey names a REGISTER transaction.
type registerKey struct{ callID, branch string }

// A registration is an address of record: in a turn, or between two.
type registration struct {
	ext   Extension
	call  string    // of the turn, or of the last one
	turns []string  // calls of those turns that are named by Call-ID alone
	agent string    // of the phone that began the turn
	until time.Time // when the last binding expires; zero: there is none
	look  time.Time // when to see whether it has: then, or earlier
	place int       // in the expiries, while there is a binding
}

func newRegistrar() *registrar {
	r := &registrar{}
	r.known, _ = simplelru.NewLRU(maxRegistrations, func(_ Extension, g *registration) { // fails only without a size
		r.forget(g)
	})
	r.pending, _ = simplelru.NewLRU[registerKey, pendingRegister](maxRegisters, nil)
	return r
}

// registration follows a REGISTER and its response.
func (t *Tracker) registration(m *Message) {
	if m.Request() {
		t.registering(m)
		return
	}
	asked, agent := t.registrar.answered(m)
	ext, until, ok := t.names.learn(m, asked)
	if !ok || m.Trunk != "" {
		return
	}
	t.gate.register(m.To, ext.User, until)
	g, known := t.registrar.known.Get(ext)
	switch bound := known && !g.until.IsZero(); {
	case bound && until.IsZero():
		t.unregister(g, m.At)
	case bound: // refreshed, or moved
		t.registrar.extend(g, until)
	case until.IsZero(), !t.config.Learn && t.names.kind(ext.User, m.At) == "":
	default:
		if !known {
			g = &registration{ext: ext}
			t.registrar.known.Add(ext, g)
		}
		g.begin(m)
		g.agent, g.until, g.look = clone(agent), until, until
		heap.Push(&t.registrar.due, g)
		t.tell(g, Registered, m.At)
	}
}

// begin names a turn. The first of a Call-ID is named by that alone, so that a
// refresh that seems to begin it, as after a restart, gives it the same name.
// A later one is named by the REGISTER that begins it.
func (g *registration) begin(m *Message) {
	g.call = hash("registration", g.ext.User, g.ext.Domain, m.CallID)
	if len(g.turns) == maxTurns || slices.Contains(g.turns, g.call) {
		g.call = hash(g.call, m.Branch, strconv.FormatUint(uint64(m.CSeq), 10))
		return
	}
	g.turns = append(g.turns, g.call)
}

// registering keeps what a REGISTER asks for, and the name of a phone that may begin a
// turn.
func (t *Tracker) registering(m *Message) {
	if m.Src != Edge || m.Dst != PBX || m.Trunk != "" {
		return
	}
	var agent, to string
	for name, value := range fields(m.Head) {
		switch {
		case is(name, "User-Agent"):
			agent = value
		case is(name, "To"):
			to = value
		}
	}
	_, to, _ = nameAddr(to)
	aor := parseURI(to)
	if g, ok := t.registrar.known.Peek(Extension{aor.user, aor.host}); ok && !g.until.IsZero() || len(agent) > maxAgent {
		agent = "" // a refresh
	}
	if !t.config.Learn && t.names.kind(aor.user, m.At) == "" {
		agent = ""
	}
	var p pendingRegister
	if len(m.Head) <= maxRegister {
		p.head = m.Head
	}
	piece := m.CallID + m.Branch + agent + p.head
	n := len(m.CallID) + len(m.Branch)
	p.agent, p.head = piece[n:n+len(agent)], piece[n+len(agent):]
	t.registrar.pending.Add(registerKey{piece[:len(m.CallID)], piece[len(m.CallID):n]}, p)
}

// answered returns what the REGISTER that m answers asks for and the name of its phone,
// as far as they were kept, and forgets it.
func (r *registrar) answered(m *Message) (asked *registerRequest, agent string) {
	key := registerKey{m.CallID, m.Branch}
	p, ok := r.pending.Peek(key)
	if ok && m.Status >= 200 {
		r.pending.Remove(key)
	}
	if m.Status/100 != 2 {
		p.head = ""
	}
	return readRegister(p.head), p.agent
}

// extend puts off the end of a turn. The heap hears of it only if the end
// comes sooner.
func (r *registrar) extend(g *registration, until time.Time) {
	g.until = until
	if until.Before(g.look) {
		g.look = until
		heap.Fix(&r.due, g.place)
	}
}

// next returns when to look at the first of the turns.
func (r *registrar) next() (time.Time, bool) {
	if len(r.due) == 0 {
		return time.Time{}, false
	}
	return r.due[0].look, true
}

// forget drops what is due of a registration.
func (r *registrar) forget(g *registration) {
	if !g.until.IsZero() {
		heap.Remove(&r.due, g.place)
		g.until = time.Time{}
	}
}

// expireBindings ends the turns whose last binding has expired by now.
func (t *Tracker) expireBindings(now time.Time) {
	r := t.registrar
	for len(r.due) > 0 && !r.due[0].look.After(now) {
		g := r.due[0]
		if g.until.After(now) {
			g.look = g.until
			heap.Fix(&r.due, 0)
			continue
		}
		t.unregister(g, g.until)
	}
}

func (t *Tracker) unregister(g *registration, at time.Time) {
	t.registrar.forget(g)
	t.tell(g, Unregistered, at)
}

// tell says that a turn begins or ends. When it ends is in the event's id, as
// a turn that was named anew after a restart may have the name of an older one.
func (t *Tracker) tell(g *registration, typ Type, at time.Time) {
	e := Event{
		Call:      g.call,
		Seq:       1,
		At:        t.clock.wall(at),
		Observed:  at,
		Type:      typ,
		Party:     hash(g.call, g.ext.User, g.ext.Domain),
		Extension: g.ext,
		UserAgent: g.agent,
	}
	e.ID = hash(e.Party, string(typ))
	if typ == Unregistered {
		e.Seq = 2
		e.ID = hash(e.ID, strconv.FormatInt(e.At.UnixMicro(), 10))
	}
	t.said = append(t.said, e)
}

// expiries is a heap of the registrations that have a binding, by when they
// are looked at.
type expiries []*registration

func (d expiries) Len() int           { return len(d) }
func (d expiries) Less(i, j int) bool { return d[i].look.Before(d[j].look) }
func (d expiries) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].place, d[j].place = i, j
}
func (d *expiries) Push(x any) {
	g := x.(*registration)
	g.place = len(*d)
	*d = append(*d, g)
}
func (d *expiries) Pop() any {
	last := len(*d) - 1
	g := (*d)[last]
	(*d)[last] = nil
	*d = (*d)[:last]
	return g
}
