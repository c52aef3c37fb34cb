// Package flowtest plays call flows: ladder diagrams in text files.
//
// A flow is a txtar archive. The comment at the top describes in plain words what
// happens. Each section is one step, and steps run from top to bottom:
//
//	-- phone -> bellhop --    a peer sends this message
//	-- bellhop -> pbx --      bellhop has sent this message: only the parts to check
//	-- pbx => bellhop --      the PBX, as a proxy, forwards a message that it has received
//	-- callback --            the events since the previous callback section
//	-- phone closes --        a peer closes its connection
//	-- phone vanishes --      a peer is gone without closing its connection
//	-- after 200ms --         time passes
//	-- clock +1h --           the wall clock is set forward, or back with -1h
//	-- config --              settings for the whole flow
//
// A message or an event that no section expects is an error.
//
// # Peers
//
// The peers are phone (extension 101, 192.0.2.11), bob (102, 192.0.2.12), bob2
// (102 too, 192.0.2.13), carol (103, 192.0.2.14), dora (104, 192.0.2.15), erin
// (105, 192.0.2.16), frank (106, 192.0.2.17), trunk (a carrier, 192.0.2.21), and
// pbx (192.0.2.1). bellhop is 192.0.2.5. All ports are 5060, all transport
// is UDP, and the domain of the PBX is pbx.example.
//
// A peer that tcp or ws in the config names sends over a TCP connection or a WebSocket, which
// its first message opens. It does not listen. After it has closed the connection or has
// vanished, its next message opens another one. Over WebSocket it is a browser, which does
// not know its own address: phone has phone.invalid in Via and Contact.
//
// The PBX has two more addresses, which a section can name instead of pbx: pbx:5080
// is its second port (192.0.2.1:5080), pbx2 its second address (192.0.2.2). Messages
// from there have that address in Via and Contact; the PBX has the same dialogs and
// registrations at all its addresses. bellhop takes the further addresses for phones
// unless pbx_sources lists them.
//
// # Messages that a peer sends
//
// A message is a start line, header fields and, after an empty line, a body,
// without the section's last line end. An INVITE and its 2xx have an SDP body
// unless they say Content-Length: 0.
//
// A missing header field is filled in, so that the message is valid. A given header field
// is sent as given, and one without a value is not sent at all. A start line may be a
// method alone. An empty section sends the peer's last message again. The Contact of a
// phone is the one that it registered last.
//
// A request belongs to the newest matching dialog or transaction of its peer:
//
//   - BYE, UPDATE, INFO and the like, and OPTIONS without a Request-URI, belong to a dialog.
//   - ACK belongs to an INVITE with a final response, CANCEL to one without.
//   - An INVITE is a re-INVITE if its Request-URI is the target of an answered dialog or
//     is missing. After a 401 or 407 it repeats the challenged INVITE with credentials.
//     Otherwise it begins a dialog.
//
// If several match, a Request-URI, a Call-ID or a To tag selects one. A request with a
// Call-ID and both tags may belong to a dialog of another peer.
//
// A response answers the newest request that its peer has received and not answered with
// a final response; a 1xx answers an INVITE only. A CSeq or Call-ID selects another
// request. To repeat a final response, write it again in full, with its CSeq.
//
// The PBX routes a request to a registered contact by the stored Path. As a proxy (=>) it
// forwards the newest request with the same method, or the newest response with the same
// status. It changes the header fields that a proxy changes, and those in the section.
//
// Placeholders in a message:
//
//	{cid}         the X-CID that the PBX received last
//	{contact}     the contact that the PBX bound last
//	{contact1}    the first contact that is bound; {contact2} the second, and so on
//	{phone}       the Call-ID of the newest dialog of phone; so for each peer
//	{via}         in a response: the topmost Via of its request
//
// # Messages that bellhop sends
//
// The start line is compared in full if it is more than a method or a status. Each listed
// header field is compared; * matches any value. The body is compared if there is one.
//
// # Callbacks
//
// A line is an event type, an extension, and fields by their names in the event
// reference: "hangup 101 CallStatus=BUSY Duration=2s". Fields that a line does not list
// are not compared. A value with spaces is quoted; a field that must be absent is
// written Field= with nothing after it.
//
// Calls and parties are numbered in the order of their first events: Call=1 is the first
// call, Party=2 the second party, and OtherCallID has the number of a call. EventTime is
// the time since the start of the flow, on the wall clock.
//
// Opt-in events, which subscriptions must name to get them, are neither expected nor
// counted unless opt_in in the config names them. With -update the lines are rewritten
// to the actual events.
//
// # Config
//
//	register = none           or path, contact; none is the default
//	add_cid = true            the default
//	pattern = ^[0-9]{2,5}$    the default; an empty value means no pattern
//	learn = true              the default
//	max_duration = 4h         the default
//	status 603 = BUSY
//	extension 600 = queue 5551600    kind and public numbers, if any
//	headers = X-One, X-Two
//	rec_id = X-Rec            likewise callback_id, tag, callapi_id
//	correlate = session-id, numbers
//	privacy = respect         or ignore; respect is the default
//	pbx_sources = 192.0.2.1/32, 192.0.2.2/32    empty by default
//	tcp = phone, bob          peers that send over TCP; none by default
//	ws = phone, bob           likewise over WebSocket
//	opt_in = ringing, hold, resume, transfer, registered, unregistered
package flowtest

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/tools/txtar"

	"bellhop/dialog"
)

