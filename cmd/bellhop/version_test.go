package main

import (
	"regexp"
	"strings"
	"testing"
)

// TestChangelogStartsWithVersion checks that the first release in CHANGELOG.md is the
// version that bellhop prints.
func TestChangelogStartsWithVersion(t *testing.T) {
	first := regexp.MustCompile(`(?m)^## \[?([^\]\s]+)`).FindStringSubmatch(readRepository(t, "CHANGELOG.md"))
	if first == nil || first[1] != version {
		t.Errorf("CHANGELOG.md starts with %q, want %s", first, version)
	}
	if got := buildVersion(); got != version && !strings.HasPrefix(got, version+"+") {
		t.Errorf("the version is %s, want %s with or without a revision", got, version)
	}
}
