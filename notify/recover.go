package notify

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"bellhop/notify/stream"
)

// recoverPanic is deferred where outside input is handled. A panic then ends only the work
// in progress, not the process; it is counted, and logged with its stack.
func (n *Notifier) recoverPanic(doing string) {
	if v := recover(); v != nil {
		n.reportPanic(doing, v)
	}
}

// reportPanic counts and logs a panic.
func (n *Notifier) reportPanic(doing string, v any) {
	n.stats.panics.Add(1)
	n.log.Error("panic recovered: this is a bug", "part", doing, "err", fmt.Sprint(v), "stack", string(debug.Stack()))
}

// runRecovering runs a part and returns its error. It reports a panic and returns it as
// an error.
func (n *Notifier) runRecovering(ctx context.Context, part string, run func(context.Context) error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			n.reportPanic(part, v)
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	return run(ctx)
}

// runRestarting runs a part until it returns nil or ctx ends. After an error or a panic it
// is restarted.
func (n *Notifier) runRestarting(ctx context.Context, part string, run func(context.Context) error) {
	for {
		err := n.runRecovering(ctx, part, run)
		if err == nil || ctx.Err() != nil {
			return
		}
		n.log.Error("part restarted", "part", part, "err", err)
		stream.Sleep(ctx, time.Second)
	}
}
