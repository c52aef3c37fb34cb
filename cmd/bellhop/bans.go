package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/admin/ops"
	"bellhop/sip"
	"bellhop/sip/guard"
)

// A banKeeper keeps the bans of the proxy in a bucket of the store, so that they go on
// after a restart. A ban that has ended stays there for [guard.MaxBanTime], because the
// next one of its source lasts longer. Nodes that share the store share its bans: a source
// that one of them bans is banned by all, and a ban that an operator removes at one of them
// is removed by all.
//
// The proxy decides without the store. Every second, the keeper stores the bans that are
// new, and deletes those that the proxy has forgotten. While the store accepts nothing,
// bans work, and are stored later.
type banKeeper struct {
	proxy  *sip.Proxy
	bucket jetstream.KeyValue
	log    *slog.Logger
	stored map[netip.Prefix]storedBan // as in the bucket; used by openBans, then by run only
	failed bool                       // the last write failed
	broken bool                       // the last watch failed before it received anything
}

// A storedBan is a ban in the bucket.
type storedBan struct {
	sip.Ban
	revision uint64
}

// banRecord is the JSON form of a ban in the bucket. Fields are only ever added.
type banRecord struct {
	Source string    `json:"source"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until"`
	Times  int       `json:"times"`
}

const (
	banInterval  = time.Second      // between two comparisons of the proxy with the bucket
	banTolerance = 2 * time.Second  // difference of the times of the same ban
	banMarkerTTL = 10 * time.Minute // of the purge marker of a deleted ban
)

// openBans opens the bucket of bans, and restores its bans.
func openBans(ctx context.Context, js jetstream.JetStream, replicas int, proxy *sip.Proxy, log *slog.Logger) (*banKeeper, error) {
	bucket, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket:         "bellhop_bans",
		Description:    "banned sources",
		History:        1,
		Storage:        jetstream.FileStorage,
		Replicas:       max(1, replicas),
		LimitMarkerTTL: time.Second, // lets purge markers have a TTL of their own
	})
	if err != nil {
		return nil, fmt.Errorf("open bucket bellhop_bans: %w", err)
	}
	k := &banKeeper{proxy: proxy, bucket: bucket, log: log, stored: make(map[netip.Prefix]storedBan)}
	return k, k.watch(ctx, false)
}

// run keeps the bucket and the proxy the same until ctx ends. It logs the first error of
// several in a row.
func (k *banKeeper) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := k.watch(ctx, true)
		if ctx.Err() == nil && !k.broken {
			k.log.Error("bans of other nodes do not arrive; the watch is tried again each second", "err", err)
		}
		k.broken = true
		select {
		case <-time.After(banInterval):
		case <-ctx.Done():
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), banInterval)
	defer cancel()
	k.storeChanges(ctx)
}

// watch applies the content of the bucket to the proxy. If goOn is true, it then applies
// every change, and stores the changes of the proxy, until ctx ends.
func (k *banKeeper) watch(ctx context.Context, goOn bool) error {
	w, err := k.bucket.WatchAll(ctx)
	if err != nil {
		return fmt.Errorf("watch bans: %w", err)
	}
	defer w.Stop()
	second := time.NewTicker(banInterval)
	defer second.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-second.C:
			k.storeChanges(ctx)
		case e, open := <-w.Updates():
			if !open {
				return errors.New("watch bans: closed")
			}
			k.broken = false
			switch {
			case e != nil:
				k.apply(e)
			case !goOn: // end of the content
				return nil
			}
		}
	}
}

// apply applies an entry of the bucket to the proxy. A ban of the proxy that is not stored
// yet and ends later stays: it is about to be stored.
func (k *banKeeper) apply(e jetstream.KeyValueEntry) {
	source, err := sourceOfKey(e.Key())
	if err != nil {
		k.log.Error("stored ban ignored", "key", e.Key(), "err", err)
		return
	}
	known := k.stored[source]
	if e.Revision() <= known.revision {
		return // written by this node
	}
	own, exists := k.proxy.LastBan(source.Addr())
	unsaved := exists && !sameBan(own, known.Ban)
	if e.Operation() != jetstream.KeyValuePut {
		delete(k.stored, source)
		if exists && !unsaved {
			k.proxy.ForgetBan(source.Addr())
		}
		return
	}
	var r banRecord
	if err := json.Unmarshal(e.Value(), &r); err != nil {
		k.log.Error("stored ban ignored", "key", e.Key(), "err", err)
		return
	}
	b := sip.Ban{Source: source, Reason: guard.BanReasonOf(r.Reason), Since: r.Since, Until: r.Until, Times: max(1, r.Times)}
	k.stored[source] = storedBan{b, e.Revision()}
	if !unsaved || own.Until.Before(b.Until) {
		k.proxy.RestoreBan(b)
	}
}

