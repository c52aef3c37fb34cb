package main

import (
	"testing"
	"testing/synctest"
)

// TestStoresOfSeveralBubbles opens stores in one synctest bubble after another. Reading
// one leaves nothing behind, such as a pooled timer, that ends the process when the next
// bubble uses it.
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
