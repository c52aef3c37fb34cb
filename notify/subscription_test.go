package notify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"bellhop/notify/subscription"
)

func TestValidateSubscription(t *testing.T) {
	type S = Subscription
	for _, tt := range []struct {
		name  string
		spoil func(*S)
		field string // "": valid
	}{
		{"as it is", func(s *S) {}, ""},
		{"no method, no dialect", func(s *S) { s.Method, s.Dialect = "", "" }, ""},
		{"user with star and domain", func(s *S) { s.Extension = "0003*210@pbx.example" }, ""},
		{"no extension", func(s *S) { s.Extension = "" }, "extension"},
		{"two extensions", func(s *S) { s.ExtensionRegex = "1.." }, "extension_regex"},
		{"regex", func(s *S) { s.Extension, s.ExtensionRegex = "", "1.." }, ""},
		{"broken regex", func(s *S) { s.Extension, s.ExtensionRegex = "", "(" }, "extension_regex"},
		{"regex that tries to escape its anchors", func(s *S) { s.Extension, s.ExtensionRegex = "", "1)|(?:.*" }, "extension_regex"},
		{"long regex", func(s *S) { s.Extension, s.ExtensionRegex = "", strings.Repeat("a", 1001) }, "extension_regex"},
		{"space in extension", func(s *S) { s.Extension = "10 1" }, "extension"},
		{"control in extension", func(s *S) { s.Extension = "10\x001" }, "extension"},
		{"no user", func(s *S) { s.Extension = "@pbx" }, "extension"},
		{"no domain", func(s *S) { s.Extension = "101@" }, "extension"},
		{"long extension", func(s *S) { s.Extension = strings.Repeat("1", 257) }, "extension"},
		{"no types", func(s *S) { s.Types = nil }, "types"},
		{"unknown type", func(s *S) { s.Types = []string{"hangup", "hangdown"} }, "types"},
		{"all types", func(s *S) {
			s.Types = subscription.Words()
		}, ""},
		{"no url", func(s *S) { s.URL = "" }, "url"},
		{"ftp", func(s *S) { s.URL = "ftp://a/" }, "url"},
		{"no scheme", func(s *S) { s.URL = "a.example/hook" }, "url"},
		{"no host", func(s *S) { s.URL = "http:///hook" }, "url"},
		{"opaque", func(s *S) { s.URL = "http:a.example" }, "url"},
		{"userinfo", func(s *S) { s.URL = "http://me:secret@a.example/" }, "url"},
		{"fragment", func(s *S) { s.URL = "http://a.example/#x" }, "url"},
		{"space", func(s *S) { s.URL = "http://a.example/a b" }, "url"},
		{"line break", func(s *S) { s.URL = "http://a.example/\r\nX: y" }, "url"},
		{"not ASCII", func(s *S) { s.URL = "http://a.example/é" }, "url"},
		{"braces", func(s *S) { s.URL = "http://a.example/{x}" }, "url"},
		{"closing brace", func(s *S) { s.URL = "http://a.example/x}" }, "url"},
		{"opening brace", func(s *S) { s.URL = "http://a.example/{" }, "url"},
		{"no variable in braces", func(s *S) { s.URL = "http://a.example/{}" }, "url"},
		{"template in the path and query", func(s *S) { s.URL = "http://a.example/{event_type}{/call_id}/x?k=1{&call_status,headers*}" }, ""},
		{"template behind the host", func(s *S) { s.URL = "http://a.example:8080{?call_id}" }, ""},
		{"template behind the host, in the path", func(s *S) { s.URL = "http://[2001:db8::1]{/call_id}" }, ""},
		{"variable as scheme", func(s *S) { s.URL = "{call_id}://a.example/" }, "url"},
		{"variable as host", func(s *S) { s.URL = "http://{call_id}/" }, "url"},
		{"variable in the host", func(s *S) { s.URL = "http://a.{call_id}.example/" }, "url"},
		{"variable at the end of the host", func(s *S) { s.URL = "http://a.example{call_id}" }, "url"},
		{"label behind the host", func(s *S) { s.URL = "http://a.example{.call_id}/" }, "url"},
		{"parameter behind the host", func(s *S) { s.URL = "http://a.example{;call_id}" }, "url"},
		{"variable as port", func(s *S) { s.URL = "http://a.example:{call_id}/" }, "url"},
		{"variable in the port", func(s *S) { s.URL = "http://a.example:80{call_id}/" }, "url"},
		{"variable as user", func(s *S) { s.URL = "http://{call_id}@a.example/" }, "url"},
		{"template with a user", func(s *S) { s.URL = "http://me@a.example/{call_id}" }, "url"},
		{"template without a host", func(s *S) { s.URL = "http:///{call_id}" }, "url"},
		{"template by ftp", func(s *S) { s.URL = "ftp://a.example/{call_id}" }, "url"},
		{"variable in a fragment", func(s *S) { s.URL = "http://a.example/#{call_id}" }, "url"},
		{"variable as a fragment", func(s *S) { s.URL = "http://a.example/{#call_id}" }, "url"},
		{"variable unescaped", func(s *S) { s.URL = "http://a.example/{+call_id}" }, "url"},
		{"variable cut off", func(s *S) { s.URL = "http://a.example/{call_id:3}" }, "url"},
		{"another dialect's variable", func(s *S) { s.URL = "http://a.example/{CallID}" }, "url"},
		{"telphin variables", func(s *S) { s.Dialect, s.URL = Telphin, "http://a.example/{?CallID,EventType,Duration,Bridged}" }, ""},
		{"telphin, extended", func(s *S) { s.Dialect, s.Extended, s.URL = Telphin, true, "http://a.example/{?HangupBy}" }, ""},
		{"telphin, not extended", func(s *S) { s.Dialect, s.URL = Telphin, "http://a.example/{?HangupBy}" }, "url"},
		{"unified variables", func(s *S) { s.Dialect, s.URL = Unified, "http://a.example/{?CallID,CallAPIID}" }, ""},
		{"unified knows no more", func(s *S) { s.Dialect, s.URL = Unified, "http://a.example/{?EventType}" }, "url"},
		{"cti variables", func(s *S) {
			s.Dialect, s.Types, s.URL = CTI, []string{"answer"}, "http://a.example/{event}{?from,to,direction,callId,origCallId,user,cause,answeringNumber,diversion}"
		}, ""},
		{"cti", func(s *S) {
			s.Dialect, s.Types = CTI, []string{"dial-in", "dial-out", "answer-in", "answer-out", "answer", "hangup"}
		}, ""},
		{"cti has no ringing", func(s *S) { s.Dialect, s.Types = CTI, []string{"dial-in", "ringing"} }, "types"},
		{"cti by GET", func(s *S) { s.Dialect, s.Types, s.Method = CTI, []string{"hangup"}, "GET" }, "method"},
		{"cti by PUT", func(s *S) { s.Dialect, s.Types, s.Method = CTI, []string{"hangup"}, "PUT" }, "method"},
		{"cloudevents", func(s *S) { s.Dialect = CloudEvents }, ""},
		{"cloudevents by PUT", func(s *S) { s.Dialect, s.Method = CloudEvents, "PUT" }, ""},
		{"cloudevents by GET", func(s *S) { s.Dialect, s.Method = CloudEvents, "GET" }, "method"},
		{"cloudevents with an attribute", func(s *S) { s.Dialect, s.Headers = CloudEvents, map[string]string{"ce-type": "x"} }, "headers"},
		{"broken escape", func(s *S) { s.URL = "http://a.example/%zz" }, "url"},
		{"bad port", func(s *S) { s.URL = "http://a.example:port/" }, "url"},
		{"port beyond 65535", func(s *S) { s.URL = "http://a.example:65536/" }, "url"},
		{"port of twenty digits", func(s *S) { s.URL = "https://a.example:18446744073709551696/" }, "url"},
		{"port 0", func(s *S) { s.URL = "http://192.0.2.9:0/" }, "url"},
		{"port 00000", func(s *S) { s.URL = "http://192.0.2.9:00000/" }, "url"},
		{"port beyond 65535 behind IPv6", func(s *S) { s.URL = "http://[2001:db8::9]:70000/" }, "url"},
		{"template with a port beyond 65535", func(s *S) { s.URL = "http://a.example:80800/{call_id}" }, "url"},
		{"template with port 0", func(s *S) { s.URL = "https://a.example:0/x{?call_id}" }, "url"},
		{"long", func(s *S) { s.URL = "http://a.example/" + strings.Repeat("a", 2048) }, "url"},
		{"IPv6 and query", func(s *S) { s.URL = "https://[2001:db8::1]:8443/x?myid=175&y=%20" }, ""},
		{"PUT", func(s *S) { s.Method = "PUT" }, ""},
		{"DELETE", func(s *S) { s.Method = "DELETE" }, "method"},
		{"lower-case method", func(s *S) { s.Method = "get" }, "method"},
		{"dialect", func(s *S) { s.Dialect = "klingon" }, "dialect"},
		{"flow_case", func(s *S) { s.FlowCase = "Title" }, "flow_case"},
		{"status_words", func(s *S) { s.StatusWords = "none" }, "status_words"},
		{"group", func(s *S) { s.Group = "all" }, "group"},
		{"headers", func(s *S) { s.Headers = map[string]string{"x-api-key": "s3cret", "authorization": "Bearer x"} }, ""},
		{"Host", func(s *S) { s.Headers = map[string]string{"host": "x"} }, "headers"},
		{"Content-Length", func(s *S) { s.Headers = map[string]string{"content-length": "1"} }, "headers"},
		{"Transfer-Encoding", func(s *S) { s.Headers = map[string]string{"Transfer-Encoding": "chunked"} }, "headers"},
		{"Connection", func(s *S) { s.Headers = map[string]string{"CONNECTION": "close"} }, "headers"},
		{"webhook-", func(s *S) { s.Headers = map[string]string{"webhook-signature": "v1,x"} }, "headers"},
		{"name with colon", func(s *S) { s.Headers = map[string]string{"a:b": "x"} }, "headers"},
		{"empty name", func(s *S) { s.Headers = map[string]string{"": "x"} }, "headers"},
		{"line break in value", func(s *S) { s.Headers = map[string]string{"X-A": "x\r\nY: z"} }, "headers"},
		{"NUL in value", func(s *S) { s.Headers = map[string]string{"X-A": "x\x00"} }, "headers"},
		{"same name twice", func(s *S) { s.Headers = map[string]string{"X-A": "1", "x-a": "2"} }, "headers"},
		{"live_ttl", func(s *S) { s.LiveTTL = -1 }, "live_ttl"},
		{"timeout", func(s *S) { s.Timeout = Duration(2 * time.Minute) }, "timeout"},
		{"max_in_flight", func(s *S) { s.MaxInFlight = 101 }, "max_in_flight"},
	} {
		s := testSubscription("a", "https://crm.example/hook")
		tt.spoil(&s)
		s.Normalize()
		err := s.Validate()
		var invalid *Invalid
		if tt.field == "" && err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if tt.field != "" && (!errors.As(err, &invalid) || invalid.Field != tt.field) {
			t.Errorf("%s: %v, want something about %s", tt.name, err, tt.field)
		}
	}
}

