package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A position in a file: both count from 1, columns in characters.
type position struct{ line, column int }

// where says where the keys and values of a TOML document are. The parser
// knows, but tells only of the values it fails on. Elements of arrays are
// named trunk[0].sources[1].
type where struct{ keys, values map[string]position }

// value is where the value at path is; if the file has none, where its key is,
// or the table or array it would be in, or the top of the file.
func (w where) value(path string) position {
	if at, ok := w.values[path]; ok {
		return at
	}
	return w.key(path)
}

func (w where) key(path string) position {
	if at, ok := w.keys[path]; ok {
		return at
	}
	if i := strings.LastIndexAny(path, ".["); i >= 0 {
		return w.value(path[:i])
	}
	return position{1, 1}
}

var bare = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// join adds a key to a path.
func join(path, key string) string {
	if !bare.MatchString(key) {
		key = strconv.Quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// index adds the index of an array's element to a path.
func index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// locate finds every key and value of a document that the parser has accepted.
func locate(doc string) where {
	s := scan{doc: doc, where: where{map[string]position{}, map[string]position{}}, tables: map[string]int{}}
	table := ""
	for s.space(); s.i < len(doc); s.space() {
		at := s.i
		switch {
		case s.take("[["):
			path := s.header(s.position(at))
			table = index(path, s.tables[path])
			s.tables[path]++
			s.keys[table] = s.position(at)
		case s.take("["):
			table = s.header(s.position(at))
		default:
			s.pair(table)
		}
	}
	return s.where
}

// A scan walks through a valid document. It always moves on, whatever it meets.
type scan struct {
	where
	doc    string
	i      int
	tables map[string]int // elements so far of each array of tables
}

func (s *scan) position(i int) position {
	start := strings.LastIndexByte(s.doc[:i], '\n') + 1
	return position{strings.Count(s.doc[:i], "\n") + 1, utf8.RuneCountInString(s.doc[start:i]) + 1}
}

func (s *scan) take(prefix string) bool {
	if !strings.HasPrefix(s.doc[s.i:], prefix) {
		return false
	}
	s.i += len(prefix)
	return true
}

// until moves to the first of the characters in stop, or to the end.
func (s *scan) until(stop string) {
	n := strings.IndexAny(s.doc[s.i:], stop)
	if n < 0 {
		n = len(s.doc) - s.i
	}
	s.i += n
}

// space skips blanks, line ends and comments.
func (s *scan) space() {
	for s.i < len(s.doc) {
		switch s.doc[s.i] {
		case ' ', '\t', '\r', '\n':
			s.i++
		case '#':
			s.until("\n")
		default:
			return
		}
	}
}

// header reads the name of a table, which begins at at, to the end of its
// brackets. Where the name leads through an array of tables, its last element
// is meant.
func (s *scan) header(at position) string {
	path := ""
	for _, key := range s.parts() {
		if n := s.tables[path]; n > 0 {
			path = index(path, n-1)
		}
		path = join(path, key)
		s.found(path, at)
	}
	for s.take("]") {
	}
	return path
}

// found notes where the key at path is first met.
func (s *scan) found(path string, at position) {
	if _, ok := s.keys[path]; !ok {
		s.keys[path] = at
	}
}

// pair reads key = value.
func (s *scan) pair(table string) {
	at := s.position(s.i)
	path := table
	for _, key := range s.parts() {
		path = join(path, key)
		s.found(path, at)
	}
	if !s.take("=") {
		s.i++
		return
	}
	s.read(path)
}

// parts reads a key and the space around it: its parts are parted by dots.
func (s *scan) parts() []string {
	var parts []string
	for {
		s.space()
		start := s.i
		if s.i < len(s.doc) && (s.doc[s.i] == '"' || s.doc[s.i] == '\'') {
			s.quoted()
		} else {
			s.until(" \t\r\n.=]#,}\"'")
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
		s.space()
		if !s.take(".") {
			return parts
		}
	}
}

// read reads the value at path.
func (s *scan) read(path string) {
	s.space()
	s.values[path] = s.position(s.i)
	switch {
	case s.i == len(s.doc):
	case s.doc[s.i] == '"' || s.doc[s.i] == '\'':
		s.quoted()
	case s.take("["):
		for n := 0; s.more(']'); n++ {
			s.read(index(path, n))
		}
	case s.take("{"):
		for s.more('}') {
			s.pair(path)
		}
	default:
		s.i++
		s.until(",]}#\r\n")
	}
}

// more reports whether another element follows before the closing bracket.
func (s *scan) more(closing byte) bool {
	s.space()
	s.take(",")
	s.space()
	if s.i == len(s.doc) {
		return false
	}
	if s.doc[s.i] == closing {
		s.i++
		return false
	}
	return true
}

// quoted reads one of the four kinds of string.
func (s *scan) quoted() {
	q := s.doc[s.i : s.i+1]
	end := q
	if s.take(q + q + q) {
		end = q + q + q
	} else {
		s.i++
	}
	for s.i < len(s.doc) && !s.take(end) {
		if q == `"` && s.doc[s.i] == '\\' {
			s.i++
		}
		s.i++
	}
	s.i = min(s.i, len(s.doc))
	if len(end) == 3 { // two more quotes may belong to the text
		s.take(q)
		s.take(q)
	}
}
