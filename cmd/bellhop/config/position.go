package config

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A position is a place in a file. Lines and columns count from 1, columns in
// characters.
type position struct{ line, column int }

// positions has the positions of all keys and values of a TOML document, by path. They
// are needed because the parser gives only the positions of values that it rejects.
// Elements of arrays have paths like trunk[0].sources[1].
type positions struct{ keys, values map[string]position }

// valuePosition returns the position of the value at path. If the file has no such
// value, it returns the position of the key at path, or else of the table or array
// around it. If the file has none of these, it returns the top of the file.
func (w positions) valuePosition(path string) position {
	if at, ok := w.values[path]; ok {
		return at
	}
	return w.keyPosition(path)
}

// keyPosition returns the position of the key at path. If the file has no such key, it
// returns the position of the table or array around it, or else the top of the file.
func (w positions) keyPosition(path string) position {
	if at, ok := w.keys[path]; ok {
		return at
	}
	if i := strings.LastIndexAny(path, ".["); i >= 0 {
		return w.valuePosition(path[:i])
	}
	return position{1, 1}
}

var bare = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// joinPath appends a key to a path.
func joinPath(path, key string) string {
	if !bare.MatchString(key) {
		key = strconv.Quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// indexPath appends the index of an array's element to a path.
func indexPath(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// locateKeys finds every key and value of a document that the parser has accepted.
func locateKeys(doc string) positions {
	s := positionScanner{doc: doc, positions: positions{map[string]position{}, map[string]position{}}, tables: map[string]int{}}
	table := ""
	for s.skipSpace(); s.i < len(doc); s.skipSpace() {
		at := s.i
		switch {
		case s.takePrefix("[["):
			path := s.readHeader(s.positionAt(at))
			table = indexPath(path, s.tables[path])
			s.tables[path]++
			s.keys[table] = s.positionAt(at)
		case s.takePrefix("["):
			table = s.readHeader(s.positionAt(at))
		default:
			s.readPair(table)
		}
	}
	return s.positions
}

// A positionScanner scans a document that the parser has accepted. Each step moves on,
// whatever the text is, so a scan always ends.
type positionScanner struct {
	positions
	doc    string
	i      int
	tables map[string]int // number of elements so far of each array of tables
}

// positionAt returns the position of the byte offset i.
func (s *positionScanner) positionAt(i int) position {
	start := strings.LastIndexByte(s.doc[:i], '\n') + 1
	return position{strings.Count(s.doc[:i], "\n") + 1, utf8.RuneCountInString(s.doc[start:i]) + 1}
}

// takePrefix skips prefix, and reports whether it was there.
func (s *positionScanner) takePrefix(prefix string) bool {
	if !strings.HasPrefix(s.doc[s.i:], prefix) {
		return false
	}
	s.i += len(prefix)
	return true
}

// skipUntil skips to the first character in stop, or to the end.
func (s *positionScanner) skipUntil(stop string) {
	n := strings.IndexAny(s.doc[s.i:], stop)
	if n < 0 {
		n = len(s.doc) - s.i
	}
	s.i += n
}

// skipSpace skips blanks, line ends and comments.
func (s *positionScanner) skipSpace() {
	for s.i < len(s.doc) {
		switch s.doc[s.i] {
		case ' ', '\t', '\r', '\n':
			s.i++
		case '#':
			s.skipUntil("\n")
		default:
			return
		}
	}
}

// readHeader reads the header of a table up to and including its closing brackets, and
// returns the path of the table. at is the start of the header. The name of an array of
// tables before a dot means the last element of the array so far.
func (s *positionScanner) readHeader(at position) string {
	path := ""
	for _, key := range s.readKey() {
		if n := s.tables[path]; n > 0 {
			path = indexPath(path, n-1)
		}
		path = joinPath(path, key)
		s.noteKey(path, at)
	}
	for s.takePrefix("]") {
	}
	return path
}

// noteKey records the position of the key at path, unless the key has occurred before.
func (s *positionScanner) noteKey(path string, at position) {
	if _, ok := s.keys[path]; !ok {
		s.keys[path] = at
	}
}

// readPair reads key = value. The key is relative to the table at path table.
func (s *positionScanner) readPair(table string) {
	at := s.positionAt(s.i)
	path := table
	for _, key := range s.readKey() {
		path = joinPath(path, key)
		s.noteKey(path, at)
	}
	if !s.takePrefix("=") {
		s.i++
		return
	}
	s.readValue(path)
}

// readKey reads a key and the space around it, and returns its parts between dots.
func (s *positionScanner) readKey() []string {
	var parts []string
	for {
		s.skipSpace()
		start := s.i
		if s.i < len(s.doc) && (s.doc[s.i] == '"' || s.doc[s.i] == '\'') {
			s.skipQuoted()
		} else {
			s.skipUntil(" \t\r\n.=]#,}\"'")
		}
		key := s.doc[start:s.i]
		switch {
		case strings.HasPrefix(key, "'"):
			key = strings.Trim(key, "'")
		case strings.HasPrefix(key, `"`):
			if k, err := strconv.Unquote(key); err == nil {
				key = k
			}
		}
		parts = append(parts, key)
		s.skipSpace()
		if !s.takePrefix(".") {
			return parts
		}
	}
}

// readValue reads the value at path and records its position.
func (s *positionScanner) readValue(path string) {
	s.skipSpace()
	s.values[path] = s.positionAt(s.i)
	switch {
	case s.i == len(s.doc):
	case s.doc[s.i] == '"' || s.doc[s.i] == '\'':
		s.skipQuoted()
	case s.takePrefix("["):
		for n := 0; s.hasElement(']'); n++ {
			s.readValue(indexPath(path, n))
		}
	case s.takePrefix("{"):
		for s.hasElement('}') {
			s.readPair(path)
		}
	default:
		s.i++
		s.skipUntil(",]}#\r\n")
	}
}

// hasElement skips to the next element of an array or inline table, and reports whether
// there is one before the closing bracket.
func (s *positionScanner) hasElement(closing byte) bool {
	s.skipSpace()
	s.takePrefix(",")
	s.skipSpace()
	if s.i == len(s.doc) {
		return false
	}
	if s.doc[s.i] == closing {
		s.i++
		return false
	}
	return true
}

// skipQuoted skips a string in any of TOML's four forms.
func (s *positionScanner) skipQuoted() {
	q := s.doc[s.i : s.i+1]
	end := q
	if s.takePrefix(q + q + q) {
		end = q + q + q
	} else {
		s.i++
	}
	for s.i < len(s.doc) && !s.takePrefix(end) {
		if q == `"` && s.doc[s.i] == '\\' {
			s.i++
		}
		s.i++
	}
	s.i = min(s.i, len(s.doc))
	if len(end) == 3 { // up to two more quotes belong to the text
		s.takePrefix(q)
		s.takePrefix(q)
	}
}
