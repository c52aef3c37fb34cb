package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/cmd/bellhop/config"
)

// TestLostKeyIsNotReplaced checks that a key is created only for a store without data:
// another key would cut off every live call and registration.
func TestLostKeyIsNotReplaced(t *testing.T) {
	for _, tt := range []struct {
		name    string
		data    func(config.Config, jetstream.JetStream) error
		refused bool
	}{
		{"a store without data", func(config.Config, jetstream.JetStream) error { return nil }, false},
		{"a node name is left", func(c config.Config, _ jetstream.JetStream) error { _, err := nodeName(c); return err }, true},
		{"a stream is left", func(_ config.Config, js jetstream.JetStream) error {
			_, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "bellhop_subscriptions"})
			return err
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := storeConfig(t.TempDir())
			path := filepath.Join(c.Store.Dir, "key")
			js, _ := opened(t, c)
			if _, err := sharedKey(t.Context(), js, c); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(tt.data(c, js), os.Remove(path)); err != nil {
				t.Fatal(err)
			}
			if _, err := sharedKey(t.Context(), js, c); err != nil {
				t.Errorf("with the store's: %v", err)
			}
			if err := errors.Join(os.Remove(path), js.DeleteKeyValue(t.Context(), "bellhop_keys")); err != nil {
				t.Fatal(err)
			}
			key, err := sharedKey(t.Context(), js, c)
			if !tt.refused {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantError(t, err, path, "missing", "backup")
			if _, err := os.Stat(path); key != nil || !errors.Is(err, fs.ErrNotExist) {
				t.Error("a key was made")
			}
		})
	}
}