func TestSubscriptionLifecycle(t *testing.T) {
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	n, stop := startNotifier(t, js, Config{MaxSubscriptions: 2})
	defer stop()
	other, stopOther := startNotifier(t, js, Config{})
	defer stopOther()
	ctx := t.Context()

	s := testSubscription("mine", "http://a/")
	s.Headers = map[string]string{"x-key": "secret"}
	s = mustSubscribe(t, n, s)
	if len(s.ID) != 30 || s.ID == "mine" || s.State != StateActive || s.Revision == 0 || s.Created.IsZero() {
		t.Errorf("stored as %+v", s)
	}
	if v, ok := s.Headers["X-Key"]; v != "" || !ok {
		t.Errorf("headers are shown as %v", s.Headers)
	}
	got, err := n.Subscription(s.ID)
	if err != nil || got.Headers["X-Key"] != "" || len(n.Subscriptions()) != 1 {
		t.Errorf("read as %+v, %v", got, err)
	}

	edited, err := n.Edit(ctx, s.ID, s.Revision, func(s *Subscription) error { s.Note = "n\x00ote"; return nil })
	if err != nil || edited.Note != "note" || edited.Revision <= s.Revision || !edited.Created.Equal(s.Created) {
		t.Errorf("edited to %+v, %v", edited, err)
	}
	if stored, _ := n.registry.get(s.ID); stored.Headers["X-Key"] != "secret" {
		t.Errorf("the value of a header is lost: %v", stored.Headers)
	}
	if _, err := n.Edit(ctx, s.ID, s.Revision, func(*Subscription) error { return nil }); err != ErrConflict {
		t.Errorf("an old revision: %v", err)
	}
	if _, err := n.Edit(ctx, s.ID, 0, func(s *Subscription) error { s.URL = "gopher://"; return nil }); err == nil {
		t.Error("an invalid edit is taken")
	}
	if _, err := n.Edit(ctx, s.ID, 0, func(s *Subscription) error { return context.Canceled }); err != context.Canceled {
		t.Errorf("an edit's own error: %v", err)
	}

	// The other node sees the subscription. A change that it has not seen yet is no
	// conflict for an edit without a revision.
	for i := range 20 {
		node := []*Notifier{n, other}[i%2]
		if _, err := node.Edit(ctx, s.ID, 0, func(s *Subscription) error { s.Note = fmt.Sprint(i); return nil }); err != nil && err != ErrNotFound {
			t.Fatal(err)
		}
	}
	off, err := n.Edit(ctx, s.ID, 0, func(s *Subscription) error { s.Active = false; return nil })
	if err != nil || off.State != StateDisabled || off.Why == "" {
		t.Errorf("switched off: %+v, %v", off, err)
	}
	on, err := n.Edit(ctx, s.ID, 0, func(s *Subscription) error { s.Active = true; return nil })
	if err != nil || on.State != StateActive || on.Why != "" {
		t.Errorf("switched on: %+v, %v", on, err)
	}

	mustSubscribe(t, n, testSubscription("", "http://b/"))
	if _, err := n.Subscribe(ctx, testSubscription("", "http://c/")); err != ErrLimit {
		t.Errorf("one too many: %v", err)
	}
	if err := n.Unsubscribe(ctx, s.ID, s.Revision); err != ErrConflict {
		t.Errorf("an old revision is deleted: %v", err)
	}
	if err := n.Unsubscribe(ctx, s.ID, 0); err != nil {
		t.Error(err)
	}
	if err := n.Unsubscribe(ctx, s.ID, 0); err != ErrNotFound {
		t.Errorf("deleted twice: %v", err)
	}
	if _, err := n.Subscription(s.ID); err != ErrNotFound {
		t.Errorf("still there: %v", err)
	}
	again, err := Open(ctx, js, Config{})
	if err != nil || len(again.Subscriptions()) != 1 {
		t.Errorf("read anew: %v, %v", again.Subscriptions(), err)
	}
}

