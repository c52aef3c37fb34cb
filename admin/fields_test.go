package admin

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestCallbacksAndAPIHaveTheSameFields holds the names in the callbacks of the dialect
// json, of which the golden file has every one, against those of the API's events.
func TestCallbacksAndAPIHaveTheSameFields(t *testing.T) {
	golden, err := os.ReadFile(filepath.Join("..", "testdata", "payloads", "json-post.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var callbacks []string
	for _, m := range regexp.MustCompile(`(?m)^    "([a-z0-9_]+)":`).FindAllSubmatch(golden, -1) {
		callbacks = append(callbacks, string(m[1]))
	}
	var api []string
	for f := range reflect.TypeFor[Event]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		api = append(api, name)
	}
	// The number of an extension is allotted when a callback needs it. The time as a
	// person reads it is beside the data of a callback.
	onlyCallbacks := []string{"called_extension_id", "caller_extension_id"}
	onlyAPI := []string{"timestamp"}
	for _, name := range callbacks {
		if !slices.Contains(api, name) && !slices.Contains(onlyCallbacks, name) {
			t.Errorf("the API does not have %s", name)
		}
	}
	for _, name := range api {
		if !slices.Contains(callbacks, name) && !slices.Contains(onlyAPI, name) {
			t.Errorf("callbacks do not have %s", name)
		}
	}
}
