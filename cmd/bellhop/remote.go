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
	f.StringVar(&r.server, "server", "", "the admin API's `URL`; else BELLHOP_SERVER, else what the config says")
	f.StringVarP(&r.config, "config", "c", "", "the config `file` of the bellhop on this machine (default config.toml, if there is one)")
	cmd.MarkPersistentFlagFilename("config", "toml")
	f.BoolVar(&r.json, "json", false, "write JSON")
	f.BoolVar(&r.utc, "utc", false, "show and read times in UTC, not in local time")
	return r
}

const tokenHint = `set BELLHOP_TOKEN to a token, as in BELLHOP_TOKEN="$(cat data/admin.token)"`

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
		return usage{fmt.Errorf("--server %q is not a URL: write it like http://127.0.0.1:8080", r.server)}
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
			return fmt.Errorf("no token: there is no %s: run this where bellhop runs, or %s", r.of, tokenHint)
		}
		if err != nil {
			return fmt.Errorf("no token: %w: or %s", err, tokenHint)
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
			return fmt.Errorf("%s %s%s: %w: is that bellhop?", method, r.server, path, err)
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
		return nil, fmt.Errorf("%w: does bellhop run there? --server says where", err)
	}
	return resp, nil
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
	for _, e := range problem.Errors {
		_, field, nested := strings.Cut(e.Location, ".") // body.url
		if !nested {
			field = e.Location
		}
		why += "\n  " + printable(field+": "+strings.TrimPrefix(e.Message, field+" "))
	}
	if resp.StatusCode == http.StatusUnauthorized {
		why = "the token is not good here: " + tokenHint
		if r.of != "BELLHOP_TOKEN" {
			why = "the token of " + r.of + " is not good here: " + tokenHint
		}
	}
	return &refusal{resp.StatusCode, fmt.Sprintf("%s %s: %s: %s", resp.Request.Method, resp.Request.URL.Path, resp.Status, cmp.Or(why, "no reason is given"))}
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
		return fmt.Errorf("%w: is that bellhop too old for it?", err)
	default:
		return fmt.Errorf("%w: did you mean %s?", err, near)
	}
	command := strings.TrimPrefix(list, "/v1/")
	if command == "tokens" {
		command = "token"
	}
	return fmt.Errorf("%w: bellhop %s list shows what there is", err, command)
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

const momentHint = `write it like 15m (that long ago), 09:30 (today), "2026-01-31 09:30" or 2026-01-31T09:30:00Z`

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
