package notify

import (
	"encoding/json"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

// TestReadmeListsAllFields holds the table of fields in README.md to the golden
// payloads: it has each field of each dialect, and no other.
func TestReadmeListsAllFields(t *testing.T) {
	listed := map[string]map[string]bool{"json-post": {}, "telphin-post": {}, "telphin-post-extended": {}, "unified-post": {}}
	_, table, _ := strings.Cut(Readme, "\n## Fields\n")
	table, _, _ = strings.Cut(table, "\n## ")
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) != 7 || !strings.HasPrefix(cells[4], " ") {
			continue
		}
		own, form := strings.TrimSpace(cells[1]), strings.TrimSpace(cells[2])
		if name, ok := fieldName(own); ok {
			listed["json-post"][name] = true
		}
		name, ok := fieldName(form)
		if !ok {
			continue
		}
		listed["telphin-post-extended"][name] = true
		if !strings.HasSuffix(form, "+") {
			listed["telphin-post"][name] = true
		}
		if strings.HasSuffix(form, "U") {
			listed["unified-post"][name] = true
		}
	}
	for golden, got := range listed {
		delete(got, "telphin") // the head of the table
		delete(got, "json")
		if want := goldenFields(t, golden); !maps.Equal(got, want) {
			t.Errorf("%s: README.md lists %v\nwant %v", golden, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
		}
	}
	for name := range goldenFields(t, "cti-post") {
		if !strings.Contains(table, "`"+name+"`") {
			t.Errorf("README.md does not explain %s of cti", name)
		}
	}
}

// fieldName returns the name that a cell begins with, in backticks.
func fieldName(cell string) (string, bool) {
	rest, ok := strings.CutPrefix(cell, "`")
	name, _, closed := strings.Cut(rest, "`")
	return name, ok && closed
}

// goldenFields returns the names of all fields in a file of testdata/payloads, but
// for the header field that its events have.
func goldenFields(t *testing.T, name string) map[string]bool {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "testdata", "payloads", name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]bool{}
	for _, f := range txtar.Parse(b).Files {
		if name == "json-post" {
			var envelope struct{ Data map[string]any }
			if err := json.Unmarshal(f.Data, &envelope); err != nil {
				t.Fatal(err)
			}
			for field := range envelope.Data {
				fields[field] = true
			}
			continue
		}
		form, err := url.ParseQuery(strings.ReplaceAll(strings.TrimSpace(string(f.Data)), "\n", ""))
		if err != nil {
			t.Fatal(err)
		}
		for field := range form {
			fields[field] = true
		}
	}
	delete(fields, "X-Queue")
	return fields
}
