package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// ErrStop ends Read without an error if the function that Read calls returns it.
var ErrStop = errors.New("reading stopped")

// Read calls f for every message that is in the stream now and that c selects, until f
// returns an error. If a message is lost on its way, or the server restarts and loses the
// consumer, Read continues after the last message that f accepted.
func Read(ctx context.Context, s jetstream.Stream, c jetstream.OrderedConsumerConfig, f func(jetstream.Msg) error) error {
	for {
		last, err := readOnce(ctx, s, c, f)
		if err != errLostMessage {
			return err
		}
		if last > 0 {
			c.DeliverPolicy, c.OptStartSeq, c.OptStartTime = jetstream.DeliverByStartSequencePolicy, last+1, nil
		}
	}
}

// errLostMessage reports that a message of the store did not arrive. NATS sends it
// again only if another message follows, and not at all if the consumer is lost.
var errLostMessage = errors.New("a message of the store did not arrive")

// readOnce reads like Read, with a single consumer. It returns the position of the last
// message read. The error is errLostMessage if the remaining messages do not arrive.
func readOnce(ctx context.Context, s jetstream.Stream, c jetstream.OrderedConsumerConfig, f func(jetstream.Msg) error) (last uint64, err error) {
	consumer, err := s.OrderedConsumer(ctx, c)
	if err != nil {
		return 0, err
	}
	defer func() {
		// Otherwise the server keeps the consumer for minutes, and has at most a thousand.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		s.DeleteConsumer(ctx, consumer.CachedInfo().Name)
	}()
	if consumer.CachedInfo().NumPending == 0 {
		return 0, nil
	}
	msgs, err := consumer.Messages()
	if err != nil {
		return 0, err
	}
	defer msgs.Stop()
	read := uint64(0)           // messages, by the count of the consumer
	var waiting context.Context // shared by the messages of an interval, because one for each message is slow
	stop := func() {}
	defer func() { stop() }()
	startInterval := func() {
		stop()
		waiting, stop = context.WithTimeout(ctx, readPollInterval)
	}
	startInterval()
	for polls := 1; ; {
		m, err := msgs.Next(jetstream.NextContext(waiting))
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			// The remaining messages may have been removed meanwhile. An error does not end the
			// reading: after a restart of the server the consumer is lost.
			info, err := consumer.Info(ctx)
			if err == nil && info.NumPending == 0 && (info.Delivered.Consumer == 0 || info.Delivered.Consumer == read) {
				return last, nil
			}
			if polls++; polls > maxReadPolls {
				return last, errLostMessage
			}
			startInterval()
			continue
		}
		if err != nil {
			return last, err
		}
		if err := f(m); err == ErrStop {
			return last, nil
		} else if err != nil {
			return last, fmt.Errorf("%s: %w", m.Subject(), err)
		}
		meta, err := m.Metadata()
		if err != nil || meta.NumPending == 0 {
			return last, err
		}
		read, last, polls = meta.Sequence.Consumer, meta.Sequence.Stream, 1
	}
}

// While no message comes, readOnce asks the server every readPollInterval whether all
// messages were delivered. After maxReadPolls such requests in a row, Read continues with a
// new consumer.
const (
	readPollInterval = time.Second
	maxReadPolls     = 3
)

// ConsumerIdleTimeout is how long the server keeps a consumer that nobody reads.
const ConsumerIdleTimeout = 30 * time.Second

// ReadBackwards stops after it has read more than MaxScanned messages. It holds at most
// maxChunkMessages in memory.
const (
	MaxScanned       = 20_000
	maxChunkMessages = 4096
)

// errTooMany reports that a chunk has more than maxChunkMessages.
var errTooMany = errors.New("too many messages at once")

// ReadBackwards calls f for the messages of a stream that match filters, newest first,
// until f returns false. It starts with the last message whose position is below before,
// or at the end of the stream if before is 0. If it stops after MaxScanned messages,
// further messages may match below position rest; otherwise rest is 0.
func ReadBackwards(ctx context.Context, s jetstream.Stream, filters []string, before uint64, f func(uint64, jetstream.Msg) (bool, error)) (rest uint64, err error) {
	info, err := s.Info(ctx)
	if err != nil {
		return 0, err
	}
	first, end := info.State.FirstSeq, info.State.LastSeq+1
	if before > 0 {
		end = min(end, before)
	}
	scanned := 0
	for size := uint64(64); end > max(first, 1); size = min(size*2, 1<<20) {
		if scanned > MaxScanned {
			return end, nil
		}
		begin := max(first, 1)
		if end-begin > size {
			begin = end - size
		}
		var chunk []jetstream.Msg
		var positions []uint64
		c := jetstream.OrderedConsumerConfig{
			FilterSubjects: filters, InactiveThreshold: ConsumerIdleTimeout,
			DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: begin,
		}
		err := Read(ctx, s, c, func(m jetstream.Msg) error {
			meta, err := m.Metadata()
			if err != nil {
				return err
			}
			if meta.Sequence.Stream >= end {
				return ErrStop
			}
			if len(chunk) == maxChunkMessages {
				return errTooMany
			}
			chunk, positions = append(chunk, m), append(positions, meta.Sequence.Stream)
			return nil
		})
		if errors.Is(err, errTooMany) {
			size /= 16 // then doubled by the loop: an eighth of the positions is tried next
			continue
		}
		if err != nil {
			return 0, err
		}
		for i, m := range slices.Backward(chunk) {
			goOn, err := f(positions[i], m)
			if err != nil || !goOn {
				return 0, err
			}
		}
		if scanned += len(chunk); len(chunk) > 256 {
			size /= 2 // then doubled by the loop: the size stays
		}
		end = begin
	}
	return 0, nil
}
