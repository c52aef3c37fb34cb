package admin

import (
	"context"
	"time"

	"bellhop/notify"
)

// A Status is how a bellhop is. Counts of what was are since its start.
type Status struct {
	Version  string    `json:"version"`
	Node     string    `json:"node,omitempty" doc:"Its name among those that share the store"`
	Started  time.Time `json:"started"`
	Uptime   int64     `json:"uptime" doc:"Seconds"`
	Delivers bool      `json:"delivers" doc:"This node makes the callbacks: of those that share a store, one does"`
	Ready    bool      `json:"ready"`
	Reasons  []string  `json:"reasons" nullable:"false" doc:"Why it is not ready"`
	Degraded []string  `json:"degraded" nullable:"false" doc:"What is wrong although it does its work"`

	Store struct {
		OK  bool   `json:"ok"`
		Why string `json:"why,omitempty" doc:"What is wrong with it"`

		Losses []Loss `json:"losses" nullable:"false" doc:"Records lost to damage, the newest finding first"`
	} `json:"store"`

	Calls   *int `json:"calls" doc:"Live ones; null: the tracker is too busy to say"`
	Streams int  `json:"streams" doc:"Clients that follow the events"`

	Suppressed uint64 `json:"attempts_suppressed" doc:"Calls of unregistered sources that the PBX refused before a phone rang and that were too many to be told"`

	Subscriptions struct {
		All      int `json:"all"`
		Active   int `json:"active"`
		Paused   int `json:"paused"`
		Disabled int `json:"disabled"`
	} `json:"subscriptions"`

	Events struct {
		Said    uint64 `json:"said" doc:"Written to the event log"`
		Dropped uint64 `json:"dropped" doc:"That found no room while the store was slow or gone"`
		Unsaid  int    `json:"unsaid" doc:"That wait to be written"`
	} `json:"events"`

	Deliveries struct {
		Pending   int    `json:"pending" doc:"That have not ended"`
		Delivered uint64 `json:"delivered"`
		Expired   uint64 `json:"expired"`
		Refused   uint64 `json:"refused"`
		Canceled  uint64 `json:"canceled"`
		Failed    uint64 `json:"failed_attempts" doc:"Attempts that were not the end of their delivery"`
	} `json:"deliveries"`
}

// getStatus answers also when a part of bellhop does not.
func (s *Server) getStatus(ctx context.Context, _ *struct{}) (*struct{ Body Status }, error) {
	n := s.config.Notifier
	out := &struct{ Body Status }{Status{
		Version:  s.config.Version,
		Node:     s.config.Node,
		Started:  s.started.UTC().Truncate(time.Second),
		Uptime:   int64(time.Since(s.started).Seconds()),
		Delivers: n.Delivering(),
		Reasons:  append([]string{}, s.reasons()...),
		Degraded: append([]string{}, s.degraded()...),
		Streams:  s.streams.count(),
	}}
	v := &out.Body
	if s.config.Suppressed != nil {
		v.Suppressed = s.config.Suppressed()
	}
	v.Ready = len(v.Reasons) == 0
	v.Store.Losses = append([]Loss{}, s.losses()...)
	if err := n.Health(); err != nil {
		v.Store.Why = err.Error()
	} else {
		v.Store.OK = true
	}
	if live, err := s.liveCalls(ctx); err == nil {
		calls := len(live)
		v.Calls = &calls
	}
	for _, sub := range n.Subscriptions() {
		v.Subscriptions.All++
		switch sub.State {
		case notify.StateActive:
			v.Subscriptions.Active++
		case notify.StatePaused:
			v.Subscriptions.Paused++
		case notify.StateDisabled:
			v.Subscriptions.Disabled++
		}
	}
	stats := n.Stats()
	v.Events.Said, v.Events.Dropped, v.Events.Unsaid = stats.Published, stats.Dropped, stats.Unpublished
	d := &v.Deliveries
	d.Pending, d.Failed = stats.Pending, stats.Failed
	d.Delivered, d.Expired, d.Refused, d.Canceled = stats.Delivered, stats.Expired, stats.Refused, stats.Canceled
	return out, nil
}
