package main

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server/ats"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	ats.Register() // before any bubble: the store's clock would be of the first
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}
