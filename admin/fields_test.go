package admin

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	v1 "bellhop/admin/v1"
	"bellhop/dialog"
)

// The field names of callbacks in dialect json, all of which the golden file has, are
// those of the API's events.
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
	for f := range reflect.TypeFor[v1.Event]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		api = append(api, name)
	}
	// A callback has timestamp beside its data.
	onlyAPI := []string{"timestamp"}
	for _, name := range callbacks {
		if !slices.Contains(api, name) {
			t.Errorf("the API does not have %s", name)
		}
	}
	for _, name := range api {
		if !slices.Contains(callbacks, name) && !slices.Contains(onlyAPI, name) {
			t.Errorf("callbacks do not have %s", name)
		}
	}
}

// An event has the numbers of its extensions as soon as these are allotted. Reading it
// allots none.
func TestEventsHaveNumbers(t *testing.T) {
	r := newRig(t, Config{})
	e := event(1, "101")
	e.CallerExtension, e.CalledExtension = &dialog.Extension{User: "101"}, &dialog.Extension{User: "102", Domain: "pbx.example"}
	r.publishEvents(e)
	want := func(caller, called any) {
		t.Helper()
		got := r.want(200, "GET", "/v1/events", nil)["items"].([]any)[0].(object)
		if got["caller_extension_id"] != caller || got["called_extension_id"] != called {
			t.Errorf("the numbers are %v and %v, want %v and %v", got["caller_extension_id"], got["called_extension_id"], caller, called)
		}
	}
	want(nil, nil)
	if all, err := r.notifier.Numbers.All(t.Context()); len(all) != 0 || err != nil {
		t.Fatal(all, err)
	}
	called, err := r.notifier.Numbers.Allot(t.Context(), "102")
	if err != nil {
		t.Fatal(err)
	}
	want(nil, float64(called))
	caller, err := r.notifier.Numbers.Allot(t.Context(), "101")
	if err != nil {
		t.Fatal(err)
	}
	want(float64(caller), float64(called))
	f := r.follow("?since=2020-01-01T00:00:00Z")
	if b := f.next(); b.data["caller_extension_id"] != float64(caller) || b.data["called_extension_id"] != float64(called) {
		t.Errorf("the stream has %v", b.data)
	}
}

// An event shows each configured header field once, with its last value, even if that is
// empty.
func TestEventsHaveEachHeaderOnce(t *testing.T) {
	r := newRig(t, Config{})
	e := event(1, "101")
	e.Headers = [][2]string{{"X-A", "1"}, {"X-Empty", ""}, {"X-A", "2"}}
	r.publishEvents(e)
	_, body := r.raw("GET", "/v1/events", nil)
	headers := regexp.MustCompile(`"headers":\{[^}]*\}`).FindString(body)
	if want := `"headers":{"X-Empty":"","X-A":"2"}`; headers != want {
		t.Errorf("got %s, want %s", headers, want)
	}
}
