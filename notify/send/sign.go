package send

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// A Signer signs the requests of one subscription by the Standard Webhooks specification.
// Any number of goroutines may use it.
type Signer struct {
	keys  []*macPool // one, or the new one and the old one
	until time.Time  // when the old key stops signing; zero: never
}

// NewSigner returns a Signer for a key. After a rotation, old is the previous key, which
// also signs until the time until, or without limit if that is zero. A nil old means that
// there is none.
func NewSigner(key, old []byte, until time.Time) *Signer {
	s := &Signer{keys: []*macPool{newMACPool(key)}, until: until}
	if old != nil {
		s.keys = append(s.keys, newMACPool(old))
	}
	return s
}

// A macPool holds unused HMACs of a key, because creating one costs more than signing
// with it.
type macPool struct{ sync.Pool }

// newMACPool returns the pool of a key.
func newMACPool(key []byte) *macPool {
	return &macPool{sync.Pool{New: func() any { return hmac.New(sha256.New, key) }}}
}

// appendSignature appends the signature of content to dst.
func (m *macPool) appendSignature(dst, content []byte) []byte {
	mac := m.Get().(hash.Hash)
	mac.Reset()
	mac.Write(content)
	at := len(dst)
	dst = mac.Sum(dst)
	m.Put(mac)
	var sum [sha256.Size]byte
	copy(sum[:], dst[at:])
	return base64.StdEncoding.AppendEncode(append(dst[:at], "v1,"...), sum[:])
}

// signBuffers are buffers for the signed content.
var signBuffers = sync.Pool{New: func() any { return new([]byte) }}

// sign adds the timestamp and the signatures to a request that is otherwise complete. The
// signed payload is the body, or the query of a GET.
func (r *Request) sign(now time.Time) {
	timestamp := strconv.FormatInt(now.Unix(), 10)
	r.Header["Webhook-Timestamp"] = []string{timestamp}
	if r.Signer == nil {
		return
	}
	buffer := signBuffers.Get().(*[]byte)
	b := append((*buffer)[:0], r.Header["Webhook-Id"][0]...)
	b = append(append(append(b, '.'), timestamp...), '.')
	if r.Method == http.MethodGet {
		b = append(b, r.URL.RawQuery...)
	} else {
		b = append(b, r.Body...)
	}
	signed := len(b)
	for i, key := range r.Signer.keys {
		if i > 0 {
			if until := r.Signer.until; !until.IsZero() && !now.Before(until) {
				break
			}
			b = append(b, ' ')
		}
		b = key.appendSignature(b, b[:signed])
	}
	r.Header["Webhook-Signature"] = []string{string(b[signed:])}
	*buffer = b
	signBuffers.Put(buffer)
}
