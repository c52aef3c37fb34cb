package sip

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"testing"

	"bellhop/dialog"
	"bellhop/dialog/siptext"
)

// grammarSeeds are messages that the proxy and the tracker once read differently.
var grammarSeeds = []string{
	"REGISTER sip:a SIP/2.0\r\nVia: SIP/2.0/UDP a;x=<b>;branch=1\r\nf: Al \"<sip:x@y>\" <sip:a@b>tag=0;tag=1 junk;q\r\nTo: <sip:a@b> tag=2\r\n" +
		"Call-ID: 1\r\nCSeq: 1 REGISTER\r\nSupported: 100rel,\r\n path\r\nContact: \"Al\" sip:a@b;expires = 0,< sip:c >;q=\"1\\\"\"\r\n\r\n",
	"BYE sip:a;x@b SIP/2.0\r\nVia: SIP/2.0/UDP a.:5060\r\nFrom: \"A\r\n B\" <sip://a:pw@b.;lr>;tag=\"a;b\"\r\nTo: <tel:+49-1;x=y>;tag=2,<sip:z>;q\r\nCall-ID: 1\r\nCSeq: 1 BYE\r\n" +
		"Route: <sip:a;b@[::1]x;lr>,\r\n\t<sip:192.0.2.1:0>\r\nRoute: <sip:a@b@c>,<sip:a@b:+1>,<sip:a@b;x=y,z;lr>\r\n\r\n",
}

// TestIndexReadsWhatItOnceMisread checks header fields that the proxy once read in another
// way than the tracker.
func TestIndexReadsWhatItOnceMisread(t *testing.T) {
	var m message
	for _, s := range grammarSeeds {
		if !m.index([]byte(s), false) || m.fault != nil {
			t.Fatalf("%v in\n%s", m.fault, s)
		}
	}
	m.index([]byte(grammarSeeds[0]), false)
	if from, to := string(m.text(m.fromTag)), string(m.text(m.toTag)); from != "1" || to != "" {
		t.Errorf("tags are %q and %q: a parameter begins at a semicolon and ends at a blank", from, to)
	}
	if !m.supports("path") {
		t.Error("a folded Supported does not list path")
	}
	if m.makesBinding() {
		t.Error("expires = 0 makes a binding")
	}
	m.index([]byte(strings.Replace(grammarSeeds[0], "expires = 0", "expires=060", 1)), false)
	if !m.makesBinding() {
		t.Error("expires=060 makes no binding")
	}
	for uri, valid := range map[string]bool{
		"sip:a;b:c@h.:5060;x=y,z;lr": true, "sip://101@h": true, "sip:[::1]:5060": true,
		"sip:a@h:+1": false, "sip:a@h:0": false, "sip:a@h:65536": false, "sip:a@[::1]x;lr": false, "sip:a@b@h": false, "sip:a@h?Route=x": false, "sip:[a@[::1]": false,
		"sip:a:b@c@h": false, "sip:a;b@c@h": false, "sip:a:[@h": false, "sip:a;[@h": false, "sip:a@h:": false, "sip:a@[::1]:": false, "sip:a@[::1]5061": false,
	} {
		var u siptext.URI
		if f := parseURI(uri, &u); (f == nil) != valid {
			t.Errorf("%s: %v", uri, f)
		} else if valid && strings.Contains(uri, "lr") && !hasParam(&u, "lr") {
			t.Errorf("%s has no lr", uri)
		}
	}
}

// FuzzGrammar checks that the index reads each message as package siptext does: the same
// header fields under the same names, and the same parts of Via, Route, Contact, From, To,
// CSeq and of the URIs in them. What the index refuses, the tracker never sees.
func FuzzGrammar(f *testing.F) {
	for _, s := range slices.Concat(seeds, grammarSeeds) {
		f.Add([]byte(s))
	}
	f.Fuzz(checkGrammar)
}

