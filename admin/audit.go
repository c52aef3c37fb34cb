package admin

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

	"bellhop/notify"
)

// An Entry of the audit log is one change that was made over the API, or one test,
// redelivery or replay. The JSON form is stored: fields are only ever added.
type Entry struct {
	At     time.Time `json:"at"`
	By     string    `json:"by" doc:"ID of the token that made the request; config for the token of the config file"`
	Did    string    `json:"did" doc:"operationId of the request"`
	ID     string    `json:"id" doc:"ID of the subscription, delivery or token"`
	Before any       `json:"before,omitempty" doc:"The object before the change, without secrets and header values"`
	After  any       `json:"after,omitempty" doc:"The object after the change, without secrets and header values"`
}

// openAudit opens the audit log.
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

// audit writes down what who makes the request of ctx has done. What was before
// and is after is as the API shows it; nil: it was not, or is not. What the store
// does not take is in the process's log at least.
func (s *Server) recordAudit(ctx context.Context, did, id string, before, after any) {
	e := Entry{At: time.Now().UTC(), By: "nobody", Did: did, ID: id, Before: before, After: after}
	if who := accessOf(ctx); who != nil {
		e.By = who.id
	}
	attrs := []any{"by", e.By, "did", did, "id", id}
	if before != nil && after != nil {
		attrs = append(attrs, "changed", changedFields(before, after))
	}
	s.log.Info("audit", attrs...)

	b, err := json.Marshal(e)
	if err == nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_, err = s.js.Publish(ctx, auditSubject, b)
	}
	if err != nil {
		s.log.Error("not in the audit log", "did", did, "id", id, "err", err)
	}
}

// changed names the fields in which two JSON objects differ.
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

func jsonFields(v any) (fields map[string]any) {
	b, _ := json.Marshal(v)
	json.Unmarshal(b, &fields)
	return fields
}

// masked is a subscription as the audit log shows it.
func maskSecrets(sub notify.Subscription) notify.Subscription {
	sub.Secret, sub.OldSecret, sub.TLSKey = "", "", ""
	headers := make(map[string]string, len(sub.Headers))
	for name := range sub.Headers {
		headers[name] = ""
	}
	sub.Headers = headers
	return sub
}

// listAudit reads from the end of the log; its cursor is the place of the last
// entry of the page before.
func (s *Server) listAudit(ctx context.Context, in *struct {
	Cursor string `query:"cursor" doc:"next from the previous page"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
}) (*listResponse[Entry], error) {
	info, err := s.auditLog.Info(ctx)
	if err != nil {
		return nil, s.apiError(fmt.Errorf("read bellhop_audit: %w", err))
	}
	first, next := info.State.FirstSeq, info.State.LastSeq+1
	if in.Cursor != "" {
		before, err := strconv.ParseUint(in.Cursor, 10, 64)
		if err != nil {
			return nil, unprocessable("query.cursor", "unknown cursor; use next from the previous page")
		}
		next = min(next, before)
	}
	var out listResponse[Entry]
	out.Body.Items = []Entry{}
	for ; next > max(1, first); next-- {
		if len(out.Body.Items) == in.Limit {
			out.Body.Next = strconv.FormatUint(next, 10)
			break
		}
		m, err := s.auditLog.GetMsg(ctx, next-1)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue // it has just grown too old
		}
		var e Entry
		if err == nil {
			err = json.Unmarshal(m.Data, &e)
		}
		if err != nil {
			return nil, s.apiError(fmt.Errorf("read bellhop_audit %d: %w", next-1, err))
		}
		out.Body.Items = append(out.Body.Items, e)
	}
	return &out, nil
}
