package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/cmd/bellhop/store/storetest"
)

// TestLostKeyIsNotReplaced checks that a key is created only for a store without data:
// another key would cut off every live call and registration.
func TestLostKeyIsNotReplaced(t *testing.T) {
	for _, tt := range []struct {
		name    string
		data    func(*Store) error
		refused bool
	}{
		{"a store without data", func(*Store) error { return nil }, false},
		{"a node name is left", func(s *Store) error { _, err := s.NodeName(); return err }, true},
		{"a stream is left", func(s *Store) error {
			_, err := s.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "bellhop_subscriptions"})
			return err
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := storetest.Config(t.TempDir())
			path := filepath.Join(c.Store.Dir, "key")
			st := opened(t, c)
			if _, err := st.SharedKey(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(tt.data(st), os.Remove(path)); err != nil {
				t.Fatal(err)
			}
			if _, err := st.SharedKey(t.Context()); err != nil {
				t.Errorf("with the store's: %v", err)
			}
			if err := errors.Join(os.Remove(path), st.DeleteKeyValue(t.Context(), "bellhop_keys")); err != nil {
				t.Fatal(err)
			}
			key, err := st.SharedKey(t.Context())
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