// A Flow is a parsed flow file.
type Flow struct {
	Name    string // of the file, without the file name extension
	Comment string
	Config  Config
	Steps   []Step

	archive *txtar.Archive
}

// Config is the settings of a flow.
type Config struct {
	Register string // "none", "path" or "contact"
	AddCID   bool
	Dialog   dialog.Config
	OptIn    []dialog.Type // opt-in events that the flow expects

	PBXSources []netip.Prefix    // further addresses that bellhop takes for the PBX
	Transports map[string]string // of the peers that do not send over UDP: TCP or WS, as in a Via
}

// listsType reports whether callback sections of the flow list events of the type.
func (c *Config) listsType(typ dialog.Type) bool {
	return !typ.OptIn() || slices.Contains(c.OptIn, typ)
}

// A Step is one section of a flow.
type Step struct {
	Action      Action
	From, To    string        // sender and receiver of a message: a peer's name, or "bellhop"
	Text        string        // the text of a message or of callbacks, as written
	After       time.Duration // how long Wait waits
	ClockChange time.Duration // how far SetClock sets the clock forward; negative: back

	section int // index of the section in the archive
}

// An Action is the kind of a step.
type Action int

const (
	Send       Action = iota + 1 // a peer sends Text
	Forward                      // the PBX, as a proxy, forwards a message; Text lists its changes
	Expect                       // bellhop has sent a message that matches Text
	Callback                     // Text lists the events that were emitted
	Disconnect                   // the peer From closes its connection
	Vanish                       // the peer From is gone without closing its connection
	Wait                         // time passes
	SetClock                     // the wall clock is set
)

