package stream_test

import (
	"context"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server/ats"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"bellhop/notify/storetest"
	"bellhop/notify/stream"
)

func TestMain(m *testing.M) {
	ats.Register() // before any synctest bubble: the server's clock would belong to the first
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

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
		js, closeStore := storetest.Open(t, dir)
		defer closeStore()
		outbox, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "outbox", Subjects: []string{"bellhop.delivery.>"}})
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
		err = stream.Read(ctx, l, jetstream.OrderedConsumerConfig{}, func(m jetstream.Msg) error {
			got = append(got, string(m.Data()))
			return nil
		})
		if err != nil || !slices.Equal(got, want) || l.readings != 3 {
			t.Errorf("read %v in %d readings, %v; want %v in 3", got, l.readings, err, want)
		}
	})
}
