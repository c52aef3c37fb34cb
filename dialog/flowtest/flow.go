// Package flowtest plays call flows: ladder diagrams in text files.
//
// A flow is a txtar archive. The comment on top says in plain words what
// happens. Each section is one step, and steps run from top to bottom:
//
//	-- phone -> bellhop --    a message that a peer sends
//	-- bellhop -> pbx --      a message that bellhop sends, and what of it matters
//	-- pbx => bellhop --      the PBX passes on, as a proxy, what it has received
//	-- callback --            the events said since the last callback section
//	-- after 200ms --         time passes
//	-- clock +1h --           somebody sets the wall clock forward, or back
//	-- config --              settings, before all steps
//
// What is not listed must not happen: neither a message nor a callback.
//
// # Peers
//
// The peers are phone (extension 101, 192.0.2.11), bob (102, 192.0.2.12), bob2
// (102 too, 192.0.2.13), carol (103, 192.0.2.14), dora (104, 192.0.2.15), erin
// (105, 192.0.2.16), frank (106, 192.0.2.17), trunk (a carrier, 192.0.2.21), and
// pbx (192.0.2.1). bellhop is 192.0.2.5. All ports are 5060, all transport
// is UDP, and the domain of the PBX is pbx.example.
//
// The PBX has two more addresses, which take the place of pbx in a section: pbx:5080
// is its second port (192.0.2.1:5080), pbx2 its second address (192.0.2.2). What it
// sends from there has that address in Via and Contact; its dialogs and registrations
// are the same. bellhop takes them for a phone's unless pbx_sources has them.
//
// # Messages that a peer sends
//
// A message is a start line, header fields and, after an empty line, a body,
// without the section's last line end. An INVITE and its 2xx have an SDP body
// unless they say Content-Length: 0.
//
// What a message leaves out the rig fills in, so that it is valid; what it gives is
// sent as given, and a header field that it gives without a value is not sent. A
// start line may be a method alone. An empty section sends the
// peer's last message again. The Contact of a phone is the one that it registered
// last.
//
// A request continues the newest dialog or transaction of its peer that it fits:
// BYE, UPDATE, INFO and the like a dialog, OPTIONS without a Request-URI too, ACK an INVITE with a final response,
// CANCEL one without. An INVITE is a re-INVITE if its Request-URI is the target
// of an answered dialog, or left out; after a 401 or 407 it repeats the one that
// was challenged, with credentials; otherwise it begins a dialog. If a peer has
// several, the Request-URI, a Call-ID or a To tag says which is meant. A request with
// a Call-ID and both tags may be of a dialog that is not the peer's.
//
// A response answers the newest request its peer has received and not yet
// answered with a final response; 1xx only an INVITE. A CSeq or Call-ID says
// which if that is not meant. A repeated final is written again in full with its
// CSeq.
//
// The PBX routes a request to a registered contact by the Path it has stored.
// As a proxy (=>) it takes the newest request with the same method, or the newest
// response with the same status, and changes what a proxy changes, and what the
// section gives.
//
// {cid} stands for the X-CID that the PBX received last; {contact} for the
// contact that it bound last, {contact1} for the first of those that are bound, and so
// on; {phone} for the Call-ID
// of the newest dialog of that peer, and so for each peer. In a response {via} stands
// for the topmost Via of the request.
//
// # Messages that bellhop sends
//
// The start line is compared if it is more than a method or a status, then each
// header field that is listed; * matches any value. The body is compared if there
// is one.
//
// # Callbacks
//
// A line is a type, an extension, and fields by their names in the event
// reference: "hangup 101 CallStatus=BUSY Duration=2s". A value with spaces is
// quoted; a field that must be absent is written Field= with nothing after it.
// Call=1 is the first call that the flow's events told of, Party=2 the second
// party, and OtherCallID counts as Call does; EventTime is the time since the
// flow began, by the wall clock. Whatever a line does not list is not compared. Events that
// subscriptions have to name are left out, and not counted, unless the config's
// opt_in names them. With -update the lines are rewritten as they came.
//
// # Config
//
//	register = none           none, path or contact; none is the default
//	add_cid = true            the default
//	pattern = ^[0-9]{2,5}$    the default; nothing after = means none
//	learn = true              the default
//	max_duration = 4h         the default
//	status 603 = BUSY
//	extension 600 = queue 5551600    and its public numbers, if it has any
//	headers = X-One, X-Two
//	rec_id = X-Rec            and callback_id, tag, callapi_id
//	correlate = session-id, numbers
//	privacy = respect         the default; or ignore
//	pbx_sources = 192.0.2.1/32, 192.0.2.2/32    none is the default
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

// A Flow is a flow file.
type Flow struct {
	Name    string // of the file, without its extension
	Comment string
	Config  Config
	Steps   []Step

	archive *txtar.Archive
}

// Config is what a flow sets.
type Config struct {
	Register string // "none", "path" or "contact"
	AddCID   bool
	Dialog   dialog.Config
	OptIn    []dialog.Type // of the events that subscriptions have to name: which are listed

	PBXSources []netip.Prefix // further addresses that bellhop takes for the PBX's
}

// optIn are the events that are sent only to subscriptions that name them.
var optInTypes = []dialog.Type{
	dialog.Ringing, dialog.Hold, dialog.Resume, dialog.Transfer, dialog.Registered, dialog.Unregistered,
}

// lists reports whether events of that type are listed.
func (c *Config) listsType(typ dialog.Type) bool {
	return !slices.Contains(optInTypes, typ) || slices.Contains(c.OptIn, typ)
}

// A Step is one section.
type Step struct {
	Action      Action
	From, To    string        // of a message: a peer's name, or "bellhop"
	Text        string        // of a message: as written
	After       time.Duration // of Wait
	ClockChange time.Duration // of SetClock: how far forward; below zero: back

	section int // in the archive
}

// Action says what a step does.
type Action int

const (
	Send     Action = iota + 1 // a peer sends Text
	Forward                    // the PBX passes on, as a proxy; Text says what it changes
	Expect                     // bellhop has sent Text
	Callback                   // events were said
	Wait                       // time passes
	SetClock                   // the wall clock is set
)

// Load parses the flow at path.
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

// Parse reads a flow.
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
		return nil, fmt.Errorf("no comment says what happens")
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

func parseStep(name, text string) (s Step, err error) {
	words := strings.Fields(name)
	switch {
	case name == "callback":
		return Step{Action: Callback, Text: text}, nil
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
	return s, fmt.Errorf("no step is called %q", name)
}

// read takes the settings of a config section.
func (c *Config) parseSettings(text string) error {
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if key == "" && !ok {
			continue
		}
		if err := c.applySetting(key, value); err != nil {
			return fmt.Errorf("config %s: %w", key, err)
		}
	}
	return nil
}

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
	case "privacy":
		d.IgnorePrivacy = value == "ignore"
	case "opt_in":
		for name := range strings.SplitSeq(value, ",") {
			typ := dialog.Type(strings.TrimSpace(name))
			if !slices.Contains(optInTypes, typ) {
				return fmt.Errorf("%s is no event that subscriptions have to name", typ)
			}
			c.OptIn = append(c.OptIn, typ)
		}
	default:
		err = fmt.Errorf("no such setting")
	}
	return err
}
