package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/lmittmann/tint"
	"golang.org/x/term"

	"bellhop/cmd/bellhop/config"
	"bellhop/dialog"
)

// newLogger returns a logger that writes records of level and above to w. It writes
// JSON if format is json, or else text, in color if w is a terminal. The level may be
// changed in use.
func newLogger(w io.Writer, format config.LogFormat, level *slog.LevelVar) *slog.Logger {
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: escapeAttr}))
	}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return slog.New(tint.NewTextHandler(w, &tint.Options{Level: level, ReplaceAttr: escapeAttr}))
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: escapeAttr}))
}

// escapeAttr escapes the characters of an attribute that would control a terminal or
// change the direction of text (see [dialog.ReplaceControls]), because the text may
// come from the network. All handlers escape line feeds and tabs themselves.
func escapeAttr(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.MessageKey { // tint does not escape the message
		a.Value = slog.StringValue(dialog.ReplaceUnprintable(a.Value.String(), '\uFFFD'))
	}
	switch a.Value.Kind() {
	case slog.KindString:
		if text := a.Value.String(); !isPrintable(text) {
			a.Value = slog.StringValue(dialog.ReplaceControls(text))
		}
	case slog.KindAny:
		if text := fmt.Sprintf("%+v", a.Value.Any()); !isPrintable(text) {
			a.Value = slog.StringValue(dialog.ReplaceControls(text))
		}
	}
	if !isPrintable(a.Key) {
		a.Key = dialog.ReplaceControls(a.Key)
	}
	return a
}

// isPrintable reports whether text needs no escaping.
func isPrintable(text string) bool { return dialog.ReplaceControls(text) == text }
