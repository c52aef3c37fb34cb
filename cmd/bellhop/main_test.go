package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats-server/v2/server/ats"
	"go.uber.org/goleak"
)

// otherMains are what this binary does in place of tests, by the variable that
// says so.
var otherMains = map[string]func(value string){readersOf: readers}

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "bellhop" {
		main() // a test started this binary to be the process it tests
	}
	for variable, run := range otherMains {
		if value := os.Getenv(variable); value != "" {
			run(value)
			return
		}
	}
	ats.Register() // before any bubble: the store's clock would be of the first
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}
