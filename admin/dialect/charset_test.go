package dialect

import "testing"

func TestDecodesWindows1251(t *testing.T) {
	if len(upper1251) != 128 || string(decodeWindows1251([]byte("\xa8\xb9\xc0\xef\xff\x98x"))) != "Ё№Апя\uFFFDx" {
		t.Fatalf("%d characters, %q", len(upper1251), decodeWindows1251([]byte("\xa8\xb9\xc0\xef\xff\x98x")))
	}
}