// Load reads and parses the flow file at path.
func Load(path string) (*Flow, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	name := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	f, err := Parse(name, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// Parse parses the flow in data, called name.
func Parse(name string, data []byte) (*Flow, error) {
	f := &Flow{
		Name:    name,
		archive: txtar.Parse(data),
		Config: Config{
			Register: "none",
			AddCID:   true,
			Dialog: dialog.Config{
				Pattern: regexp.MustCompile(`^[0-9]{2,5}$`),
				Learn:   true,
				Status:  map[int]dialog.Status{},
			},
		},
	}
	f.Comment = strings.TrimSpace(string(f.archive.Comment))
	if f.Comment == "" {
		return nil, fmt.Errorf("parse flow: no comment before the first section: describe what happens")
	}
	for i, section := range f.archive.Files {
		if section.Name == "config" {
			if err := f.Config.parseSettings(string(section.Data)); err != nil {
				return nil, err
			}
			continue
		}
		s, err := parseStep(section.Name, string(section.Data))
		if err != nil {
			return nil, fmt.Errorf("section %d: %w", i+1, err)
		}
		s.section = i
		f.Steps = append(f.Steps, s)
	}
	return f, nil
}

// parseStep parses the section called name.
func parseStep(name, text string) (s Step, err error) {
	words := strings.Fields(name)
	switch {
	case name == "callback":
		return Step{Action: Callback, Text: text}, nil
	case len(words) == 2 && words[1] == "closes" && isPeerName(words[0]):
		return Step{Action: Disconnect, From: words[0]}, nil
	case len(words) == 2 && words[1] == "vanishes" && isPeerName(words[0]):
		return Step{Action: Vanish, From: words[0]}, nil
	case len(words) == 2 && words[0] == "after":
		s.Action = Wait
		s.After, err = time.ParseDuration(words[1])
		return s, err
	case len(words) == 2 && words[0] == "clock":
		s.Action = SetClock
		s.ClockChange, err = time.ParseDuration(words[1])
		return s, err
	case len(words) != 3:
	case words[0] == "bellhop" && words[1] == "->" && isPeerName(words[2]):
		return Step{Action: Expect, From: words[0], To: words[2], Text: text}, nil
	case words[2] == "bellhop" && words[1] == "->" && isPeerName(words[0]):
		return Step{Action: Send, From: words[0], To: words[2], Text: text}, nil
	case name == "pbx => bellhop":
		return Step{Action: Forward, From: words[0], To: words[2], Text: text}, nil
	}
	return s, fmt.Errorf("parse step: unknown kind %q", name)
}

// parseSettings applies the lines of a config section.
func (c *Config) parseSettings(text string) error {
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if key == "" && !ok {
			continue
		}
		if err := c.applySetting(key, value); err != nil {
			return fmt.Errorf("parse config %s: %w", key, err)
		}
	}
	return nil
}

// applySetting sets one setting. A key may have an argument after a space.
func (c *Config) applySetting(key, value string) (err error) {
	d := &c.Dialog
	word, rest, _ := strings.Cut(key, " ")
	switch word {
	case "register":
		c.Register = value
	case "add_cid":
		c.AddCID, err = strconv.ParseBool(value)
	case "pattern":
		d.Pattern = nil
		if value != "" {
			d.Pattern, err = regexp.Compile(value)
		}
	case "learn":
		d.Learn, err = strconv.ParseBool(value)
	case "max_duration":
		d.MaxDuration, err = time.ParseDuration(value)
	case "status":
		var code int
		code, err = strconv.Atoi(rest)
		d.Status[code] = dialog.Status(value)
	case "extension":
		kind, public, _ := strings.Cut(value, " ")
		d.Extensions = append(d.Extensions, dialog.Declared{Number: rest, Kind: dialog.Kind(kind), DID: strings.Fields(public)})
	case "headers":
		for h := range strings.SplitSeq(value, ",") {
			d.Headers = append(d.Headers, strings.TrimSpace(h))
		}
	case "correlate":
		for by := range strings.SplitSeq(value, ",") {
			d.Correlate = append(d.Correlate, strings.TrimSpace(by))
		}
	case "rec_id":
		d.RecID = value
	case "callback_id":
		d.CallBackID = value
	case "tag":
		d.Tag = value
	case "callapi_id":
		d.CallAPIID = value
	case "pbx_sources":
		for text := range strings.SplitSeq(value, ",") {
			source, err := netip.ParsePrefix(strings.TrimSpace(text))
			if err != nil {
				return err
			}
			c.PBXSources = append(c.PBXSources, source)
		}
	case "tcp", "ws":
		for name := range strings.SplitSeq(value, ",") {
			name = strings.TrimSpace(name)
			if !isPeerName(name) || peerByName(name).Side == dialog.PBX {
				return fmt.Errorf("%q is no phone or trunk", name)
			}
			if c.Transports == nil {
				c.Transports = map[string]string{}
			}
			c.Transports[name] = strings.ToUpper(key)
		}
	case "privacy":
		d.IgnorePrivacy = value == "ignore"
	case "opt_in":
		for name := range strings.SplitSeq(value, ",") {
			typ := dialog.Type(strings.TrimSpace(name))
			if !typ.OptIn() {
				return fmt.Errorf("%s is not an opt-in event", typ)
			}
			c.OptIn = append(c.OptIn, typ)
		}
	default:
		err = fmt.Errorf("unknown setting")
	}
	return err
}
