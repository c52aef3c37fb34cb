package page

import (
	"bytes"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"bellhop/dialog"
)

func TestFormatDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                              "0 ms",
		999 * time.Millisecond:         "999 ms",
		time.Second:                    "1.0 s",
		15100 * time.Millisecond:       "15.1 s",
		time.Minute:                    "0:01:00",
		25*time.Hour + 61*time.Second:  "25:01:01",
		59*time.Minute + 1*time.Second: "0:59:01",
	} {
		if got := formatDuration(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

// A changed file has another path, so that files may be cached for good.
func TestStaticFilesAreCachedByHash(t *testing.T) {
	for name := range assetTags {
		w := httptest.NewRecorder()
		Static().ServeHTTP(w, httptest.NewRequest("GET", assetPath(name), nil))
		if want, _ := files.ReadFile("static/" + name); w.Code != 200 || !bytes.Equal(w.Body.Bytes(), want) {
			t.Errorf("%s: %d", name, w.Code)
		}
		for _, path := range []string{"/static/" + name, "/static/" + name + "?v=other"} {
			w := httptest.NewRecorder()
			Static().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
			if w.Code != 200 || w.Header().Get("Cache-Control") != "" {
				t.Errorf("%s: %d, Cache-Control %q", path, w.Code, w.Header().Get("Cache-Control"))
			}
		}
	}
}

// A page contains no character that changes the direction of text, whatever its source.
func TestPageReplacesSteeringCharacters(t *testing.T) {
	const steering = "\x1b\u009b\u061c\u200e\u202e\u2066\u2069\u2028"
	html := Whole("refused", View{Title: "a" + steering, Who: Viewer{Name: steering}, Data: "b" + steering})
	if !bytes.Contains(html, []byte("b\uFFFD")) {
		t.Errorf("the text is missing: %s", html)
	}
	for _, r := range string(html) {
		if dialog.IsControl(r) && r != '\n' && r != '\t' {
			t.Errorf("%U is on the page", r)
		}
	}
}

func TestTruncateText(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "",
		strings.Repeat("ë", maxShownRunes):   strings.Repeat("ë", maxShownRunes),
		strings.Repeat("ë", maxShownRunes+1): strings.Repeat("ë", maxShownRunes) + "…",
	} {
		if got := truncateText(text); got != want {
			t.Errorf("%d bytes become %d", len(text), len(got))
		}
	}
}
