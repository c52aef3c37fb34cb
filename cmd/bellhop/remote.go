package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// A remote is a running bellhop, at its admin API.
type remote struct {
	server string // http://127.0.0.1:8080
}

// serverFlag has cmd, and the commands below it, talk to a running bellhop.
func serverFlag(cmd *cobra.Command) *remote {
	r := new(remote)
	cmd.PersistentFlags().StringVar(&r.server, "server", "http://127.0.0.1:8080", "the admin API's `URL`")
	return r
}

const tokenHint = `set BELLHOP_TOKEN to a token, as in BELLHOP_TOKEN="$(cat data/admin.token)"`

// do makes a request, and reads the answer into out unless that is nil. in is
// sent as JSON unless it is nil.
func (r *remote) do(ctx context.Context, method, path string, in, out any) error {
	token := os.Getenv("BELLHOP_TOKEN")
	if token == "" {
		return errors.New("no token: " + tokenHint)
	}
	url := strings.TrimRight(r.server, "/") + path
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return fmt.Errorf("%s %s: %w", method, url, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, &body)
	if err != nil {
		return fmt.Errorf("--server: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("%w: does bellhop run there? --server says where", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, url, err)
	}
	if resp.StatusCode/100 != 2 {
		return refusedBy(resp, answer)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s %s: %w: is that bellhop?", method, url, err)
	}
	return nil
}

// refusedBy says why bellhop refused a request.
func refusedBy(resp *http.Response, answer []byte) error {
	var problem struct {
		Detail string
		Errors []struct{ Location, Message string }
	}
	json.Unmarshal(answer, &problem) // else it is no bellhop's, and the status must do
	why := problem.Detail
	for _, e := range problem.Errors {
		why += "\n  " + strings.TrimPrefix(e.Location, "body.") + ": " + e.Message
	}
	if resp.StatusCode == http.StatusUnauthorized {
		why = "the token is not good here: " + tokenHint
	}
	return fmt.Errorf("%s %s: %s: %s", resp.Request.Method, resp.Request.URL.Path, resp.Status, cmp.Or(why, "no reason is given"))
}
