package sip

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// FuzzContacts checks that a phone sees the URIs that it wrote when the PBX lists the
// Contacts it received, whatever they contain, and that nothing around the URIs changes.
func FuzzContacts(f *testing.F) {
	f.Add("<sip:101@10.0.0.5>;expires=0, <sip:101@10.0.0.6;transport=tcp>;q=0.3", "*")
	f.Add(`"A, \"B\" <c>; d" <sip:101@10.0.0.5;ob>;+sip.instance="<urn:uuid:1, 2>"`, "sip:101@10.0.0.5 ;expires=1")
	f.Add("<tel:1>,<sips:a@[::1]:1>,<mailto:a@b> , <sip:a@b;bellhop=x>,", "\r\n <sip:192.0.2.1;bellhop=AAAA>")
	f.Add(`"`, `<sip:a@b`)
	f.Add("<tel:>,<sip:0@[000]00>,<>,>", "< sip:0;Bellhop >")
	f.Add("<sip:0@[]@>", "0")
	f.Add("0", "<sip:"+strings.Repeat("1", 3700)+"@192.0.2.1>")
	w, _ := newBareWorker(f, func(c *Config) { c.Register = RegisterContact })
	const fields = "Via: SIP/2.0/UDP 192.0.2.101:5062;branch=z9hG4bK1\r\nFrom: <sip:101@a>;tag=1\r\nTo: <sip:101@a>\r\nCall-ID: 1\r\nCSeq: 1 REGISTER\r\n"
	contacts := func(m *message) (lines string, uris []string) {
		for i := range m.fields {
			if c := &m.fields[i]; c.name == hContact {
				lines += string(m.text(c.line))
			}
		}
		m.eachContact(func(uri, _ span, _ bool) { uris = append(uris, string(m.text(uri))) })
		return lines, uris
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		p := w.receivePacket([]byte("REGISTER sip:a SIP/2.0\r\n"+fields+"Contact: "+one+"\r\nm: "+two+"\r\n\r\n"), barePhone)
		if p == nil || p.msg.fault != nil {
			return
		}
		wrote, was := contacts(&p.msg)
		r, fault := w.router.routeRequest(p)
		if fault != nil {
			return
		}
		out := bytes.Clone(w.composer.rewriteRequest(p, &r, w.proxy.branchSalt.appendBranch(nil, 1, 2)))
		var sent message
		if !sent.index(out, false) || sent.fault != nil {
			t.Fatalf("%q, %q became\n%q: %v", one, two, out, sent.fault)
		}
		listed, _ := contacts(&sent)
		q := w.receivePacket([]byte("SIP/2.0 200 OK\r\n"+fields+listed+"\r\n"), barePBX)
		if q == nil || q.msg.fault != nil {
			t.Fatalf("%q, %q cannot be listed: %q", one, two, listed)
		}
		w.composer.answeredRequest = out
		w.composer.restoreContacts(q)
		w.composer.answeredRequest = nil
		back, is := contacts(&q.msg)
		if !slices.Equal(is, was) {
			t.Fatalf("%q, %q came back as %q, want %q", one, two, is, was)
		}
		plain := strings.NewReplacer("<", "", ">", "")
		if plain.Replace(back) != plain.Replace(wrote) {
			t.Fatalf("%q came back as %q", wrote, back)
		}
	})
}
