package admin

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"testing"

	"bellhop/admin/ops"
	"bellhop/dialog"
)

// Telphin clients first request their user, and the extensions.
func TestTelphinClientsDiscoverExtensions(t *testing.T) {
	known := []dialog.ExtensionInfo{
		{Extension: dialog.Extension{User: "301", Domain: "pbx.example"}, Kind: dialog.Phone},
		{Extension: dialog.Extension{User: "0003*302"}, Kind: dialog.Phone},
		{Extension: dialog.Extension{User: "800"}, Kind: dialog.Queue, Declared: true},
	}
	var failing error
	r := newRig(t, Config{
		Config: ops.Config{
			Extensions: func(context.Context) ([]dialog.ExtensionInfo, error) { return known, failing },
			Extension: func(_ context.Context, user string) (dialog.ExtensionInfo, bool, error) {
				for _, k := range known {
					if k.User == user {
						return k, true, failing
					}
				}
				return dialog.ExtensionInfo{}, false, failing
			},
		},
	})
	r.wantJSON(200, `{"client_id":1,"id":1,"login":"admin"}`, "GET", "/user/", nil)
	r.wantJSON(200, `{"client_id":1,"id":1,"login":"admin"}`, "GET", "/api/ver1.0/user", nil)

	taken := r.allotNumber("800")
	list := "/client/@me/extension/"
	resp, text := r.raw("GET", list+"?type=phone", nil)
	if resp.StatusCode != 200 {
		t.Fatalf("%d %s", resp.StatusCode, text)
	}
	// An extension has a number as soon as it is known.
	number := func(user string) uint64 {
		n, err := r.notifier.Numbers.Number(t.Context(), user)
		if err != nil || n == 0 || n >= 1<<31 {
			t.Errorf("the number of %s is %d, %v", user, n, err)
		}
		return n
	}
	one := func(user, kind, domain string) string {
		return fmt.Sprintf(`{"client_id":1,"domain":%q,"id":%d,"label":"","name":%q,"status":"active","type":%q}`, domain, number(user), user, kind)
	}
	long, short, queue := one("0003*302", "phone", ""), one("301", "phone", "pbx.example"), one("800", "queue", "")
	if number("800") != taken {
		t.Errorf("800 has another number than before")
	}
	for query, want := range map[string]string{
		"":                                "[" + long + "," + short + "," + queue + "]",
		"?page=1&per_page=30&type=phone":  "[" + long + "," + short + "]",
		"?per_page=2&page=2":              "[" + queue + "]",
		"?per_page=2&page=3":              "[]",
		"?per_page=99999999&page=9999999": "[]",
		"?name=301":                       "[" + short + "]",
		"?name=30":                        "[]",
		"?name=0003*302&sort=name":        "[" + long + "]",
		"?type=Queue":                     "[" + queue + "]",
		"?type=fax":                       "[]",
		"?name=&type=&page=&per_page=":    "[" + long + "," + short + "," + queue + "]",
	} {
		for _, path := range []string{list, "/api/ver1.0/client/1/extension"} {
			r.wantJSON(200, want, "GET", path+query, nil)
		}
	}
	for _, query := range []string{"?page=0", "?page=x", "?per_page=0", "?per_page=-1"} {
		r.wantTelphin(400, "GET", list+query, nil)
	}
	for _, id := range []string{"301", "@301", itoa(number("301")), "301/"} {
		r.wantJSON(200, short, "GET", list+id, nil)
	}
	r.wantTelphin(404, "GET", list+"999", nil)
	r.wantTelphin(400, "GET", list+"@", nil)
	r.wantTelphin(404, "GET", list+"301/event", nil)
	for _, path := range []string{"/user", list, list + "301"} {
		r.wantTelphin(405, "POST", path, object{})
		r.wantTelphin(405, "DELETE", path, nil)
		if resp, _ := r.raw("PUT", path, object{}); resp.Header.Get("Allow") != "GET" {
			t.Errorf("%s allows %q", path, resp.Header.Get("Allow"))
		}
	}

	// Events can be created by the id in the list.
	r.telphin("/extension/"+itoa(number("0003*302"))+"/event/", "hangup")
	r.wantSubs("0003*302 hangup")

	bound, id := r.newToken(object{"scope": "read", "extensions": []string{"301"}})
	bound.wantJSON(200, `{"client_id":1,"id":1,"login":"`+id+`"}`, "GET", "/user/", nil)
	bound.wantJSON(200, "["+short+"]", "GET", list, nil)
	bound.wantTelphin(404, "GET", list+"800", nil)
	failing = errors.New("no store")
	r.wantTelphin(500, "GET", list, nil)
	r.wantTelphin(500, "GET", list+"301", nil)
}

// Ids fit into 31 bits. The larger ones of older versions are still accepted.
func TestTelphinAcceptsLegacyNumbers(t *testing.T) {
	r := newRig(t, Config{})
	path := "/extension/175/event/"
	id := r.telphin(path, "hangup")
	number, err := strconv.ParseUint(id, 10, 64)
	legacy := legacyNumber(r.notifier.Subscriptions()[0].ID)
	if err != nil || number >= 1<<31 || legacy < 1<<31 {
		t.Errorf("numbers are %s, and were %d", id, legacy)
	}
	if fixed := legacyNumber("3fJ8"); fixed != 16720383914592 {
		t.Errorf("a number has changed: %d", fixed)
	}
	for _, n := range []uint64{number, legacy} {
		r.want(200, "GET", path+itoa(n), nil)
		r.want(200, "PUT", path+itoa(n), object{"method": "post"})
	}
	r.wantTelphin(404, "GET", path+itoa(legacy+1), nil)
	r.wantJSON(204, "", "DELETE", path+itoa(legacy), nil)
	r.wantSubs()

	several := r.createSubscription("175", "dial-in", "hangup")
	r.wantTelphin(404, "DELETE", path+itoa(legacyNumber(several)), nil)
	r.wantJSON(204, "", "DELETE", path+itoa(legacyNumber(several)+1+2), nil) // hangup is the third type
	r.wantSubs("175 dial-in")
}

// legacyNumber returns the id that older versions gave to the event of a subscription
// with one type.
func legacyNumber(subscription string) uint64 {
	sum := sha256.Sum256([]byte(subscription))
	return binary.BigEndian.Uint64(sum[:]) >> 24 << 4
}

func TestTelphinMethodIgnoresCase(t *testing.T) {
	r := newRig(t, Config{})
	for method, want := range map[string]string{"post": "POST", "Get": "GET", "PoSt": "POST", "get": "GET"} {
		out := r.want(201, "POST", "/extension/175/event/", object{"url": "http://a.example/", "event_type": "hangup", "method": method})
		if out["method"] != want {
			t.Errorf("%s is %v", method, out["method"])
		}
		r.wantJSON(204, "", "DELETE", "/extension/175/event/", nil)
	}
}
