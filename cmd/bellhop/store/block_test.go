package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
)

// testBlock returns a block of n records as the server writes them.
func testBlock(stream string, n int) (b []byte) {
	h := blockHash(stream, 1)
	for i := range n {
		subject, body := fmt.Appendf(nil, "bellhop.event.101.call%d.id%d", i/3, i), fmt.Appendf(nil, `{"n": %d}`, i)
		r := make([]byte, recordHead)
		binary.LittleEndian.PutUint32(r, uint32(len(subject)+len(body)+emptyRecord))
		binary.LittleEndian.PutUint64(r[4:], uint64(i+1))
		binary.LittleEndian.PutUint64(r[12:], uint64(i+1)*1e9)
		binary.LittleEndian.PutUint16(r[20:], uint16(len(subject)))
		h.Reset()
		for _, part := range [][]byte{r[4:20], subject, body} {
			h.Write(part)
		}
		r = append(append(r, subject...), body...)
		b = append(b, h.Sum(r)...)
	}
	return b
}

// FuzzReadBlock checks that the sections of any block cover it, and that a repaired
// block is valid and has every valid record.
func FuzzReadBlock(f *testing.F) {
	good := testBlock("bellhop_events", 5)
	f.Add(good, uint64(0))
	f.Add(good[:len(good)-5], uint64(9))
	for at := 0; at < len(good); at += 7 {
		b := bytes.Clone(good)
		b[at] ^= 0x81
		f.Add(b, uint64(7))
	}
	f.Fuzz(func(t *testing.T, b []byte, position uint64) {
		position &= 1<<40 - 1
		sections := readBlock("bellhop_events", 1, b)
		end, records := 0, uint64(0)
		for i, s := range sections {
			if s.from != end || s.to <= s.from || s.to > len(b) {
				t.Fatalf("section %d of %d bytes from %d: %+v", i, len(b), end, s)
			}
			end = s.to
			if !s.bad {
				records += s.records
				if s.last > 0 && s.last-s.first != s.records-1 {
					t.Fatalf("section %d: %+v", i, s)
				}
			}
		}
		if end != len(b) {
			t.Fatalf("the sections end at %d of %d", end, len(b))
		}
		repaired := readBlock("bellhop_events", 1, repairedBlock("bellhop_events", 1, b, sections, position))
		var reached uint64
		for _, s := range repaired {
			if s.bad {
				t.Fatalf("repaired, it has %+v", s)
			}
			records -= s.records
			reached = max(reached, s.position)
		}
		if records != 0 || reached < position {
			t.Fatalf("repaired, it lacks %d records, and reaches %d of %d", records, reached, position)
		}
	})
}
