package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// check reads the config at path and says what it means, in one line; or it
// returns all that is wrong with it. As JSON it writes one object either way.
//
// How a PBX is set up shows in its answers alone: if a bellhop runs with this config,
// check adds what that one has found wrong, a line each. The config is good all the
// same.
func check(ctx context.Context, path string, asJSON bool, stdout io.Writer) error {
	c, err := load(path)
	var found []string
	if err == nil {
		found = foundWrong(ctx, c.adminURL())
	}
	if asJSON {
		var report struct {
			OK       bool     `json:"ok"`
			Problems problems `json:"problems"`
			Degraded []string `json:"degraded,omitempty"`
		}
		report.OK, report.Problems, report.Degraded = err == nil, problems{}, found
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
	fmt.Fprintf(stdout, "%s is valid: %s\n", path, c.meaning())
	for _, f := range found {
		_, err = fmt.Fprintf(stdout, "bellhop is running, but degraded: %s\n", printable(f))
	}
	return err
}

// foundWrong asks the bellhop at a URL why it is degraded: nothing if none runs there,
// or if it tells only who has a token.
func foundWrong(ctx context.Context, url string) []string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return nil
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	var answer struct {
		Degraded []string `json:"degraded"`
	}
	if json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&answer) != nil {
		return nil
	}
	return answer.Degraded
}

// meaning says in a line who is between whom.
func (c *config) meaning() string {
	scheme := "http"
	if c.Admin.TLSCert != "" {
		scheme = "https"
	}
	store := "the store is in " + c.Store.Dir
	if len(c.Store.NATS) > 0 {
		store = "the store is at " + list(c.Store.NATS)
	}
	return fmt.Sprintf("phones reach the PBX %s through %s; the admin API is at %s://%v; %s",
		list(c.SIP.PBX), list(c.SIP.Listen), scheme, c.Admin.Listen, store)
}

func list[T fmt.Stringer](vs []T) string {
	words := make([]string, len(vs))
	for i, v := range vs {
		words[i] = v.String()
	}
	return strings.Join(words, ", ")
}
