package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"bellhop/sip"
)

// TestFullDiskDelaysEvents fills the disk of the store during calls, and then frees
// space. No call fails, /readyz reports the reason, and once there is space all
// unpublished events are published and delivered, without a restart.
func TestFullDiskDelaysEvents(t *testing.T) {
	for _, tt := range []struct {
		name string
		left int64 // bytes that events may fill
	}{
		{"by a big file", 0},
		{"by events", 256 << 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			const calls = 240
			s := newSite(t, sip.UDP, sip.UDP)
			p, dropped := s.outOfSpace(calls, tt.left, "events wait", func() bool { return s.metric("bellhop_events_unpublished") > 100 })
			if dropped != 0 {
				t.Errorf("%d events were dropped", dropped)
			}

			// All records are still there: those written before, during and after the outage.
			p.stop()
			s.once(calls, "dial-out 1", "ringing 2", "answer 3", "hangup 4")
			p = s.serve()
			var log struct{ Items []any }
			s.api("GET", "/v1/events?limit=1000", nil, &log)
			if len(log.Items) != 4*calls {
				t.Errorf("the log has %d events, want %d", len(log.Items), 4*calls)
			}
			p.stop()
			if extra := s.receiver.take(); len(extra) > 0 {
				t.Errorf("after a restart %d callbacks came again, the first %v", len(extra), extra[0])
			}
		})
	}
}

// TestDiskFullLong keeps the disk full until events are dropped: only live ones, and
// each is counted, as are those that have expired once there is space. It takes three
// minutes.
func TestDiskFullLong(t *testing.T) {
	if !*soak {
		t.Skip("takes three minutes: make soak")
	}
	const calls = 3000
	s := newSite(t, sip.UDP, sip.UDP)
	p, dropped := s.outOfSpace(calls, 0, "events are dropped", func() bool { return s.metric("bellhop_events_dropped_total") >= 200 })
	s.eventually("nothing is owed", func() bool { return s.metric("bellhop_deliveries_pending") == 0 })
	expired := int(s.metric(`bellhop_deliveries_total{outcome="expired"}`))
	p.stop()
	told := map[string]int{} // events
	last := map[string]int64{}
	for _, c := range s.receiver.take() {
		if told[c.id]++; told[c.id] > 1 {
			continue
		}
		if before := last[c.get("CallID")]; c.number("sequence") <= before {
			t.Errorf("call %s: %d came after %d", c.get("CallID"), c.number("sequence"), before)
		}
		last[c.get("CallID")] = c.number("sequence")
	}
	if len(told)+dropped+expired != 4*calls {
		t.Errorf("%d events were delivered, %d dropped and %d too old, want %d together", len(told), dropped, expired, 4*calls)
	}
	for call, sequence := range last {
		if sequence != 4 {
			t.Errorf("the last of call %s is its event %d, want 4", call, sequence)
		}
	}
	if len(last) != calls {
		t.Errorf("%d calls were told of, want %d", len(last), calls)
	}
	t.Logf("%d calls, none failed; %d events delivered, %d dropped, %d too old when there was room; every call has its hangup", len(last), len(told), dropped, expired)
}

// outOfSpace starts bellhop on a small disk and places calls, 20 a second. It fills the
// disk except for some bytes, frees it once enough reports true, and returns after the
// hangups of all calls, with the number of dropped events.
func (s *site) outOfSpace(calls int, left int64, what string, enough func() bool) (p *process, dropped int) {
	s.t.Helper()
	disk := s.smallDisk(64 << 20)
	s.configure("[extensions]\npattern = '^[0-9]{3,6}$'\n") // the last call is of 10 and its number
	p = s.serve()
	s.subscribe("json", "POST", "dial-out", "ringing", "answer", "hangup")
	phones, pbx := s.place("caller-hangs-up", calls, 20)
	s.receiver.wait("some hangups", patience, func(came []received) bool { return hangups(came) >= 10 })

	disk.fill(left)
	s.eventually("bellhop says that the disk is full", func() bool {
		status, answer := s.request("GET", "/readyz", nil)
		return status == http.StatusServiceUnavailable && bytes.Contains(answer, []byte("no space left on device"))
	})
	full := time.Now()
	s.eventually(what, enough)
	for path, want := range map[string]int{"/healthz": http.StatusOK, "/readyz": http.StatusServiceUnavailable} {
		if got := s.status(path); got != want {
			s.t.Errorf("%s is %d while the disk is full, want %d", path, got, want)
		}
	}
	waited := s.metric("bellhop_events_unpublished")

	disk.free()
	room := time.Now()
	s.eventually("bellhop is ready again", func() bool { return s.status("/readyz") == http.StatusOK })
	ready := time.Since(room)
	phones.exits(0, patience)
	pbx.exits(0, patience)
	s.receiver.wait("a hangup for every call", patience, func(came []received) bool { return hangups(came) >= calls })
	s.eventually("every event is said", func() bool { return s.metric("bellhop_events_unpublished") == 0 })
	if _, answer := s.request("GET", "/readyz", nil); bytes.Contains(answer, []byte("damaged")) {
		s.t.Errorf("a full disk is taken for damage: %s", answer)
	}
	dropped = int(s.metric("bellhop_events_dropped_total"))
	s.t.Logf("the disk was full for %v, %v events waited then; %v after there was room bellhop was ready",
		room.Sub(full).Round(time.Millisecond), waited, ready.Round(time.Millisecond))
	return p, dropped
}

// A disk is a mounted file system.
type disk struct {
	t   *testing.T
	dir string
}

// smallDisk puts the store on a disk of that many bytes.
func (s *site) smallDisk(size int) *disk {
	s.t.Helper()
	dir := filepath.Join(s.dir, "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		s.t.Fatal(err)
	}
	err := syscall.Mount("bellhop-test", dir, "tmpfs", 0, "mode=0700,size="+strconv.Itoa(size))
	if errors.Is(err, syscall.EPERM) {
		s.t.Fatal("this test mounts a small disk: run it as root, or with unshare --user --map-root-user --mount before the command")
	}
	if err != nil {
		s.t.Fatalf("mount a tmpfs on %s: %v", dir, err)
	}
	s.t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			s.t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return &disk{s.t, dir}
}

// fill fills the disk except for some bytes.
func (d *disk) fill(left int64) {
	d.t.Helper()
	f, err := os.Create(filepath.Join(d.dir, "big"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	page := make([]byte, 4096)
	for err == nil {
		_, err = f.Write(page)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		d.t.Fatalf("fill the disk: %v", err)
	}
	if left == 0 {
		return
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		err = f.Truncate(size - left)
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// free frees the space that fill has taken.
func (d *disk) free() {
	d.t.Helper()
	if err := os.Remove(filepath.Join(d.dir, "big")); err != nil {
		d.t.Fatal(err)
	}
}

// metric returns the value of a metric.
func (s *site) metric(name string) float64 {
	s.t.Helper()
	status, page := s.request("GET", "/metrics", nil)
	if status != http.StatusOK {
		s.t.Fatalf("GET /metrics: %d %s", status, page)
	}
	for lines := bufio.NewScanner(bytes.NewReader(page)); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				s.t.Fatal(err)
			}
			return v
		}
	}
	s.t.Fatalf("/metrics has no %s", name)
	panic("unreachable")
}
