package sip

import (
	"net/netip"
	"time"

	"bellhop/dialog"
)

// maxBody is how much of a body an observer is shown.
const maxBody = 8 << 10

// observe shows a request to the watcher, as it came. trunk and aor are what
// routing found out.
func (w *worker) observe(p *packet, dst dialog.Side, peer netip.AddrPort, trunk, aor string) {
	if w.hop.cfg.Watch == nil {
		return
	}
	m := &p.msg
	o := w.observation(m, p.at)
	o.Src, o.Dst, o.Peer, o.Trunk, o.AOR = p.side, dst, peer, trunk, aor
	o.Branch = o.Head[m.via.branch.from:m.via.branch.to]
	if f := m.first(hXCID); f != nil {
		o.CID = w.seal.openCID(m.text(f.value))
	} else if w.hop.cfg.AddCID && dst == pbxSide && m.initial() && m.is("INVITE") {
		o.CID = string(w.seal.newCID(w.tmp[:0], m.text(m.callID), m.text(m.fromTag))[:cidLen])
	}
	w.watch(o)
}

// observeResponse shows a response to the watcher, as it came.
func (w *worker) observeResponse(t *proxied, m *message, at instant) {
	if w.hop.cfg.Watch == nil {
		return
	}
	o := w.observation(m, at)
	t.fill(&o)
	w.watch(o)
}

// observeOwn shows a response that is our own.
func (w *worker) observeOwn(t *proxied, b []byte) {
	if w.hop.cfg.Watch == nil {
		return
	}
	w.aux.index(b, false)
	o := w.observation(&w.aux, w.now())
	t.fill(&o)
	o.Own = true
	w.watch(o)
}

func (t *proxied) fill(o *dialog.Message) {
	o.Src, o.Dst, o.Peer, o.Trunk, o.Branch = t.dst, t.src, t.peer, t.trunk, t.branch
}

// observation copies what a watcher may keep: one allocation that all strings
// of it share.
func (w *worker) observation(m *message, at instant) dialog.Message {
	text := string(m.b[:min(len(m.b), m.head+maxBody)])
	cut := func(s span) string { return text[s.from:s.to] }
	return dialog.Message{
		At:      w.hop.epoch.Add(time.Duration(at)),
		Method:  cut(m.cseqMet),
		Status:  m.status,
		CallID:  cut(m.callID),
		CSeq:    m.cseq,
		FromTag: cut(m.fromTag),
		ToTag:   cut(m.toTag),
		Head:    text[:m.head],
		Body:    text[m.head:],
	}
}

func (w *worker) watch(o dialog.Message) {
	select {
	case w.hop.cfg.Watch <- o:
	default:
		w.hop.stats.unobserved.Add(1)
	}
}
