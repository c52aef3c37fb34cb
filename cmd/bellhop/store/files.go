package store

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"bellhop/cmd/bellhop/config"
)

// NodeName returns the name of this node among those that share the store. It is
// created at the first start and stored in the file node of store.dir.
func (s *Store) NodeName() (string, error) {
	path := s.filePath("node")
	b, err := config.ReadPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		b = []byte(rand.Text())
		err = writePrivate(path, b)
	}
	if err != nil {
		return "", fmt.Errorf("read or write node name: %w", err)
	}
	name := strings.TrimSpace(string(b))
	if name == "" || strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") != "" {
		return "", fmt.Errorf("read node name: %s does not hold a name that bellhop created: remove the file to create a new name, which loses the live calls", path)
	}
	return name, nil
}

// AdminToken returns the admin token of the config, or else the token in the file
// admin.token of store.dir. If neither exists, it creates a token and reports that it
// is created. The caller must then show the token to the operator.
func (s *Store) AdminToken() (token string, created bool, err error) {
	if s.config.Admin.Token != "" {
		return string(s.config.Admin.Token), false, nil
	}
	path := s.filePath("admin.token")
	b, err := config.ReadPrivate(path)
	switch token = strings.TrimSpace(string(b)); {
	case errors.Is(err, fs.ErrNotExist):
		token = "bellhop_" + rand.Text() + rand.Text()
		if err := writePrivate(path, []byte(token+"\n")); err != nil {
			return "", false, fmt.Errorf("read or write admin token: %w", err)
		}
		return token, true, nil
	case err != nil:
		return "", false, fmt.Errorf("read or write admin token: %w", err)
	case token == "":
		return "", false, fmt.Errorf("read admin token: %s is empty: remove the file to create a new token", path)
	}
	return token, false, nil
}

// writePrivate creates or replaces a file, with mode 0600. The file is on the disk when
// writePrivate returns. After an error or a crash, the file has either its complete old
// or its complete new content.
func writePrivate(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // of mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// readSealed reads a file that writeSealed has written, and decodes its JSON into v. It
// returns an error if the checksum is wrong.
func readSealed(path string, v any) error {
	b, err := config.ReadPrivate(path)
	if err != nil {
		return err
	}
	sum, body, _ := bytes.Cut(b, []byte("\n"))
	if want := sha256.Sum256(body); string(sum) != hex.EncodeToString(want[:]) {
		return fmt.Errorf("read %s: the file is damaged: wrong checksum", path)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// writeSealed writes a private file: a line with the SHA-256 checksum of body, and then
// body, which is JSON.
func writeSealed(path string, body []byte) error {
	sum := sha256.Sum256(body)
	return writePrivate(path, append([]byte(hex.EncodeToString(sum[:])+"\n"), body...))
}
