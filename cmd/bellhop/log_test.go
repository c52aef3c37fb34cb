package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
)

func TestLogger(t *testing.T) {
	var level slog.LevelVar
	var out bytes.Buffer
	log := newLogger(&out, "json", &level)
	log.Debug("hidden")
	level.Set(slog.LevelDebug)
	log.Debug("shown", "call", "c1")
	var line struct{ Level, Msg, Call string }
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line.Level != "DEBUG" || line.Msg != "shown" || line.Call != "c1" {
		t.Errorf("json: %q, %v", out.String(), err)
	}

	out.Reset()
	newLogger(&out, "text", &level).Info("shown", "call", "c1")
	if s := out.String(); !strings.Contains(s, `level=INFO msg=shown call=c1`) {
		t.Errorf("text, not on a terminal: %q", s)
	}
}
