package main

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
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// A remote is a running bellhop, at its admin API, and how to show what it says.
type remote struct {
	server string // http://127.0.0.1:8080
	config string // the file that says where it is, if server does not
	json   bool   // for a program
	utc    bool   // times are not local

	token string
	of    string // where token is from
	found bool   // server and token are
}

// serverFlag has cmd, and the commands below it, talk to a running bellhop.
func serverFlag(cmd *cobra.Command) *remote {
	r := new(remote)
	f := cmd.PersistentFlags()
	f.StringVar(&r.server, "server", "", "`URL` of the admin API (default: $BELLHOP_SERVER, or from the config file)")
	f.StringVarP(&r.config, "config", "c", "", "config `file` of the bellhop on this machine (default: config.toml, if it exists)")
	cmd.MarkPersistentFlagFilename("config", "toml")
	f.BoolVar(&r.json, "json", false, "print JSON")
	f.BoolVar(&r.utc, "utc", false, "show and read times in UTC instead of local time")
	return r
}

const tokenHint = `set BELLHOP_TOKEN, like BELLHOP_TOKEN="$(cat data/admin.token)"`

// find finds the server and a token. The token of the config is for the server
// of the config, and is shown to no other.
func (r *remote) find() error {
	if r.found {
		return nil
	}
	r.server = cmp.Or(r.server, os.Getenv("BELLHOP_SERVER"))
	r.token, r.of = os.Getenv("BELLHOP_TOKEN"), "BELLHOP_TOKEN"
	if r.server == "" {
		if err := r.findHere(); err != nil {
			return err
		}
	}
	if r.token == "" {
		return errors.New("no token: " + tokenHint)
	}
	u, err := url.Parse(r.server)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return usage{fmt.Errorf("parse --server: %q is not a URL: use http://HOST:PORT or https://HOST:PORT", r.server)}
	}
	r.server = strings.TrimRight(r.server, "/")
	r.found = true
	return nil
}

// findHere finds the bellhop of the config. Without one it is where an empty
// config would have it.
func (r *remote) findHere() error {
	path := cmp.Or(r.config, "config.toml")
	cfg := defaults()
	if _, err := os.Stat(path); err == nil || r.config != "" {
		if cfg, err = load(path); err != nil {
			return err
		}
	}
	r.server = cfg.adminURL()
	switch {
	case r.token != "":
	case cfg.Admin.Token != "":
		r.token, r.of = string(cfg.Admin.Token), "admin.token in "+path
	default:
		r.of = filepath.Join(cfg.Store.Dir, "admin.token")
		b, err := readPrivate(r.of)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("no token: %s does not exist: run this command on the machine of bellhop, or %s", r.of, tokenHint)
		}
		if err != nil {
			return fmt.Errorf("no token: %w; or %s", err, tokenHint)
		}
		if r.token = strings.TrimSpace(string(b)); r.token == "" {
			return fmt.Errorf("no token: %s is empty: %s", r.of, tokenHint)
		}
	}
	return nil
}

// adminURL is where the admin API is reached on this machine.
func (c *config) adminURL() string {
	scheme, at := "http://", c.Admin.Listen.AddrPort
	if c.Admin.TLSCert != "" {
		scheme = "https://"
	}
	switch at.Addr() {
	case netip.IPv4Unspecified():
		at = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), at.Port())
	case netip.IPv6Unspecified():
		at = netip.AddrPortFrom(netip.IPv6Loopback(), at.Port())
	}
	return scheme + at.String()
}

// do makes a request, and reads the answer into out unless that is nil. in is
// sent as JSON unless it is nil. Who is told to wait, waits.
func (r *remote) do(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
	}
	for {
		resp, answer, err := r.once(ctx, method, path, body)
		if err != nil {
			return err
		}
		wait, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		switch {
		case resp.StatusCode == http.StatusTooManyRequests && wait > 0 && wait <= 60:
			if !sleep(ctx, time.Duration(wait)*time.Second) {
				return ctx.Err()
			}
			continue
		case resp.StatusCode/100 != 2:
			return r.refusedBy(resp, answer)
		case out == nil:
			return nil
		}
		if err := json.Unmarshal(answer, out); err != nil {
			return fmt.Errorf("%s %s%s: %w: is the server a bellhop?", method, r.server, path, err)
		}
		return nil
	}
}

