package store

import (
	"bytes"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/cmd/bellhop/config"
	"bellhop/cmd/bellhop/store/storetest"
)

// startNATSCluster starts a cluster of three NATS servers.
func startNATSCluster(t *testing.T) (urls []config.NATSURL, js jetstream.JetStream) {
	t.Helper()
	// Servers must know each other's ports before they start: at this address no other
	// process listens.
	host := storetest.Loopback()
	var routes []*url.URL
	for i := range 3 {
		routes = append(routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("%s:%d", host, 6222+i)})
	}
	var servers []*server.Server
	var all []string
	for i := range 3 {
		srv, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprint("s", i), Host: "127.0.0.1", Port: -1, NoLog: true, NoSigs: true, JetStream: true, StoreDir: t.TempDir(),
			Cluster: server.ClusterOpts{Name: "test", Host: host, Port: 6222 + i}, Routes: routes,
		})
		if err != nil {
			t.Fatal(err)
		}
		srv.Start()
		t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
		servers = append(servers, srv)
	}
	for _, srv := range servers {
		if !srv.ReadyForConnections(patience) {
			t.Fatal("a server does not start")
		}
		urls = append(urls, config.NATSURL(srv.ClientURL()))
		all = append(all, srv.ClientURL())
	}
	nc, err := nats.Connect(strings.Join(all, ","))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	retryRequest(t, func() error {
		_, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "READY", Replicas: 3})
		return err
	})
	return urls, js
}

// retryRequest sends a request to a cluster until it succeeds: a server that loses the
// lead of a stream does not answer.
func retryRequest(t *testing.T, send func() error) {
	t.Helper()
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		err := send()
		if err == nil {
			return
		}
		if time.Since(begin) > patience {
			t.Fatal(err)
		}
	}
}

// TestMigratesClusterStore migrates a store of build d9dd3e8 in a cluster of NATS
// servers, with all its replicas, by three nodes that start at once.
func TestMigratesClusterStore(t *testing.T) {
	t.Parallel()
	urls, js := startNATSCluster(t)
	for _, c := range []jetstream.StreamConfig{
		{Name: "EVENTS", Subjects: []string{"event.>"}, MaxAge: 720 * time.Hour, AllowDirect: true},
		{Name: "OUTBOX", Subjects: []string{"delivery.>"}, AllowRollup: true, AllowMsgTTL: true},
		{Name: "ATTEMPTS", Subjects: []string{"attempt.>"}, MaxAge: 720 * time.Hour},
		{Name: "AUDIT", Subjects: []string{"audit"}, MaxAge: 720 * time.Hour},
	} {
		c.Replicas = 3
		retryRequest(t, func() error { _, err := js.CreateOrUpdateStream(t.Context(), c); return err })
	}
	buckets := make(map[string]jetstream.KeyValue)
	for _, name := range []string{"keys", "SUBSCRIPTIONS", "EXTENSIONS", "STANDINGS", "LEASES", "CALLS", "TOKENS"} {
		c := jetstream.KeyValueConfig{Bucket: name, History: 1, Storage: jetstream.FileStorage, Replicas: 3}
		if name == "STANDINGS" || name == "CALLS" {
			c.LimitMarkerTTL = time.Second
		}
		retryRequest(t, func() (err error) {
			buckets[name], err = js.CreateOrUpdateKeyValue(t.Context(), c)
			return err
		})
	}
	publish := func(subject, format string, v ...any) {
		t.Helper()
		retryRequest(t, func() error {
			_, err := js.Publish(t.Context(), subject, fmt.Appendf(nil, format, v...))
			return err
		})
	}
	put := func(bucket, key, format string, v ...any) {
		t.Helper()
		retryRequest(t, func() error {
			_, err := buckets[bucket].Put(t.Context(), key, fmt.Appendf(nil, format, v...))
			return err
		})
	}
	put("keys", "sip", "%s", bytes.Repeat([]byte("k"), keySize))
	for i := range 200 {
		publish(fmt.Sprintf("event.GEYDC.call%d.id%d", i/3, i), `{"id":"id%d","call":"call%d","type":"hangup"}`, i, i/3)
		publish(fmt.Sprintf("attempt.s%d", i%5), "attempt %d", i)
		put("CALLS", fmt.Sprintf("call.n1.%d", i%20), `{"id":"%d"}`, i)
		if i%10 == 0 {
			publish(fmt.Sprintf("delivery.s.%d", i), `{"lane":"call%d"}`, i/3)
			publish("audit", `{"by":"t","did":"create-subscription","id":"%d"}`, i)
			put("SUBSCRIPTIONS", fmt.Sprint("id", i%30), `{"dialect":"json","note":"%d"}`, i)
		}
	}
	publish("delivery.cursor", "200")
	put("CALLS", "mark.n1", "2026-11-30T20:12:53.5Z")
	put("EXTENSIONS", "GEYDC", "101")
	put("TOKENS", "t1", `{"hash":"aGFzaA=="}`)
	put("STANDINGS", "id0", `{"failing":"2026-11-30T20:12:53.5Z"}`)
	put("LEASES", "deliver", "n1 life")
	for _, seq := range []uint64{3, 90} {
		if err := must[jetstream.Stream](t)(js.Stream(t.Context(), "OUTBOX")).DeleteMsg(t.Context(), seq%20+1); err != nil {
			t.Fatal(err)
		}
	}
	want := dumpOlder(t, js)

	var nodes sync.WaitGroup
	for range 3 {
		c := storetest.Config(t.TempDir())
		c.Store.NATS, c.Store.Replicas = urls, 3
		nodes.Go(func() {
			st, err := Open(t.Context(), c, quiet())
			if err != nil {
				t.Error(err)
				return
			}
			defer st.Close()
			if _, err := st.SharedKey(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	nodes.Wait()
	wantMigrated(t, js, want)
	for _, f := range olderStreams {
		s, err := js.Stream(t.Context(), f.newName)
		if err != nil {
			t.Error(err)
		} else if n := s.CachedInfo().Config.Replicas; n != 3 {
			t.Errorf("%s has %d replicas", f.newName, n)
		}
	}
	c := storetest.Config(t.TempDir())
	c.Store.NATS, c.Store.Replicas = urls, 3
	if err := openRooms(t, c); err != nil {
		t.Error(err)
	}
}
