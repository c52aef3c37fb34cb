package notify

import (
	"testing"
	"testing/synctest"
)

// A node knows the numbers that were allotted before it started, and those that another
// node allots, without asking the store.
func TestKnownNumbers(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		other, err := Open(t.Context(), js, Config{})
		if err != nil {
			t.Fatal(err)
		}
		allot := func(user string) uint64 {
			id, err := other.Numbers.Allot(t.Context(), user)
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
		before := allot("0003*210")
		n, stop := startNotifier(t, js, Config{})
		defer stop()
		synctest.Wait()
		later := allot("102")
		synctest.Wait()
		for user, want := range map[string]uint64{"0003*210": before, "102": later, "103": 0} {
			if got := n.Numbers.Known(user); got != want {
				t.Errorf("%s has the number %d, want %d", user, got, want)
			}
		}
		if before == later {
			t.Errorf("both have the number %d", later)
		}
	})
}
