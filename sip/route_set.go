package sip

import "bellhop/dialog/siptext"

// routeValue is one value of a Route header field.
type routeValue struct {
	uri     siptext.URI
	uriText span // the URI as written
	value   span // whole value, without the commas around it
	field   int  // index in message.fields; -1 once removed
}

// readRoutes reads all Route values, also several in one field, into w.routeValues.
func (w *worker) readRoutes(m *message) ([]routeValue, *fault) {
	w.routeValues = w.routeValues[:0]
	for i := range m.fields {
		f := &m.fields[i]
		if f.name != hRoute {
			continue
		}
		rest := f.value
		for one, more := cutValue(m.b, &rest); more; one, more = cutValue(m.b, &rest) {
			uri, _, ok := splitNameAddr(m.b, one)
			if !ok || len(w.routeValues) >= maxRoutes {
				return nil, badRoute
			}
			r := routeValue{uriText: uri, value: one, field: i}
			if parseURI(string(m.text(uri)), &r.uri) != nil {
				return nil, badRoute
			}
			w.routeValues = append(w.routeValues, r)
		}
		if !rest.empty() {
			return nil, badRoute
		}
	}
	return w.routeValues, nil
}

// removeRoute removes one Route value: the whole field if it is the last value in it,
// else the value with one neighboring comma.
func (w *worker) removeRoute(m *message, r routeValue) {
	f := &m.fields[r.field]
	v := r.value
	if left := w.countRoutes(r.field); left == 1 {
		w.edits.remove(f.line)
		w.dropFieldEdits(f.line)
	} else {
		if v.to < f.value.to {
			v.to = skipSpace(m.b, v.to, f.value.to)
			v.to = skipSpace(m.b, v.to+1, f.value.to)
		} else {
			for v.from > f.value.from && m.b[v.from] != ',' {
				v.from--
			}
		}
		w.edits.remove(v)
	}
	w.markRouteRemoved(r)
}

// countRoutes returns how many values of a field are not removed.
func (w *worker) countRoutes(field int) (n int) {
	for i := range w.routeValues {
		if w.routeValues[i].field == field {
			n++
		}
	}
	return n
}

// markRouteRemoved sets field to -1 in the entry of r in w.routeValues.
func (w *worker) markRouteRemoved(r routeValue) {
	for i := range w.routeValues {
		if w.routeValues[i].value == r.value {
			w.routeValues[i].field = -1
		}
	}
}

// dropFieldEdits discards the edits within a header field that is removed as a whole.
func (w *worker) dropFieldEdits(line span) {
	keep := w.edits.edits[:0]
	for _, e := range w.edits.edits {
		if e.from >= line.from && e.from < line.to && (span{e.from, e.to}) != line {
			continue
		}
		keep = append(keep, e)
	}
	w.edits.edits = keep
}

// applyStrictRoute moves the next Route into the Request-URI, and the Request-URI after
// the last Route, for a strict router (RFC 3261 §16.6 item 6).
func (w *worker) applyStrictRoute(m *message, rs []routeValue) {
	uri := string(m.text(m.uri))
	for i, e := range w.edits.edits { // it may have been replaced already
		if e.from == m.uri.from && e.to == m.uri.to {
			uri = string(w.edits.text[e.textFrom:e.textTo])
			w.edits.edits = append(w.edits.edits[:i], w.edits.edits[i+1:]...)
			break
		}
	}
	w.edits.insert(m.fields[rs[len(rs)-1].field].line.to, "Route: <", uri, ">\r\n")
	w.edits.replace(m.uri, string(m.text(rs[0].uriText)))
	w.removeRoute(m, rs[0])
}

// allRoutesOpen reports whether each remaining Route of m that names us has a token of
// m's dialog. A Route without one would lead back to us through a PBX that is a proxy.
func (w *worker) allRoutesOpen(m *message) bool {
	for i := range w.routeValues {
		r := &w.routeValues[i]
		if r.field < 0 || !w.proxy.listeners.areNamedBy(&r.uri) {
			continue // removed, or not ours
		}
		if _, ok := w.sealer.openRouteToken(r.uri.User, m); !ok {
			return false
		}
	}
	return true
}

// poppedTokens are the tokens of the own Routes that were removed from a request.
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
