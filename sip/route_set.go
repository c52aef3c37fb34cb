package sip

import "bellhop/dialog/siptext"

// routeSet holds all Route values of request m in order. One field may have several
// values. Values are removed at either end only, and values[from:to] remain. For each
// removal, an edit of m is added to edits.
type routeSet struct {
	m        *message
	edits    *splice
	values   []routeValue
	from, to int
}

// routeValue is one value of a Route header field.
type routeValue struct {
	uri     siptext.URI
	uriText span // the URI as written
	value   span // whole value, without the commas around it
	field   int  // index in message.fields
}

// read reads the Route values of m. Later removals are noted in edits, which may be nil
// if nothing is removed.
func (rs *routeSet) read(m *message, edits *splice) *fault {
	*rs = routeSet{m: m, edits: edits, values: rs.values[:0]}
	list := m.listValues(hRoute)
	for list.next() {
		uri, _, ok := splitNameAddr(m.b, list.value)
		if !ok || len(rs.values) >= maxRoutes {
			return badRoute
		}
		r := routeValue{uriText: uri, value: list.value, field: list.field()}
		if parseURI(string(m.text(uri)), &r.uri) != nil {
			return badRoute
		}
		rs.values = append(rs.values, r)
	}
	if list.unclosed {
		return badRoute
	}
	rs.to = len(rs.values)
	return nil
}

func (rs *routeSet) empty() bool        { return rs.from == rs.to }
func (rs *routeSet) first() *routeValue { return &rs.values[rs.from] }
func (rs *routeSet) last() *routeValue  { return &rs.values[rs.to-1] }

// remaining returns the values that are not removed.
func (rs *routeSet) remaining() []routeValue { return rs.values[rs.from:rs.to] }

// isRemoved reports whether the value at index i was removed.
func (rs *routeSet) isRemoved(i int) bool { return i < rs.from || i >= rs.to }

// removeFirst removes the first of the remaining values.
func (rs *routeSet) removeFirst() {
	rs.cut(rs.first())
	rs.from++
}

// removeLast removes the last of the remaining values.
func (rs *routeSet) removeLast() {
	rs.cut(rs.last())
	rs.to--
}

// cut notes the edit that removes a value. It removes the whole field if no other value
// of the field remains, else the value with one neighboring comma.
func (rs *routeSet) cut(r *routeValue) {
	f := &rs.m.fields[r.field]
	if rs.countInField(r.field) == 1 {
		rs.edits.remove(f.line)
		rs.edits.dropWithin(f.line)
		return
	}
	b, v := rs.m.b, r.value
	if v.to < f.value.to {
		v.to = skipSpace(b, v.to, f.value.to)
		v.to = skipSpace(b, v.to+1, f.value.to)
	} else {
		for v.from > f.value.from && b[v.from] != ',' {
			v.from--
		}
	}
	rs.edits.remove(v)
}

// countInField returns how many of the remaining values are in a field.
func (rs *routeSet) countInField(field int) (n int) {
	for i := range rs.remaining() {
		if rs.remaining()[i].field == field {
			n++
		}
	}
	return n
}

// moveFirstToURI moves the first Route into the Request-URI, and the Request-URI after the
// last Route, for a strict router (RFC 3261 §16.6 item 6).
func (rs *routeSet) moveFirstToURI() {
	uri, replaced := rs.edits.takeReplacement(rs.m.uri)
	if !replaced {
		uri = string(rs.m.text(rs.m.uri))
	}
	rs.edits.insert(rs.m.fields[rs.last().field].line.to, "Route: <", uri, ">\r\n")
	rs.edits.replace(rs.m.uri, string(rs.m.text(rs.first().uriText)))
	rs.removeFirst()
}

// poppedTokens are the first and the last of our tokens that were removed from a request,
// from its Request-URI and then from its Routes. Without any, both are zero.
type poppedTokens struct {
	first, last token
	n           int
}

// add notes the next removed token.
func (t *poppedTokens) add(k token) {
	if t.n++; t.n == 1 {
		t.first = k
	}
	t.last = k
}
