package admin

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bellhop/admin/ops"
	"bellhop/sip/guard"
)

// withBans has the bans that a proxy would have. 192.0.2.2 is its PBX.
func withBans(c Config) Config {
	var bans []ops.Ban
	find := func(source string) int {
		ip, err := guard.ParseSource(source)
		return slices.IndexFunc(bans, func(b ops.Ban) bool { return err == nil && b.Source == guard.SourceText(guard.SourceOf(ip)) })
	}
	c.Bans = func() []ops.Ban { return slices.Clone(bans) }
	c.BanOf = func(source string) (b ops.Ban, ok bool) {
		if i := find(source); i >= 0 {
			return bans[i], true
		}
		return b, false
	}
	c.AddBan = func(source string, d time.Duration) (ops.Ban, error) {
		ip, err := guard.ParseSource(source)
		if err != nil {
			return ops.Ban{}, err
		}
		if source == "192.0.2.2" {
			return ops.Ban{}, errors.New("cannot be banned: it is an address of the PBX")
		}
		if i := find(source); i >= 0 {
			bans = slices.Delete(bans, i, i+1)
		}
		now := time.Now().UTC().Truncate(time.Second)
		b := ops.Ban{Source: guard.SourceText(guard.SourceOf(ip)), Reason: "manual", Since: now, Until: now.Add(max(d, time.Minute)), Times: 1}
		bans = append(bans, b)
		return b, nil
	}
	c.RemoveBan = func(source string) (b ops.Ban, ok bool) {
		i := find(source)
		if i < 0 {
			return b, false
		}
		b = bans[i]
		bans = slices.Delete(bans, i, i+1)
		return b, true
	}
	return c
}

func TestBans(t *testing.T) {
	r := newRig(t, withBans(Config{}))
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	resp, made := r.do("POST", "/v1/bans", object{"source": "2001:db8::7", "until": until})
	if resp.StatusCode != 201 || resp.Header.Get("Location") != "/v1/bans/2001:db8::%2F64" || made["source"] != "2001:db8::/64" || made["reason"] != "manual" {
		t.Fatalf("%d %v %v", resp.StatusCode, resp.Header, made)
	}
	for _, path := range []string{resp.Header.Get("Location"), "/v1/bans/2001:db8::99"} {
		if d := cmp.Diff(made, r.want(200, "GET", path, nil)); d != "" {
			t.Errorf("%s differs from what was made:\n%s", path, d)
		}
	}
	r.want(201, "POST", "/v1/bans", object{"source": "203.0.113.9"})
	r.want(201, "POST", "/v1/bans", object{"source": "203.0.113.10"})
	sources := func(path string) (got []string, next string) {
		page := r.want(200, "GET", path, nil)
		for _, b := range page["items"].([]any) {
			got = append(got, b.(object)["source"].(string))
		}
		return got, page["next"].(string)
	}
	all, _ := sources("/v1/bans")
	if len(all) != 3 {
		t.Errorf("bans %v", all)
	}
	first, next := sources("/v1/bans?limit=2")
	rest, end := sources("/v1/bans?cursor=" + next)
	if !slices.Equal(slices.Concat(first, rest), all) || end != "" {
		t.Errorf("pages are %v and %v, want %v", first, rest, all)
	}

	r.want(204, "DELETE", "/v1/bans/203.0.113.9", nil)
	r.want(204, "DELETE", "/v1/bans/2001:db8::%2F64", nil)
	for _, source := range []string{"203.0.113.9", "198.51.100.1", "*", "%20", "2001:db8::"} {
		r.wantProblem(404, "", "GET", "/v1/bans/"+source, nil)
		r.wantProblem(404, "", "DELETE", "/v1/bans/"+source, nil)
	}
	var did []string
	for _, e := range r.want(200, "GET", "/v1/audit", nil)["items"].([]any) {
		did = append(did, e.(object)["did"].(string)+" "+e.(object)["id"].(string))
	}
	if want := []string{"remove-ban 2001:db8::/64", "remove-ban 203.0.113.9", "add-ban 203.0.113.10", "add-ban 203.0.113.9", "add-ban 2001:db8::/64"}; !slices.Equal(did, want) {
		t.Errorf("the audit log has %q, want %q", did, want)
	}
}

func TestInvalidBansAreRefused(t *testing.T) {
	r := newRig(t, withBans(Config{}))
	for _, tt := range []struct {
		name, location, message string
		body                    object
	}{
		{"no source", "body", "", object{}},
		{"a network of IPv4", "body.source", "must be an IPv4 address", object{"source": "203.0.113.0/24"}},
		{"a name", "body.source", "must be an IPv4 address", object{"source": "phone.example"}},
		{"the PBX", "body.source", "it is an address of the PBX", object{"source": "192.0.2.2"}},
		{"over already", "body.until", "must be in the future", object{"source": "203.0.113.9", "until": "2020-01-01T00:00:00Z"}},
		{"for ever", "body.until", "at most 10 years", object{"source": "203.0.113.9", "until": "9999-01-01T00:00:00Z"}},
		{"unknown field", "body.for", "", object{"source": "203.0.113.9", "for": "1h"}},
	} {
		resp, problem := r.do("POST", "/v1/bans", tt.body)
		errs, _ := problem["errors"].([]any)
		if resp.StatusCode != http.StatusUnprocessableEntity || len(errs) != 1 {
			t.Errorf("%s: %d %v", tt.name, resp.StatusCode, problem)
			continue
		}
		e := errs[0].(object)
		if e["location"] != tt.location || !strings.Contains(e["message"].(string), tt.message) {
			t.Errorf("%s: %v", tt.name, e)
		}
	}
	if bans := r.want(200, "GET", "/v1/bans", nil)["items"].([]any); len(bans) > 0 {
		t.Errorf("bans %v", bans)
	}
}
