package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"bellhop/dialog"
	"bellhop/dialog/flowtest"
	"bellhop/sip/flowhop"
)

// A mutator makes invalid and hostile messages from those that peers send. The nth
// mutation follows from the seed and n; values quoted from bellhop's messages, such as
// branches and tokens, depend on the run.
type mutator struct {
	seed    uint64
	n       uint64 // number of the message
	rand    *rand.Rand
	samples []sample // requests
	answers []sample // responses
	quotes  quotes
	serial  int // of requests within a dialog
}

// A sample is a message as a peer sends it.
type sample struct {
	from flowtest.Peer
	text []byte
}

// quotes has values from messages of bellhop, the latest of each kind: values that only
// bellhop can have made, or that name a live dialog.
type quotes struct {
	branches, tokens, callIDs, tags, contacts, cids ring
	messages                                        ring
}

// A ring holds the last values put into it.
type ring struct {
	values [][]byte
	next   int
}

const ringSize = 128

func (r *ring) put(b []byte) {
	if len(b) == 0 || len(b) > 4<<10 {
		return
	}
	if len(r.values) < ringSize {
		r.values = append(r.values, bytes.Clone(b))
		return
	}
	r.values[r.next] = append(r.values[r.next][:0], b...)
	r.next = (r.next + 1) % ringSize
}

// putLast adds a value to a ring of n values.
func (r *ring) putLast(b []byte, n int) {
	if len(r.values) == n {
		r.values = r.values[1:]
	}
	r.values = append(r.values, bytes.Clone(b))
}

func (r *ring) pick(m *mutator) []byte {
	if len(r.values) == 0 {
		return nil
	}
	return r.values[m.rand.IntN(len(r.values))]
}

// newMutator returns a mutator with all messages of the flows and, if present, the
// torture messages of RFC 4475 and RFC 5118.
func newMutator(t *testing.T, seed uint64) *mutator {
	t.Helper()
	m := &mutator{seed: seed, rand: rand.New(rand.NewPCG(seed, 0))}
	files, err := filepath.Glob("../../testdata/flows/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no flows: %v", err)
	}
	for _, file := range files {
		f, err := flowtest.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Test(t, func(t *testing.T) {
			p := flowhop.New(t, f.Config)
			defer p.Close()
			flowtest.Play(t, f, &sampling{Hop: p, to: m})
		})
	}
	for _, dir := range []string{"rfc4475", "rfc5118", "rfc3665"} {
		m.addFolder(t, dir)
	}
	return m
}

// sampling is a hop that keeps the messages that peers send to it.
type sampling struct {
	flowtest.Hop
	to *mutator
}

func (s *sampling) Send(from flowtest.Peer, msg []byte) error {
	s.to.add(from, bytes.Clone(msg))
	return s.Hop.Send(from, msg)
}

func (m *mutator) add(from flowtest.Peer, msg []byte) {
	if bytes.HasPrefix(msg, []byte("SIP/2.0 ")) {
		m.answers = append(m.answers, sample{from, msg})
		return
	}
	m.samples = append(m.samples, sample{from, msg})
}

// addFolder adds a collection of messages, if it exists: a folder of shared/corpora
// beside or above the repository.
func (m *mutator) addFolder(t testing.TB, name string) {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		root := filepath.Join(dir, "shared", "corpora", name)
		if _, err := os.Stat(root); err != nil {
			continue
		}
		err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			for range 10 { // as often chosen as a short flow
				m.add(flowtest.Peers[0], b)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return
	}
}

