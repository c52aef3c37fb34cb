package send

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv("SEND_TEST") == "sink" {
		runSink()
		return
	}
	goleak.VerifyTestMain(m)
}

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// A receiver is an HTTP server that answers 200 and passes its requests on.
type receiver struct {
	*httptest.Server
	got chan *http.Request
}

func newReceiver(t testing.TB) *receiver {
	r := &receiver{got: make(chan *http.Request, 1000)}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	io.Copy(io.Discard, req.Body)
	w.WriteHeader(200)
	r.got <- req
}

// The User-Agent names bellhop and its version, unless the request has one.
func TestUserAgent(t *testing.T) {
	r := newReceiver(t)
	for _, tt := range []struct{ version, own, want string }{{"1.2", "", "bellhop/1.2"}, {"", "", "bellhop"}, {"1.2", "mine", "mine"}} {
		s := New(Config{Allow: loopback, Version: tt.version})
		req := Request{}
		if tt.own != "" {
			req.Header = http.Header{"User-Agent": {tt.own}}
		}
		sendTo(t, s, req, r.URL)
		if got := (<-r.got).UserAgent(); got != tt.want {
			t.Errorf("version %q, own %q: sent %q, want %q", tt.version, tt.own, got, tt.want)
		}
		s.Close()
	}
}
