package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestDemoPrintsEveryCallback runs the first command of a newcomer: it prints its calls and
// all of their callbacks, and no warning.
func TestDemoPrintsEveryCallback(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := runDemo(t.Context(), false, &out); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"102  hangup ANSWER ", "102  hangup BUSY ", "102  hangup CANCEL ", "14 callbacks expected, 14 received, in order for each extension."} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q", want)
		}
	}
	if strings.Contains(out.String(), "level=") {
		t.Error("a log record is among the output")
	}
	if t.Failed() {
		t.Log(out.String())
	}
}