// quote keeps the values that bellhop made in a message.
func (m *mutator) quote(b []byte) {
	q := &m.quotes
	if m.rand.IntN(4) == 0 {
		q.messages.put(b)
	}
	for line := range headLines(b) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch strings.ToLower(string(name)) {
		case "via", "v":
			if _, after, ok := bytes.Cut(value, []byte("branch=")); ok {
				q.branches.put(untilAny(after, ";, \r\n"))
			}
		case "record-route", "path", "route":
			q.tokens.put(value)
		case "contact", "m":
			q.contacts.put(value)
		case "call-id", "i":
			q.callIDs.put(value)
		case "x-cid":
			q.cids.put(value)
		case "from", "f", "to", "t":
			if _, after, ok := bytes.Cut(value, []byte(";tag=")); ok {
				q.tags.put(untilAny(after, ";, \r\n"))
			}
		}
	}
}

func untilAny(b []byte, chars string) []byte {
	if i := bytes.IndexAny(b, chars); i >= 0 {
		return b[:i]
	}
	return b
}

// headLines iterates over the lines of the header section, including the start line.
func headLines(b []byte) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(b) > 0 {
			line, rest, _ := bytes.Cut(b, []byte("\r\n"))
			if len(line) == 0 || !yield(line) {
				return
			}
			b = rest
		}
	}
}

// cutFields splits a message into lines and body.
func cutFields(b []byte) (head [][]byte, body []byte) {
	h, body, _ := bytes.Cut(b, []byte("\r\n\r\n"))
	return bytes.Split(h, []byte("\r\n")), body
}

func joinFields(head [][]byte, body []byte) []byte {
	return slices.Concat(bytes.Join(head, []byte("\r\n")), []byte("\r\n\r\n"), body)
}

// fieldValue returns the first value of a header field, by its long name.
func fieldValue(b []byte, name string) []byte {
	for line := range headLines(b) {
		n, v, ok := bytes.Cut(line, []byte(":"))
		if ok && strings.EqualFold(string(n), name) {
			return bytes.TrimSpace(v)
		}
	}
	return nil
}

// chance returns true once in n times on average.
func (m *mutator) chance(n int) bool { return m.rand.IntN(n) == 0 }

func oneOf[T any](m *mutator, xs []T) T { return xs[m.rand.IntN(len(xs))] }

// next returns the next message and its sender.
func (m *mutator) next() (from netip.AddrPort, b []byte) {
	m.n++
	m.rand = rand.New(rand.NewPCG(m.seed, m.n))
	s := oneOf(m, m.samples)
	if m.chance(8) {
		s = oneOf(m, m.answers)
	}
	b = bytes.Clone(s.text)
	if !m.chance(4) {
		b = m.refresh(b)
	}
	for range m.rand.IntN(4) {
		b = m.mutate(b)
	}
	peer := s.from
	if m.chance(8) {
		peer = oneOf(m, flowtest.Peers)
	}
	from = peer.Addr
	if peer.Side == dialog.Edge && peer.Trunk == "" && !m.chance(4) { // no limit of a source may hide what follows it
		from = netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(m.rand.IntN(256)), byte(m.rand.IntN(256))}), 5060)
	}
	return from, b[:min(len(b), 65000)]
}

// refresh gives a message a new Call-ID and branch, so that it is no retransmission.
func (m *mutator) refresh(b []byte) []byte {
	head, body := cutFields(b)
	for i, line := range head {
		name, v, _ := bytes.Cut(line, []byte(":"))
		switch strings.ToLower(string(name)) {
		case "call-id", "i":
			head[i] = fmt.Appendf(nil, "%s: m%d-%s", name, m.n, bytes.TrimSpace(v))
		case "via", "v":
			head[i] = bytes.Replace(line, []byte("z9hG4bK"), fmt.Appendf(nil, "z9hG4bKm%d", m.n), 1)
		}
	}
	return joinFields(head, body)
}

// mutate changes a message in one way.
func (m *mutator) mutate(b []byte) []byte {
	if len(b) == 0 {
		return b
	}
	return oneOf(m, mutations)(m, b)
}

