package flowtest

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the callback sections")

// TestFlows plays every flow against the tracker alone.
func TestFlows(t *testing.T) {
	paths, err := filepath.Glob("../../testdata/flows/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) < 30 {
		t.Errorf("%d flows, want 30 or more", len(paths))
	}
	for _, path := range paths {
		f, err := Load(path)
		if err != nil {
			t.Error(err)
			continue
		}
		t.Run(f.Name, func(t *testing.T) {
			if !*update {
				Play(t, f, NewTrackerHop(f.Config))
				return
			}
			data, err := Rewrite(f, NewTrackerHop(f.Config))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, data, 0o644); err != nil {
				t.Fatal(err)
			}
		})
	}
}
