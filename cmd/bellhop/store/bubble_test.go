package store

import (
	"testing"
	"testing/synctest"

	"bellhop/cmd/bellhop/store/storetest"
)

// TestStoresOfSeveralBubbles opens stores in one synctest bubble after another. Reading
// one leaves nothing behind, such as a pooled timer, that ends the process when the next
// bubble uses it.
func TestStoresOfSeveralBubbles(t *testing.T) {
	for range 4 {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			st, err := Open(t.Context(), storetest.Config(dir), quiet())
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			for range 100 {
				if _, err := lastSequence(t.Context(), st, "bellhop_events"); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