var mutations = []func(m *mutator, b []byte) []byte{
	(*mutator).flipBytes,
	(*mutator).deleteRange,
	(*mutator).repeatRange,
	(*mutator).duplicateField,
	(*mutator).deleteField,
	(*mutator).swapFields,
	(*mutator).moveValue,
	(*mutator).truncate,
	(*mutator).spliceMessages,
	(*mutator).growValue,
	(*mutator).growUser,
	(*mutator).oddNumber,
	(*mutator).fold,
	(*mutator).insertOdd,
	(*mutator).compactForm,
	(*mutator).stackFields,
	(*mutator).plantToken,
	(*mutator).plantIdentity,
	(*mutator).plantBranch,
	(*mutator).jumpCSeq,
	(*mutator).changeMethod,
	(*mutator).oddContentLength,
	(*mutator).manyParameters,
}

func (m *mutator) flipBytes(b []byte) []byte {
	for range 1 + m.rand.IntN(4) {
		b[m.rand.IntN(len(b))] ^= byte(1 << m.rand.IntN(8))
	}
	return b
}

func (m *mutator) deleteRange(b []byte) []byte {
	i := m.rand.IntN(len(b))
	return slices.Delete(b, i, min(len(b), i+1+m.rand.IntN(40)))
}

func (m *mutator) repeatRange(b []byte) []byte {
	i := m.rand.IntN(len(b))
	part := bytes.Clone(b[i:min(len(b), i+1+m.rand.IntN(60))])
	return slices.Insert(b, i, bytes.Repeat(part, 1+m.rand.IntN(20))...)
}

func (m *mutator) duplicateField(b []byte) []byte {
	head, body := cutFields(b)
	return joinFields(slices.Insert(head, m.rand.IntN(len(head)+1), oneOf(m, head)), body)
}

func (m *mutator) deleteField(b []byte) []byte {
	head, body := cutFields(b)
	i := m.rand.IntN(len(head))
	return joinFields(slices.Delete(head, i, i+1), body)
}

func (m *mutator) swapFields(b []byte) []byte {
	head, body := cutFields(b)
	i, j := m.rand.IntN(len(head)), m.rand.IntN(len(head))
	head[i], head[j] = head[j], head[i]
	return joinFields(head, body)
}

// moveValue copies the value of a header to another one.
func (m *mutator) moveValue(b []byte) []byte {
	head, body := cutFields(b)
	i, j := m.rand.IntN(len(head)), m.rand.IntN(len(head))
	name, _, _ := bytes.Cut(head[i], []byte(":"))
	_, v, _ := bytes.Cut(head[j], []byte(":"))
	head[i] = slices.Concat(name, []byte(":"), v)
	return joinFields(head, body)
}

func (m *mutator) truncate(b []byte) []byte { return b[:m.rand.IntN(len(b))] }

func (m *mutator) spliceMessages(b []byte) []byte {
	other := oneOf(m, m.samples).text
	if q := m.quotes.messages.pick(m); q != nil && m.chance(2) {
		other = q
	}
	if len(other) == 0 {
		return b
	}
	if m.chance(3) { // two messages in one datagram
		return append(b, other...)
	}
	return append(b[:m.rand.IntN(len(b))], other[m.rand.IntN(len(other)):]...)
}

// sizes are lengths at which the hop or the store behaves differently.
var sizes = []int{64, 255, 256, 257, 1023, 1300, 2047, 2300, 3000, 4096, 8191, 8192, 8200, 16 << 10, 40 << 10, 62 << 10}

// growValue makes the value of a header as long as a limit.
func (m *mutator) growValue(b []byte) []byte {
	head, body := cutFields(b)
	i := m.rand.IntN(len(head))
	n := oneOf(m, sizes)
	if !m.chance(4) {
		n = oneOf(m, sizes[:9]) // the others are slow
	}
	unit := oneOf(m, []string{"a", "1", ";x", ",", "<sip:a@b>,", "\"", "\\", "%41", "é", " ", "<", "((", "=", "@"})
	head[i] = append(head[i][:len(head[i]):len(head[i])], strings.Repeat(unit, n/len(unit)+1)[:n]...)
	return joinFields(head, body)
}

