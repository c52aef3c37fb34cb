package store

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/cmd/bellhop/store/storetest"
)

// TestMigrationNeedsTheKey rejects an embedded store whose key is missing, damaged or
// that of another store. Nothing is changed, so that an older build still starts with
// it.
func TestMigrationNeedsTheKey(t *testing.T) {
	write := func(b []byte) func(string) error {
		return func(path string) error { return os.WriteFile(path, b, 0o600) }
	}
	for _, tt := range []struct {
		name  string
		spoil func(path string) error
		lost  bool // the copy in the store too
		want  string
	}{
		{"of another store", write(make([]byte, keySize)), false, "differs from the store's key"},
		{"cut off", write(make([]byte, keySize/2)), false, "16 bytes"},
		{"open to others", func(path string) error { return os.Chmod(path, 0o640) }, false, "accessible to other users"},
		{"lost with its copy", os.Remove, true, "has data but no copy"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := readOlder(t, "378cfc6-all")
			dir := storetest.Older(t, "378cfc6-all")
			if tt.lost {
				delete(want, olderStreams[0].newName)
				if err := os.RemoveAll(filepath.Join(dir, streamsFolder, keyStream)); err != nil {
					t.Fatal(err)
				}
			}
			path := filepath.Join(dir, "key")
			if err := tt.spoil(path); err != nil {
				t.Fatal(err)
			}
			st, err := Open(t.Context(), storetest.Config(dir), quiet())
			if err == nil {
				st.Close()
			}
			wantError(t, err, path, tt.want)
			g, stop := embedded(t, dir)
			defer stop()
			if got := dumpOlder(t, g.js); !maps.EqualFunc(got, want, slices.Equal) {
				t.Errorf("the store has %v, want %v", got, want)
			}
			for _, f := range olderStreams {
				if now, err := streamInfo(t.Context(), g.js, f.newName); err != nil || now != nil {
					t.Errorf("%s is there: %v", f.newName, err)
				}
			}
		})
	}
}

// TestMigrationNeedsOneCopyOfKey migrates with the key file only, or with its copy in
// the store only.
func TestMigrationNeedsOneCopyOfKey(t *testing.T) {
	for _, lost := range []string{"key", filepath.Join(streamsFolder, keyStream)} {
		t.Run(lost, func(t *testing.T) {
			dir := storetest.Older(t, "378cfc6-all")
			want := must[[]byte](t)(os.ReadFile(filepath.Join(dir, "key")))
			if err := os.RemoveAll(filepath.Join(dir, lost)); err != nil {
				t.Fatal(err)
			}
			c := storetest.Config(dir)
			st := opened(t, c)
			if key, err := st.SharedKey(t.Context()); err != nil || !slices.Equal(key, want) {
				t.Errorf("the key is another: %v", err)
			}
		})
	}
}

// TestMigrationChecksFreeSpace checks the size that all copies need together before the
// first one starts. Finished copies need nothing.
func TestMigrationChecksFreeSpace(t *testing.T) {
	g, stop := embedded(t, storetest.Older(t, "378cfc6-all"))
	defer stop()
	var sizes, biggest uint64
	for _, f := range olderStreams {
		if old := must[*jetstream.StreamInfo](t)(streamInfo(t.Context(), g.js, f.name)); old != nil {
			sizes += old.State.Bytes
			biggest = max(biggest, old.State.Bytes)
		}
	}
	size, err := g.copySize(t.Context())
	if err != nil || size < sizes || size > 2*sizes || sizes == biggest {
		t.Errorf("the copies need %d bytes, %v; the streams have %d", size, err, sizes)
	}
	stopped := errors.New("stopped")
	func() {
		defer func() {
			if v := recover(); v != nil && v != any(stopped) {
				panic(v)
			}
		}()
		g.between = func(step string) {
			if step == "seal KV_keys" { // all is copied
				panic(stopped)
			}
		}
		g.run(t.Context())
	}()
	if size, err := g.copySize(t.Context()); err != nil || size > sizes/10 {
		t.Errorf("once all is copied the copies need %d bytes more, %v", size, err)
	}
}
