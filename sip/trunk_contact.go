package sip

import (
	"encoding/hex"
	"strings"

	"bellhop/dialog/siptext"
)

// This file replaces the Contact of a PBX by ours towards trunks that accept no other
// (see [Trunk]), such as Microsoft Teams. Our Contact has the PBX's own URI in a token, so
// that nothing is remembered.

// replacePBXContacts replaces the Contacts in a message of the PBX by ours if it is sent
// to a trunk with [Trunk.OwnContact]. It leaves two kinds of responses unchanged: the
// Contacts of a redirection (3xx) are its targets, and those in a response to REGISTER
// belong to the trunk.
func (c *composer) replacePBXContacts(p *packet, to destination) {
	m := &p.msg
	if p.side != pbxSide || m.status >= 300 || !c.peers.trunks.Load().wantOwnContact || !m.hasField(hContact) {
		return
	}
	if !m.isRequest() && m.isMethod("REGISTER") {
		return
	}
	if trunk := c.peers.trunkTo(to); trunk == nil || !trunk.OwnContact {
		return
	}
	id, _ := c.peers.sourcePBX(p)
	ourURI, room := to.ownName(edgeSide).uri, m.contactRoom()
	m.eachContact(func(uri, _ span, bare bool) {
		var u siptext.URI
		if text := string(m.text(uri)); parseURI(text, &u) == nil {
			t := token{use: inPBXContact, text: hex.EncodeToString(id[:]) + " " + text}
			c.replaceContact(m, uri, &u, bare, t, ourURI, &room)
		}
	})
}

// restorePBXContacts puts the PBX's own Contacts back into a trunk's response to its
// REGISTER.
func (c *composer) restorePBXContacts(p *packet) {
	m := &p.msg
	if p.side != edgeSide || !m.isMethod("REGISTER") {
		return
	}
	m.eachContact(func(uri, _ span, _ bool) {
		var u siptext.URI
		if parseURI(string(m.text(uri)), &u) != nil {
			return
		}
		sealed, _ := u.Param(contactParam)
		if own, _, ok := c.sealer.openPBXContact(sealed); ok {
			c.edits.replace(uri, own)
		}
	})
}

// openPBXContact reads the token in a Contact that replacePBXContacts has written. It
// returns the PBX's own URI and the PBX.
func (s *sealer) openPBXContact(text string) (uri string, pbx pbxID, ok bool) {
	t, ok := s.openToken(text, inPBXContact)
	if !ok {
		return "", pbx, false
	}
	id, uri, _ := strings.Cut(t.text, " ")
	n, err := hex.Decode(pbx[:], []byte(id))
	return uri, pbx, err == nil && n == len(pbx)
}

// sourcePBX returns the PBX that p comes from; ok is false if there is none,
// because p comes from one of [Config.PBXSources].
func (ps *peers) sourcePBX(p *packet) (id pbxID, ok bool) {
	for _, pbx := range ps.known() {
		if pbx.isSource(p.listener.proto, p.peer) {
			return pbx.id, true
		}
	}
	return id, false
}
