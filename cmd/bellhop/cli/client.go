package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"bellhop/cmd/bellhop/config"
)

// An apiClient calls the admin API of a running bellhop. It also has the flags that set
// how commands print the result.
type apiClient struct {
	server string // http://127.0.0.1:8080
	config string // config file from which to take the server if server is empty
	json   bool   // print JSON
	utc    bool   // print and parse times in UTC

	token       string
	tokenSource string // where the token comes from, for errors
	resolved    bool   // server and token are set
}

// addServerFlags adds the flags that select a server to cmd and its subcommands, and
// returns the client that uses them.
func addServerFlags(cmd *cobra.Command) *apiClient {
	r := new(apiClient)
	f := cmd.PersistentFlags()
	f.StringVar(&r.server, "server", "", "`URL` of the admin API (default: $BELLHOP_SERVER, or from the config file)")
	f.StringVarP(&r.config, "config", "c", "", "config `file` of the bellhop on this machine (default: config.toml, if it exists)")
	cmd.MarkPersistentFlagFilename("config", "toml")
	f.BoolVar(&r.json, "json", false, "print JSON")
	f.BoolVar(&r.utc, "utc", false, "show and read times in UTC instead of local time")
	return r
}

const tokenHint = `set BELLHOP_TOKEN, like BELLHOP_TOKEN="$(cat data/admin.token)"`

// resolveServer sets the server and the token when it is first called. The token of a
// config is used only for the server of that config.
func (r *apiClient) resolveServer() error {
	if r.resolved {
		return nil
	}
	r.server = cmp.Or(r.server, os.Getenv("BELLHOP_SERVER"))
	r.token, r.tokenSource = os.Getenv("BELLHOP_TOKEN"), "BELLHOP_TOKEN"
	if r.server == "" {
		if err := r.resolveLocalServer(); err != nil {
			return err
		}
	}
	if r.token == "" {
		return errors.New("no token: " + tokenHint)
	}
	u, err := url.Parse(r.server)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return usageError{fmt.Errorf("parse --server: %q is not a URL: use http://HOST:PORT or https://HOST:PORT", r.server)}
	}
	r.server = strings.TrimRight(r.server, "/")
	r.resolved = true
	return nil
}

// resolveLocalServer takes the server from the config file, or from the defaults if
// there is no config file. If no token is set, it takes the token from admin.token of
// the config, or else from the file admin.token in store.dir. It reads only the keys
// that it needs, because other keys may refer to secrets that only serve can read.
func (r *apiClient) resolveLocalServer() error {
	path := cmp.Or(r.config, "config.toml")
	cfg := config.Default()
	if _, err := os.Stat(path); err == nil || r.config != "" {
		keys := []string{"admin.listen", "admin.tls_cert", "store.dir"}
		if r.token == "" {
			keys = append(keys, "admin.token")
		}
		if cfg, err = config.LoadKeys(path, keys...); err != nil {
			return err
		}
	}
	r.server = cfg.AdminURL()
	switch {
	case r.token != "":
	case cfg.Admin.Token != "":
		r.token, r.tokenSource = string(cfg.Admin.Token), "admin.token in "+path
	default:
		r.tokenSource = filepath.Join(cfg.Store.Dir, "admin.token")
		b, err := config.ReadPrivate(r.tokenSource)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("no token: %s does not exist: run this command on the machine of bellhop, or %s", r.tokenSource, tokenHint)
		}
		if err != nil {
			return fmt.Errorf("no token: %w; or %s", err, tokenHint)
		}
		if r.token = strings.TrimSpace(string(b)); r.token == "" {
			return fmt.Errorf("no token: %s is empty: %s", r.tokenSource, tokenHint)
		}
	}
	return nil
}

// doRequest sends a request and decodes the JSON response into out, unless out is nil.
// in is sent as JSON, unless it is nil. After a 429 with a Retry-After of at most a
// minute, it waits and sends the request again.
func (r *apiClient) doRequest(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
	}
	for {
		resp, answer, err := r.sendOnce(ctx, method, path, body)
		if err != nil {
			return err
		}
		wait, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		switch {
		case resp.StatusCode == http.StatusTooManyRequests && wait > 0 && wait <= 60:
			if !sleepContext(ctx, time.Duration(wait)*time.Second) {
				return ctx.Err()
			}
			continue
		case resp.StatusCode/100 != 2:
			return r.newResponseError(resp, answer)
		case out == nil:
			return nil
		}
		if err := json.Unmarshal(answer, out); err != nil {
			return fmt.Errorf("%s %s%s: %w: is the server a bellhop?", method, r.server, path, err)
		}
		return nil
	}
}

