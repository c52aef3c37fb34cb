package sip

import (
	"strings"
	"testing"
	"time"
)

func TestAPanicCostsOneMessage(t *testing.T) {
	w, out := bare(t, nil)
	message := strings.Replace(typicalINVITE, "INVITE", "MESSAGE", -1)
	p := w.comes([]byte(message), barePhone)
	w.serverKey(&p.msg)
	w.servers[string(w.key)] = &serverTx{last: []byte("x")} // it belongs to no worker: to answer it panics
	w.handle(input{packet: p})
	if got := w.hop.Stats().Panics; got != 1 {
		t.Fatalf("%d panics are counted", got)
	}
	w.handle(input{packet: w.comes([]byte(strings.Replace(message, "z9hG4bK-0", "z9hG4bK-1", 1)), barePhone)})
	if out.n != 1 || out.to != barePBX {
		t.Errorf("the next message did not go on")
	}
}

func TestAPanicOfATimerCostsThisTimer(t *testing.T) {
	w, _ := bare(t, nil)
	var as []*alarm
	for range 3 {
		a := newAlarm()
		w.wheel.start(&a.timer, w.now()+tick)
		as = append(as, a)
	}
	as[1].then = func(instant) { panic("a bug") }
	w.hop.epoch = w.hop.epoch.Add(-time.Second)
	w.timers()
	w.timers()
	for i, a := range as {
		if len(a.fired) != 1 {
			t.Errorf("timer %d fired %d times", i, len(a.fired))
		}
	}
	if got := w.hop.Stats().Panics; got != 1 {
		t.Errorf("%d panics are counted", got)
	}
}
