package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// check reads the config at path and says what it means, in one line; or it
// returns all that is wrong with it. As JSON it writes one object either way.
func check(path string, asJSON bool, stdout io.Writer) error {
	c, err := load(path)
	if asJSON {
		var report struct {
			OK       bool     `json:"ok"`
			Problems problems `json:"problems"`
		}
		report.OK, report.Problems = err == nil, problems{}
		if err != nil && !errors.As(err, &report.Problems) {
			report.Problems = problems{{File: path, Text: err.Error()}}
		}
		if err := writeJSON(stdout, report); err != nil {
			return err
		}
		if err != nil {
			return errReported
		}
		return nil
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%s is good: %s\n", path, c.meaning())
	return err
}

// meaning says in a line who is between whom.
func (c *config) meaning() string {
	scheme := "http"
	if c.Admin.TLSCert != "" {
		scheme = "https"
	}
	store := "the store in " + c.Store.Dir
	if len(c.Store.NATS) > 0 {
		store = "the store at " + list(c.Store.NATS)
	}
	return fmt.Sprintf("phones reach the PBX %s through %s; the admin API is at %s://%v, %s",
		list(c.SIP.PBX), list(c.SIP.Listen), scheme, c.Admin.Listen, store)
}

func list[T fmt.Stringer](vs []T) string {
	words := make([]string, len(vs))
	for i, v := range vs {
		words[i] = v.String()
	}
	return strings.Join(words, ", ")
}
