package notify

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/yosida95/uritemplate/v3"

	"bellhop/dialog"
	"bellhop/notify/subscription"
)

// templateVariables returns every variable that a template of s may use, with a value.
func templateVariables(s *Subscription) uritemplate.Values {
	all := make(uritemplate.Values)
	e := completeEvent
	for _, e.Type = range []dialog.Type{dialog.DialIn, dialog.Answer, dialog.Hangup} {
		v := newView(&e, s)
		v.ownID, v.calledID, v.callerID = 1, 1, 1
		v.writeFields(&fieldWriter{values: all})
	}
	return all
}

func init() { subscription.TemplateVariables = templateVariables }

// completeEvent is an event that has every field.
var completeEvent = dialog.Event{
	ID: "1", Call: "1", Seq: 1, At: time.Unix(1, 0), Type: dialog.Hangup,
	Party: "1", Extension: dialog.Extension{User: "1", Domain: "1"}, Flow: dialog.In, Status: dialog.Answered,
	CallerNum: "1", CallerName: "1", CallerExtension: &dialog.Extension{User: "1"}, CalledNumber: "1", Distributor: &dialog.Extension{User: "1"},
	CalledExtension: &dialog.Extension{User: "1"}, CalledDID: "1", CallAPIID: "1", Diversion: "1", ClientAPIID: "1",
	Duration: time.Second, RingDuration: time.Second, SetupTime: time.Second, AnsweredAt: time.Unix(1, 0),
	RecID: "1", SipCode: 200, SipReason: "1", Q850: 16, HangupBy: dialog.ByCaller, Elsewhere: true,
	Missed: new(bool), Recovered: true, Correlation: "1", UserAgent: "1", Verstat: "1", Transferred: true,
	Bridged: new(bool), BridgedFor: time.Second, CallBackID: "1", RemoteNumber: "1", ANI: "1", Tag: "1",
	OtherCall: "1", MessageText: "1", ContentType: "1", Headers: [][2]string{{"1", "1"}}, CallerE164: "1", CalledE164: "1",
	CallerNumRaw: "1", CalledNumberRaw: "1", Privacy: true,
	Subscription: &dialog.Subscription{ID: "1", State: "1", Why: "1"},
}

// expandURL returns the URL of a callback whose subscription has a template.
func (v *view) expandURL(at *url.URL) (*url.URL, error) {
	f := fieldWriter{values: make(uritemplate.Values)}
	v.writeFields(&f)
	whole, err := expandTemplate(v.sub.URL, f.values)
	if err != nil {
		return nil, fmt.Errorf("URL template: %w", err)
	}
	u, err := url.Parse(whole)
	if err != nil {
		return nil, fmt.Errorf("URL template: %w", err)
	}
	if u.Scheme != at.Scheme || u.Host != at.Host {
		return nil, fmt.Errorf("URL template leads to %s, not to %s", u.Host, at.Host)
	}
	return u, nil
}

// expandTemplate expands a template. A path segment that values turn into . or .. becomes
// empty, so that no value leads to another path.
func expandTemplate(template string, values uritemplate.Values) (string, error) {
	var b strings.Builder
	query := false // the path has ended
	for i, piece := range splitPath(template) {
		t, err := uritemplate.New(piece)
		if err != nil {
			return "", err
		}
		text, err := t.Expand(values)
		if err != nil {
			return "", err
		}
		if i > 0 {
			b.WriteByte('/')
		}
		path, rest := text, ""
		if end := strings.IndexAny(text, "?#"); end >= 0 {
			path, rest = text[:end], text[end:]
		}
		if !query && strings.Contains(piece, "{") {
			segments := strings.Split(path, "/")
			for i, s := range segments {
				if isDotSegment(s) {
					segments[i] = ""
				}
			}
			path = strings.Join(segments, "/")
		}
		query = query || rest != ""
		b.WriteString(path)
		b.WriteString(rest)
	}
	return b.String(), nil
}

// splitPath splits a template at the slashes outside of its variables.
func splitPath(template string) []string {
	var all []string
	from, braces := 0, false
	for i, c := range []byte(template) {
		switch c {
		case '{', '}':
			braces = c == '{'
		case '/':
			if !braces {
				all, from = append(all, template[from:i]), i+1
			}
		}
	}
	return append(all, template[from:])
}

// isDotSegment reports whether a path segment is . or .., escaped up to three times.
func isDotSegment(segment string) bool {
	for range 4 {
		if segment == "." || segment == ".." {
			return true
		}
		plain, err := url.PathUnescape(segment)
		if err != nil || plain == segment {
			return false
		}
		segment = plain
	}
	return false
}

// variableValue returns a text as the value of a variable. The library escapes a character
// as its code point instead of its UTF-8, so each byte is passed as a character. A value of
// dots alone would climb the path: it becomes empty.
func variableValue(s string) uritemplate.Value {
	if strings.Trim(s, ".") == "" {
		s = ""
	}
	bytes := make([]rune, len(s))
	for i := range len(s) {
		bytes[i] = rune(s[i])
	}
	return uritemplate.String(string(bytes))
}