func TestLimitPerExpression(t *testing.T) {
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	n, stop := startNotifier(t, js, Config{MaxSubscriptions: 2})
	defer stop()
	ctx := t.Context()
	all := testSubscription("", "http://b/")
	all.Extension, all.ExtensionRegex = "", ".*"
	mustSubscribe(t, n, all)
	mustSubscribe(t, n, all)
	if _, err := n.Subscribe(ctx, all); err != ErrLimit {
		t.Errorf("one too many to everybody: %v", err)
	}
	few := all
	few.ExtensionRegex = "1.."
	few = mustSubscribe(t, n, few)
	if _, err := n.Edit(ctx, few.ID, 0, func(s *Subscription) error { s.ExtensionRegex = ".*"; return nil }); err != ErrLimit {
		t.Errorf("one too many becomes one to everybody: %v", err)
	}
}

func TestExtensionNumbersArePermanent(t *testing.T) {
	dir := t.TempDir()
	js, closeStore := openStore(t, dir)
	n, stop := startNotifier(t, js, Config{})
	other, stopOther := startNotifier(t, js, Config{})
	first := map[string]uint64{}
	seen := map[uint64]bool{}
	for _, user := range []string{"101", "0003*210", "a b@c", "102"} {
		id, err := n.Numbers.Allot(t.Context(), user)
		if err != nil || id == 0 || seen[id] {
			t.Errorf("%s: %d, %v", user, id, err)
		}
		first[user], seen[id] = id, true
		if id2, err := other.Numbers.Allot(t.Context(), user); id2 != id {
			t.Errorf("another node says %d for %s, want %d: %v", id2, user, id, err)
		}
		if id2, err := other.Numbers.Number(t.Context(), user); id2 != id {
			t.Errorf("ExtensionNumber of %s is %d, want %d: %v", user, id2, id, err)
		}
		if name, err := other.Numbers.Extension(t.Context(), id); name != user {
			t.Errorf("number %d is %q, want %q: %v", id, name, user, err)
		}
	}
	for _, number := range []uint64{0, 1000, 1 << 63} {
		if name, err := n.Numbers.Extension(t.Context(), number); name != "" || err != nil {
			t.Errorf("number %d is %q, %v; want nobody's", number, name, err)
		}
	}
	if id, err := n.Numbers.Number(t.Context(), "999"); id != 0 || err != nil {
		t.Errorf("an extension that nobody heard of has number %d, %v", id, err)
	}
	stop()
	stopOther()
	closeStore()
	js, closeStore = openStore(t, dir)
	defer closeStore()
	n, stop = startNotifier(t, js, Config{})
	defer stop()
	for user, want := range first {
		if id, err := n.Numbers.Allot(t.Context(), user); id != want {
			t.Errorf("after a restart %s is %d, want %d: %v", user, id, want, err)
		}
	}
}
