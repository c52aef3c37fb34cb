package ops

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"bellhop/notify"
)

// Ban is the time in which bellhop accepts nothing from a source.
type Ban struct {
	Source string    `json:"source" doc:"IPv4 address, or /64 network of IPv6"`
	Reason string    `json:"reason" enum:"credentials,not_sip,handshake,manual" doc:"credentials: wrong passwords; not_sip: connections with something else than SIP; handshake: failed TLS or WebSocket handshakes; manual: added by an operator"`
	Since  time.Time `json:"since" doc:"Time at which the ban began"`
	Until  time.Time `json:"until" doc:"Time at which the ban ends"`
	Times  int       `json:"times" doc:"Number of this ban of the source: each further one within a day lasts twice as long"`
}

// MaxBan is the longest ban that an operator may add.
const MaxBan = 10 * 365 * 24 * time.Hour

// ErrNoBan is the error for a source that is not banned.
var ErrNoBan = errors.New("this source is not banned")

// Bans returns the bans that have not ended, oldest first.
func (o *Operations) Bans() []Ban {
	if o.config.Bans == nil {
		return []Ban{}
	}
	bans := o.config.Bans()
	slices.SortFunc(bans, func(a, b Ban) int { return cmp.Or(a.Since.Compare(b.Since), strings.Compare(a.Source, b.Source)) })
	return bans
}

// Ban returns the ban of a source, or ErrNoBan.
func (o *Operations) Ban(source string) (Ban, error) {
	if o.config.BanOf != nil {
		if b, ok := o.config.BanOf(source); ok {
			return b, nil
		}
	}
	return Ban{}, ErrNoBan
}

// AddBan bans a source until a time, in place of the ban that it has. If until is zero, the
// ban lasts for guard.ban_time of the config. An [notify.Invalid] names the wrong field.
func (o *Operations) AddBan(ctx context.Context, source string, until time.Time) (Ban, error) {
	var d time.Duration
	if !until.IsZero() {
		switch d = time.Until(until); {
		case d <= 0:
			return Ban{}, &notify.Invalid{Field: "until", Why: "must be in the future"}
		case d > MaxBan:
			return Ban{}, &notify.Invalid{Field: "until", Why: "must be at most 10 years ahead"}
		}
	}
	if o.config.AddBan == nil {
		return Ban{}, &notify.Invalid{Field: "source", Why: "cannot be banned: there is no proxy"}
	}
	var before any
	if old, err := o.Ban(source); err == nil {
		before = old
	}
	b, err := o.config.AddBan(source, d)
	if err != nil {
		return Ban{}, &notify.Invalid{Field: "source", Why: err.Error()}
	}
	o.record(ctx, "add-ban", b.Source, before, b)
	return b, nil
}

// RemoveBan ends the ban of a source, or returns ErrNoBan.
func (o *Operations) RemoveBan(ctx context.Context, source string) error {
	if o.config.RemoveBan == nil {
		return ErrNoBan
	}
	b, ok := o.config.RemoveBan(source)
	if !ok {
		return ErrNoBan
	}
	o.record(ctx, "remove-ban", b.Source, b, nil)
	return nil
}
