package subscription

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"bellhop/dialog"
	"bellhop/notify/payload"
)

// Invalid reports an invalid field of a Subscription. Field is its JSON name, and Why the
// rest of a sentence that begins with Field.
type Invalid struct {
	Field, Why string
}

func (e *Invalid) Error() string { return "subscription: " + e.Field + " " + e.Why }

const (
	maxURL     = 2048
	maxHeaders = 20
)

// Normalize sets the default method and dialect, cleans the note, and writes the names of
// header fields in their canonical form. It does not change slices and maps that s shares
// with a copy.
func (s *Subscription) Normalize() {
	s.Method = cmp.Or(s.Method, http.MethodPost)
	s.Dialect = cmp.Or(s.Dialect, payload.JSON)
	s.Note = dialog.Clean(s.Note, 1000)
	canonical := make(Headers, len(s.Headers))
	for name, value := range s.Headers {
		canonical[http.CanonicalHeaderKey(name)] = value
	}
	if len(canonical) > 0 && len(canonical) == len(s.Headers) { // else a name is there twice, which is invalid
		s.Headers = canonical
	}
}

// Validate returns the first invalid field of a normalized subscription as an *Invalid, or
// nil.
func (s *Subscription) Validate() error {
	for err := range s.Invalid() {
		return err
	}
	return nil
}

// Invalid yields every invalid field of a normalized subscription.
func (s *Subscription) Invalid() iter.Seq[*Invalid] {
	return func(yield func(*Invalid) bool) {
		for _, check := range []func(*Subscription) *Invalid{
			checkExtension, checkTypes, checkURL, checkChoices, checkUnified, checkCTI, checkCloudEvents, checkTemplate, checkHeaders, checkSecrets, checkTLS, checkLimits,
		} {
			if err := check(s); err != nil && !yield(err) {
				return
			}
		}
	}
}

func checkExtension(s *Subscription) *Invalid {
	switch {
	case s.Extension == "" && s.ExtensionRegex == "":
		return &Invalid{"extension", "is missing: name an extension, or give extension_regex"}
	case s.Extension != "" && s.ExtensionRegex != "":
		return &Invalid{"extension_regex", "and extension exclude each other"}
	case s.ExtensionRegex != "":
		if len(s.ExtensionRegex) > 1000 {
			return &Invalid{"extension_regex", "is longer than 1000 bytes"}
		}
		if _, err := compileAnchored(s.ExtensionRegex); err != nil {
			return &Invalid{"extension_regex", "is not an RE2 expression: " + err.Error()}
		}
	case len(s.Extension) > 256:
		return &Invalid{"extension", "is longer than 256 bytes"}
	case !utf8.ValidString(s.Extension) || strings.ContainsFunc(s.Extension, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r)
	}):
		return &Invalid{"extension", "has spaces, control characters or invalid UTF-8"}
	}
	user, domain, found := strings.Cut(s.Extension, "@")
	if s.Extension != "" && (user == "" || found && domain == "") {
		return &Invalid{"extension", "is neither user nor user@domain"}
	}
	return nil
}

func checkTypes(s *Subscription) *Invalid { return CheckTypes(s.Types) }

// CheckTypes returns what is wrong with a list of words for event types, or nil.
func CheckTypes(words []string) *Invalid {
	if len(words) == 0 {
		return &Invalid{"types", "is empty: name at least one event type"}
	}
	for _, t := range words {
		if masks[t] == 0 {
			return &Invalid{"types", fmt.Sprintf("has %q, which is not an event type: they are %s",
				dialog.Clean(t, 40), strings.Join(slices.Sorted(maps.Keys(masks)), ", "))}
		}
	}
	return nil
}

func checkURL(s *Subscription) *Invalid {
	switch {
	case s.URL == "":
		return &Invalid{"url", "is missing"}
	case len(s.URL) > maxURL:
		return &Invalid{"url", fmt.Sprintf("is longer than %d bytes", maxURL)}
	case strings.ContainsFunc(s.URL, func(r rune) bool { return r <= ' ' || r > '~' }):
		return &Invalid{"url", "has spaces, control characters or bytes beyond ASCII: percent-encode them"}
	case strings.ContainsAny(s.URL, "<>\"\\^`|"):
		return &Invalid{"url", "has a character that no URL may have: percent-encode it"}
	case payload.IsTemplate(s.URL):
		return nil // checkTemplate checks it
	}
	return checkAddress(s.URL)
}

// checkAddress checks a URL without variables.
func checkAddress(s string) *Invalid {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return &Invalid{"url", "cannot be parsed"}
	case u.Scheme != "http" && u.Scheme != "https":
		return &Invalid{"url", "must begin with http:// or https://"}
	case u.User != nil:
		return &Invalid{"url", "has a user or password in it: send them in headers"}
	case u.Hostname() == "" || u.Opaque != "":
		return &Invalid{"url", "has no host"}
	case u.Fragment != "":
		return &Invalid{"url", "has a fragment, which is never sent"}
	case u.Port() != "" && !isPort(u.Port()):
		return &Invalid{"url", fmt.Sprintf("has the port %s: write 1 to 65535", dialog.Clean(u.Port(), 20))}
	}
	return nil
}

// isPort reports whether s is a port number that can be connected to: 1 to 65535.
func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

