package ops

import (
	"strings"
	"testing"

	"bellhop/admin/access"
)

func TestProgramSizeEstimate(t *testing.T) {
	for expr, tooMuch := range map[string]bool{
		"":                              false,
		".*":                            false,
		"1[0-9]{2}":                     false,
		"(101|102|103)@pbx[.]example":   false,
		strings.Repeat("1234567|", 100): false,
		"[0-9]{1000}":                   false,
		"(a{30}){30}":                   false,
		"(a{100}){100}":                 false, // also malformed
		"(ab?c*d){1000}":                true,
		"(ab?c*){400}(ab?c*){400}":      true,
		`\pL{1000}`:                     true,
		"(":                             false, // refused as malformed
	} {
		if size := ProgramSize(expr); size > maxProgramSize != tooMuch {
			t.Errorf("%s has %d instructions", expr, size)
		}
	}
}

// The tests of a token end, and leave nothing behind.
func TestTestsAreCounted(t *testing.T) {
	var tests testLimiter
	ctx := access.WithClient(t.Context(), &access.Client{ID: "a"})
	var ends []func()
	for range MaxTestsPerToken {
		end, err := tests.startTest(ctx)
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, end)
	}
	if _, err := tests.startTest(ctx); KindOf(err) != Busy {
		t.Errorf("one too many: %v", err)
	}
	if _, err := tests.startTest(access.WithClient(t.Context(), &access.Client{ID: access.ConfigID})); err != nil {
		t.Errorf("the token of the config: %v", err)
	}
	for _, end := range ends {
		end()
	}
	if len(tests.running) != 0 {
		t.Errorf("%v are in progress", tests.running)
	}
}
