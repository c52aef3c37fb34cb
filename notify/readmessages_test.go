package notify

import (
	"context"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A lossyStream loses the last message of each reading but the third.
type lossyStream struct {
	jetstream.Stream
	readings int
}

func (l *lossyStream) OrderedConsumer(ctx context.Context, c jetstream.OrderedConsumerConfig) (jetstream.Consumer, error) {
	consumer, err := l.Stream.OrderedConsumer(ctx, c)
	l.readings++
	return lossyConsumer{consumer, l.readings < 3}, err
}

type lossyConsumer struct {
	jetstream.Consumer
	loses bool
}

func (c lossyConsumer) Messages(opts ...jetstream.PullMessagesOpt) (jetstream.MessagesContext, error) {
	msgs, err := c.Consumer.Messages(opts...)
	return lossyMessages{msgs, c.loses}, err
}

type lossyMessages struct {
	jetstream.MessagesContext
	loses bool
}

func (l lossyMessages) Next(opts ...jetstream.NextOpt) (jetstream.Msg, error) {
	m, err := l.MessagesContext.Next(opts...)
	if err != nil || !l.loses {
		return m, err
	}
	if meta, err := m.Metadata(); err != nil || meta.NumPending > 0 {
		return m, err
	}
	return l.MessagesContext.Next(opts...)
}

// A reading whose last message is lost continues after the message before it. It once
// waited forever, on a node that took over.
func TestLastMessageLost(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		outbox, err := openOutbox(t.Context(), js, Config{Replicas: 1})
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for i := range 5 {
			want = append(want, strconv.Itoa(i))
			if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: "bellhop.delivery.s." + want[i], Data: []byte(want[i])}); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var got []string
		l := &lossyStream{Stream: outbox}
		err = readMessages(ctx, l, jetstream.OrderedConsumerConfig{}, func(m jetstream.Msg) error {
			got = append(got, string(m.Data()))
			return nil
		})
		if err != nil || !slices.Equal(got, want) || l.readings != 3 {
			t.Errorf("read %v in %d readings, %v; want %v in 3", got, l.readings, err, want)
		}
	})
}