func checkChoices(s *Subscription) *Invalid {
	switch {
	case s.Method != http.MethodGet && s.Method != http.MethodPost && s.Method != http.MethodPut:
		return &Invalid{"method", "must be GET, POST or PUT"}
	case !slices.Contains(payload.Dialects, s.Dialect):
		return &Invalid{"dialect", "must be unified, telphin, cti, json or cloudevents"}
	case s.FlowCase != "" && !slices.Contains(FlowCases, s.FlowCase):
		return &Invalid{"flow_case", "must be lower or upper"}
	case s.StatusWords != "" && !slices.Contains(StatusSets, s.StatusWords):
		return &Invalid{"status_words", "must be unified, or left out"}
	case s.Group != "" && !slices.Contains(Groups, s.Group):
		return &Invalid{"group", "must be one or each"}
	}
	return nil
}

// Carries reports whether the dialect of s has events of the type that a word of Types
// names.
func (s *Subscription) Carries(word string) bool { return s.Dialect.Carries(types[word]) }

// checkUnified rejects event types that the ten fields of unified cannot express.
func checkUnified(s *Subscription) *Invalid {
	for _, t := range s.Types {
		if s.Dialect == payload.Unified && !s.Carries(t) {
			return &Invalid{"types", "has subscription-state, of which the dialect unified has no field: use json or telphin"}
		}
	}
	return nil
}

// checkCTI rejects subscriptions that no receiver of the dialect cti understands.
func checkCTI(s *Subscription) *Invalid {
	if s.Dialect != payload.CTI {
		return nil
	}
	if s.Method != http.MethodPost {
		return &Invalid{"method", "must be POST with the dialect cti"}
	}
	for _, t := range s.Types {
		if !s.Carries(t) {
			return &Invalid{"types", fmt.Sprintf("has %q, which the dialect cti does not know: it knows dial-in, dial-out, answer, answer-in, answer-out and hangup", t)}
		}
	}
	return nil
}

// checkCloudEvents rejects settings that the binary mode of CloudEvents cannot express.
func checkCloudEvents(s *Subscription) *Invalid {
	if s.Dialect != payload.CloudEvents {
		return nil
	}
	if s.Method == http.MethodGet {
		return &Invalid{"method", "must be POST or PUT with the dialect cloudevents, whose data is a body"}
	}
	for name := range s.Headers {
		if strings.HasPrefix(http.CanonicalHeaderKey(name), "Ce-") {
			return &Invalid{"headers", "must not set " + http.CanonicalHeaderKey(name) + " with the dialect cloudevents"}
		}
	}
	return nil
}

// checkTemplate returns what is wrong with a URL template, or nil.
func checkTemplate(s *Subscription) *Invalid {
	if !payload.IsTemplate(s.URL) {
		return nil
	}
	example, err := s.Format().ExpandExample()
	if err != nil {
		return &Invalid{"url", err.Error()}
	}
	return checkAddress(example)
}

// ParseURL parses a URL without variables by the rules for the URL of a subscription.
func ParseURL(s string) (*url.URL, *Invalid) {
	if payload.IsTemplate(s) {
		return nil, &Invalid{"url", "has braces: percent-encode them"}
	}
	if err := checkURL(&Subscription{URL: s}); err != nil {
		return nil, err
	}
	u, err := url.Parse(s)
	if err != nil {
		return nil, &Invalid{"url", "cannot be parsed"}
	}
	return u, nil
}

func checkSecrets(s *Subscription) *Invalid {
	_, err := s.Secret.Key()
	_, errOld := s.OldSecret.Key()
	switch {
	case s.Secret != "" && err != nil:
		return &Invalid{"secret", err.Error()}
	case s.OldSecret != "" && errOld != nil:
		return &Invalid{"old_secret", errOld.Error()}
	case s.OldSecret != "" && s.Secret == "":
		return &Invalid{"old_secret", "needs secret"}
	}
	return nil
}

// hopByHop are header fields of the connection, which a subscription may not set.
var hopByHop = []string{"Host", "Content-Length", "Transfer-Encoding", "Connection",
	"Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Upgrade", "Expect"}

func checkHeaders(s *Subscription) *Invalid {
	if len(s.Headers) > maxHeaders {
		return &Invalid{"headers", fmt.Sprintf("has more than %d fields", maxHeaders)}
	}
	seen := make(map[string]bool, len(s.Headers))
	for name, value := range s.Headers {
		key := http.CanonicalHeaderKey(name)
		switch {
		case !validHeaderName(name):
			return &Invalid{"headers", fmt.Sprintf("has %q, which is not a field name", dialog.Clean(name, 40))}
		case seen[key]:
			return &Invalid{"headers", "names " + key + " twice"}
		case slices.Contains(hopByHop, key) || strings.HasPrefix(key, "Webhook-"):
			return &Invalid{"headers", "must not set " + key}
		case len(value) > 4096:
			return &Invalid{"headers", "has a value longer than 4096 bytes: " + key}
		case strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
			return &Invalid{"headers", "has control characters in the value of " + key}
		}
		seen[key] = true
	}
	return nil
}

func validHeaderName(s string) bool {
	return s != "" && len(s) <= 100 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}

func checkLimits(s *Subscription) *Invalid {
	switch {
	case s.LiveTTL != 0 && (s.LiveTTL < Duration(time.Second) || s.LiveTTL > Duration(time.Hour)):
		return &Invalid{"live_ttl", "must be between 1s and 1h"}
	case s.Timeout != 0 && (s.Timeout < Duration(100*time.Millisecond) || s.Timeout > Duration(time.Minute)):
		return &Invalid{"timeout", "must be between 100ms and 1m"}
	case s.MaxInFlight < 0 || s.MaxInFlight > 100:
		return &Invalid{"max_in_flight", "must be between 1 and 100"}
	}
	return nil
}
