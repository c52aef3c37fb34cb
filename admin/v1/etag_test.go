package v1

import (
	"slices"
	"testing"
)

func TestIfMatchHasEntityTags(t *testing.T) {
	for _, tt := range []struct {
		ifMatch string
		want    []string
	}{
		{`"5"`, []string{"5"}}, {`5`, []string{"5"}}, {`"5","6"`, []string{"5", "6"}}, {` "5" , "6" `, []string{"5", "6"}},
		{`"a,5", "6"`, []string{"a,5", "6"}}, {`,"5",,`, []string{"5"}}, {`W/"5", "6"`, []string{`W/"5`, "6"}}, {`"5`, []string{"5"}}, {`""`, nil}, {`,`, nil},
	} {
		if got := entityTags(tt.ifMatch); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.ifMatch, got, tt.want)
		}
	}
}