// sendOnce sends a request once and reads the response, whatever its status. Both take
// 30 s at most.
func (r *apiClient) sendOnce(ctx context.Context, method, path string, body []byte) (*http.Response, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := r.newRequest(ctx, method, path, body)
	if err != nil {
		return nil, nil, err
	}
	resp, err := r.sendRequest(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("%s %s: %w", method, req.URL, err)
	}
	return resp, answer, nil
}

// newRequest returns a request to the server, with the token.
func (r *apiClient) newRequest(ctx context.Context, method, path string, body []byte) (*http.Request, error) {
	if err := r.resolveServer(); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, r.server+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("--server: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+r.token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

// sendRequest sends a request. Its error names the server.
func (r *apiClient) sendRequest(req *http.Request) (*http.Response, error) {
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("cannot reach bellhop at %s: %sis it running? (set --server)", req.URL.Host, connectFailure(err))
	}
	return resp, nil
}

// connectFailure returns the reason why a connection failed, followed by a colon. For a
// refused connection it returns "", because the question whether bellhop is running
// suffices.
func connectFailure(err error) string {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return ""
	}
	var failed *url.Error // its text repeats the URL
	if errors.As(err, &failed) {
		err = failed.Err
	}
	return err.Error() + ": "
}

// sleepContext waits for d, and reports whether d passed before ctx ended.
func sleepContext(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// A responseError is a response of bellhop with an error status.
type responseError struct {
	status int
	text   string
}

func (e *responseError) Error() string { return e.text }

// newResponseError returns the error for a response with an error status. The error has
// the reason that the server gives, and the fields that are wrong.
func (r *apiClient) newResponseError(resp *http.Response, answer []byte) error {
	var problem struct {
		Detail string
		Errors []struct{ Location, Message string }
	}
	json.Unmarshal(answer, &problem) // other responses have only a status
	why := stripControls(problem.Detail)
	if len(problem.Errors) > 0 {
		why = "" // the field errors are more specific
	}
	for _, e := range problem.Errors {
		_, field, nested := strings.Cut(e.Location, ".") // body.url
		if !nested {
			field = e.Location
		}
		if len(problem.Errors) > 1 {
			why += "\n  "
		}
		why += stripControls(field + ": " + strings.TrimPrefix(e.Message, field+" "))
	}
	if !strings.HasPrefix(why, "\n") {
		why = " " + why
	}
	text := fmt.Sprintf("request rejected (%s):%s", resp.Status, why)
	switch {
	case resp.StatusCode == http.StatusUnauthorized && r.tokenSource == "BELLHOP_TOKEN":
		text = fmt.Sprintf("token rejected (%s): %s", resp.Status, tokenHint)
	case resp.StatusCode == http.StatusUnauthorized:
		text = fmt.Sprintf("token from %s rejected (%s): %s", r.tokenSource, resp.Status, tokenHint)
	case why == " ":
		text = fmt.Sprintf("%s %s: %s: is the server a bellhop?", resp.Request.Method, resp.Request.URL.Path, resp.Status)
	case resp.StatusCode >= 500:
		text = fmt.Sprintf("request failed (%s):%s", resp.Status, why)
	}
	return &responseError{resp.StatusCode, text}
}

// requestItem sends a request about the item of list with this id. path follows the id
// in the URL. If there is no such item, the error suggests a similar id.
func (r *apiClient) requestItem(ctx context.Context, method, list, id, path string, in, out any) error {
	err := r.doRequest(ctx, method, list+"/"+url.PathEscape(id)+path, in, out)
	var refused *responseError
	if !errors.As(err, &refused) || refused.status != http.StatusNotFound {
		return err
	}
	var page struct{ Items []struct{ ID string } }
	if r.doRequest(ctx, "GET", list+"?limit=200", nil, &page) != nil {
		return err
	}
	known := make([]string, len(page.Items))
	for i, item := range page.Items {
		known[i] = item.ID
	}
	switch near := nearestID(id, known); near {
	case "":
	case id:
		return fmt.Errorf("%w: is the server too old for this command?", err)
	default:
		return fmt.Errorf("%w: did you mean %s?", err, near)
	}
	command := strings.TrimPrefix(list, "/v1/")
	if command == "tokens" {
		command = "token"
	}
	return fmt.Errorf("%w: see bellhop %s list", err, command)
}

// deleteItems deletes the items of list with these ids. It prints a line for each, in
// the format done, or all ids as JSON.
func (r *apiClient) deleteItems(cmd *cobra.Command, list string, ids []string, done string) error {
	for _, id := range ids {
		if err := r.requestItem(cmd.Context(), "DELETE", list, id, "", nil, nil); err != nil {
			return err
		}
		if !r.json {
			fmt.Fprintf(cmd.OutOrStdout(), done, id)
		}
	}
	if r.json {
		return writeJSON(cmd.OutOrStdout(), map[string][]string{"ended": ids})
	}
	return nil
}

// nearestID returns the id that begins with given. If there is none, it returns the id
// that differs least from given, by at most 3 edits, or else "".
func nearestID(given string, ids []string) string {
	if len(given) < 3 || len(given) > 200 || len(ids) == 0 {
		return ""
	}
	for _, id := range ids {
		if strings.HasPrefix(id, given) {
			return id
		}
	}
	near := slices.MinFunc(ids, func(a, b string) int {
		return cmp.Compare(config.EditDistance(given, a), config.EditDistance(given, b))
	})
	if config.EditDistance(given, near) > 3 {
		return ""
	}
	return near
}

// listPages returns the items of a list. It requests them in pages of the given size.
// cursor is the name of the query parameter for the start of a page.
func listPages[T any](ctx context.Context, r *apiClient, path, cursor string, size int, query url.Values) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		query := maps.Clone(query)
		query.Set("limit", strconv.Itoa(size))
		for more := true; more; {
			var page struct {
				Items []T
				Next  string
			}
			if err := r.doRequest(ctx, "GET", path+"?"+query.Encode(), nil, &page); err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range page.Items {
				if !yield(item, nil) {
					return
				}
			}
			query.Set(cursor, page.Next)
			more = page.Next != ""
		}
	}
}

