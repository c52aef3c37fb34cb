package flowtest_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"bellhop/dialog/flowtest"
	"bellhop/sip/flowhop"
)

var update = flag.Bool("update", false, "rewrite the callback sections")

// TestFlows plays every flow against the proxy and its tracker. With -update it rewrites
// the callback sections.
func TestFlows(t *testing.T) {
	paths, err := filepath.Glob("../../testdata/flows/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) < 30 {
		t.Errorf("%d flows, want 30 or more", len(paths))
	}
	for _, path := range paths {
		f, err := flowtest.Load(path)
		if err != nil {
			t.Error(err)
			continue
		}
		t.Run(f.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := flowhop.New(t, f.Config)
				defer p.Close()
				if !*update {
					flowtest.Play(t, f, p)
					return
				}
				data, err := flowtest.Rewrite(f, p)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, data, 0o644); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}