// growUser makes the user of every URI of an extension long: the event log stores that
// name.
func (m *mutator) growUser(b []byte) []byte {
	long := strings.Repeat(oneOf(m, []string{"1", "a", "*", "%41"}), oneOf(m, sizes[:10]))
	user := oneOf(m, []string{"sip:101@", "sip:102@", "sip:5559876@"})
	return bytes.ReplaceAll(b, []byte(user), []byte("sip:"+long+"@"))
}

var oddNumbers = []string{"0", "-1", "00", "1", "255", "256", "65535", "65536", "99999", "2147483647", "2147483648", "4294967295", "4294967296",
	"9223372036854775807", "18446744073709551616", strings.Repeat("9", 60), "0x10", "1e3", "٣", "+1", "1 2"}

func (m *mutator) oddNumber(b []byte) []byte {
	i := m.rand.IntN(len(b))
	from := bytes.IndexAny(b[i:], "0123456789")
	if from < 0 {
		return b
	}
	from += i
	to := from
	for to < len(b) && '0' <= b[to] && b[to] <= '9' {
		to++
	}
	return slices.Concat(b[:from], []byte(oneOf(m, oddNumbers)), b[to:])
}

func (m *mutator) fold(b []byte) []byte {
	for range 1 + m.rand.IntN(4) {
		i := m.rand.IntN(len(b))
		j := bytes.IndexAny(b[i:], " ;,:")
		if j < 0 {
			return b
		}
		b = slices.Insert(b, i+j+1, []byte(oneOf(m, []string{"\r\n ", "\r\n\t", " ", "\t ", "\r\n \r\n "}))...)
	}
	return b
}

func (m *mutator) insertOdd(b []byte) []byte {
	odd := oneOf(m, []string{"\x00", "\\\x00", "\xff\xfe", "\xc0\xaf", "\xed\xa0\x80", "\x1b[2J", "\u202e", "\r", "\n", "\r\n", "\r\n\r\n", "\"", "\\", "<", ">", ";", ",", "%00", "%", "[", "]", "..", "/../", "\x7f", "{{.}}"})
	return slices.Insert(b, m.rand.IntN(len(b)), []byte(odd)...)
}

var compact = map[string]string{"via": "v", "from": "f", "to": "t", "call-id": "i", "contact": "m", "content-length": "l", "content-type": "c",
	"subject": "s", "supported": "k", "event": "o", "refer-to": "r", "referred-by": "b", "session-expires": "x", "content-encoding": "e"}

func (m *mutator) compactForm(b []byte) []byte {
	head, body := cutFields(b)
	for i, line := range head {
		name, v, ok := bytes.Cut(line, []byte(":"))
		if short := compact[strings.ToLower(string(name))]; ok && short != "" && m.chance(2) {
			head[i] = slices.Concat([]byte(short), []byte(oneOf(m, []string{":", " : ", "\t:"})), v)
		}
	}
	return joinFields(head, body)
}

// stackFields repeats a Via, a Route or any other header, or values in it.
func (m *mutator) stackFields(b []byte) []byte {
	head, body := cutFields(b)
	line := oneOf(m, head)
	for _, l := range head {
		if m.chance(3) && (bytes.HasPrefix(l, []byte("Via:")) || bytes.HasPrefix(l, []byte("Route:")) || bytes.HasPrefix(l, []byte("Record-Route:"))) {
			line = l
		}
	}
	n := oneOf(m, []int{1, 2, 5, 30, 63, 64, 65, 100, 256, 300})
	if m.chance(2) {
		name, v, _ := bytes.Cut(line, []byte(":"))
		values := bytes.Repeat(append([]byte(","), v...), min(n, 1+8000/(len(v)+1)))
		return joinFields(slices.Insert(head, min(1, len(head)), slices.Concat(name, []byte(":"), values[1:])), body)
	}
	return joinFields(slices.Insert(head, min(1, len(head)), slices.Repeat([][]byte{line}, n)...), body)
}

