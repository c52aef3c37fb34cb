package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/cmd/bellhop/config"
)

const keySize = 32

// SharedKey returns the key that authenticates routes. The key is the same in all nodes
// and after every restart. It is stored in the file key of store.dir and in the bucket
// bellhop_keys. A missing copy is restored from the other. If both are missing, a key
// is created.
//
// SharedKey returns an error if the two copies differ, if the file has a wrong length,
// or if other users can access it, because a wrong key would cut off every live call.
// It also returns an error if both copies are missing but the store has data, because
// live calls and registrations use the lost key.
func (s *Store) SharedKey(ctx context.Context) ([]byte, error) {
	path := s.filePath("key")
	key, err := readKey(path)
	if err != nil {
		return nil, err
	}
	missing := key == nil
	if missing {
		key = make([]byte, keySize)
		rand.Read(key)
	}

	bucket, err := s.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket:      "bellhop_keys",
		Description: "secrets that all nodes share",
		Replicas:    s.config.Store.Replicas,
	})
	if err != nil {
		return nil, fmt.Errorf("read key from bucket bellhop_keys: %w", err)
	}
	if missing {
		if err := s.refuseNewKey(ctx, bucket); err != nil {
			return nil, err
		}
	}
	_, err = bucket.Create(ctx, "sip", key)
	if errors.Is(err, jetstream.ErrKeyExists) {
		var kept jetstream.KeyValueEntry
		if kept, err = bucket.Get(ctx, "sip"); err == nil {
			switch {
			case len(kept.Value()) != keySize:
				return nil, fmt.Errorf("read key from bucket bellhop_keys: %d bytes instead of %d", len(kept.Value()), keySize)
			case missing:
				key = kept.Value()
			case !bytes.Equal(key, kept.Value()):
				return nil, errWrongKey(path)
			}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read key from bucket bellhop_keys: %w", err)
	}
	if missing {
		if err := writePrivate(path, key); err != nil {
			return nil, fmt.Errorf("read or write key: %w", err)
		}
	}
	return key, nil
}

// refuseNewKey returns an error if the store has data but no key. It looks for data
// before it looks for the key. Another node that starts at the same time creates the
// key before any data. So if the data of that node is found, its key is found too.
func (s *Store) refuseNewKey(ctx context.Context, keys jetstream.KeyValue) error {
	_, err := os.Stat(s.filePath("node"))
	data := err == nil
	names := s.StreamNames(ctx)
	for name := range names.Name() {
		data = data || isOwnStream(name) && name != "KV_bellhop_keys"
	}
	if err := names.Err(); err != nil {
		return fmt.Errorf("look for data of a lost key: %w", err)
	}
	if !data {
		return nil
	}
	_, err = keys.Get(ctx, "sip")
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return errNoKey(s.filePath("key"))
	}
	return nil // it exists, or the next access returns the error
}

// readKey reads the file of the key. It returns nil if there is none.
func readKey(path string) ([]byte, error) {
	key, err := config.ReadPrivate(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read or write key: %w", err)
	case len(key) != keySize:
		return nil, fmt.Errorf("read key %s: %d bytes instead of %d: restore the file from a backup or another node; remove it only if all live calls and registrations may be lost", path, len(key), keySize)
	}
	return key, nil
}

// errWrongKey is the error for a key file that differs from the store's key.
func errWrongKey(path string) error {
	return fmt.Errorf("read key %s: it differs from the store's key: this directory belongs to another store: set store.dir and store.nats as they were, or remove the file to use the store's key", path)
}

// errNoKey is the error for data without any copy of the key.
func errNoKey(path string) error {
	return fmt.Errorf("read key %s: the file is missing and the store has data but no copy of the key: restore the file from a backup or another node; only if all live calls and registrations may be lost, create another: head -c %d /dev/urandom > %[1]s && chmod 600 %[1]s", path, keySize)
}