// once makes a request once, and reads the answer whatever it is.
func (r *remote) once(ctx context.Context, method, path string, body []byte) (*http.Response, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := r.request(ctx, method, path, body)
	if err != nil {
		return nil, nil, err
	}
	resp, err := r.send(req)
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

func (r *remote) request(ctx context.Context, method, path string, body []byte) (*http.Request, error) {
	if err := r.find(); err != nil {
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

func (r *remote) send(req *http.Request) (*http.Response, error) {
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("cannot reach bellhop at %s: %sis it running? (set --server)", req.URL.Host, cause(err))
	}
	return resp, nil
}

// cause returns why a connection failed, followed by a colon, or "" for a refused
// connection: the question whether bellhop runs says as much.
func cause(err error) string {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return ""
	}
	var failed *url.Error // its text repeats the URL
	if errors.As(err, &failed) {
		err = failed.Err
	}
	return err.Error() + ": "
}

// sleep reports whether d has passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// A refusal is bellhop's answer to a request that it does not do.
type refusal struct {
	status int
	text   string
}

func (e *refusal) Error() string { return e.text }

// refusedBy says why bellhop refused a request.
func (r *remote) refusedBy(resp *http.Response, answer []byte) error {
	var problem struct {
		Detail string
		Errors []struct{ Location, Message string }
	}
	json.Unmarshal(answer, &problem) // else it is no bellhop's, and the status must do
	why := printable(problem.Detail)
	if len(problem.Errors) > 0 {
		why = "" // the fields say more
	}
	for _, e := range problem.Errors {
		_, field, nested := strings.Cut(e.Location, ".") // body.url
		if !nested {
			field = e.Location
		}
		if len(problem.Errors) > 1 {
			why += "\n  "
		}
		why += printable(field + ": " + strings.TrimPrefix(e.Message, field+" "))
	}
	if !strings.HasPrefix(why, "\n") {
		why = " " + why
	}
	text := fmt.Sprintf("request rejected (%s):%s", resp.Status, why)
	switch {
	case resp.StatusCode == http.StatusUnauthorized && r.of == "BELLHOP_TOKEN":
		text = fmt.Sprintf("token rejected (%s): %s", resp.Status, tokenHint)
	case resp.StatusCode == http.StatusUnauthorized:
		text = fmt.Sprintf("token from %s rejected (%s): %s", r.of, resp.Status, tokenHint)
	case why == " ":
		text = fmt.Sprintf("%s %s: %s: is the server a bellhop?", resp.Request.Method, resp.Request.URL.Path, resp.Status)
	case resp.StatusCode >= 500:
		text = fmt.Sprintf("request failed (%s):%s", resp.Status, why)
	}
	return &refusal{resp.StatusCode, text}
}

// doOf does what path says with the one of a list that has an id. If there is
// none, it says which may be meant.
func (r *remote) doOf(ctx context.Context, method, list, id, path string, in, out any) error {
	err := r.do(ctx, method, list+"/"+url.PathEscape(id)+path, in, out)
	var refused *refusal
	if !errors.As(err, &refused) || refused.status != http.StatusNotFound {
		return err
	}
	var page struct{ Items []struct{ ID string } }
	if r.do(ctx, "GET", list+"?limit=200", nil, &page) != nil {
		return err // which says more
	}
	known := make([]string, len(page.Items))
	for i, item := range page.Items {
		known[i] = item.ID
	}
	switch near := nearest(id, known); near {
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

// end deletes those of a list that have the ids, and says of each that it is so.
func (r *remote) end(cmd *cobra.Command, list string, ids []string, said string) error {
	for _, id := range ids {
		if err := r.doOf(cmd.Context(), "DELETE", list, id, "", nil, nil); err != nil {
			return err
		}
		if !r.json {
			fmt.Fprintf(cmd.OutOrStdout(), said, id)
		}
	}
	if r.json {
		return writeJSON(cmd.OutOrStdout(), map[string][]string{"ended": ids})
	}
	return nil
}

// nearest is the id that begins with what was given, or has a slip or two; or "".
func nearest(given string, ids []string) string {
	if len(given) < 3 || len(given) > 200 || len(ids) == 0 {
		return ""
	}
	for _, id := range ids {
		if strings.HasPrefix(id, given) {
			return id
		}
	}
	near := slices.MinFunc(ids, func(a, b string) int { return cmp.Compare(distance(given, a), distance(given, b)) })
	if distance(given, near) > 3 {
		return ""
	}
	return near
}

// pages reads the items of a list, page after page. cursor is the parameter that
// says where a page begins.
func pages[T any](ctx context.Context, r *remote, path, cursor string, size int, query url.Values) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		query := maps.Clone(query)
		query.Set("limit", strconv.Itoa(size))
		for more := true; more; {
			var page struct {
				Items []T
				Next  string
			}
			if err := r.do(ctx, "GET", path+"?"+query.Encode(), nil, &page); err != nil {
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

// collect returns the first items, limit at most, and whether there are more. 0
// is all.
func collect[T any](items iter.Seq2[T, error], limit int) (all []T, more bool, err error) {
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

// pageSize is how many items to ask for at a time when limit are wanted, and
// whether there is another.
func pageSize(limit, most int) int {
	if limit <= 0 || limit >= most {
		return most
	}
	return limit + 1
}

// moment reads a time that a person writes.
func (r *remote) moment(s string) (time.Time, bool) {
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

const momentHint = `use 15m (ago), 09:30 (today), "2026-01-31 09:30" or 2026-01-31T09:30:00Z`

// local is a time in the zone that it is shown in.
func (r *remote) local(t time.Time) time.Time {
	if r.utc {
		return t.UTC()
	}
	return t.Local()
}

// day is a time as a table shows it.
func (r *remote) day(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return r.local(t).Format("2006-01-02 15:04")
}