// plantToken puts a token of bellhop into a header or the Request-URI.
func (m *mutator) plantToken(b []byte) []byte {
	token := m.quotes.tokens.pick(m)
	if c := m.quotes.contacts.pick(m); c != nil && (token == nil || m.chance(4)) {
		token = c
	}
	if token == nil {
		return b
	}
	if m.chance(4) { // damaged
		token = m.flipBytes(bytes.Clone(token))
	}
	head, body := cutFields(b)
	switch m.rand.IntN(4) {
	case 0:
		start := bytes.SplitN(head[0], []byte(" "), 3)
		if len(start) == 3 {
			uri := untilAny(bytes.TrimPrefix(token, []byte("<")), ">")
			head[0] = bytes.Join([][]byte{start[0], uri, start[2]}, []byte(" "))
		}
	default:
		name := oneOf(m, []string{"Route", "Route", "Route", "Record-Route", "Path", "Contact", "From", "To", "Refer-To", "Via", "Call-ID", "X-CID", "Service-Route", "P-Asserted-Identity"})
		at := min(1, len(head))
		head = slices.Insert(head, at, slices.Concat([]byte(name+": "), token))
	}
	return joinFields(head, body)
}

// plantIdentity gives a message the ids of a live dialog, or some of them.
func (m *mutator) plantIdentity(b []byte) []byte {
	head, body := cutFields(b)
	for i, line := range head {
		name, v, _ := bytes.Cut(line, []byte(":"))
		switch strings.ToLower(string(name)) {
		case "call-id", "i":
			if q := m.quotes.callIDs.pick(m); q != nil && !m.chance(3) {
				head[i] = slices.Concat(name, []byte(": "), q)
			}
		case "from", "f", "to", "t":
			if q := m.quotes.tags.pick(m); q != nil && !m.chance(3) {
				before, _, _ := bytes.Cut(v, []byte(";tag="))
				head[i] = slices.Concat(name, []byte(":"), before, []byte(";tag="), q)
			}
		}
	}
	if q := m.quotes.cids.pick(m); q != nil && m.chance(4) {
		head = append(head, slices.Concat([]byte("X-CID: "), q))
	}
	return joinFields(head, body)
}

// plantBranch puts a branch of bellhop into the topmost Via. A response then matches a
// pending request.
func (m *mutator) plantBranch(b []byte) []byte {
	branch := m.quotes.branches.pick(m)
	if branch == nil {
		return b
	}
	if m.chance(4) {
		branch = m.flipBytes(bytes.Clone(branch))
	}
	before, after, ok := bytes.Cut(b, []byte("branch="))
	if !ok {
		return b
	}
	rest := after[len(untilAny(after, ";, \r\n")):]
	return slices.Concat(before, []byte("branch="), branch, rest)
}

func (m *mutator) jumpCSeq(b []byte) []byte {
	head, body := cutFields(b)
	for i, line := range head {
		name, v, _ := bytes.Cut(line, []byte(":"))
		if strings.EqualFold(string(name), "cseq") {
			method := v[bytes.LastIndexByte(v, ' ')+1:]
			if m.chance(4) {
				method = []byte(oneOf(m, methods))
			}
			head[i] = fmt.Appendf(nil, "%s: %s %s", name, oneOf(m, oddNumbers), method)
		}
	}
	return joinFields(head, body)
}

