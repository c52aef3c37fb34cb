package main

import (
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"bellhop/sip"
	"bellhop/sip/siptest"
)

// TestCommandScripts runs the scripts in testdata/commands: command lines with the expected
// output. Beside the commands of testscript, a script may use:
//
//	serve  start a bellhop, a PBX and a receiver at http://$HOOK. Commands find the
//	       bellhop and its token by the environment; $CONFIG is its config
//	call   101 calls 102, who is busy: four events
//	restart
//	       stop that bellhop, and start it again
//	followed
//	       wait until a client follows the events
//	came N
//	       wait until the receiver has got N callbacks in total
//	wrong COMMAND...
//	       run a command that rejects its arguments: exit status 2
//	until PATTERN COMMAND...
//	       repeat a command until its output matches
//	keep NAME PATTERN
//	       set $NAME to the text that the group of the pattern matches in the last output
func TestCommandScripts(t *testing.T) {
	bin := filepath.Dir(program(t))
	scripts, err := filepath.Glob(filepath.Join("..", "..", "testdata", "commands", "*.txt"))
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txt"), func(t *testing.T) {
			t.Parallel()
			var o office
			testscript.Run(t, testscript.Params{
				Files:               []string{script},
				RequireExplicitExec: true,
				Setup: func(env *testscript.Env) error {
					env.Setenv("PATH", bin)
					env.Setenv("TZ", "UTC")
					return nil
				},
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"serve": func(ts *testscript.TestScript, _ bool, _ []string) { o.open(t, ts) },
					"call":  func(*testscript.TestScript, bool, []string) { o.call() },
					"restart": func(*testscript.TestScript, bool, []string) {
						o.process.stop()
						o.process = o.serve()
					},
					"followed": func(*testscript.TestScript, bool, []string) {
						o.eventually("somebody follows the events", func() bool {
							var status struct{ Streams int }
							o.api("GET", "/v1/status", nil, &status)
							return status.Streams == 1
						})
					},
					"came": func(_ *testscript.TestScript, _ bool, args []string) {
						o.receiver.wait("all that were to come", patience, func(came []received) bool { return strconv.Itoa(len(came)) == args[0] })
					},
					"keep": keepMatch,
					"wrong": func(ts *testscript.TestScript, _ bool, args []string) {
						var exit *exec.ExitError
						if err := ts.Exec(args[0], args[1:]...); !errors.As(err, &exit) || exit.ExitCode() != 2 {
							ts.Fatalf("want exit status 2, not %v", err)
						}
					},
					"until": func(ts *testscript.TestScript, _ bool, args []string) {
						until(t, ts, args[0], args[1:])
					},
				},
			})
		})
	}
}

// An office is a site with a PBX and two phones.
type office struct {
	*site
	process *process
	caller  *siptest.Phone
	events  int // that there must be
}

func (o *office) open(t *testing.T, ts *testscript.TestScript) {
	o.site = newSite(t, sip.UDP, sip.UDP)
	socket := func(addr string) *net.UDPConn {
		c, err := net.ListenPacket("udp4", addr)
		ts.Check(err)
		return c.(*net.UDPConn)
	}
	pbx := siptest.NewPBX(socket(o.pbx.AddrPort.String()))
	t.Cleanup(pbx.Close)
	o.process = o.serve()
	for _, user := range []string{"102", "101"} {
		phone := siptest.NewPhone(socket("127.0.0.1:0"), o.hop, user, "")
		t.Cleanup(phone.Close)
		phone.Behave(siptest.Behavior{Busy: true})
		ts.Check(phone.Register())
		o.caller = phone
	}
	ts.Setenv("BELLHOP_SERVER", "http://"+o.admin.String())
	ts.Setenv("BELLHOP_TOKEN", testToken)
	ts.Setenv("HOOK", o.receiver.addr)
	ts.Setenv("CONFIG", filepath.Join(o.dir, "config.toml"))
}

// call places a call, and waits until all its events are in the log.
func (o *office) call() {
	o.caller.Dial("102").Wait(o.t.Context())
	o.events += 4
	o.eventually("the call is in the log", func() bool {
		var log struct{ Items []struct{} }
		o.api("GET", "/v1/events?limit=1000", nil, &log)
		return len(log.Items) >= o.events
	})
}

func keepMatch(ts *testscript.TestScript, _ bool, args []string) {
	found := regexp.MustCompile(args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if len(found) != 2 {
		ts.Fatalf("no match for %s in %s", args[1], ts.ReadFile("stdout"))
	}
	ts.Setenv(args[0], found[1])
}

func until(t *testing.T, ts *testscript.TestScript, pattern string, command []string) {
	re := regexp.MustCompile("(?m)" + pattern)
	(&site{t: t}).eventually(strings.Join(command, " ")+" writes "+pattern, func() bool {
		ts.Check(ts.Exec(command[0], command[1:]...))
		return re.MatchString(ts.ReadFile("stdout"))
	})
}
