package main

import (
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// programDir is the folder of the program; TestMain makes and removes it.
var programDir string

// buildProgram builds the bellhop that tests start as processes of their own,
// once, and without the race detector: such a process is judged by what it does,
// and a race inside a library would end it with a failure that is not ours. The
// tests of the packages run with the detector.
var buildProgram = sync.OnceValues(func() (output []byte, err error) {
	return exec.Command("go", "build", "-race=false", "-o", programDir, ".").CombinedOutput()
})

// program returns the path of bellhop, which it builds if no test has yet.
func program(t testing.TB) string {
	t.Helper()
	if output, err := buildProgram(); err != nil {
		t.Fatalf("build bellhop: %v\n%s", err, output)
	}
	return filepath.Join(programDir, "bellhop")
}
