package sip

// A Dialog is a dialog that was up when this process started.
type Dialog struct {
	CallID string
	Tag    string // tag of one of its ends
}

// oldDialogs holds the tags of a worker's dialogs, by Call-ID, in which the edge side may
// use tokens of version 1. Earlier versions of bellhop made such tokens.
type oldDialogs map[string][]string

// contains reports whether m belongs to one of the old dialogs.
func (o oldDialogs) contains(m *message) bool {
	if len(o) == 0 {
		return false
	}
	for _, tag := range o[string(m.text(m.callID))] {
		if tag == string(m.text(m.fromTag)) || tag == string(m.text(m.toTag)) {
			return true
		}
	}
	return false
}

// remove removes the dialogs of a Call-ID, after a BYE was answered.
func (o oldDialogs) remove(callID []byte) {
	if len(o) > 0 {
		delete(o, string(callID))
	}
}

// RestoreDialogs adds dialogs that were up when this process started. Tokens of version 1
// are bound to no dialog. The edge side may use such a token in one of these dialogs
// until that dialog ends, and in no other dialog. RestoreDialogs must be called before
// Run.
func (px *Proxy) RestoreDialogs(dialogs []Dialog) {
	for _, d := range dialogs {
		w := px.workerOfCallID([]byte(d.CallID))
		if w.router.oldDialogs == nil {
			w.router.oldDialogs = oldDialogs{}
		}
		w.router.oldDialogs[d.CallID] = append(w.router.oldDialogs[d.CallID], d.Tag)
	}
}
