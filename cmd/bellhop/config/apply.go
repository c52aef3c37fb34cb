package config

import (
	"fmt"
	"reflect"
	"slices"

	"bellhop/notify"
)

// A FileSubscription is a [[subscription]] table of a file for the command bellhop
// subscriptions apply.
type FileSubscription struct {
	ID           string
	Subscription notify.Subscription // with its secrets
	Position     Problem             // in the file; Text is empty
}

// ReadSubscriptions reads the [[subscription]] tables of a file. If the content is
// wrong, the error is a [Problems] with all problems of the file.
func ReadSubscriptions(file, text string) ([]FileSubscription, error) {
	doc, r, err := decodeTOML(file, text)
	if err != nil {
		return nil, err
	}
	ids := r.takeIDs(doc)
	var dst struct {
		Subscription []notify.Subscription `toml:"subscription"`
	}
	r.decodeTable("", doc, reflect.ValueOf(&dst).Elem())
	all := make([]FileSubscription, len(dst.Subscription))
	for i, sub := range dst.Subscription {
		path := indexPath("subscription", i)
		cert := sub.TLSCert
		if sub.TLSKey == "" {
			sub.TLSCert = "" // export leaves out the key, without which tls_cert is invalid
		}
		sub.Normalize() // to the stored form
		for err := range sub.Invalid() {
			r.addProblem(path+"."+err.Field, "%s", err.Why)
		}
		sub.TLSCert = cert
		if sub.OldSecret != "" {
			r.addProblem(path+".old_secret", "cannot be set over the API: leave it out; a new secret is a rotation")
		}
		if ids[i] != "" && slices.Contains(ids[:i], ids[i]) {
			r.addProblem(path+".id", "is used by another [[subscription]] above")
		}
		at := r.where.keyPosition(path)
		all[i] = FileSubscription{ID: ids[i], Subscription: sub, Position: Problem{File: file, Line: at.line, Column: at.column}}
	}
	if len(r.problems) > 0 {
		r.problems.Sort()
		return nil, r.problems
	}
	return all, nil
}

// takeIDs removes the ids from the [[subscription]] tables of a document and returns
// them.
func (r *decoder) takeIDs(doc map[string]any) []string {
	var tables []map[string]any
	switch v := doc["subscription"].(type) { // the decoder reports other types
	case []map[string]any:
		tables = v
	case []any: // subscription = [{…}]
		for _, t := range v {
			table, _ := t.(map[string]any)
			tables = append(tables, table)
		}
	}
	ids := make([]string, len(tables))
	for i, t := range tables {
		var ok bool
		if ids[i], ok = t["id"].(string); t["id"] != nil && (!ok || ids[i] == "") {
			r.addProblem(indexPath("subscription", i)+".id", "must be the id of a subscription: leave it out to create one")
		}
		delete(t, "id")
	}
	return ids
}

// PositionPrefix returns the file and the line of p, followed by a colon and a space,
// to put before a message. It returns "" if p has no file.
func (p Problem) PositionPrefix() string {
	if p.File == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d: ", p.File, p.Line)
}
