package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"bellhop/dialog"
)

// A spool is the file of store.dir that has the events which the store did not
// take before a stop: one JSON object a line.
type spool struct{ path string }

func spoolOf(c config) spool { return spool{filepath.Join(c.Store.Dir, "unpublished")} }

// Load returns the events of the file. A line that is no event is left out, and is
// an error.
func (s spool) Load() ([]dialog.Event, error) {
	b, err := readPrivate(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var events []dialog.Event
	number := 0
	for line := range bytes.Lines(b) {
		number++
		var e dialog.Event
		if bad := json.Unmarshal(line, &e); bad != nil {
			err = fmt.Errorf("%s:%d: %w", s.path, number, bad)
			continue
		}
		events = append(events, e)
	}
	return events, err
}

// Save writes the file, which is on the disk, whole, when it returns. Without
// events there is none.
func (s spool) Save(events []dialog.Event) error {
	if len(events) == 0 {
		if err := os.Remove(s.path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	var b bytes.Buffer
	lines := json.NewEncoder(&b)
	for _, e := range events {
		if err := lines.Encode(e); err != nil {
			return fmt.Errorf("event %s: %w", e.ID, err)
		}
	}
	return writePrivate(s.path, b.Bytes())
}
