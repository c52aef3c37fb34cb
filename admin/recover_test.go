package admin

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"bellhop/admin/access"
	"bellhop/admin/ops"
	"bellhop/admin/telphin"
	"bellhop/admin/uapi"
	v1 "bellhop/admin/v1"
	"bellhop/dialog"
	"bellhop/dialog/trace"
)

// A panic of a handler is answered in the format of the API, and other requests are
// served on.
func TestPanicsAreAnswered(t *testing.T) {
	r := newRig(t, Config{
		Config: ops.Config{
			Calls:      func(context.Context) ([]dialog.Call, error) { panic("injected") },
			Extensions: func(context.Context) ([]dialog.ExtensionInfo, error) { panic("injected") },
			Extension:  func(context.Context, string) (dialog.ExtensionInfo, bool, error) { panic("injected") },
			Trace:      func(context.Context, string) (trace.Call, bool, error) { panic("injected") },
		},
	})
	r.wantProblem(500, "", "GET", "/v1/calls", nil)
	r.wantProblem(500, "", "GET", "/v1/extensions/101", nil)
	r.wantProblem(500, "", "GET", "/v1/calls/x/trace", nil)
	session := r.server.auth.Sessions.Start(access.ConfigID, testToken, time.Now())
	resp, text := r.raw("GET", "/calls", nil, "Cookie", access.SessionCookie+"="+session)
	if resp.StatusCode != 500 || !strings.Contains(text, "<html") {
		t.Errorf("page: %d %s", resp.StatusCode, text)
	}
	for name, tt := range map[string]struct {
		refuse access.ErrorWriter
		want   string
	}{"uapi": {uapi.WriteError, `"internal_server_error"`}, "telphin": {telphin.WriteError, `{"message":"`}} {
		w := serve(r.server.accept(tt.refuse, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("injected") })))
		if w.Code != 500 || !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	if n := r.server.panics.Load(); n != 6 {
		t.Errorf("%d panics are counted, want 6", n)
	}
	r.want(200, "GET", "/v1/subscriptions", nil)
	r.want(200, "GET", "/healthz", nil)
}

// serve lets a handler serve a request.
func serve(h http.Handler) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	return w
}

// A panic after the response has begun closes the connection, so that the client sees
// an incomplete response.
func TestPanicDuringResponseClosesConnection(t *testing.T) {
	r := newRig(t, Config{})
	h := r.server.accept(v1.WriteError, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte("half"))
		panic("injected")
	}))
	defer func() {
		if reason := recover(); reason != http.ErrAbortHandler || r.server.panics.Load() != 1 {
			t.Errorf("recovered %v", reason)
		}
	}()
	serve(h)
}
