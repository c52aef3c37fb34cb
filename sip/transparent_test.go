package sip_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"bellhop/sip"
)

// A message leaves as it came, except for the edits that DESIGN §3.2 names. These tests undo
// exactly those edits and compare bytes.

// undoEdits returns the request that must have been received for got to be forwarded. It
// removes our fields from got, which must be there exactly once and in place, and
// restores the values that were changed.
func undoEdits(t *testing.T, sent, got []byte, cid bool) []byte {
	t.Helper()
	b := got
	cut := func(name, pattern string, must bool) {
		t.Helper()
		at := regexp.MustCompile(`\r\n` + pattern + `\r\n`).FindIndex(headerSection(b))
		switch {
		case at != nil:
			b = append(append([]byte(nil), b[:at[0]]...), b[at[1]-2:]...)
		case must:
			t.Errorf("no %s of ours in\n%s", name, got)
		}
	}
	method, _, _ := strings.Cut(string(sent), " ")
	const us = `192\.0\.2\.1:5060`
	cut("Via", `Via: SIP/2\.0/(UDP|TCP) `+us+`;branch=z9hG4bKbh[0-9a-f]{8}\.[0-9a-f]{12}\.[0-9a-f]{8}`, true)
	if !fieldNamed(sent, "max-forwards") {
		cut("Max-Forwards", `Max-Forwards: 70`, true)
	} else {
		b = raiseMaxForwards(t, sent, b)
	}
	switch method {
	case "REGISTER":
		cut("Path", `Path: <sip:[-_A-Za-z0-9]+@`+us+`(;transport=tcp)?;lr>`, true)
		cut("Supported", `Supported: path`, true)
	case "ACK", "CANCEL", "BYE", "OPTIONS", "MESSAGE", "PUBLISH", "PRACK", "INFO":
	default:
		cut("Record-Route", `Record-Route: <sip:[-_A-Za-z0-9]+@`+us+`(;transport=tcp)?;lr>`, true)
	}
	if method == "INVITE" && cid && !toTagged(sent) {
		cut("X-CID", `X-CID: [0-9a-f]{48}`, true)
	}
	// received and rport: the test sends from an address that no Via names.
	if was := regexp.MustCompile(`;received=[^;,\s]+`).Find(topVia(sent)); was != nil {
		b = bytes.Replace(b, []byte(";received="+phoneAt.Addr().String()), was, 1)
	} else {
		b = bytes.Replace(b, []byte(";received="+phoneAt.Addr().String()), nil, 1)
	}
	return regexp.MustCompile(`rport=\d+`).ReplaceAll(b, []byte("rport"))
}

func headerSection(b []byte) []byte {
	if i := bytes.Index(b, []byte("\r\n\r\n")); i >= 0 {
		return b[:i+4]
	}
	return b
}

// topVia returns the first Via line with its continuation lines.
func topVia(b []byte) []byte {
	return regexp.MustCompile(`(?i)\r\n(via|v)[ \t]*:([^\r]|\r\n[ \t])*`).Find(headerSection(b))
}

var maxForwards = regexp.MustCompile(`(?i)(\r\nmax-forwards[ \t]*:\s*)(\d+)`)

func fieldNamed(b []byte, name string) bool {
	return regexp.MustCompile(`(?i)\r\n` + name + `[ \t]*:`).Match(headerSection(b))
}

func toTagged(b []byte) bool {
	return regexp.MustCompile(`(?i)\r\n(to|t)[ \t]*:([^\r]|\r\n[ \t])*;\s*tag\s*=`).Match(headerSection(b))
}

// raiseMaxForwards restores the Max-Forwards that was sent; got must have one less.
func raiseMaxForwards(t *testing.T, sent, got []byte) []byte {
	t.Helper()
	was, is := maxForwards.FindSubmatch(headerSection(sent)), maxForwards.FindSubmatchIndex(headerSection(got))
	if was == nil || is == nil {
		t.Fatalf("no Max-Forwards in\n%s", got)
	}
	a, _ := strconv.Atoi(string(was[2]))
	b, _ := strconv.Atoi(string(got[is[4]:is[5]]))
	if b != a-1 {
		t.Errorf("Max-Forwards is %d after %d", b, a)
	}
	return append(append(append([]byte(nil), got[:is[4]]...), was[2]...), got[is[5]:]...)
}

// assertSame fails the test if two messages differ, and shows the first difference.
func assertSame(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	i := 0
	for i < len(got) && i < len(want) && got[i] == want[i] {
		i++
	}
	near := func(b []byte) []byte { return b[max(0, i-40):min(len(b), i+80)] }
	t.Errorf("%s differs at byte %d of %d (want %d):\n got …%q…\nwant …%q…", what, i, len(got), len(want), near(got), near(want))
}

