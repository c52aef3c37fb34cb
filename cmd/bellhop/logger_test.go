package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"github.com/lmittmann/tint"

	"bellhop/cmd/bellhop/config"
	"bellhop/dialog"
)

func TestLoggerFormats(t *testing.T) {
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

// steering has a character of each kind that controls a terminal or changes the
// direction of text.
const steering = "\x1b\u0007\u007f\u009b\u061c\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069"

// wantHarmless fails the test if text has control characters other than line feeds, tabs
// and, in color, the logger's own.
func wantHarmless(t *testing.T, what, text string) {
	t.Helper()
	for _, r := range text {
		if dialog.IsControl(r) && r != '\n' && r != '\t' {
			t.Errorf("%s has %U: %q", what, r, text)
			return
		}
	}
}

// TestLogEscapesControls logs control characters in message, keys and values.
func TestLogEscapesControls(t *testing.T) {
	var level slog.LevelVar
	evil := "evil" + steering + "\r\nlevel=ERROR"
	log := func(l *slog.Logger) {
		l.Info("message", "text", evil, "err", errors.New(evil), "any", []string{evil}, "stack", "a\n\tb", evil, 1)
		l.With("with", evil).WithGroup("group").Info(evil, "text", evil, slog.Group("inner", "err", fmt.Errorf("in: %w", errors.New(evil))))
	}
	for _, format := range []config.LogFormat{"json", "text"} {
		var out bytes.Buffer
		log(newLogger(&out, format, &level))
		wantHarmless(t, string(format), out.String())
		if n := strings.Count(out.String(), "\n"); n != 2 || strings.Count(out.String(), "evil") != 8 {
			t.Errorf("%s: %d lines: %q", format, n, out.String())
		}
	}
	var out bytes.Buffer
	log(slog.New(tint.NewTextHandler(&out, &tint.Options{Level: &level, ReplaceAttr: escapeAttr})))
	colored := regexp.MustCompile(`\x1b\[[0-9;]*m`).ReplaceAllString(out.String(), "")
	wantHarmless(t, "tint", colored)
	if n := strings.Count(colored, "\n"); n != 2 {
		t.Errorf("tint: %d lines: %q", n, colored)
	}
}
