package dialog

import (
	"fmt"
	"testing"
	"time"
)

// TestFreeSWITCHFinalResponses checks a FreeSWITCH that forwards the final response of the
// callee's phone to the caller, with its cause: both have the same status.
func TestFreeSWITCHFinalResponses(t *testing.T) {
	for _, tt := range []struct {
		callee int // the phone's final response
		rang   bool
		caller int
		reason string
		want   Status
	}{
		{486, true, 486, "Q.850;cause=17;text=\"USER_BUSY\"", Busy},
		{600, true, 600, "Q.850;cause=17;text=\"USER_BUSY\"", Busy},
		{603, true, 603, "Q.850;cause=21;text=\"CALL_REJECTED\"", Busy},
		{404, false, 404, "Q.850;cause=1;text=\"UNALLOCATED_NUMBER\"", ChanUnavail},
		{403, false, 403, "Q.850;cause=21;text=\"CALL_REJECTED\"", Congestion},
		{488, false, 488, "Q.850;cause=88;text=\"INCOMPATIBLE_DESTINATION\"", Congestion},
		{484, false, 484, "Q.850;cause=28;text=\"INVALID_NUMBER_FORMAT\"", ChanUnavail},
		{410, false, 410, "Q.850;cause=22;text=\"NUMBER_CHANGED\"", ChanUnavail},
		{408, true, 408, "Q.850;cause=102;text=\"RECOVERY_ON_TIMER_EXPIRE\"", NoAnswer},
		{480, true, 480, "Q.850;cause=16;text=\"NORMAL_CLEARING\"", NoAnswer},
		{480, false, 480, "Q.850;cause=16;text=\"NORMAL_CLEARING\"", ChanUnavail},
		{500, false, 500, "Q.850;cause=41;text=\"NORMAL_TEMPORARY_FAILURE\"", Congestion},
	} {
		t.Run(fmt.Sprintf("%d %v", tt.callee, tt.rang), func(t *testing.T) {
			a, b := caller(), callee()
			b.at = a.at.Add(25 * time.Millisecond)
			messages := []Message{a.invite("Proxy-Authorization: Digest username=\"101\"\r\n"), a.response(100), b.invite()}
			if tt.rang {
				messages = append(messages, b.response(180))
			}
			b.later(time.Second)
			a.at = b.at.Add(20 * time.Millisecond)
			messages = append(messages, b.response(tt.callee))
			if e := lastEvent(t, testConfig(), messages...); e.Extension.User != "102" || e.Status != tt.want || *e.Missed != true {
				t.Errorf("%s of %s is %s, want %s", e.Type, e.Extension, e.Status, tt.want)
			}
			messages = append(messages, a.response(tt.caller, "Reason: "+tt.reason+"\r\n"))
			if e := lastEvent(t, testConfig(), messages...); e.Extension.User != "101" || e.Status != tt.want {
				t.Errorf("%s of %s is %s, want %s", e.Type, e.Extension, e.Status, tt.want)
			}
		})
	}
}

// TestFreeSWITCHFinalsWithoutCallee checks final responses to a caller for whom no phone
// was called, also after a ring tone of the PBX itself.
func TestFreeSWITCHFinalsWithoutCallee(t *testing.T) {
	for _, tt := range []struct {
		name   string
		code   int
		rings  bool
		reason string
		want   Status
	}{
		{"not registered", 480, false, "SIP;cause=806;text=\"USER_NOT_REGISTERED\"", ChanUnavail},
		{"not registered, after ringback", 480, true, "SIP;cause=806;text=\"USER_NOT_REGISTERED\"", ChanUnavail},
		{"unknown to the directory", 480, false, "Q.850;cause=20;text=\"SUBSCRIBER_ABSENT\"", ChanUnavail},
		{"no such number", 480, false, "Q.850;cause=16;text=\"NORMAL_CLEARING\"", ChanUnavail},
		{"no answer past us", 480, true, "Q.850;cause=19;text=\"NO_ANSWER\"", NoAnswer},
		{"leg timed out past us", 480, true, "SIP;cause=802;text=\"ALLOTTED_TIMEOUT\"", NoAnswer},
		{"gateway down", 480, true, "SIP;cause=809;text=\"GATEWAY_DOWN\"", Congestion},
		{"everybody busy", 480, true, "SIP;cause=815;text=\"BUSY_EVERYWHERE\"", Busy},
		{"congestion in FreeSWITCH", 503, false, "Q.850;cause=42;text=\"SWITCH_CONGESTION\"", Congestion},
		{"unallocated number", 404, false, "Q.850;cause=1;text=\"UNALLOCATED_NUMBER\"", ChanUnavail},
		{"refused by the dialplan", 503, false, "Q.850;cause=41;text=\"NORMAL_TEMPORARY_FAILURE\"", Congestion},
		{"a cause that says nothing", 480, true, "SIP;cause=703;text=\"MANAGER_REQUEST\"", NoAnswer},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := caller()
			messages := []Message{a.invite(), a.response(100)}
			if tt.rings {
				messages = append(messages, a.response(183))
			}
			messages = append(messages, a.later(time.Second).response(tt.code, "Reason: "+tt.reason+"\r\n"))
			if e := lastEvent(t, testConfig(), messages...); e.Type != Hangup || e.Status != tt.want {
				t.Errorf("%s has status %s, want %s", e.Type, e.Status, tt.want)
			}
		})
	}
}

