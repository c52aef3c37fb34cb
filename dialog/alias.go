package dialog

import "github.com/hashicorp/golang-lru/v2/simplelru"

// aliases maps extensions that have called to the numbers that the PBX shows for them.
// Such a number may differ from the extension's name: alice calls, and the called phone
// shows 121. Aliases are learned from the legs of calls. A number that was shown for two
// extensions identifies neither from then on.
type aliases struct {
	shown  *simplelru.LRU[string, string] // shown number by extension
	owners *simplelru.LRU[string, string] // extension by shown number; "": it was shown for several
}

func newAliases() aliases {
	shown, _ := simplelru.NewLRU[string, string](maxBindings, nil) // fails only without a size
	owners, _ := simplelru.NewLRU[string, string](maxBindings, nil)
	return aliases{shown, owners}
}

// learnAlias stores that the PBX has shown a number for the extension user, which was the
// caller.
func (a *aliases) learnAlias(user, number string) {
	if len(number) > MaxName {
		return
	}
	known, _ := a.shown.Get(user)
	switch owner, taken := a.owners.Get(number); {
	case taken && owner == "":
		return
	case taken && owner != user:
		a.owners.Add(number, "")
		if shown, _ := a.shown.Peek(owner); shown == number {
			a.shown.Remove(owner)
		}
		return
	case known == number:
		return
	}
	if known != "" {
		a.owners.Remove(known)
	}
	user, number = cloneString(user), cloneString(number)
	a.shown.Add(user, number)
	a.owners.Add(number, user)
}

// numberOf returns the number that the PBX shows for an extension, or "" if it is not
// known.
func (a *aliases) numberOf(user string) string {
	n, _ := a.shown.Get(user)
	return n
}

// ownerOf returns the extension for which the PBX shows a number, or "" if there is none
// or more than one.
func (a *aliases) ownerOf(number string) string {
	user, _ := a.owners.Get(number)
	return user
}

// isShownAs reports whether number is the name of the extension user, or the number that
// the PBX shows for it.
func (d *directory) isShownAs(user, number string) bool {
	return number == user || d.aliases.ownerOf(number) == user
}

// extensionShownAs returns the extension that has number as an alias: calls from 101 may
// show 0301234. It returns an empty Extension if no extension has that alias.
func (d *directory) extensionShownAs(number string) Extension {
	user := d.aliases.ownerOf(number)
	if user == "" || user == number {
		return Extension{}
	}
	if a, ok := d.aors.Peek(user); ok {
		return a.ext
	}
	return Extension{User: user}
}

// learnShownNumber learns an alias from leg l, on which the PBX calls the phone of an
// extension: the number that the PBX shows there for the calling extension. It ignores
// the dialed number and numbers of other extensions, because the PBX shows these for
// other reasons.
func (s *numberMatcher) learnShownNumber(l *leg, i *inviteMatch) {
	c, shown := l.call.caller, l.callerNum
	if c == nil || c.party == nil || !i.toExtension || len(l.call.legs) > 2 || l.referredTo != "" || l.diversion != "" {
		return
	}
	user := c.party.ext.User
	switch {
	case !identifiesCaller(shown), shown == c.calledUser:
		return
	case shown == user:
	case s.directory.declared[shown] != "", s.directory.registered(shown, l.began), !s.directory.registered(user, l.began):
		return
	case isNumber(user) && s.directory.kindOf(shown, l.began) == "":
		return // a number of the company
	}
	s.directory.aliases.learnAlias(user, shown)
	if s.directory.aliases.ownerOf(shown) == user {
		s.indexLegBy(c, shown)
	}
}