// cutToLength returns a datagram without the bytes after its body.
func cutToLength(b []byte) []byte {
	m := regexp.MustCompile(`(?i)\r\n(?:content-length|l)[ \t]*:\s*(\d+)`).FindSubmatch(headerSection(b))
	if m == nil {
		return b
	}
	n, _ := strconv.Atoi(string(m[1]))
	return b[:min(len(b), len(headerSection(b))+n)]
}

// checkRequestUnchanged sends a request through a proxy and compares the result with it.
func checkRequestUnchanged(t *testing.T, sent []byte, cid bool) {
	t.Helper()
	runScenario(t, func(s *testbed) {
		s.addUDPPeer(netip.AddrPortFrom(phoneAt.Addr(), 5060))
		s.phone.send(text(sent))
		got, ok := s.pbx.nextMessage()
		if !ok {
			s.t.Fatalf("it was not sent on:\n%s", sent)
		}
		assertSame(s.t, "what went on", undoEdits(s.t, sent, []byte(got), cid), cutToLength(sent))
	}, func(c *sip.Config) { c.AddCID = cid })
}

func TestRequestsLeaveUnchangedOverTCP(t *testing.T) { // RFC 3261 §16.6, row 15
	for name, m := range weird {
		if sent := wireForm(m); fieldNamed(sent, "(content-length|l)") {
			t.Run(name, func(t *testing.T) {
				runScenario(t, func(s *testbed) {
					phone := s.dialTCPPeer(phoneAt.Addr())
					phone.send(text(cutToLength(sent)))
					got := s.pbx.expect("sent on", "")
					assertSame(s.t, "what went on", undoEdits(s.t, sent, []byte(got), false), cutToLength(sent))
				}, pbxOverTCP)
			})
		}
	}
}

