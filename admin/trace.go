package admin

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"bellhop/dialog/trace"
)

// A Trace is a [trace.Call] as the API shows it.
type Trace struct {
	ID       string         `json:"call_id"`
	Began    time.Time      `json:"began"`
	Up       bool           `json:"up" doc:"It is not over yet"`
	Ends     []TraceEnd     `json:"ends" nullable:"false" doc:"Whom bellhop talked to: the PBX first"`
	Legs     []TraceLeg     `json:"legs" nullable:"false"`
	Messages []TraceMessage `json:"messages" nullable:"false" doc:"In the order they came"`
	LeftOut  int            `json:"left_out" doc:"Messages that were too many to be kept"`
}

// A TraceEnd is a [trace.End] as the API shows it.
type TraceEnd struct {
	Name    string `json:"name" doc:"The extension or number; pbx; or the name of the trunk"`
	Address string `json:"address,omitempty"`
	Side    string `json:"side" doc:"edge or pbx"`
	Trunk   bool   `json:"trunk,omitempty"`
}

// A TraceLeg is a [trace.Leg] as the API shows it.
type TraceLeg struct {
	CallID string `json:"sip_call_id" doc:"The Call-ID in its messages"`
	Origin string `json:"origin" doc:"The side that began it: edge or pbx"`
	End    int    `json:"end" doc:"Which of the ends it is with"`
}

// A TraceMessage is a [trace.Message] as the API shows it.
type TraceMessage struct {
	Time      time.Time `json:"time"`
	Leg       int       `json:"leg" doc:"Which of the legs it is of"`
	From      string    `json:"from" doc:"The sender's address; bellhop's, if own"`
	To        string    `json:"to" doc:"The receiver's address; bellhop's, if it did not send it on"`
	Through   string    `json:"through,omitempty" doc:"The address at which bellhop received it, if it sent it on"`
	Transport string    `json:"transport" doc:"udp or tcp"`
	Direction string    `json:"direction" doc:"The sides, as in edge-pbx; bellhop, if it ends or begins there"`
	Sender    int       `json:"sender" doc:"Which of the ends sent it"`
	Receiver  int       `json:"receiver" doc:"Which of the ends it is for"`
	Own       bool      `json:"own,omitempty" doc:"bellhop's own, in place of what the sender did not say"`
	Method    string    `json:"method"`
	Status    int       `json:"status,omitempty"`
	Summary   string    `json:"summary" doc:"The start line without its version"`
	Text      string    `json:"text" doc:"As it came, but with x for what is secret"`
	Cut       bool      `json:"cut,omitempty" doc:"The text is longer than what was kept"`
}

func traceOf(c *trace.Call) Trace {
	v := Trace{ID: c.ID, Began: c.Began.UTC(), Up: c.Up, LeftOut: c.LeftOut,
		Ends: make([]TraceEnd, len(c.Ends)), Legs: make([]TraceLeg, len(c.Legs)), Messages: make([]TraceMessage, len(c.Messages))}
	for i, e := range c.Ends {
		v.Ends[i] = TraceEnd{Name: e.Name, Address: addressOf(e.Address), Side: e.Side.String(), Trunk: e.Trunk != ""}
	}
	for i, l := range c.Legs {
		v.Legs[i] = TraceLeg{CallID: l.CallID, Origin: l.Origin.String(), End: l.End}
	}
	for i := range c.Messages {
		m := &c.Messages[i]
		t := TraceMessage{
			Time: m.At.UTC(), Leg: m.Leg,
			From: addressOf(m.From), To: addressOf(m.To), Through: addressOf(m.Local), Transport: "udp",
			Sender: m.Sender, Receiver: m.Receiver, Own: m.Own,
			Method: m.Method, Status: m.Status, Summary: m.Summary(), Text: m.Text(), Cut: m.Truncated,
		}
		if m.Stream {
			t.Transport = "tcp"
		}
		from, to := c.Ends[m.Sender].Side.String(), c.Ends[m.Receiver].Side.String()
		switch {
		case m.Own:
			from, t.From, t.Through = "bellhop", t.Through, ""
		case m.Absorbed:
			to, t.To, t.Through = "bellhop", t.Through, ""
		}
		t.Direction = from + "-" + to
		v.Messages[i] = t
	}
	return v
}

func addressOf(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// traced is a trace in one of its forms.
type traced struct {
	ContentType string `header:"Content-Type"`
	Disposition string `header:"Content-Disposition"`
	CSP         string `header:"Content-Security-Policy"`
	Body        []byte
}

const (
	textType = "text/plain; charset=utf-8"
	svgType  = "image/svg+xml"
	pcapType = "application/vnd.tcpdump.pcap"
)

// traceOperation describes the forms of a trace.
func traceOperation(api huma.API, o huma.Operation) huma.Operation {
	text := &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString}}
	binary := &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}
	o.Responses = map[string]*huma.Response{"200": {
		Description: "OK",
		Content: map[string]*huma.MediaType{
			"application/json": {Schema: api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Trace](), true, "Trace")},
			textType:           text, svgType: text, pcapType: binary,
		},
	}}
	return o
}

func (s *Server) traceCall(ctx context.Context, in *struct {
	ID string `path:"id" doc:"The call_id of its events"`
	As string `query:"as" enum:"json,text,svg,pcap" default:"json" doc:"text is a ladder for a terminal, svg a picture of it, pcap a capture file for Wireshark"`
}) (*traced, error) {
	out, err := s.draw(ctx, in.ID, in.As, "")
	if err != nil {
		return nil, s.problem(err)
	}
	return out, nil
}

var errNoTrace = errors.New("no messages are kept of such a call: the last calls are, as many as calls.trace says in the config")

// draw returns the trace of a call in one of its forms. A picture has links, see
// [trace.Call.SVG].
func (s *Server) draw(ctx context.Context, id, as, links string) (*traced, error) {
	var c trace.Call
	var ok bool
	if s.config.Trace != nil {
		var err error
		if c, ok, err = s.config.Trace(ctx, id); err != nil {
			return nil, err
		}
	}
	if !ok {
		return nil, errNoTrace
	}
	switch as {
	case "text":
		return &traced{ContentType: textType, Body: []byte(c.Text())}, nil
	case "svg":
		return &traced{ContentType: svgType, CSP: "default-src 'none'; style-src 'unsafe-inline'", Body: []byte(c.SVG(links))}, nil
	case "pcap":
		return &traced{ContentType: pcapType, Disposition: `attachment; filename="` + c.ID + `.pcap"`, Body: c.PCAP()}, nil
	}
	body, err := json.Marshal(traceOf(&c))
	return &traced{ContentType: "application/json", Body: body}, err
}
