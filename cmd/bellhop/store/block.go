package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"time"

	"github.com/minio/highwayhash"
)

// A block file of the embedded server holds the messages of a stream, one record
// after another, as the server appends them. Numbers are little-endian:
//
//	4  length of the record, headerBit if the message has a header
//	8  sequence number, erasedBit or tombstoneBit if there is no message
//	8  time, in nanoseconds since 1970
//	2  length of the subject
//	   subject, length of the header (4) and header if there is one, body
//	8  HighwayHash-64 of all but the lengths, keyed with stream and block
//
// The hash does not cover the lengths. recordAt verifies them by the content that they
// delimit.
//
// The server reads a block only up to the first damaged record, and cuts off or hides
// the rest. That is why bellhop reads the blocks itself.
const (
	recordHead  = 22
	recordSum   = 8
	emptyRecord = recordHead + recordSum
	maxRecord   = 32 << 20

	headerBit    = 1 << 31
	erasedBit    = 1 << 63
	tombstoneBit = 1 << 62
)

// A section is a part of a block: either valid records whose messages have consecutive
// sequence numbers, or bytes that are no valid record.
type section struct {
	from, to    int // offsets in the block
	bad         bool
	torn        bool   // bad, and cut off by the end of the block, as after a crash
	records     uint64 // number of messages; for bad bytes, the least number of records
	first, last uint64 // sequence numbers of valid messages; 0: none
	firstAt     time.Time
	lastAt      time.Time
	position    uint64 // highest sequence number of any record, even without a message
}

// blockHash returns the hash for the records of one block.
func blockHash(stream string, block int) hash.Hash64 {
	key := sha256.Sum256(fmt.Appendf(nil, "%s-%d", stream, block))
	h, err := highwayhash.New64(key[:])
	if err != nil {
		panic(err) // the key has the right length
	}
	return h
}

// jsonStreams are the streams whose messages are empty or JSON objects and whose
// subjects have no brace. So the first brace after the head of a record ends the
// subject.
var jsonStreams = map[string]bool{"bellhop_events": true, "bellhop_audit": true, "KV_bellhop_subscriptions": true, "KV_bellhop_tokens": true}

// recordAt returns the length of the valid record at offset i of a block, or 0.
func recordAt(stream string, b []byte, i int, h hash.Hash64) int {
	n := lengthAt(b, i)
	if n == 0 || i+n > len(b) {
		return 0
	}
	subject := int(binary.LittleEndian.Uint16(b[i+20:]))
	rest := i + recordHead + subject
	if binary.LittleEndian.Uint32(b[i:])&headerBit != 0 {
		rest += 4
	}
	end := i + n - recordSum
	if rest > end {
		return 0
	}
	if headed := rest > i+recordHead+subject; headed {
		header := b[rest:end]
		n := binary.LittleEndian.Uint32(b[rest-4:])
		if uint64(n) > uint64(len(header)) || !bytes.HasPrefix(header, []byte("NATS/1.0")) || !bytes.HasSuffix(header[:n], []byte("\r\n\r\n")) {
			return 0
		}
	} else if brace := bytes.IndexByte(b[i+recordHead:end], '{'); jsonStreams[currentName(stream)] && brace >= 0 && brace != subject {
		return 0
	}
	h.Reset()
	h.Write(b[i+4 : i+20])
	h.Write(b[i+recordHead : i+recordHead+subject])
	h.Write(b[rest:end])
	var sum [recordSum]byte
	if !bytes.Equal(h.Sum(sum[:0]), b[end:i+n]) {
		return 0
	}
	return n
}

// lengthAt returns the length that the record at offset i claims, or 0 if no record can
// start there.
func lengthAt(b []byte, i int) int {
	if i+recordHead > len(b) {
		return 0
	}
	n := binary.LittleEndian.Uint32(b[i:]) &^ headerBit
	if n < emptyRecord || n > maxRecord || int(binary.LittleEndian.Uint16(b[i+20:])) > int(n)-emptyRecord {
		return 0
	}
	return int(n)
}

// readBlock returns the sections of a block, in order.
func readBlock(stream string, block int, b []byte) (sections []section) {
	h := blockHash(stream, block)
	for i := 0; i < len(b); {
		n := recordAt(stream, b, i, h)
		if n == 0 {
			s := badSection(stream, b, i, h)
			sections = append(sections, s)
			i = s.to
			continue
		}
		seq := binary.LittleEndian.Uint64(b[i+4:])
		message := seq&(erasedBit|tombstoneBit) == 0 && seq != 0
		seq &^= erasedBit | tombstoneBit
		s := lastSection(sections)
		if s == nil || s.bad || message && s.last != 0 && seq != s.last+1 {
			sections = append(sections, section{from: i})
			s = lastSection(sections)
		}
		if message {
			at := time.Unix(0, int64(binary.LittleEndian.Uint64(b[i+12:])))
			if s.first == 0 {
				s.first, s.firstAt = seq, at
			}
			s.last, s.lastAt = seq, at
			s.records++
		}
		s.position = max(s.position, seq)
		i += n
		s.to = i
	}
	return sections
}

// lastSection returns the last section, or nil.
func lastSection(sections []section) *section {
	if len(sections) == 0 {
		return nil
	}
	return &sections[len(sections)-1]
}

// badSection returns the section that starts with a damaged record at offset i and ends
// at the next valid record or at the end of the block.
func badSection(stream string, b []byte, i int, h hash.Hash64) section {
	s := section{from: i, bad: true, records: 1}
	if n := lengthAt(b, i); n > 0 { // the length may be valid
		s.to = i + n
		if s.to > len(b) {
			s.torn = true
		} else if s.to == len(b) || recordAt(stream, b, s.to, h) > 0 {
			return s
		}
	} else if i+recordHead > len(b) {
		s.torn = true
	}
	for s.to = i + 1; s.to < len(b); s.to++ {
		if recordAt(stream, b, s.to, h) > 0 {
			s.torn = false
			return s
		}
	}
	return s
}

// repairedBlock returns the valid records of a block. position is the last sequence
// number that the stream has assigned, or 0. If it is not 0, repairedBlock appends an
// erased record with that number, so that the server does not assign the number again.
func repairedBlock(stream string, block int, b []byte, sections []section, position uint64) []byte {
	var out []byte
	var last time.Time
	for _, s := range sections {
		if !s.bad {
			out = append(out, b[s.from:s.to]...)
			if s.last > 0 {
				last = s.lastAt
			}
		}
	}
	if position == 0 {
		return out
	}
	if last.IsZero() {
		last = time.Now()
	}
	r := make([]byte, recordHead, emptyRecord)
	binary.LittleEndian.PutUint32(r, emptyRecord)
	binary.LittleEndian.PutUint64(r[4:], position|erasedBit)
	binary.LittleEndian.PutUint64(r[12:], uint64(last.UnixNano()))
	h := blockHash(stream, block)
	h.Write(r[4:20])
	return append(out, h.Sum(r)...)
}
