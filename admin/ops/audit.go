package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/admin/access"
	"bellhop/notify"
)

// Entry of the audit log is one change over the API, or one test, redelivery or replay.
// Its JSON form is stored: fields are only ever added.
type Entry struct {
	At     time.Time `json:"at" doc:"Time of the request"`
	By     string    `json:"by" doc:"ID of the token that made the request; config for the token of the config file"`
	Did    string    `json:"did" doc:"operationId of the request"`
	ID     string    `json:"id" doc:"ID of the subscription, delivery or token"`
	Before any       `json:"before,omitempty" doc:"The object before the change, without secrets and header values"`
	After  any       `json:"after,omitempty" doc:"The object after the change, without secrets and header values"`
}

// openAuditLog opens the stream of the audit log.
func openAuditLog(ctx context.Context, js jetstream.JetStream, c Config) (jetstream.Stream, error) {
	return js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:     "bellhop_audit",
		Subjects: []string{auditSubject},
		Storage:  jetstream.FileStorage,
		MaxAge:   c.KeepEvents,
		Replicas: c.Replicas,
	})
}

const auditSubject = "bellhop.audit"

// record writes an entry about an operation of the client to the audit log, and a summary
// to the process's log. before and after are the object as the API shows it; nil: it did
// not exist before, or no longer exists. If the store does not accept the entry, only
// the summary remains.
func (o *Operations) record(ctx context.Context, did, id string, before, after any) {
	e := Entry{At: time.Now().UTC(), By: "nobody", Did: did, ID: id, Before: before, After: after}
	if client := access.ClientOf(ctx); client != nil {
		e.By = client.ID
	}
	attrs := []any{"by", e.By, "did", did, "id", id}
	if before != nil && after != nil {
		attrs = append(attrs, "changed", changedFields(before, after))
	}
	o.log.Info("audit", attrs...)

	b, err := json.Marshal(e)
	if err == nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_, err = o.js.Publish(ctx, auditSubject, b)
	}
	if err != nil {
		o.log.Error("audit entry not stored", "did", did, "id", id, "err", err)
	}
}

// changedFields returns the sorted names of the fields in which two JSON objects
// differ.
func changedFields(before, after any) []string {
	var fields []string
	a, b := jsonFields(before), jsonFields(after)
	for name := range a {
		if !reflect.DeepEqual(a[name], b[name]) {
			fields = append(fields, name)
		}
	}
	for name := range b {
		if _, both := a[name]; !both {
			fields = append(fields, name)
		}
	}
	slices.Sort(fields)
	return fields
}

// jsonFields returns the fields of the JSON object that v encodes to.
func jsonFields(v any) (fields map[string]any) {
	b, _ := json.Marshal(v)
	json.Unmarshal(b, &fields)
	return fields
}

// maskSecrets returns a subscription without its secrets and header values, for the
// audit log.
func maskSecrets(sub notify.Subscription) notify.Subscription {
	sub.Secret, sub.OldSecret, sub.TLSKey = "", "", ""
	headers := make(map[string]string, len(sub.Headers))
	for name := range sub.Headers {
		headers[name] = ""
	}
	sub.Headers = headers
	return sub
}

// Audit returns up to limit entries of the audit log, newest first, and the cursor of the
// next page; "": there is none. A cursor is the stream sequence of the last entry on the
// previous page.
func (o *Operations) Audit(ctx context.Context, cursor string, limit int) (entries []Entry, more string, err error) {
	info, err := o.auditLog.Info(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("read bellhop_audit: %w", err)
	}
	first, next := info.State.FirstSeq, info.State.LastSeq+1
	if cursor != "" {
		before, err := strconv.ParseUint(cursor, 10, 64)
		if err != nil {
			return nil, "", notify.ErrCursor
		}
		next = min(next, before)
	}
	entries = []Entry{}
	for ; next > max(1, first); next-- {
		if len(entries) == limit {
			return entries, strconv.FormatUint(next, 10), nil
		}
		m, err := o.auditLog.GetMsg(ctx, next-1)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue // it has just expired
		}
		var e Entry
		if err == nil {
			err = json.Unmarshal(m.Data, &e)
		}
		if err != nil {
			return nil, "", fmt.Errorf("read bellhop_audit %d: %w", next-1, err)
		}
		entries = append(entries, e)
	}
	return entries, "", nil
}
