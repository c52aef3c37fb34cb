package main

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"
)

// A storeConn is a connection to a server of the store. nats.go closes a
// connection for good after most errors that a server reports, and whatever hangs
// on it is dead until a restart; a connection that only breaks it makes anew, with
// all subscriptions. So a Read of a storeConn fails where the server reports an
// error: nats.go never learns of it but as the reason why the connection broke.
type storeConn struct {
	net.Conn
	frames *wsFrames // nil: the connection is no WebSocket
	lines  natsLines
	err    error // what the server reported
}

func (c *storeConn) Read(b []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.Conn.Read(b)
	if c.frames == nil {
		n, c.err = c.lines.scan(b[:n])
	} else if c.err = c.frames.scan(b[:n], &c.lines); c.err != nil {
		n = 0 // what came with it is asked for again
	}
	switch {
	case c.err == nil:
		return n, err
	case n > 0:
		return n, nil
	}
	return 0, c.err
}

// natsLines finds the errors in what a NATS server sends: lines, of which those
// that bring a message end with the size of the payload that follows.
type natsLines struct {
	op   byte   // the first of the line; 0: none yet
	size int    // the number that the line ends with so far
	skip int    // bytes of payload before the next line
	text []byte // of the line, if it is an error
}

// maxPayload is the size in bytes of the largest message that a NATS server can be
// configured to take. nats.go makes room for whatever is announced.
const maxPayload = 64 << 20

// scan reads on, up to the first error after which the connection is not whole,
// and returns how much of b is before that.
func (l *natsLines) scan(b []byte) (before int, err error) {
	for i := 0; i < len(b); i++ {
		if l.skip > 0 {
			n := min(l.skip, len(b)-i)
			l.skip -= n
			i += n - 1
			continue
		}
		c := b[i]
		if l.op == 0 {
			l.op, l.size, l.text = c, 0, l.text[:0]
			before = i
		}
		switch {
		case c == '\n':
			switch l.op {
			case 'M', 'm', 'H', 'h':
				if l.size > maxPayload {
					return before, errors.New("the server announces a message that is larger than NATS allows")
				}
				l.skip = l.size + len("\r\n")
			case '-':
				if err := reported(l.text); err != nil {
					return before, err
				}
			}
			l.op = 0
		case l.op == '-' && len(l.text) < 256:
			l.text = append(l.text, c)
		case c == ' ' || c == '\t':
			l.size = 0
		case c >= '0' && c <= '9':
			l.size = min(10*l.size+int(c-'0'), 1<<30)
		}
	}
	return len(b), nil
}

// reported returns the error of a line -ERR '...', or nil if the connection is
// whole after it: what may not be published is lost, and nothing else. Of what may
// not be subscribed to, nothing would ever come: a new connection subscribes
// again.
func reported(line []byte) error {
	text := strings.Trim(strings.TrimPrefix(string(line), "-ERR"), " \t\r'")
	if strings.HasPrefix(strings.ToLower(text), "permissions violation for publish") {
		return nil
	}
	return fmt.Errorf("the server reports %q", text)
}

// wsFrames finds what a server sends in the frames of a WebSocket (RFC 6455 §5.2),
// behind the response that opens it.
type wsFrames struct {
	blank   int // how much of the line that ends the response has come
	head    []byte
	control bool // the frame is no data
	left    uint64
}

// scan has lines scan the data in b.
func (f *wsFrames) scan(b []byte, lines *natsLines) error {
	for len(b) > 0 {
		if f.left > 0 {
			n := int(min(f.left, uint64(len(b))))
			if !f.control {
				if _, err := lines.scan(b[:n]); err != nil {
					return err
				}
			}
			f.left -= uint64(n)
			b = b[n:]
			continue
		}
		c := b[0]
		b = b[1:]
		const end = "\r\n\r\n"
		if f.blank < len(end) {
			if c != end[f.blank] {
				f.blank = 0
			}
			if c == end[f.blank] {
				f.blank++
			}
			continue
		}
		f.head = append(f.head, c)
		if len(f.head) < 2 {
			continue
		}
		switch size := f.head[1] & 0x7f; {
		case size < 126:
			f.left = uint64(size)
		case size == 126 && len(f.head) == 4:
			f.left = uint64(binary.BigEndian.Uint16(f.head[2:]))
		case size == 127 && len(f.head) == 10:
			f.left = binary.BigEndian.Uint64(f.head[2:])
		default:
			continue
		}
		f.control = f.head[0]&0x08 != 0
		f.head = f.head[:0]
	}
	return nil
}

