package config

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"bellhop/sip/siptest"
)

// readmeConfigs returns the configs in a README: the indented blocks that begin with the
// table [sip], by the heading above them.
func readmeConfigs(t *testing.T, path string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	configs := map[string]string{}
	heading, block, n := "", "", 0
	for line := range strings.Lines(string(b) + "\n#") {
		code, indented := strings.CutPrefix(line, "    ")
		switch {
		case indented && (block != "" || code == "[sip]\n"):
			block += code
			continue
		case block != "" && strings.TrimSpace(line) == "":
			block += "\n"
			continue
		case block != "":
			n++
			configs[fmt.Sprintf("%d %s", n, heading)] = block
			block = ""
		}
		if strings.HasPrefix(line, "#") {
			heading = strings.TrimLeft(strings.TrimSpace(line), "# ")
		}
	}
	return configs
}

var (
	variables = regexp.MustCompile(`"env:(\w+)"`)
	files     = regexp.MustCompile(`file:/etc/bellhop`)
	names     = regexp.MustCompile(`advertise = "([a-z.]+)"`)
)

// TestReadmeConfigsAreValid loads each config in the guide of the proxy. It has neither
// problems nor warnings. Its files and variables exist.
func TestReadmeConfigsAreValid(t *testing.T) {
	configs := readmeConfigs(t, filepath.Join("..", "..", "..", "sip", "README.md"))
	want := []string{"TLS", "Browsers", "Settings", "On the PBX's machine", "In front of a LAN PBX", "In a cloud with 1:1 NAT", "Phones behind NAT", "Two nodes",
		"Trunks", "Twilio", "Telnyx", "Microsoft Teams", "A carrier at which the PBX registers", "FreeSWITCH", "3CX and others without Path"}
	for _, heading := range want {
		found := false
		for name := range configs {
			found = found || strings.HasSuffix(name, " "+heading)
		}
		if !found {
			t.Errorf("no config under the heading %q", heading)
		}
	}
	for name, text := range configs {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			request := siptest.CertificateRequest{}
			for _, m := range names.FindAllStringSubmatch(text, -1) {
				request.Hosts = append(request.Hosts, m[1])
			}
			cert, key := siptest.NewAuthority("ca").Issue(request)
			for name, b := range map[string][]byte{"cert.pem": cert, "key.pem": key} {
				if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for _, m := range variables.FindAllStringSubmatch(text, -1) {
				t.Setenv(m[1], "0123456789abcdef")
			}
			c, r, err := parse("c", files.ReplaceAllString(text, "file:"+dir))
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			c.warnListeners(r.addProblem)
			c.warnTLS(r.addProblem, time.Now())
			c.warnUDPMax(r.addProblem)
			if len(r.problems) > 0 {
				t.Errorf("%v\n%s", r.problems, text)
			}
		})
	}
}
