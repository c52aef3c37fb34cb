// Package storetest provides stores for tests: new ones, copies of running ones, and
// those that older builds have written. It also starts NATS servers.
package storetest

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"bellhop/cmd/bellhop/config"
)

// Config returns the defaults with a store in dir. The store does not sync during a
// test: nats-server sets the sync timer without its lock, which the race detector
// reports if the timer fires before the stream is first used.
func Config(dir string) config.Config {
	c := config.Default()
	c.Store.Dir = dir
	c.Store.Sync = config.SyncInterval(24 * time.Hour)
	return c
}

// OlderBuilds are builds with a store in testdata/stores that has all kinds of data.
var OlderBuilds = []string{"d9dd3e8", "378cfc6-all"}

// Older returns the directory of a copy of the store of an older build. The other files
// of the build's archive in testdata/stores are beside that directory.
func Older(t *testing.T, build string) (dir string) {
	t.Helper()
	root := "."
	for _, err := os.Stat("go.mod"); err != nil; _, err = os.Stat(filepath.Join(root, "go.mod")) {
		root = filepath.Join(root, "..")
	}
	dir = t.TempDir()
	unpack(t, filepath.Join(root, "testdata/stores", build+".tgz"), dir)
	return filepath.Join(dir, "data")
}

// Copy copies the directory of a running store, as it would be after a kill. If the
// server removes a file meanwhile, Copy starts again. The server deletes the files of a
// deleted stream in the background.
func Copy(to, from string) error {
	err := fs.ErrNotExist
	for tries := 0; errors.Is(err, fs.ErrNotExist) && tries < 1000; tries++ {
		if err = os.RemoveAll(to); err == nil {
			err = os.CopyFS(to, os.DirFS(from))
		}
	}
	if err != nil {
		return err
	}
	return filepath.WalkDir(to, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		return os.Chmod(path, 0o600) // CopyFS opens files to all
	})
}

// StartServer starts a NATS server in this process, without a log. It ends with the test,
// or at Shutdown.
func StartServer(t *testing.T, o *server.Options) *server.Server {
	t.Helper()
	o.NoLog, o.NoSigs = true, true
	srv, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(5 * time.Minute) { // a busy machine is slow
		t.Fatal("the NATS server does not start")
	}
	return srv
}

// Loopback returns an address of this machine at which no other test listens.
func Loopback() string {
	return fmt.Sprintf("127.%d.%d.%d", 1+rand.N(254), rand.N(256), 1+rand.N(254))
}

// unpack unpacks a gzipped tar archive into a directory.
func unpack(t *testing.T, archive, dir string) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		head, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.FromSlash(head.Name))
		if head.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o700)
		} else {
			var b []byte
			if b, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(path, b, 0o600)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
