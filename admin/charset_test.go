package admin

import (
	"strings"
	"testing"
)

// encode1251 returns text in windows-1251.
func encode1251(text string) string {
	var b strings.Builder
	for _, c := range text {
		if c < 0x80 {
			b.WriteByte(byte(c))
			continue
		}
		for i, upper := range upper1251 {
			if upper == c {
				b.WriteByte(byte(0x80 + i))
			}
		}
	}
	return b.String()
}

func TestDecodesWindows1251Bodies(t *testing.T) {
	if len(upper1251) != 128 || string(decodeWindows1251([]byte("\xa8\xb9\xc0\xef\xff\x98x"))) != "Ё№Апя\uFFFDx" {
		t.Fatalf("%d characters, %q", len(upper1251), decodeWindows1251([]byte("\xa8\xb9\xc0\xef\xff\x98x")))
	}
	r := newRig(t, Config{})
	const address, note = "http://crm.example/hook?who=%DE", "звонок № 7 — «Ёж»"
	for header, is1251 := range map[string]bool{
		"application/json; charset=windows-1251":  true,
		`application/json;charset="Windows-1251"`: true,
		"text/json; charset=cp1251; profile=x":    true,
		"application/json; charset=utf-8":         false,
		"application/json":                        false,
		"application/json; charset":               false,
	} {
		write := func(s string) string { return s }
		if is1251 {
			write = encode1251
		}
		out := r.want(201, "POST", "/extension/175/event/", write(`{"url":"`+address+`","event_type":"hangup","comment":"`+note+`"}`), "Content-Type", header)
		if out["url"] != address {
			t.Errorf("%s: %q", header, out["url"])
		}
		r.wantJSON(204, "", "DELETE", "/extension/175/event/", nil)
		out = r.want(200, "POST", "/uapi/extensions/@me/175/phoneCallEvents/2", write(`{"url":"http://crm.example/","note":"`+note+`"}`), "Content-Type", header)
		if got := out["PhoneCallEvent"].(object)["note"]; got != note {
			t.Errorf("%s: %q", header, got)
		}
		r.raw("DELETE", "/uapi/extensions/@me/175/phoneCallEvents/2", nil)
	}
}
