package notify

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	maxHead     = 16 << 10         // bytes of the head of an answer, with the 1xx before it
	connIdle    = 90 * time.Second // for which a connection is kept
	maxIdle     = 1000             // connections kept
	connBuffers = 4 << 10          // bytes that a connection reads and writes at once
)

// conns sends requests to http URLs on connections that are kept, as
// [http.Transport] does, which asks two goroutines for each: that costs more than
// the request. Here who sends a request writes it, and reads the answer.
type conns struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	mu     sync.Mutex
	idle   map[string][]*conn // by address, the last used last
	kept   int                // all of them
	closed bool
}

// A conn is a connection. Who has taken it from the idle ones owns it.
type conn struct {
	net.Conn
	address string
	limit   io.LimitedReader // of what r may read
	r       *bufio.Reader
	w       *bufio.Writer
	used    bool        // for a request before this one
	expiry  *time.Timer // of an idle one
}

func newConns(dial func(ctx context.Context, network, address string) (net.Conn, error)) *conns {
	return &conns{dial: dial, idle: make(map[string][]*conn)}
}

// RoundTrip sends a request whose URL is http. A kept connection that turns out
// to be closed before anything was answered is no failure: another is made.
func (cs *conns) RoundTrip(req *http.Request) (*http.Response, error) {
	if !plain(req.URL.Host) {
		return nil, http.ErrSkipAltProtocol // the Transport knows how such a name is spelled in ASCII
	}
	ctx := req.Context()
	c, err := cs.take(ctx, req)
	if err != nil {
		return nil, err
	}
	res, err := c.roundTrip(cs, req)
	if err == nil || !c.used || !errors.Is(err, errStale) || ctx.Err() != nil {
		return res, err
	}
	if req.GetBody != nil {
		if req.Body, err = req.GetBody(); err != nil {
			return nil, err
		}
	}
	if c, err = cs.open(ctx, c.address); err != nil {
		return nil, err
	}
	return c.roundTrip(cs, req)
}

// errStale says that a connection ended before anything of an answer came.
var errStale = errors.New("the receiver closed the connection without an answer")

// take returns a kept connection, or a new one.
func (cs *conns) take(ctx context.Context, req *http.Request) (*conn, error) {
	address := req.URL.Host
	if req.URL.Port() == "" {
		address = net.JoinHostPort(req.URL.Hostname(), "80")
	}
	cs.mu.Lock()
	if all := cs.idle[address]; len(all) > 0 {
		c := all[len(all)-1]
		cs.forget(c)
		cs.mu.Unlock()
		return c, nil
	}
	cs.mu.Unlock()
	return cs.open(ctx, address)
}

func (cs *conns) open(ctx context.Context, address string) (*conn, error) {
	nc, err := cs.dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: nc, address: address, w: bufio.NewWriterSize(nc, connBuffers)}
	c.limit.R = nc
	c.r = bufio.NewReaderSize(&c.limit, connBuffers)
	return c, nil
}

// forget takes c from the idle ones. cs.mu is locked.
func (cs *conns) forget(c *conn) (was bool) {
	all := cs.idle[c.address]
	for i := len(all) - 1; i >= 0; i-- {
		if all[i] != c {
			continue
		}
		c.expiry.Stop()
		cs.kept--
		if len(all) == 1 {
			delete(cs.idle, c.address)
		} else {
			cs.idle[c.address] = append(all[:i], all[i+1:]...)
		}
		return true
	}
	return false
}

// keep keeps a connection for the next request.
func (cs *conns) keep(c *conn) {
	c.used = true
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.closed || cs.kept >= maxIdle || len(cs.idle[c.address]) >= endpointSlots || c.r.Buffered() > 0 {
		c.Close()
		return
	}
	cs.kept++
	cs.idle[c.address] = append(cs.idle[c.address], c)
	if c.expiry != nil {
		c.expiry.Reset(connIdle)
		return
	}
	c.expiry = time.AfterFunc(connIdle, func() {
		cs.mu.Lock()
		defer cs.mu.Unlock()
		if cs.forget(c) {
			c.Close()
		}
	})
}

// close closes the idle connections; those under way are closed when they end.
func (cs *conns) close() {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.closed = true
	for _, all := range cs.idle {
		for _, c := range all {
			c.expiry.Stop()
			c.Close()
		}
	}
	clear(cs.idle)
	cs.kept = 0
}

// roundTrip sends a request and reads the head of the answer. When ctx ends, so
// does the connection.
func (c *conn) roundTrip(cs *conns, req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	res, err := c.exchange(req)
	if err != nil {
		stop()
		c.Close()
		if why := ctx.Err(); why != nil {
			return nil, why
		}
		return nil, err
	}
	b := &answerBody{ReadCloser: res.Body, conns: cs, conn: c, stop: stop, keeps: !res.Close}
	if res.Body == http.NoBody {
		b.ended = true
		b.Close()
		return res, nil
	}
	res.Body = b
	return res, nil
}

func (c *conn) exchange(req *http.Request) (*http.Response, error) {
	c.limit.N = maxHead
	unsent := req.Write(c.w)
	if unsent == nil {
		unsent = c.w.Flush()
	}
	if _, err := c.r.Peek(1); err != nil {
		return nil, fmt.Errorf("%w: %w", errStale, cmp.Or(unsent, err))
	}
	for {
		res, err := http.ReadResponse(c.r, req)
		switch {
		case err != nil && c.limit.N <= 0:
			return nil, fmt.Errorf("the head of the answer is longer than %d bytes", maxHead)
		case err != nil:
			return nil, fmt.Errorf("no answer of HTTP: %w", err)
		case res.StatusCode == http.StatusSwitchingProtocols:
			res.Close = true
		case res.StatusCode/100 == 1:
			continue
		}
		c.limit.N = 1 << 62                    // of the body its reader takes no more than it wants
		res.Close = res.Close || unsent != nil // it was answered before it was sent
		return res, nil
	}
}

// An answerBody gives the connection back when it was read to its end.
type answerBody struct {
	io.ReadCloser
	conns *conns
	conn  *conn
	stop  func() bool
	keeps bool // the connection may be kept
	ended bool
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.ended = b.ended || err == io.EOF
	return n, err
}

// Close ends the exchange; a second does nothing.
func (b *answerBody) Close() error {
	if b.conn == nil {
		return nil
	}
	c := b.conn
	b.conn = nil
	if b.stop() && b.ended && b.keeps {
		b.conns.keep(c)
		return nil
	}
	return c.Close()
}