var methods = []string{"INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "REGISTER", "PRACK", "SUBSCRIBE", "NOTIFY", "PUBLISH", "INFO", "REFER", "MESSAGE", "UPDATE", "invite", "X", "INVITE\x00"}

func (m *mutator) changeMethod(b []byte) []byte {
	method, rest, ok := bytes.Cut(b, []byte(" "))
	if !ok {
		return b
	}
	to := oneOf(m, methods)
	if m.chance(4) {
		return slices.Concat([]byte(to+" "), rest)
	}
	return bytes.ReplaceAll(b, method, []byte(to))
}

func (m *mutator) oddContentLength(b []byte) []byte {
	head, body := cutFields(b)
	for i, line := range head {
		name, _, _ := bytes.Cut(line, []byte(":"))
		if strings.EqualFold(string(name), "content-length") {
			n := strconv.Itoa(len(body) + m.rand.IntN(21) - 10)
			if m.chance(3) {
				n = oneOf(m, oddNumbers)
			}
			head[i] = slices.Concat(name, []byte(": "+n))
		}
	}
	return joinFields(head, body)
}

func (m *mutator) manyParameters(b []byte) []byte {
	head, body := cutFields(b)
	i := m.rand.IntN(len(head))
	var more strings.Builder
	for n := range oneOf(m, []int{1, 10, 100, 500}) {
		more.WriteString(oneOf(m, []string{";a", ";tag=x", ";branch=z9hG4bK", ";q=\"", ";received=1.2.3.4", ";expires=0", ";lr", ";rport", "-" + strconv.Itoa(n)}))
	}
	head[i] = append(head[i][:len(head[i]):len(head[i])], more.String()...)
	return joinFields(head, body)
}

// respond returns a response to a request that bellhop sent.
func (m *mutator) respond(request []byte, status int) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "SIP/2.0 %d Whatever\r\n", status)
	first := true
	for line := range headLines(request) {
		if first {
			first = false
			continue
		}
		name, v, _ := bytes.Cut(line, []byte(":"))
		switch strings.ToLower(string(name)) {
		case "to", "t":
			b.Write(line)
			if status > 100 && !bytes.Contains(v, []byte("tag=")) {
				fmt.Fprintf(&b, ";tag=r%d", m.rand.IntN(1000))
			}
			b.WriteString("\r\n")
		case "via", "v", "from", "f", "call-id", "i", "cseq", "record-route", "path":
			b.Write(line)
			b.WriteString("\r\n")
		case "contact", "m":
			if bytes.HasPrefix(request, []byte("REGISTER ")) && status == 200 {
				b.Write(line)
				b.WriteString("\r\n")
			}
		}
	}
	if status/100 == 2 || m.chance(3) {
		fmt.Fprintf(&b, "Contact: <sip:%d@%s>\r\n", 101+m.rand.IntN(9), oneOf(m, flowtest.Peers).Addr)
	}
	b.WriteString("Content-Length: 0\r\n\r\n")
	return b.Bytes()
}

// within returns a request in the dialog of a response.
func (m *mutator) within(response []byte, method string) []byte {
	m.serial++
	var b bytes.Buffer
	uri := untilAny(bytes.TrimPrefix(fieldValue(response, "Contact"), []byte("<")), ">")
	if len(uri) == 0 {
		uri = []byte("sip:102@pbx.example")
	}
	fmt.Fprintf(&b, "%s %s SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.11:5060;branch=z9hG4bKw%d;rport\r\nMax-Forwards: 70\r\n", method, uri, m.serial)
	var routes []string
	for line := range headLines(response) {
		name, v, _ := bytes.Cut(line, []byte(":"))
		switch strings.ToLower(string(name)) {
		case "record-route":
			routes = append(routes, "Route:"+string(v)+"\r\n")
		case "from", "f", "to", "t", "call-id", "i":
			b.Write(line)
			b.WriteString("\r\n")
		}
	}
	for _, r := range slices.Backward(routes) {
		b.WriteString(r)
	}
	n := 1
	if method != "ACK" {
		n += m.rand.IntN(10)
	}
	fmt.Fprintf(&b, "CSeq: %d %s\r\nContact: <sip:101@192.0.2.11:5060>\r\n", n, method)
	if method == "REFER" {
		b.WriteString("Refer-To: <sip:103@pbx.example>\r\n")
	}
	b.WriteString("Content-Length: 0\r\n\r\n")
	return b.Bytes()
}
