package dialect

import (
	"bytes"
	"mime"
	"net/http"
	"strings"

	"bellhop/admin/limit"
)

// DecodeCharset converts bodies declared as windows-1251 to UTF-8 for h.
func DecodeCharset(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if charset := strings.ToLower(params["charset"]); err == nil && (charset == "windows-1251" || charset == "cp1251") {
			r = limit.WithBody(r, decodeWindows1251(limit.Body(r)))
		}
		h.ServeHTTP(w, r)
	})
}

// upper1251 are the characters of the windows-1251 bytes from 0x80 on. 0x98 has none.
var upper1251 = []rune("ЂЃ‚ѓ„…†‡€‰Љ‹ЊЌЋЏђ‘’“”•–—\uFFFD™љ›њќћџ\u00A0ЎўЈ¤Ґ¦§Ё©Є«¬\u00AD®Ї°±Ііґµ¶·ё№є»јЅѕї" +
	"АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯабвгдежзийклмнопрстуфхцчшщъыьэюя")

// decodeWindows1251 converts a text from windows-1251 to UTF-8.
func decodeWindows1251(b []byte) []byte {
	var text bytes.Buffer
	for _, c := range b {
		if c < 0x80 {
			text.WriteByte(c)
		} else {
			text.WriteRune(upper1251[c-0x80])
		}
	}
	return text.Bytes()
}
