package main

import (
	"testing"
	"testing/synctest"
)

// What reads a store in one bubble of synctest leaves nothing behind that ends the
// process when another reads its own, as a pooled timer would.
func TestStoresOfSeveralBubbles(t *testing.T) {
	for range 4 {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			js, _, closeStore, err := openStore(t.Context(), storeConfig(dir), quiet())
			if err != nil {
				t.Fatal(err)
			}
			defer closeStore()
			for range 100 {
				if _, err := lastSequence(t.Context(), js, "bellhop_events"); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
