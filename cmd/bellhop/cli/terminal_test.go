package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bellhop/dialog"
)

func TestPrintsTables(t *testing.T) {
	tab := table{
		head:     []string{"ID", "TYPES", "NOTE", "STATE", "WHY", "URL"},
		cuttable: map[string]bool{"TYPES": true}, colors: stateColors, wrapped: 2,
	}
	tab.addRow("4xq7", "dial-in dial-out answer", "", "active", "", "https://crm.example/call")
	tab.addRow("5yr8", "Zoë\x1b[31m\n", "", "disabled", "", "https://x")
	for _, tt := range []struct {
		name string
		terminal
		want string
	}{
		{"output to a file", terminal{}, `ID    TYPES                    STATE     URL
4xq7  dial-in dial-out answer  active    https://crm.example/call
5yr8  Zoë[31m                  disabled  https://x
`},
		{"wide terminal", terminal{width: 80}, `ID    TYPES                    STATE     URL
4xq7  dial-in dial-out answer  active    https://crm.example/call
5yr8  Zoë[31m                  disabled  https://x
`},
		{"narrow terminal", terminal{width: 30}, `ID    TYPES           STATE
  URL
4xq7  dial-in dial-…  active
  https://crm.example/call
5yr8  Zoë[31m         disabled
  https://x
`},
		{"too narrow", terminal{width: 5}, `ID    TYPES     STATE
  URL
4xq7  dial-in…  active
  https://crm.example/call
5yr8  Zoë[31m   disabled
  https://x
`},
	} {
		var b strings.Builder
		tt.Writer = &b
		if err := tab.writeTo(tt.terminal); err != nil || b.String() != tt.want {
			t.Errorf("%s: %v\n%s\nwant\n%s", tt.name, err, b.String(), tt.want)
		}
	}
	var b strings.Builder
	tab.addRow("6zs9", "", "active", "https://y")
	tab.writeTo(terminal{Writer: &b, width: 5})
	if want := "6zs9            active\n  https://y\n"; !strings.HasSuffix(b.String(), want) {
		t.Errorf("with an empty cell:\n%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	if tab.writeTo(terminal{Writer: &b, width: 80, color: true}); !strings.Contains(b.String(), "\x1b[32mactive\x1b[0m") || strings.Contains(b.String(), "\x1b[31m\n") {
		t.Errorf("in color: %q", b.String())
	}
}

// openTerminal opens a pseudoterminal of a width.
func openTerminal(t *testing.T, width uint16) *os.File {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal("this test wants a terminal:", err)
	}
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: width}); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestDetectsTerminal checks a terminal and a file; in a file nothing is cut or colored.
func TestDetectsTerminal(t *testing.T) {
	tty := openTerminal(t, 97)
	for _, tt := range []struct {
		name, noColor, term string
		color               bool
	}{
		{"a terminal", "", "xterm", true},
		{"who wants no color", "1", "xterm", false},
		{"a terminal without color", "", "dumb", false},
	} {
		t.Setenv("NO_COLOR", tt.noColor)
		t.Setenv("TERM", tt.term)
		if s := terminalOf(tty); s.width != 97 || s.color != tt.color {
			t.Errorf("%s is a screen %d wide, color %v", tt.name, s.width, s.color)
		}
	}
	f, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if s := terminalOf(f); s.width != 0 || s.color {
		t.Errorf("a file is a screen %d wide, color %v", s.width, s.color)
	}
}

func TestFormatsDurations(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                         "0.0ms",
		1234 * time.Microsecond:   "1.2ms",
		345 * time.Millisecond:    "345ms",
		12_340 * time.Millisecond: "12.3s",
		62 * time.Second:          "1m02s",
		time.Hour + 2*time.Minute + 3*time.Second: "1h02m",
	} {
		if got := formatDuration(d); got != want {
			t.Errorf("%v is %s, want %s", d, got, want)
		}
	}
}

// TestEscapesControls checks that escaped JSON decodes to the same values.
func TestEscapesControls(t *testing.T) {
	const steering = "\x1b\u0007\u007f\u009b\u061c\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069"
	var b bytes.Buffer
	if err := writeJSON(&b, map[string]string{"name": "Zoë 日本" + steering}); err != nil {
		t.Fatal(err)
	}
	if i := strings.IndexFunc(b.String(), func(r rune) bool { return dialog.IsControl(r) && r != '\n' && r != '\t' }); i >= 0 {
		t.Errorf("JSON has a control character at %d: %q", i, b.String())
	}
	var back map[string]string
	if err := json.Unmarshal(b.Bytes(), &back); err != nil || back["name"] != "Zoë 日本"+steering || !strings.Contains(b.String(), "Zoë 日本") {
		t.Errorf("%q is read as %q: %v", b.String(), back, err)
	}
}
