package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats-server/v2/server/ats"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "bellhop" {
		main() // a test started this binary to be the process it tests
	}
	if admin := os.Getenv(readersOf); admin != "" {
		readers(admin)
		return
	}
	ats.Register() // before any bubble: the store's clock would be of the first
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}