// sameBan reports whether a ban of the proxy is a stored one. Their times differ a little,
// because the wall clock is adjusted.
func sameBan(own, stored sip.Ban) bool {
	return own.Reason == stored.Reason && own.Times == stored.Times && own.Until.Sub(stored.Until).Abs() < banTolerance
}

// storeChanges stores the bans of the proxy that the bucket does not have, and deletes
// from it those that the proxy does not have. It logs the first error of several in a row.
func (k *banKeeper) storeChanges(ctx context.Context) {
	err := k.tryToStore(ctx)
	if err != nil && !k.failed {
		k.log.Error("bans not stored; they are stored when the store accepts them", "err", err)
	}
	k.failed = err != nil
}

func (k *banKeeper) tryToStore(ctx context.Context) error {
	bans := make(map[netip.Prefix]bool)
	for _, b := range k.proxy.BanHistory() {
		bans[b.Source] = true
		if known, ok := k.stored[b.Source]; ok && sameBan(b, known.Ban) {
			continue
		}
		record, err := json.Marshal(banRecord{guard.SourceText(b.Source), b.Reason.String(), b.Since, b.Until, b.Times})
		if err != nil {
			return err
		}
		revision, err := k.bucket.Put(ctx, keyOfSource(b.Source), record)
		if err != nil {
			return err
		}
		k.stored[b.Source] = storedBan{b, revision}
	}
	for source, known := range k.stored {
		if bans[source] {
			continue
		}
		err := k.bucket.Purge(ctx, keyOfSource(source), jetstream.LastRevision(known.revision), jetstream.PurgeTTL(banMarkerTTL))
		if err != nil && !errors.Is(err, jetstream.ErrKeyRevisionMismatch) { // mismatch: watch will apply the change of another node
			return err
		}
		delete(k.stored, source)
	}
	return nil
}

// keyOfSource returns the key of a source in the bucket. A key may have no colon and no
// slash at its end.
func keyOfSource(source netip.Prefix) string {
	return strings.NewReplacer(":", "_", "/", "=").Replace(guard.SourceText(source))
}

// sourceOfKey returns the source with a key.
func sourceOfKey(key string) (netip.Prefix, error) {
	ip, err := guard.ParseSource(strings.NewReplacer("_", ":", "=", "/").Replace(key))
	if err != nil {
		return netip.Prefix{}, err
	}
	return guard.SourceOf(ip), nil
}

// listBans returns the bans as the API shows them.
func (s *service) listBans() []ops.Ban {
	bans := []ops.Ban{}
	for _, b := range s.proxy.Bans() {
		bans = append(bans, describeBan(b))
	}
	return bans
}

// banOf returns the ban of a source; false: it is not banned.
func (s *service) banOf(source string) (ops.Ban, bool) {
	ip, err := guard.ParseSource(source)
	if err != nil {
		return ops.Ban{}, false
	}
	b, ok := s.proxy.BanOf(ip)
	return describeBan(b), ok
}

// addBan bans a source for d; 0: for guard.ban_time.
func (s *service) addBan(source string, d time.Duration) (ops.Ban, error) {
	ip, err := guard.ParseSource(source)
	if err != nil {
		return ops.Ban{}, err
	}
	b, err := s.proxy.Ban(ip, d)
	return describeBan(b), err
}

// removeBan ends the ban of a source, and returns it; false: there is none.
func (s *service) removeBan(source string) (ops.Ban, bool) {
	ip, err := guard.ParseSource(source)
	if err != nil {
		return ops.Ban{}, false
	}
	b, ok := s.proxy.Unban(ip)
	return describeBan(b), ok
}

// describeBan returns a ban as the API shows it.
func describeBan(b sip.Ban) ops.Ban {
	return ops.Ban{Source: guard.SourceText(b.Source), Reason: b.Reason.String(), Since: b.Since, Until: b.Until, Times: b.Times}
}
