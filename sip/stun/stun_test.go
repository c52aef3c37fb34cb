package stun

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
)

// sampleRequest is the request of RFC 5769 §2.1, sampleIPv4 and sampleIPv6 are the
// attributes XOR-MAPPED-ADDRESS of its responses (§2.2, §2.3).
var (
	sampleRequest = unhex(`00010058 2112a442 b7e7a701 bc34d686 fa87dfae
		80220010 5354554e 20746573 7420636c 69656e74
		00240004 6e0001ff
		80290008 932ff9b1 51263b36
		00060009 6576746a 3a683676 59202020
		00080014 9aeaa70c bfd8cb56 781ef2b5 b2d3f249 c1b571a2
		80280004 e57a3bcf`)
	sampleIPv4 = unhex("00200008 0001a147 e112a643")
	sampleIPv6 = unhex("00200014 0002a147 0113a9fa a5d3f179 bc25f4b5 bed2b9d9")
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		panic(err)
	}
	return b
}

// bareRequest is a Binding request without attributes.
func bareRequest() []byte { return unhex("00010000 2112a442 b7e7a701 bc34d686 fa87dfae") }

func TestAnswersSamplesOfRFC5769(t *testing.T) {
	for _, tt := range []struct {
		source    string
		attribute []byte
	}{
		{"192.0.2.1:32853", sampleIPv4},
		{"[2001:db8:1234:5678:11:2233:4455:6677]:32853", sampleIPv6},
		{"[::ffff:192.0.2.1]:32853", sampleIPv4}, // as a socket of both families shows it
	} {
		for _, request := range [][]byte{sampleRequest, bareRequest()} {
			got := AppendResponse([]byte("x"), request, netip.MustParseAddrPort(tt.source))
			want := append(unhex("010100002112a442b7e7a701bc34d686fa87dfae"), tt.attribute...)
			binary.BigEndian.PutUint16(want[2:], uint16(len(tt.attribute)))
			if !bytes.Equal(got, append([]byte("x"), want...)) {
				t.Errorf("from %s:\n got %x\nwant 78%x", tt.source, got, want)
			}
			if len(want) > MaxResponse {
				t.Errorf("from %s: %d bytes", tt.source, len(want))
			}
		}
	}
}

func TestAnswersNothingElse(t *testing.T) {
	change := func(at int, to ...byte) []byte {
		return append(append(bareRequest()[:at], to...), bareRequest()[at+len(to):]...)
	}
	for name, b := range map[string][]byte{
		"empty":                 {},
		"header cut off":        bareRequest()[:19],
		"first two bits":        change(0, 0x40),
		"response":              change(0, 0x01, 0x01),
		"indication":            change(0, 0x00, 0x11),
		"other method":          change(0, 0x00, 0x03),
		"no cookie (RFC 3489)":  change(4, 0),
		"length too long":       change(2, 0, 4),
		"bytes after the end":   append(bareRequest(), 0, 0, 0, 0),
		"length of 3":           append(change(2, 0, 3), 1, 2, 3),
		"attribute cut off":     append(change(2, 0, 4), 0x80, 0x22, 0, 1),
		"attribute of 65535":    append(change(2, 0, 8), 0x80, 0x22, 0xff, 0xff, 1, 2, 3, 4),
		"SIP":                   []byte("OPTIONS sip:a SIP/2.0\r\n\r\n"),
		"response to ourselves": AppendResponse(nil, bareRequest(), netip.MustParseAddrPort("192.0.2.1:1")),
	} {
		if got := AppendResponse(nil, b, netip.MustParseAddrPort("192.0.2.1:32853")); len(got) > 0 {
			t.Errorf("%s: got %x", name, got)
		}
	}
	if got := AppendResponse(nil, bareRequest(), netip.AddrPort{}); len(got) > 0 {
		t.Errorf("no source: got %x", got)
	}
}

func FuzzAppendResponse(f *testing.F) {
	f.Add(sampleRequest)
	f.Add(bareRequest())
	f.Fuzz(func(t *testing.T, b []byte) {
		got := AppendResponse(nil, b, netip.MustParseAddrPort("192.0.2.1:32853"))
		if len(got) != 0 && (len(got) != 32 || !bytes.Equal(got[4:20], b[4:20])) {
			t.Errorf("got %x for %x", got, b)
		}
	})
}
