package store

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

	"bellhop/cmd/bellhop/config"
)

// A serverConn is a connection to a server of the store. After most errors that a
// server reports, nats.go closes the connection for good, and everything that uses it
// fails until a restart. After a broken connection, nats.go reconnects and restores all
// subscriptions. So Read removes a reported error from the data and returns it as the
// reason why the connection broke.
type serverConn struct {
	net.Conn
	frames *wsFrames // nil: not a WebSocket
	lines  natsLines
	err    error // the error that the server reported
}

func (c *serverConn) Read(b []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.Conn.Read(b)
	if c.frames == nil {
		n, c.err = c.lines.scanLines(b[:n])
	} else if c.err = c.frames.scanFrames(b[:n], &c.lines); c.err != nil {
		n = 0 // nats.go requests the data of this read again
	}
	switch {
	case c.err == nil:
		return n, err
	case n > 0:
		return n, nil
	}
	return 0, c.err
}

// natsLines finds errors in the data of a NATS server. The data consists of protocol
// lines. The line of a message ends with the size of the payload, and the payload
// follows the line.
type natsLines struct {
	op   byte   // first byte of the line; 0: none yet
	size int    // number at the end of the line so far
	skip int    // bytes of payload before the next line
	text []byte // the line, if it is an error
}

// maxPayload is the size in bytes of the largest message that a NATS server can be
// configured to accept. nats.go allocates whatever size is announced.
const maxPayload = 64 << 20

// scanLines scans b up to the first line with an error that makes the connection
// unusable. It returns the error and the number of bytes before that line. Without such
// a line, it returns len(b).
func (l *natsLines) scanLines(b []byte) (before int, err error) {
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
					return before, errors.New("server announced a message larger than NATS allows")
				}
				l.skip = l.size + len("\r\n")
			case '-':
				if err := reportedError(l.text); err != nil {
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

// reportedError returns the error in a line -ERR '...', or nil if the connection stays
// usable. A denied publish is no such error, because it loses only that message. A
// denied subscribe is one, because the subscription would never get a message; a new
// connection subscribes again.
func reportedError(line []byte) error {
	text := strings.Trim(strings.TrimPrefix(string(line), "-ERR"), " \t\r'")
	if strings.HasPrefix(strings.ToLower(text), "permissions violation for publish") {
		return nil
	}
	return fmt.Errorf("server reported %q", text)
}

// wsFrames finds the data in the frames of a WebSocket (RFC 6455 §5.2). It skips the
// HTTP response that opens the WebSocket.
type wsFrames struct {
	blank   int // bytes received of the empty line that ends the response
	head    []byte
	control bool // the frame has no data
	left    uint64
}

// scanFrames takes the next received bytes b, and passes the payload of data frames to
// lines. A frame may span calls. It skips the HTTP response and control frames.
func (f *wsFrames) scanFrames(b []byte, lines *natsLines) error {
	for len(b) > 0 {
		if f.left > 0 {
			n := int(min(f.left, uint64(len(b))))
			if !f.control {
				if _, err := lines.scanLines(b[:n]); err != nil {
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

// dialTimeout is the limit for connecting to a server of the store.
const dialTimeout = 2 * time.Second

// A serverDialer connects to the servers of the store for nats.go. It does the TLS
// handshake itself, because a serverConn must see the decrypted data.
type serverDialer struct {
	websocket bool
	secure    bool        // always use TLS; otherwise only if the server requires it
	hosts     []string    // hosts of the configured servers
	last      net.Conn    // previous connection: nats.go may have left it open
	config    *tls.Config // nil: trust the CAs of the system
}

// newServerDialer returns a dialer for the servers of the config, and their URLs for
// nats.go.
func newServerDialer(servers []config.NATSURL) (d *serverDialer, urls string, err error) {
	d = new(serverDialer)
	var all []string
	for _, s := range servers {
		u, err := url.Parse(string(s))
		if err != nil {
			return nil, "", fmt.Errorf("parse store.nats: %s is not a URL", s)
		}
		switch u.Scheme {
		case "tls":
			d.secure = true
		case "ws":
			d.websocket = true
		case "wss": // ws for nats.go, as the dialer does TLS
			d.websocket, d.secure = true, true
			u.Scheme, u.Host = "ws", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443"))
		}
		d.hosts = append(d.hosts, u.Hostname())
		all = append(all, u.String())
	}
	return d, strings.Join(all, ","), nil
}

// SkipTLSHandshake tells nats.go that the dialer does the TLS handshake.
func (d *serverDialer) SkipTLSHandshake() bool { return true }

// Dial connects to a server by name or address. It closes the previous connection.
func (d *serverDialer) Dial(network, address string) (net.Conn, error) {
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
	conn.SetDeadline(time.Now().Add(dialTimeout))
	s, err := d.openConn(conn, host)
	if err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	return s, nil
}

// dialAny connects to one of the addresses of a host, in random order. Each address
// gets an equal share of dialTimeout, so that an unreachable address leaves time for
// the others.
func dialAny(network, host, port string) (conn net.Conn, err error) {
	hosts := []string{host}
	if net.ParseIP(host) == nil {
		if hosts, err = net.LookupHost(host); err != nil {
			return nil, err
		}
	}
	rand.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	dialer := net.Dialer{Timeout: dialTimeout / time.Duration(len(hosts))}
	for _, h := range hosts {
		if conn, err = dialer.Dial(network, net.JoinHostPort(h, port)); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// openConn returns conn as a serverConn, with TLS if d or the server requires it. A
// WebSocket does the TLS handshake with the first write of nats.go. Otherwise openConn
// does it after the server's first line.
func (d *serverDialer) openConn(conn net.Conn, host string) (net.Conn, error) {
	if d.websocket {
		s := &serverConn{Conn: conn, frames: new(wsFrames)}
		if d.secure {
			s.Conn = tls.Client(conn, d.tlsConfig(host)) // nats.go writes first
		}
		return s, nil
	}
	r := bufio.NewReaderSize(conn, 64<<10)
	line, err := r.ReadSlice('\n')
	if err != nil {
		return nil, fmt.Errorf("read first line of the server: %w", err)
	}
	first := slices.Clone(line)
	var info struct {
		Required  bool `json:"tls_required"`
		Available bool `json:"tls_available"`
	}
	json.Unmarshal(bytes.TrimPrefix(first, []byte("INFO ")), &info) // nats.go rejects other lines
	if !info.Required && !(d.secure && info.Available) {
		return &serverConn{Conn: prefixedConn{conn, io.MultiReader(bytes.NewReader(first), r)}}, nil
	}
	secure := tls.Client(conn, d.tlsConfig(host))
	if err := secure.Handshake(); err != nil {
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return &serverConn{Conn: prefixedConn{secure, io.MultiReader(bytes.NewReader(first), secure)}}, nil
}

// tlsConfig returns the TLS configuration for a host. An IP address that is not
// configured was announced by a server. Its certificate is then verified for the first
// configured host name.
func (d *serverDialer) tlsConfig(host string) *tls.Config {
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

// A prefixedConn is a connection that first returns data which was already read from it.
type prefixedConn struct {
	net.Conn
	io.Reader
}

func (r prefixedConn) Read(b []byte) (int, error) { return r.Reader.Read(b) }
