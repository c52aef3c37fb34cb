package main

import (
	"log"
	"os"
	"testing"

	"github.com/nats-io/nats-server/v2/server/ats"
	"go.uber.org/goleak"
)

// otherMains are functions that this binary runs instead of tests, by the environment
// variable that selects them.
var otherMains = map[string]func(value string){readersOf: readers}

func TestMain(m *testing.M) {
	for variable, run := range otherMains {
		if value := os.Getenv(variable); value != "" {
			run(value)
			return
		}
	}
	var err error
	if programDir, err = os.MkdirTemp("", "bellhop-test-"); err != nil {
		log.Fatal(err)
	}
	ats.Register() // before any bubble: the store's clock would be of the first
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent(), goleak.Cleanup(func(status int) {
		os.RemoveAll(programDir)
		os.Exit(status)
	}))
}
