package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/lmittmann/tint"
	"golang.org/x/term"

	"bellhop/dialog"
)

// newLogger logs to w what is at level or above: as JSON if format says so,
// else for a person, in color when w is a terminal. The level may be set while
// it is in use.
func newLogger(w io.Writer, format logFormat, level *slog.LevelVar) *slog.Logger {
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: harmless}))
	}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return slog.New(tint.NewTextHandler(w, &tint.Options{Level: level, ReplaceAttr: harmless}))
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: harmless}))
}

// harmless takes out of an attribute what would steer a terminal or turn text
// around, see [dialog.ReplaceControls]: it may have come off the wire. Line feeds and
// tabs are escaped by all handlers.
func harmless(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.MessageKey { // tint escapes nothing in it
		a.Value = slog.StringValue(dialog.ReplaceUnprintable(a.Value.String(), '\uFFFD'))
	}
	switch a.Value.Kind() {
	case slog.KindString:
		if text := a.Value.String(); !isHarmless(text) {
			a.Value = slog.StringValue(dialog.ReplaceControls(text))
		}
	case slog.KindAny:
		if text := fmt.Sprintf("%+v", a.Value.Any()); !isHarmless(text) {
			a.Value = slog.StringValue(dialog.ReplaceControls(text))
		}
	}
	if !isHarmless(a.Key) {
		a.Key = dialog.ReplaceControls(a.Key)
	}
	return a
}

func isHarmless(text string) bool { return dialog.ReplaceControls(text) == text }
