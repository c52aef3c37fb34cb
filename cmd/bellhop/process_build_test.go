package main

import (
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// programDir is the folder of the built program. TestMain creates and removes it.
var programDir string

// buildProgram builds the bellhop that tests start as processes, once and without the
// race detector: a race inside a library would end such a process, although bellhop is
// right. The tests of the packages run with the detector.
var buildProgram = sync.OnceValues(func() ([]byte, error) {
	return exec.Command("go", "build", "-race=false", "-o", programDir, ".").CombinedOutput()
})

// program returns the path of bellhop, and builds it first if no test has.
func program(t testing.TB) string {
	t.Helper()
	if output, err := buildProgram(); err != nil {
		t.Fatalf("build bellhop: %v\n%s", err, output)
	}
	return filepath.Join(programDir, "bellhop")
}
