package uapi

import (
	"cmp"
	"net/url"
	"slices"
	"strings"

	"bellhop/admin/dialect"
)

// listEvents returns a page of the events, sorted by URL; nil: the page is empty.
func (a *API) listEvents(u *request) (any, error) {
	q, err := parseQuery(u.URL.Query())
	if err != nil {
		return nil, err
	}
	es, err := a.selectEvents(u)
	if err != nil {
		return nil, err
	}
	events := make([]phoneCallEvent, 0, len(es))
	for _, e := range es {
		if event := u.renderEvent(e); q.matches(&event) {
			events = append(events, event)
		}
	}
	slices.SortStableFunc(events, func(a, b phoneCallEvent) int {
		if q.descending {
			a, b = b, a
		}
		return strings.Compare(a.URL, b.URL)
	})
	total := len(events)
	events = events[min(q.start, total):min(q.start+q.count, total)]
	if len(events) == 0 {
		return nil, nil
	}
	list := listPage{Start: q.start, Total: total, Count: q.count, Filtered: true, Sorted: true}
	for i := range events {
		list.Entry = append(list.Entry, q.selectFields(&events[i]))
	}
	return []listPage{list}, nil
}

// listPage is a page of a list.
type listPage struct {
	Start    int   `json:"startIndex"`
	Total    int   `json:"totalResults"`
	Count    int   `json:"itemsPerPage"`
	Filtered bool  `json:"filtered"`
	Sorted   bool  `json:"sorted"`
	Entry    []any `json:"entry"`
}

// query is the query of a list: the filter, the order, the page and the fields to show.
type query struct {
	count, start int
	by, value    string // by "": no filter
	fields       []string
	descending   bool
}

// parseQuery parses the query of a list. It ignores unknown parameters.
func parseQuery(v url.Values) (q query, err error) {
	q.by, q.value = v.Get("filterBy"), v.Get("filterValue")
	var ok bool
	if q.count, ok = dialect.IntParam(v, "count", 1, 4999, 20); !ok {
		return q, badRequest("count_invalid", "count must be between 1 and 4999")
	}
	if q.start, ok = dialect.IntParam(v, "startIndex", 0, 5000, 0); !ok {
		return q, badRequest("startindex_invalid", "startIndex must be between 0 and 5000")
	}
	var event phoneCallEvent
	known := event.fields()
	if _, ok := known[q.by].(string); q.by != "" && !ok || q.by == "" && v.Has("filterValue") {
		return q, badRequest("filterby_invalid", "filterBy must be id, method, modified, note, status, type or url")
	}
	if q.by != "" && !v.Has("filterValue") {
		return q, badRequest("filtervalue_invalid", "filterValue is missing")
	}
	if fields := v.Get("fields"); fields != "" {
		q.fields = strings.Split(fields, ",")
	}
	for _, name := range q.fields {
		if _, ok := known[name]; !ok {
			return q, badRequest("fields_invalid", "fields must be a comma-separated list of id, links, method, modified, note, status, type and url")
		}
	}
	// The official client misspells sortOrder.
	switch cmp.Or(v.Get("sortOrder"), v.Get("sortOder"), "asc") {
	case "asc", "ascending":
	case "desc", "descending":
		q.descending = true
	default:
		return q, badRequest("sortorder_invalid", "sortOrder must be asc or desc")
	}
	return q, nil
}

// matches reports whether an event passes the filter. A note, URL or time must contain
// the value; other fields must equal it.
func (q *query) matches(event *phoneCallEvent) bool {
	value, _ := event.fields()[q.by].(string)
	switch q.by {
	case "":
		return true
	case "note", "url", "modified":
		return strings.Contains(value, q.value)
	}
	return value == q.value
}

// selectFields returns an event with the requested fields; without any, the whole event.
func (q *query) selectFields(event *phoneCallEvent) any {
	if q.fields == nil {
		return event
	}
	all := event.fields()
	some := make(map[string]any, len(q.fields))
	for _, name := range q.fields {
		some[name] = all[name]
	}
	return some
}

func (event *phoneCallEvent) fields() map[string]any {
	return map[string]any{
		"type": event.Type, "id": event.ID, "method": event.Method, "note": event.Note,
		"url": event.URL, "status": event.Status, "modified": event.Modified, "links": event.Links,
	}
}
