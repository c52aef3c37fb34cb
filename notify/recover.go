package notify

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"
)

// contain is deferred where outside input is handled: a panic ends what is being
// done, and not the process. It is counted, and logged with its stack.
func (n *Notifier) recoverPanic(doing string) {
	if v := recover(); v != nil {
		n.reportPanic(doing, v)
	}
}

func (n *Notifier) reportPanic(doing string, v any) {
	n.stats.panics.Add(1)
	n.log.Error("panic recovered: this is a bug", "part", doing, "err", fmt.Sprint(v), "stack", string(debug.Stack()))
}

// contained runs a part; a panic is its error.
func (n *Notifier) runRecovering(ctx context.Context, part string, run func(context.Context) error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			n.reportPanic(part, v)
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	return run(ctx)
}

// restarted runs a part until it returns nil or ctx ends: it is begun anew after an
// error or a panic.
func (n *Notifier) runRestarting(ctx context.Context, part string, run func(context.Context) error) {
	for {
		err := n.runRecovering(ctx, part, run)
		if err == nil || ctx.Err() != nil {
			return
		}
		n.log.Error("notify begins anew", "part", part, "err", err)
		sleep(ctx, time.Second)
	}
}