// weird are requests that are valid, though few would write them.
var weird = map[string]string{
	"compact forms": `INVITE sip:102@pbx.example SIP/2.0
v: SIP/2.0/UDP 192.0.2.200;branch=z9hG4bKw1;rport
f:<sip:101@pbx.example>;tag=1
t:sip:102@pbx.example
i:w1@a
cseq:1 INVITE
m:<sip:101@192.0.2.101>
k:100rel
s:
c:application/sdp
e:gzip
o:x
r:<sip:x@y>
b:<sip:x@y>
x:1800
max-forwards:0070
l:4

` + "\x00\r\n\xff",
	"folds everywhere": `INVITE sip:102@pbx.example SIP/2.0
TO :
 sip:102@pbx.example ;  tag    = 1918181833n
from   : "J Rosenberg \\\""       <sip:101@example.com>
  ;
  tag = 98asjd8
MaX-fOrWaRdS:
 	0068
Call-ID	: w2@a
Content-Length   : 6
cseq: 0009
  INVITE
Via  : SIP  /   2.0
 /UDP
    192.0.2.200;branch=390skdjuw
s :
NewFangledHeader:   newfangled value
 continued newfangled value
UnknownHeaderWithUnusualValue: ;;,,;;,;
v:  SIP  / 2.0  / TCP     spindle.example.com   ;
  branch  =   z9hG4bK9ikj8  ,
 SIP  /    2.0   / UDP  192.168.255.111   ; branch=
 z9hG4bK30239
m:"Quoted string \"\"" <sip:jdrosen@example.com> ; newparam =
      newvalue ;
  secondparam ; q = 0.33

a
b
`,
	"23 Vias": `MESSAGE sip:102@pbx.example SIP/2.0
Via: SIP/2.0/UDP 192.0.2.200;branch=z9hG4bKw3
` + strings.Repeat("v: SIP/2.0/TCP sip7.example.com;branch=z9hG4bK-x, SIP/2.0/SCTP [2001:db8::9]:5070;branch=y\n", 11) + `From: "I have a user name of \"extreme\", and <more>; tag=no" <sip:101@pbx.example:5060;transport=udp>;x="y;tag=z";tag=12982982982982
To: <sip:102@pbx.example>
Call-ID: w3@a
CSeq: 4294967295 MESSAGE

`,
	"an odd method": `!interesting-Method0123456789_*+` + "`" + `.%indeed'~ sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@pbx.example SIP/2.0
Via: SIP/2.0/UDP 192.0.2.200;branch=z9hG4bK-.!%66*_+` + "`" + `'~
To: "BEL:\` + "\x07" + ` NUL:\` + "\x00" + ` DEL:\` + "\x7f" + `" <sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*@example.com>
From: token1~` + "`" + ` token2'+_ token3*%!.- <sip:mundane@example.com> ;fromParam''~+*_!.-%="` + "\xd1\x80\xd0\xb0" + `" ;tag=_token~1'+` + "`" + `*%!-.
Call-ID: intmeth.word%ZK-!.*_+'@word` + "`" + `~)(><:\/"][?}{
CSeq: 139122385 !interesting-Method0123456789_*+` + "`" + `.%indeed'~
Max-Forwards: 255
extensionHeader-!.%*+_` + "`" + `'~:` + "\xef\xbb\xbf\xe5\xa4\xa7" + `
Content-Length: 0

`,
	"a REGISTER with Path and Supported": `REGISTER sip:pbx.example SIP/2.0
Supported: outbound , path
Via: SIP/2.0/UDP 192.0.2.200;branch=z9hG4bKw5;rport
Path: <sip:edge.example;lr>
From: sip:101@pbx.example;tag=5
To: sip:101@pbx.example
Call-ID: w5@a
CSeq: 1 REGISTER
Contact: "a, b"   <sip:101@192.0.2.101;ob>;+sip.instance="<urn:uuid:0>" ; expires=60, *;q=0
Contact: <sips:101@192.0.2.101?Route=%3Csip:x%3E>
Authorization: Digest username="101",realm="a\"b", nonce=""
Max-Forwards:70

`,
	"in a dialog": `INVITE sip:102@192.0.2.2 SIP/2.0
Record-Route: <sip:edge.example;lr>
Via: SIP/2.0/UDP 192.0.2.200;branch=z9hG4bKw6;rport
From: <sip:101@pbx.example>;TAG=6
To: "x" <sip:102@pbx.example> ; x ; tAg = 66
Call-ID: w6
CSeq: 2 INVITE
Max-Forwards: 70
Content-Type: multipart/mixed;boundary=7a9cbec02ceef655
Content-Length: 14

--7a9` + "\r\x00\n\x0b" + `--
`,
	"with a correlation id already": `NOTIFY sip:102@pbx.example SIP/2.0
Via: SIP/2.0/UDP 192.0.2.200;branch=z9hG4bKw7;rport
X-CID: something
x-cid: other
From: <sip:101@pbx.example>;tag=7
To: <sip:102@pbx.example>
Call-ID: w7
CSeq: 2 NOTIFY
Max-Forwards: 70
Subscription-State: active
Event: dialog
Content-Length: 0

`,
	"trailing bytes are not of the message": `MESSAGE sip:102@pbx.example SIP/2.0
Via: SIP/2.0/UDP 192.0.2.200;branch=z9hG4bKw8;rport
From: <sip:101@pbx.example>;tag=8
To: <sip:102@pbx.example>
Call-ID: w8
CSeq: 2 MESSAGE
Content-Length: 2

okMESSAGE sip:103@pbx.example SIP/2.0
`,
}

// wireForm returns a message of this file with CRLF line ends.
func wireForm(s string) []byte {
	return []byte(strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\n", "\r\n"))
}

func TestRequestsLeaveUnchanged(t *testing.T) { // RFC 3261 §16.6, row 15; DESIGN §3.2
	for name, m := range weird {
		for _, cid := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, cid %v", name, cid), func(t *testing.T) { checkRequestUnchanged(t, wireForm(m), cid) })
		}
	}
}

// checkResponseUnchanged sends a request through a proxy, and lets the PBX answer with
// response, whose Vias are replaced by the request's. The response must come back the
// same, without our Via.
func checkResponseUnchanged(t *testing.T, response []byte) {
	t.Helper()
	runScenario(t, func(s *testbed) {
		method := text(response).method()
		if m := regexp.MustCompile(`(?i)\r\ncseq[ \t]*:\s*\d+\s+(\S+)`).FindSubmatch(headerSection(response)); m != nil {
			method = string(m[1])
		}
		uri := "sip:102@pbx.example"
		request := s.phone.newRequest(method, uri, "Via: SIP/2.0/UDP 192.0.2.101:5062 ; branch=z9hG4bK-t")
		if method == "CANCEL" || method == "ACK" {
			return // hop by hop, or never answered
		}
		s.phone.send(request)
		got := s.pbx.expect("sent on", method+" ")
		via := regexp.MustCompile(`(?i)\r\n(via|v)[ \t]*:([^\r]|\r\n[ \t])*`)
		at := via.FindIndex(headerSection(response))
		if at == nil {
			s.t.Fatalf("no Via in\n%s", response)
		}
		theirs := via.ReplaceAll(headerSection(response)[at[1]:], nil)
		make := func(vias ...string) []byte {
			b := append([]byte(nil), response[:at[0]]...)
			for _, v := range vias {
				b = append(b, "\r\nVia: "+v...)
			}
			b = append(b, theirs...)
			return append(b, response[len(headerSection(response)):]...)
		}
		vias := got.fieldValues("Via")
		s.pbx.send(text(make(vias...)))
		want := make(vias[1:]...)
		if bytes.HasPrefix(want, []byte("SIP/2.0 503 ")) {
			line, _, _ := bytes.Cut(want, []byte("\r\n"))
			want = append([]byte("SIP/2.0 500 Server Internal Error"), want[len(line):]...)
		}
		if bytes.HasPrefix(want, []byte("SIP/2.0 100")) {
			if m, ok := s.phone.nextMessage(); ok {
				s.t.Errorf("a 100 goes one hop, but the phone got\n%s", m)
			}
			return
		}
		back := s.phone.expect("the answer", "")
		assertSame(s.t, "what came back", []byte(back), cutToLength(want))
		if s.pbx.discardReceived(); len(want) > 8 && want[8] > '2' && method == "INVITE" {
			s.phone.sendACK(request, text(back))
		}
	})
}

// odd are responses that are valid, though few would write them.
var odd = map[string]string{
	"compact and folded": `SIP/2.0 200 = 2**3 * 5**2 ` + "\xd0\xbd\xd0\xbe" + `
rEcOrD-rOuTe:
 <sip:a;lr>,<sip:b;lr>
v: SIP/2.0/UDP x
f :   sip:101@pbx.example ; tag=1
t:<sip:102@pbx.example>
 ;tag=2
i:o1
CSEQ: 1   INVITE
m : "Q \"," <sip:102@192.0.2.2;x>
l:3

` + "\x00\x01\xff",
	"an empty phrase": `SIP/2.0 200 
Via: SIP/2.0/UDP x
From: <sip:101@pbx.example>;tag=1
To: <sip:102@pbx.example>;tag=2
Call-ID: o2
CSeq: 7 MESSAGE
Unknown: "

`,
	"no phrase at all": `sip/2.0 486
Via: SIP/2.0/UDP x
From: <sip:101@pbx.example>;tag=1
To: <sip:102@pbx.example>;tag=2
Call-ID: o3
CSeq: 7 INVITE
Content-Length:   0

`,
	"an unknown code": `SIP/2.0 299 Early, but "fine"
Via: SIP/2.0/UDP x
From: <sip:101@pbx.example>;tag=1
To: <sip:102@pbx.example>;tag=2
Call-ID: o4
CSeq: 7 SUBSCRIBE
WWW-Authenticate: Digest realm="a", nonce="b"
WWW-Authenticate: Digest realm="c", nonce="d"
Content-Length: 0

`,
	"trying": `SIP/2.0 100 Trying
Via: SIP/2.0/UDP x
From: <sip:101@pbx.example>;tag=1
To: <sip:102@pbx.example>
Call-ID: o5
CSeq: 7 INVITE
Content-Length: 0

`,
	"overloaded": `SIP/2.0 503 Come back
Via: SIP/2.0/UDP x
From: <sip:101@pbx.example>;tag=1
To: <sip:102@pbx.example>;tag=3
Call-ID: o6
CSeq: 7 MESSAGE
Retry-After: 5
Content-Length: 0

`,
}

func TestResponsesComeBackUnchanged(t *testing.T) { // RFC 3261 §16.7, row 15
	for name, m := range odd {
		t.Run(name, func(t *testing.T) { checkResponseUnchanged(t, wireForm(m)) })
	}
}

// corpusFolder returns the folder of foreign message collections, if it exists:
// shared/corpora beside or above the repository.
func corpusFolder() string {
	dir, err := os.Getwd()
	for err == nil {
		c := filepath.Join(dir, "shared", "corpora")
		if _, err := os.Stat(c); err == nil {
			return c
		}
		if dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	return ""
}

// readCorpus reads the messages in a folder of the corpus.
func readCorpus(t *testing.T, folder string) map[string][]byte {
	found := map[string][]byte{}
	root := corpusFolder()
	if root == "" {
		return found
	}
	filepath.WalkDir(filepath.Join(root, folder), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name, _ := filepath.Rel(filepath.Join(root, folder), path)
		found[strings.TrimSuffix(filepath.ToSlash(name), ".dat")] = b
		return nil
	})
	return found
}

func TestMessagesOfRFC3665AreUnchanged(t *testing.T) {
	for name, m := range readCorpus(t, "rfc3665") {
		t.Run(name, func(t *testing.T) {
			if bytes.HasPrefix(m, []byte("SIP/2.0")) {
				checkResponseUnchanged(t, m)
				return
			}
			// A foreign Route of a phone would be refused.
			m = regexp.MustCompile(`\r\nRoute:([^\r]|\r\n[ \t])*`).ReplaceAll(m, nil)
			for _, cid := range []bool{false, true} {
				checkRequestUnchanged(t, m, cid)
			}
		})
	}
}

func TestStatusLineWithTwoSpacesIsAccepted(t *testing.T) { // RFC 3665 §3.9 has one
	checkResponseUnchanged(t, wireForm(strings.Replace(odd["overloaded"], "SIP/2.0 503", "SIP/2.0  486", 1)))
}
