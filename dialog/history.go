package dialog

import (
	"strconv"
	"strings"

	"bellhop/dialog/siptext"
)

// maxHistory is the largest number of History-Info entries that are read.
const maxHistory = 32

// A historyEntry is one target that the call was sent to (RFC 7044 §5).
type historyEntry struct {
	user     string
	index    string // such as 1.2.1
	cause    int    // why the call was sent to this target (RFC 4458 §2.1); 0: absent
	declined bool   // a Reason gives why this target did not take the call
	replaces string // index of the target that this one replaced; "": absent
	mapped   bool   // a proxy mapped one number to another (mp)
}

// readHistory returns the entries of all History-Info header fields in order.
func readHistory(head string) (entries []historyEntry) {
	for name, value := range siptext.Fields(head) {
		if !siptext.SameName(name, "History-Info") {
			continue
		}
		for v := range siptext.List(value) {
			if len(entries) == maxHistory {
				return entries
			}
			a := siptext.ParseNameAddr(v)
			u := siptext.ParseURI(a.URI)
			e := historyEntry{user: parseURI(a.URI).user}
			e.index, _ = siptext.Param(a.Params, "index")
			cause, _ := u.Param("cause")
			e.cause, _ = strconv.Atoi(cause)
			for _, tag := range []string{"rc", "mp", "np"} {
				if from, ok := siptext.Param(a.Params, tag); ok {
					e.replaces, e.mapped = from, tag == "mp"
				}
			}
			e.declined = replacedBecause(u.Headers) || replacedBecause(strings.ReplaceAll(a.Params, ";", "&"))
			entries = append(entries, e)
		}
	}
	return entries
}

// replacedBecause reports whether the headers of a URI have a Reason why the call was
// sent on from this target to another one (RFC 7044 §5.2, RFC 3326).
func replacedBecause(headers string) bool {
	for h := range strings.SplitSeq(headers, "&") {
		name, value, _ := strings.Cut(h, "=")
		if !siptext.SameName(strings.TrimSpace(name), "Reason") {
			continue
		}
		if r := readReason("\nReason: " + siptext.Unescape(strings.Trim(value, `"`))); r.sip >= 300 || r.q850 != 0 {
			return true
		}
	}
	return false
}

// divertedBy returns the user of the target that diverted the call to called, or that was
// tried before called and did not take the call. It returns "" if there is none.
//
// It reads the entries from the last one back. An entry that has a Reason did not take
// the call, unless it is the last. An entry with a cause replaced an earlier target. An
// entry without either follows the branch that was tried before it, or else the target
// above its index. A proxy that only maps a number to another sets mp and no cause, which
// is no diversion. The same number in another form is no diversion either.
func divertedBy(entries []historyEntry, called string) string {
	for i := len(entries) - 1; i >= 0; i-- {
		e := &entries[i]
		var by string
		switch {
		case e.declined && i < len(entries)-1:
			by = e.user
		case i == 0:
		case e.cause >= 300:
			by = replacedUser(entries[:i], e)
		default:
			if tried := triedBefore(entries[:i], e); tried != nil {
				by = tried.user
			} else if !e.mapped {
				by = replacedUser(entries[:i], e)
			}
		}
		if by != "" && !sameNumber(by, called) && !sameNumber(by, entries[len(entries)-1].user) {
			return by
		}
	}
	return ""
}

// replacedUser returns the user of the entry that e has replaced. That is the entry that
// e names, or else the entry whose index is the parent of e's index, or else the entry
// before e.
func replacedUser(before []historyEntry, e *historyEntry) string {
	index := e.replaces
	if index == "" {
		index = parentIndex(e.index)
	}
	for i := range before {
		if index != "" && before[i].index == index {
			return before[i].user
		}
	}
	return before[len(before)-1].user
}

// triedBefore returns the last entry before e that has the same parent index as e; nil:
// there is none.
func triedBefore(before []historyEntry, e *historyEntry) *historyEntry {
	parent := parentIndex(e.index)
	for i := len(before) - 1; i >= 0 && parent != ""; i-- {
		if b := &before[i]; b.index != e.index && parentIndex(b.index) == parent {
			return b
		}
	}
	return nil
}

// parentIndex returns an index without its last number, or "" if it has only one.
func parentIndex(index string) string { return index[:max(0, strings.LastIndexByte(index, '.'))] }

// sameNumber reports whether two users are the same number. One of them may have a
// prefix, such as a country code, that the other lacks.
func sameNumber(a, b string) bool {
	if a == b {
		return true
	}
	const shortest = 6 // digits that two numbers must have in common
	a, b = strings.TrimPrefix(a, "+"), strings.TrimPrefix(b, "+")
	return isNumber(a) && isNumber(b) && min(len(a), len(b)) >= shortest && (strings.HasSuffix(a, b) || strings.HasSuffix(b, a))
}