// TestFreeSWITCHCancelReasons checks the outcome of a phone that rings and is canceled, by
// the CANCEL's Reason and the other messages of the call.
func TestFreeSWITCHCancelReasons(t *testing.T) {
	a, beside := caller(), callee()
	beside.callID, beside.from, beside.to, beside.uri = "b2@pbx", "f3", "t3", "sip:103@192.0.2.14:5060"
	const (
		none = iota
		gaveUp
		answered // by another phone
		voicemail
	)
	for _, tt := range []struct {
		reason    string
		seen      int // before the CANCEL
		want      Status
		by        HangupBy
		elsewhere bool
	}{
		{"Q.850;cause=19;text=\"NO_ANSWER\"", none, NoAnswer, BySystem, false},
		{"Q.850;cause=19;text=\"NO_ANSWER\"", voicemail, NoAnswer, BySystem, false},
		{"Q.850;cause=19;text=\"NO_ANSWER\"", answered, NoAnswer, BySystem, false},
		{"SIP;cause=802;text=\"ALLOTTED_TIMEOUT\"", none, NoAnswer, BySystem, false},
		{"SIP;cause=802;text=\"ALLOTTED_TIMEOUT\"", voicemail, NoAnswer, BySystem, false},
		{"SIP;cause=802;text=\"ALLOTTED_TIMEOUT\"", answered, NoAnswer, BySystem, false},
		{"SIP;cause=807;text=\"PROGRESS_TIMEOUT\"", voicemail, NoAnswer, BySystem, false},
		{"SIP;cause=487;text=\"ORIGINATOR_CANCEL\"", gaveUp, Canceled, ByCaller, false},
		{"SIP;cause=487;text=\"ORIGINATOR_CANCEL\"", answered, Canceled, BySystem, true}, // behind a loopback channel
		{"SIP;cause=487;text=\"ORIGINATOR_CANCEL\"", none, Canceled, ByCaller, false},    // past us
		{"SIP;cause=200;text=\"Call completed elsewhere\"", answered, Canceled, BySystem, true},
	} {
		t.Run(fmt.Sprint(tt.reason, " ", tt.seen), func(t *testing.T) {
			b := callee()
			messages := []Message{a.invite(), a.response(100), b.invite(), b.response(180), a.response(183)}
			switch tt.seen {
			case gaveUp:
				messages = append(messages, a.cancel(), a.response(487))
			case answered:
				messages = append(messages, beside.invite(), beside.response(200))
			case voicemail:
				messages = append(messages, a.response(200))
			}
			messages = append(messages, b.cancel("Reason: "+tt.reason+"\r\n"), b.response(487))
			e := lastEvent(t, testConfig(), messages...)
			if e.Type != Hangup || e.Extension.User != "102" || e.Status != tt.want || e.HangupBy != tt.by || e.Elsewhere != tt.elsewhere || *e.Missed == tt.elsewhere {
				t.Errorf("got %s of %s: %s by %s, elsewhere %v, missed %v", e.Type, e.Extension, e.Status, e.HangupBy, e.Elsewhere, *e.Missed)
			}
		})
	}
}

// TestFreeSWITCHByeReasons checks who hung up, by the Reason of the BYE that the PBX sends
// to the caller.
func TestFreeSWITCHByeReasons(t *testing.T) {
	for _, tt := range []struct {
		reason string
		want   HangupBy
	}{
		{"Q.850;cause=16;text=\"NORMAL_CLEARING\"", ByCallee},
		{"SIP;cause=200;text=\"Call completed elsewhere\"", ByCallee},
		{"SIP;cause=804;text=\"MEDIA_TIMEOUT\"", BySystem},
		{"SIP;cause=701;text=\"SYSTEM_SHUTDOWN\"", BySystem},
		{"SIP;cause=806;text=\"USER_NOT_REGISTERED\"", BySystem},
		{"SIP;cause=802;text=\"ALLOTTED_TIMEOUT\"", BySystem},
		{"SIP;cause=703;text=\"MANAGER_REQUEST\"", BySystem},
		{"SIP;cause=800;text=\"BLIND_TRANSFER\"", BySystem},
	} {
		a, b := caller(), callee()
		e := lastEvent(t, testConfig(), a.invite(), a.response(100), b.invite(), b.response(200), a.response(200),
			b.bye(false), a.bye(false, "Reason: "+tt.reason+"\r\n"))
		if e.Extension.User != "101" || e.Status != Answered || e.HangupBy != tt.want {
			t.Errorf("%s: hangup of %s by %s, want %s", tt.reason, e.Extension, e.HangupBy, tt.want)
		}
	}
}
