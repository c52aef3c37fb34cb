package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"bellhop/cmd/bellhop/config"
	"bellhop/dialog"
)

// A Spool is the file of store.dir with the events that the store had not accepted
// before a stop. Each line is an event in JSON.
type Spool struct{ path string }

// Load returns the events of the file. It skips lines that are not events, and then
// returns an error beside the other events.
func (s Spool) Load() ([]dialog.Event, error) {
	b, err := config.ReadPrivate(s.path)
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
			err = fmt.Errorf("decode event %s:%d: %w", s.path, number, bad)
			continue
		}
		events = append(events, e)
	}
	return events, err
}

// Save replaces the content of the file with events and syncs it to disk. Without
// events it removes the file.
func (s Spool) Save(events []dialog.Event) error {
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
			return fmt.Errorf("encode event %s: %w", e.ID, err)
		}
	}
	return writePrivate(s.path, b.Bytes())
}
