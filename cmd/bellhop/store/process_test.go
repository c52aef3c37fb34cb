package store

import (
	"bytes"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server/ats"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"bellhop/cmd/bellhop/store/storetest"
)

// patience is how long a test waits for what must happen: a busy machine is slow.
const patience = 5 * time.Minute

// programDir is the folder of the built NATS server. TestMain creates and removes it.
var programDir string

func TestMain(m *testing.M) {
	var err error
	if programDir, err = os.MkdirTemp("", "bellhop-test-"); err != nil {
		log.Fatal(err)
	}
	ats.Register() // before any bubble: the store's clock would be of the first
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent(), goleak.Cleanup(func(status int) {
		os.RemoveAll(programDir)
		os.Exit(status)
	}))
}

// buildNATS builds the NATS server, once and without the race detector: creating streams
// from several nodes at once is a data race in it.
var buildNATS = sync.OnceValues(func() ([]byte, error) {
	return exec.Command("go", "build", "-race=false", "-o", programDir, "github.com/nats-io/nats-server/v2").CombinedOutput()
})

// startNATS starts a NATS server in another process, which ends with the test.
func startNATS(t *testing.T, dir string) (url string, js jetstream.JetStream) {
	t.Helper()
	if output, err := buildNATS(); err != nil {
		t.Fatalf("build nats-server: %v\n%s", err, output)
	}
	host := storetest.Loopback()
	url = "nats://" + host + ":4222"
	server := exec.Command(filepath.Join(programDir, "nats-server"), "-js", "-sd", dir, "-a", host, "-p", "4222")
	var output bytes.Buffer // read after the end
	server.Stdout, server.Stderr = &output, &output
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	t.Cleanup(func() {
		server.Process.Kill()
		<-ended
	})
	for began := time.Now(); ; <-time.After(10 * time.Millisecond) {
		nc, err := nats.Connect(url)
		if err == nil {
			t.Cleanup(nc.Close)
			return url, must[jetstream.JetStream](t)(jetstream.New(nc, jetstream.WithDefaultTimeout(patience)))
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the server ended: %v\n%s", err, &output)
		default:
		}
		if time.Since(began) > patience {
			t.Fatalf("the server does not start: %v", err)
		}
	}
}
