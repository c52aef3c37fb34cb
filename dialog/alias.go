package dialog

import "github.com/hashicorp/golang-lru/v2/simplelru"

// aliases are the numbers that the PBX shows for extensions under other names: alice calls,
// and the phone that rings shows 121. They are learned from the legs of calls. A number
// that was shown for two extensions identifies neither from then on.
type aliases struct {
	shown  *simplelru.LRU[string, string] // shown number by extension
	owners *simplelru.LRU[string, string] // extension by number; "": several share it
}

func newAliases() aliases {
	shown, _ := simplelru.NewLRU[string, string](maxBindings, nil) // fails only without a size
	owners, _ := simplelru.NewLRU[string, string](maxBindings, nil)
	return aliases{shown, owners}
}

// learnAlias notes that the PBX has shown a number for an extension that called.
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

// numberOf returns the number that the PBX shows for an extension, or "".
func (a *aliases) numberOf(user string) string {
	n, _ := a.shown.Get(user)
	return n
}

// ownerOf returns the extension that a number is shown for, or "".
func (a *aliases) ownerOf(number string) string {
	user, _ := a.owners.Get(number)
	return user
}

// isShownAs reports whether a number is the extension's own: its name, or the number that
// the PBX shows for it.
func (d *directory) isShownAs(user, number string) bool {
	return number == user || d.aliases.ownerOf(number) == user
}

// extensionShownAs returns the extension that the PBX shows a number for, if the extension
// has another name. It has no user if there is none.
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

// learnShownNumber learns which number the PBX shows for the calling extension, from the
// leg l to another extension's phone. Numbers of other extensions, and the dialed number,
// are ignored: they are shown for other reasons.
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