// checkGrammar fails the test if the index reads b in another way than package siptext.
func checkGrammar(t *testing.T, b []byte) {
	var m message
	if len(b) > maxMessage || !m.index(b, false) || m.fault != nil {
		return
	}
	head := string(m.b[:m.headLen])
	if o := (dialog.Message{Head: head, Status: m.status}); m.isRequest() && o.URI() != string(m.text(m.uri)) {
		t.Errorf("the Request-URI is %q, by the index %q", o.URI(), m.text(m.uri))
	}
	fields, vias := m.fields, 0
	for name, value := range siptext.Fields(head) {
		if lookUpFieldName([]byte(name)) == otherField {
			continue
		}
		if len(fields) == 0 {
			t.Fatalf("%s is not in the index", name)
		}
		f := &fields[0]
		fields = fields[1:]
		if got := lookUpFieldName([]byte(name)); got != f.name || squeeze(m.text(f.value)) != squeeze([]byte(value)) {
			t.Fatalf("%s is %q, by the index %d %q", name, value, f.name, m.text(f.value))
		}
		switch f.name {
		case hVia:
			if vias++; vias == 1 {
				compareVia(t, &m, value)
			}
		case hFrom:
			compareAddress(t, &m, f.value, value, "tag", m.fromTag)
		case hTo:
			compareAddress(t, &m, f.value, value, "tag", m.toTag)
		case hCSeq:
			if n, method, ok := siptext.ParseCSeq(value); !ok || n != m.cseq || method != string(m.text(m.cseqMethod)) {
				t.Errorf("CSeq is %d %s, by the index %d %s", n, method, m.cseq, m.text(m.cseqMethod))
			}
		case hContact, hRoute, hRecordRoute, hPath, hSupported:
			compareList(t, &m, f.value, value)
		}
	}
	if len(fields) > 0 {
		t.Errorf("%q is in the index alone", m.text(fields[0].line))
	}
}

// squeeze returns b without white space: a folded value differs from the unfolded one in it.
func squeeze(b []byte) string { return string(bytes.Join(bytes.Fields(b), nil)) }

// compareVia compares the topmost Via.
func compareVia(t *testing.T, m *message, value string) {
	v, ok := siptext.ParseVia(value)
	if !ok || v.Transport != string(m.text(m.via.proto)) || v.Host != string(m.text(m.via.host)) || v.Port != m.via.port {
		t.Errorf("Via is %+v, by the index %s %s:%d", v, m.text(m.via.proto), m.text(m.via.host), m.via.port)
	}
	for name, s := range map[string]span{"branch": m.via.branch, "rport": m.via.rport, "received": m.via.received} {
		got, ok := siptext.Param(v.Params, name)
		if got != unquoted(m, s) || name == "rport" && ok != m.via.hasRport {
			t.Errorf("%s is %q, by the index %q", name, got, m.text(s))
		}
	}
}

// compareList compares each value of a comma-separated list.
func compareList(t *testing.T, m *message, v span, value string) {
	for want := range siptext.List(value) {
		var one span
		for one.empty() && v.from < v.to { // siptext skips empty values
			var ok bool
			if one, ok = cutValue(m.b, &v); !ok {
				return // the index takes no further values
			}
		}
		if squeeze(m.text(one)) != squeeze([]byte(want)) {
			t.Fatalf("the list has %q, by the index %q", want, m.text(one))
		}
		_, params, _ := splitNameAddr(m.b, one)
		expires, _ := findParam(m.b, params, "expires")
		compareAddress(t, m, one, want, "expires", expires)
	}
}

// compareAddress compares a name-addr or addr-spec, its URI, and the parameter called name,
// which the index has found at param.
func compareAddress(t *testing.T, m *message, v span, value, name string, param span) {
	a := siptext.ParseNameAddr(value)
	uri, params, ok := splitNameAddr(m.b, v)
	if a.Malformed == ok || ok && (squeeze([]byte(a.URI)) != squeeze(m.text(uri)) || squeeze([]byte(a.Params)) != squeeze(m.text(params))) {
		t.Errorf("%q is %+v, by the index %v %q %q", value, a, ok, m.text(uri), m.text(params))
	}
	if !ok {
		return
	}
	if got, found := siptext.Param(a.Params, name); found && squeeze([]byte(got)) != strings.Join(strings.Fields(unquoted(m, param)), "") {
		t.Errorf("%s of %q is %q, by the index %q", name, value, got, m.text(param))
	}
	var u siptext.URI
	if parseURI(string(m.text(uri)), &u) != nil {
		return // the proxy does not use it
	}
	if want := siptext.ParseURI(a.URI); u != want || u.Port != "" && strconv.Itoa(uriPort(&u)) != strings.TrimLeft(u.Port, "0") {
		t.Errorf("%q is %+v, by the index %+v with port %d", a.URI, want, u, uriPort(&u))
	}
}

// unquoted returns the text of a parameter's value without quoted pairs.
func unquoted(m *message, v span) string {
	if v.from == 0 || m.b[v.from-1] != '"' {
		return string(m.text(v))
	}
	value, _ := siptext.Param(`x="`+string(m.text(v))+`"`, "x")
	return value
}
