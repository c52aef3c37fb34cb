package notify

import "testing"

// A URL may spell an address in any way that its host can be looked up: the egress guard
// checks the address itself.
func TestHostSpellings(t *testing.T) {
	for _, tt := range []struct {
		host  string
		valid bool
	}{
		{"127.0.0.1", true},
		{"127.0.0.1:8080", true},
		{"127.1", true},
		{"127.0.1", true},
		{"2130706433", true},
		{"0x7f000001", true},
		{"0x7f.1", true},
		{"0x7F.0X0.0x0.0x1", true},
		{"0177.0.0.1", true},
		{"017700000001", true},
		{"127.000.000.001", true},
		{"127.0.0.1.", true},
		{"2852039166", true},
		{"169.254.43518", true},
		{"169.254.169.254", true},
		{"metadata.google.internal", true},
		{"metadata.google.internal.", true},
		{"localhost", true},
		{"LOCALHOST", true},
		{"localhost.", true},
		{"localhost.localdomain", true},
		{"127.0.0.1.nip.example", true},
		{"xn--80ak6aa92e.example", true},
		{"0", true},
		{"0.0.0.0", true},
		{"255.255.255.255", true},
		{"224.0.0.1", true},
		{"[::ffff:127.0.0.1]", true},
		{"[::ffff:7f00:1]", true},
		{"[0:0:0:0:0:FFFF:7F00:0001]", true},
		{"[::ffff:0:0]", true},
		{"[::ffff:a9fe:a9fe]", true},
		{"[::1]", true},
		{"[0:0:0:0:0:0:0:1]", true},
		{"[::]", true},
		{"[::127.0.0.1]", true},
		{"[64:ff9b::127.0.0.1]", true},
		{"[fd00:ec2::254]", true},
		{"１２７.０.０.１", false},
		{"①②⑦.⓪.⓪.①", false},
		{"127。0。0。1", false},
		{"ｌｏｃａｌｈｏｓｔ", false},
		{"ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", false},
		{"%EF%BC%91%EF%BC%92%EF%BC%97.0.0.1", true},
		{"crm.example@127.0.0.1", false},
		{"crm.example:80@127.0.0.1", false},
		{"crm.example%40127.0.0.1", false},
		{"%31%32%37.0.0.1", false},
		{"127.0.0.1%00.crm.example", false},
		{"crm.example\\@127.0.0.1", false},
		{"[::1%25lo]", true},
		{"[fe80::1%25lo]", true},
	} {
		s := testSubscription("a", "http://"+tt.host+"/")
		s.Dialect, s.Method = Unified, "GET"
		if err := s.Validate(); (err == nil) != tt.valid {
			t.Errorf("%s: %v", tt.host, err)
		}
	}
}
