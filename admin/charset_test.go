package admin

import (
	"strings"
	"testing"
)

// encode1251 returns text in windows-1251.
func encode1251(text string) string {
	others := map[rune]byte{'Ё': 0xA8, 'ё': 0xB8, '№': 0xB9, '—': 0x97, '«': 0xAB, '»': 0xBB}
	var b strings.Builder
	for _, c := range text {
		switch other, ok := others[c]; {
		case ok:
			b.WriteByte(other)
		case c >= 'А' && c <= 'я':
			b.WriteByte(byte(0xC0 + c - 'А'))
		default:
			b.WriteByte(byte(c))
		}
	}
	return b.String()
}

func TestDecodesWindows1251Bodies(t *testing.T) {
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