// collectItems returns the first items, limit at most, and whether there are more. A
// limit of 0 returns all.
func collectItems[T any](items iter.Seq2[T, error], limit int) (all []T, more bool, err error) {
	all = []T{}
	for item, err := range items {
		if err != nil {
			return nil, false, err
		}
		if limit > 0 && len(all) == limit {
			return all, true, nil
		}
		all = append(all, item)
	}
	return all, false, nil
}

// pageSize returns the number of items to request at a time. It is one more than limit,
// to see whether there are more, but never above the parameter most. A limit of 0 is no
// limit.
func pageSize(limit, most int) int {
	if limit <= 0 || limit >= most {
		return most
	}
	return limit + 1
}

// parseTime parses a time that a person wrote in one of the forms of timeHint. It
// reports whether s has such a form.
func (r *apiClient) parseTime(s string) (time.Time, bool) {
	zone := time.Local
	if r.utc {
		zone = time.UTC
	}
	now := time.Now().In(zone)
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d.Abs()), true
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, true
	}
	for _, layout := range []string{"2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, zone); err == nil {
			return t, true
		}
	}
	for _, layout := range []string{"15:04:05", "15:04"} {
		if t, err := time.Parse(layout, s); err == nil {
			y, m, d := now.Date()
			return time.Date(y, m, d, t.Hour(), t.Minute(), t.Second(), 0, zone), true
		}
	}
	return time.Time{}, false
}

const timeHint = `use 15m (ago), 09:30 (today), "2026-01-31 09:30" or 2026-01-31T09:30:00Z`

// inZone returns t in the time zone to print.
func (r *apiClient) inZone(t time.Time) time.Time {
	if r.utc {
		return t.UTC()
	}
	return t.Local()
}

// formatDay formats t for a table, or returns "never" for the zero time.
func (r *apiClient) formatDay(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return r.inZone(t).Format("2006-01-02 15:04")
}
