// Package certs holds the certificates of TLS listeners and of TLS clients. It chooses one
// for each handshake, and reads the files anew when their contents change.
//
// Contents are compared, not times or names, because tools such as certbot swap symbolic
// links. A certificate or key that is wrong changes nothing: the last good pair stays in
// use. Connections that are open keep the certificate with which they were opened.
package certs

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// A Source returns PEM text. It reads a file anew at each call.
type Source func() ([]byte, error)

// A Pair is where a certificate, with its chain, and its key come from.
type Pair struct {
	Name string // of the certificate in the config, for errors and logs
	Cert Source
	Key  Source // nil: Cert returns the key too
}

// ErrNotIssued is the error of a [Source] whose certificate does not exist yet. A [Store]
// accepts such a pair, and uses the certificate once it exists.
var ErrNotIssued = errors.New("no certificate is issued yet")

// file returns the sources of the pair, to read them together.
func (p Pair) file() file {
	if p.Key == nil {
		return file{sources: []Source{p.Cert}}
	}
	return file{sources: []Source{p.Cert, p.Key}}
}

// Load reads and checks the certificate and its key.
func (p Pair) Load() (*tls.Certificate, error) {
	f := p.file()
	texts, err := f.read()
	if err != nil {
		return nil, err
	}
	return parsePair(texts[0], texts[len(texts)-1])
}

// parsePair returns the certificate in PEM text, with its key.
func parsePair(cert, key []byte) (*tls.Certificate, error) {
	c, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	if c.Leaf == nil {
		if c.Leaf, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
			return nil, err
		}
	}
	return &c, nil
}

// file reads one or more sources whose contents belong together, such as a certificate
// and its key. It knows the contents that are in use and the contents that were refused
// last.
type file struct {
	sources []Source
	used    [sha256.Size]byte // hash of the content in use
	refused [sha256.Size]byte // hash of the content, or error, that was reported last
}

// read reads the sources.
func (f *file) read() ([][]byte, error) {
	texts := make([][]byte, len(f.sources))
	for i, source := range f.sources {
		var err error
		if texts[i], err = source(); err != nil {
			return nil, err
		}
	}
	return texts, nil
}

// update reads the sources and passes their content to use if it has changed since the
// last successful call. It returns an error only once for the same content.
func (f *file) update(use func(texts [][]byte) error) (changed bool, err error) {
	texts, err := f.read()
	sum := sha256.New()
	for _, text := range texts {
		fmt.Fprintf(sum, "%d\n%s", len(text), text)
	}
	if err != nil {
		fmt.Fprint(sum, err)
	}
	hash := [sha256.Size]byte(sum.Sum(nil))
	switch {
	case hash == f.used:
		f.refused = [sha256.Size]byte{}
		return false, nil
	case hash == f.refused:
		return false, nil
	case err == nil:
		err = use(texts)
	}
	if err != nil {
		f.refused = hash
		return false, err
	}
	f.used, f.refused = hash, [sha256.Size]byte{}
	return true, nil
}

// Info describes a certificate in use.
type Info struct {
	Name      string    // of the certificate in the config
	Hosts     []string  // names and addresses for which it is valid
	Issuer    string    // distinguished name of the authority that issued it
	NotBefore time.Time // start of its life
	NotAfter  time.Time // end of its life
}

// newInfo describes the certificate leaf.
func newInfo(name string, leaf *x509.Certificate) Info {
	i := Info{Name: name, Hosts: append([]string{}, leaf.DNSNames...), Issuer: leaf.Issuer.String(), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter}
	for _, ip := range leaf.IPAddresses {
		i.Hosts = append(i.Hosts, ip.String())
	}
	return i
}

// ExpiresSoon reports whether at most a third of the certificate's life is left.
func (i Info) ExpiresSoon(now time.Time) bool {
	return i.NotAfter.Sub(now) <= i.NotAfter.Sub(i.NotBefore)/3
}

// errNoPair is the error of a [Store] without a certificate.
var errNoPair = errors.New("no certificate")

// Describe describes a certificate that is called name in the config.
func Describe(name string, cert *tls.Certificate) Info { return newInfo(name, cert.Leaf) }
