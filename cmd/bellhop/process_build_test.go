package main

import (
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// programDir is the folder of the built program. TestMain creates and removes it.
var programDir string

// buildProgram and buildNATS build the bellhop and the NATS server that tests start as
// processes, once and without the race detector: a race inside a library would end such
// a process, although bellhop is right. The tests of the packages run with the detector.
var (
	buildProgram = builder(".")
	buildNATS    = builder("github.com/nats-io/nats-server/v2")
)

// builder returns a function that builds the program of a package once.
func builder(pkg string) func() (output []byte, err error) {
	return sync.OnceValues(func() ([]byte, error) {
		return exec.Command("go", "build", "-race=false", "-o", programDir, pkg).CombinedOutput()
	})
}

// program returns the path of bellhop, and builds it first if no test has.
func program(t testing.TB) string { return built(t, "bellhop", buildProgram) }

// natsServer returns the path of the NATS server, and builds it first if no test has.
func natsServer(t testing.TB) string { return built(t, "nats-server", buildNATS) }

func built(t testing.TB, name string, build func() (output []byte, err error)) string {
	t.Helper()
	if output, err := build(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, output)
	}
	return filepath.Join(programDir, name)
}
