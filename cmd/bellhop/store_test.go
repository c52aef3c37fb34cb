package main

import (
	"io"
	"log/slog"
	"testing"

	"bellhop/cmd/bellhop/config"
	"bellhop/cmd/bellhop/store"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// opened returns the open store of c, which the end of the test closes.
func opened(t *testing.T, c config.Config) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), c, quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
