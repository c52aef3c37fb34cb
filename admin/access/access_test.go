package access

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestEveryRouteHasAPermission(t *testing.T) {
	rs := NewMux(nil)
	defer func() {
		if recover() == nil {
			t.Error("a route was added that says nothing")
		}
	}()
	rs.HandleFunc("GET /v1/new", func(http.ResponseWriter, *http.Request) {})
}

func TestScopesPermitRoutes(t *testing.T) {
	var nobody *Client
	for _, tt := range []struct {
		who                                 *Client
		read, write, readAll, administer, x bool
	}{
		{nobody, false, false, false, false, false},
		{&Client{}, false, false, false, false, false},
		{&Client{scope: "root"}, false, false, false, false, false},
		{&Client{scope: Read}, true, false, true, false, false},
		{&Client{scope: Write}, true, true, true, false, false},
		{&Client{scope: Admin}, true, true, true, true, true},
		{&Client{scope: Read, Extensions: []string{"101"}}, true, false, false, false, false},
		{&Client{scope: Write, Extensions: []string{"101"}}, true, true, false, false, false},
		{&Client{scope: Admin, Extensions: []string{"101"}}, true, true, false, false, false},
	} {
		if !tt.who.Permits(PermitAll) {
			t.Errorf("%+v may not even what is open", tt.who)
		}
		for do, want := range map[Permission]bool{PermitRead: tt.read, PermitWrite: tt.write, PermitReadAll: tt.readAll, PermitAdmin: tt.administer, Permission(99): tt.x} {
			if got := tt.who.Permits(do); got != want {
				t.Errorf("%+v may(%d) = %v, want %v", tt.who, do, got, want)
			}
		}
	}
}

func TestTokenSeesItsExtensions(t *testing.T) {
	for _, tt := range []struct {
		bound     []string
		extension string
		want      bool
	}{
		{nil, "101", true},
		{nil, "", true},
		{[]string{}, "101", false},
		{[]string{"101"}, "101", true},
		{[]string{"101"}, "101@pbx.example", true},
		{[]string{"101"}, "1010", false},
		{[]string{"101"}, "10", false},
		{[]string{"101"}, "", false},
		{[]string{"101"}, "@pbx.example", false},
		{[]string{"101"}, "101@x@pbx.example", false},
		{[]string{"101@pbx.example"}, "101@pbx.example", true},
		{[]string{"101@pbx.example"}, "101@other.example", false},
		{[]string{"101@pbx.example"}, "101", false},
		{[]string{"0003*210"}, "0003*210@pbx.example", true},
		{[]string{"0003*210"}, "0003x210", false},
		{[]string{"102", "101"}, "101", true},
	} {
		if got := (&Client{scope: Read, Extensions: tt.bound}).CanSee(tt.extension); got != tt.want {
			t.Errorf("bound to %q, sees(%q) = %v", tt.bound, tt.extension, got)
		}
	}
	var nobody *Client
	if nobody.CanSee("101") || nobody.CanSee("") {
		t.Error("nobody sees something")
	}
}

func TestPeerNetworkOfAddress(t *testing.T) {
	for peer, want := range map[string]string{
		"192.0.2.1:5":               "192.0.2.1",
		"[::ffff:192.0.2.1]:5":      "192.0.2.1",
		"[2001:db8:1:2:3::4]:5":     "2001:db8:1:2::",
		"[2001:db8:1:2:ffff::9]:77": "2001:db8:1:2::",
		"[fe80::1%eth0]:5":          "fe80::",
		"@":                         "invalid IP",
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = peer
		if got := network(r).String(); got != want {
			t.Errorf("%s: %s, want %s", peer, got, want)
		}
	}
}
