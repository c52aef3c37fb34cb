package store

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/cmd/bellhop/config"
	"bellhop/cmd/bellhop/store/storetest"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func opened(t *testing.T, c config.Config) *Store {
	t.Helper()
	s, err := Open(t.Context(), c, quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q lacks %q", err, w)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("error %q is longer than a line", err)
	}
}

func wantMode(t *testing.T, path string, want os.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != want {
		t.Errorf("%s has mode %o, want %o", path, got, want)
	}
}

func TestStoreSurvivesRestart(t *testing.T) {
	for _, sync := range []config.SyncInterval{0, config.SyncInterval(24 * time.Hour)} {
		dir := filepath.Join(t.TempDir(), "a", "data")
		c := storetest.Config(dir)
		c.Store.Sync = sync
		st := opened(t, c)
		wantMode(t, dir, 0o700)
		if addr := st.Conn().ConnectedAddr(); strings.Contains(addr, ":") {
			t.Errorf("the embedded server is reached at %s, want a pipe", addr)
		}
		kv, err := st.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "test"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := kv.PutString(t.Context(), "k", "v"); err != nil {
			t.Fatal(err)
		}
		st.Close()
		st.Close() // again is nothing

		st = opened(t, c)
		kv, err = st.KeyValue(t.Context(), "test")
		if err != nil {
			t.Fatal(err)
		}
		if e, err := kv.Get(t.Context(), "k"); err != nil || string(e.Value()) != "v" {
			t.Errorf("after a restart, with sync %v: %v, %v", sync, e, err)
		}
	}
}

func TestStoreAllowsOneProcess(t *testing.T) {
	dir := t.TempDir()
	st := opened(t, storetest.Config(dir))
	_, err := Open(t.Context(), storetest.Config(dir), quiet())
	wantError(t, err, dir, "in use by another bellhop")
	st.Close()
	opened(t, storetest.Config(dir))
}

func TestStoreDirMustBeDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), storetest.Config(file), quiet())
	wantError(t, err, file)
}

func TestReportsStoreStartFailure(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "jetstream"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), storetest.Config(dir), quiet())
	wantError(t, err, dir, "JetStream")
}

func TestUsesExternalStore(t *testing.T) {
	srv := storetest.StartServer(t, &server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir()})

	// Two nodes, each with a directory of its own, share one key.
	var keys [2][]byte
	for i := range keys {
		c := storetest.Config(t.TempDir())
		c.Store.NATS = []config.NATSURL{config.NATSURL(srv.ClientURL())}
		st := opened(t, c)
		keys[i] = must[[]byte](t)(st.SharedKey(t.Context()))
	}
	if !bytes.Equal(keys[0], keys[1]) {
		t.Error("two nodes of one store have different keys")
	}
}

func TestReportsExternalStoreDown(t *testing.T) {
	addr := storetest.Loopback() + ":4222"
	c := storetest.Config(t.TempDir())
	c.Store.NATS = []config.NATSURL{config.NATSURL("nats://me:password@" + addr)}
	_, err := Open(t.Context(), c, quiet())
	wantError(t, err, addr)
	if strings.Contains(err.Error(), "password") {
		t.Errorf("error %q shows the password", err)
	}
}

func TestKeyIsStoredTwice(t *testing.T) {
	c := storetest.Config(t.TempDir())
	path := filepath.Join(c.Store.Dir, "key")
	st := opened(t, c)
	first, err := st.SharedKey(t.Context())
	if err != nil || len(first) != keySize {
		t.Fatalf("key %x, %v", first, err)
	}
	wantMode(t, path, 0o600)
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, first) {
		t.Errorf("the file has %x, %v; want %x", b, err, first)
	}

	same := func(when string) {
		t.Helper()
		if got, err := st.SharedKey(t.Context()); err != nil || !bytes.Equal(got, first) {
			t.Errorf("%s: %x, %v; want %x", when, got, err, first)
		}
	}
	same("again")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	same("without the file")
	same("with the file restored")
	if err := st.DeleteKeyValue(t.Context(), "bellhop_keys"); err != nil {
		t.Fatal(err)
	}
	same("without the store's")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	same("with the store's restored")
}

func TestKeyIsNeverReplaced(t *testing.T) {
	c := storetest.Config(t.TempDir())
	path := filepath.Join(c.Store.Dir, "key")
	st := opened(t, c)
	if _, err := st.SharedKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		spoil func() error
		want  string
	}{
		{"key of another store", func() error { return os.WriteFile(path, make([]byte, keySize), 0o600) }, "differs from the store's key"},
		{"key too short", func() error { return os.WriteFile(path, make([]byte, keySize-1), 0o600) }, "31 bytes"},
		{"key file empty", func() error { return os.WriteFile(path, nil, 0o600) }, "0 bytes"},
		{"open to others", func() error { return os.Chmod(path, 0o644) }, "accessible to other users"},
		{"key path is a directory", func() error { return os.Remove(path) }, "directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.spoil(); err != nil {
				t.Fatal(err)
			}
			if tt.name == "key path is a directory" {
				if err := os.Mkdir(path, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			before, _ := os.ReadFile(path)
			_, err := st.SharedKey(t.Context())
			wantError(t, err, path, tt.want)
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Error("the file was changed")
			}
		})
	}
}

func TestCreatesAdminTokenOnce(t *testing.T) {
	s := &Store{config: storetest.Config(t.TempDir())}
	path := s.filePath("admin.token")
	first, created, err := s.AdminToken()
	if err != nil || !created || !strings.HasPrefix(first, "bellhop_") || len(first) < len("bellhop_")+52 {
		t.Fatalf("%q, %v, %v", first, created, err)
	}
	wantMode(t, path, 0o600)
	if again, created, err := s.AdminToken(); err != nil || created || again != first {
		t.Errorf("again: %q, %v, %v; want %q", again, created, err, first)
	}

	s.config.Admin.Token = "configured"
	if got, created, err := s.AdminToken(); err != nil || created || got != "configured" {
		t.Errorf("configured: %q, %v, %v", got, created, err)
	}
	s.config.Admin.Token = ""

	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	_, _, err = s.AdminToken()
	wantError(t, err, path, "accessible to other users")
	if err := os.WriteFile(path, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err = s.AdminToken()
	wantError(t, err, path, "empty")
}