// dialTime is how long a server of the store may take to be connected to.
const dialTime = 2 * time.Second

// A storeDialer connects to the servers of the store, for nats.go. It makes TLS
// itself: a storeConn has to see what is inside.
type storeDialer struct {
	websocket bool
	secure    bool        // with TLS; else if the server requires it
	hosts     []string    // of the servers that the config names
	last      net.Conn    // nats.go does not close it if it gave up connecting
	config    *tls.Config // nil: the machine's CAs are trusted
}

// dialerOf returns what connects to the servers that the config names, and their
// URLs for nats.go.
func dialerOf(servers []natsURL) (d *storeDialer, urls string, err error) {
	d = new(storeDialer)
	var all []string
	for _, s := range servers {
		u, err := url.Parse(string(s))
		if err != nil {
			return nil, "", fmt.Errorf("store.nats: %s cannot be parsed", s)
		}
		switch u.Scheme {
		case "tls":
			d.secure = true
		case "ws":
			d.websocket = true
		case "wss": // to nats.go it is ws, as the dialer makes TLS
			d.websocket, d.secure = true, true
			u.Scheme, u.Host = "ws", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443"))
		}
		d.hosts = append(d.hosts, u.Hostname())
		all = append(all, u.String())
	}
	return d, strings.Join(all, ","), nil
}

// SkipTLSHandshake tells nats.go that TLS is made here.
func (d *storeDialer) SkipTLSHandshake() bool { return true }

// Dial connects to a server by its name or address. It ends the connection before.
func (d *storeDialer) Dial(network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if d.last != nil {
		d.last.Close()
	}
	conn, err := dialAny(network, host, port)
	if err != nil {
		return nil, err
	}
	d.last = conn
	conn.SetDeadline(time.Now().Add(dialTime))
	s, err := d.open(conn, host)
	if err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	return s, nil
}

// dialAny connects to one of the addresses of a host, each in its share of
// dialTime: one that is dead must not hide the others.
func dialAny(network, host, port string) (conn net.Conn, err error) {
	hosts := []string{host}
	if net.ParseIP(host) == nil {
		if hosts, err = net.LookupHost(host); err != nil {
			return nil, err
		}
	}
	rand.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	dialer := net.Dialer{Timeout: dialTime / time.Duration(len(hosts))}
	for _, h := range hosts {
		if conn, err = dialer.Dial(network, net.JoinHostPort(h, port)); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// open makes TLS where it is wanted: at once for a WebSocket, else after the
// server's first line.
func (d *storeDialer) open(conn net.Conn, host string) (net.Conn, error) {
	if d.websocket {
		s := &storeConn{Conn: conn, frames: new(wsFrames)}
		if d.secure {
			s.Conn = tls.Client(conn, d.tlsConfig(host)) // nats.go begins to write at once
		}
		return s, nil
	}
	r := bufio.NewReaderSize(conn, 64<<10)
	line, err := r.ReadSlice('\n')
	if err != nil {
		return nil, fmt.Errorf("no first line: %w", err)
	}
	first := slices.Clone(line)
	var info struct {
		Required  bool `json:"tls_required"`
		Available bool `json:"tls_available"`
	}
	json.Unmarshal(bytes.TrimPrefix(first, []byte("INFO ")), &info) // what is no INFO, nats.go refuses
	if !info.Required && !(d.secure && info.Available) {
		return &storeConn{Conn: replayed{conn, io.MultiReader(bytes.NewReader(first), r)}}, nil
	}
	secure := tls.Client(conn, d.tlsConfig(host))
	if err := secure.Handshake(); err != nil {
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return &storeConn{Conn: replayed{secure, io.MultiReader(bytes.NewReader(first), secure)}}, nil
}

// tlsConfig is that for a host. A server that other servers have told of by its
// address has a certificate for the name of one that the config names.
func (d *storeDialer) tlsConfig(host string) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if d.config != nil {
		c = d.config.Clone()
	}
	c.ServerName = host
	isName := func(host string) bool { return net.ParseIP(host) == nil }
	if i := slices.IndexFunc(d.hosts, isName); i >= 0 && !isName(host) && !slices.Contains(d.hosts, host) {
		c.ServerName = d.hosts[i]
	}
	return c
}

// replayed is a connection of which something was read already.
type replayed struct {
	net.Conn
	io.Reader
}

func (r replayed) Read(b []byte) (int, error) { return r.Reader.Read(b) }
