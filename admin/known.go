package admin

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"bellhop/dialog"
)

// liveCalls returns the live calls that the request may know of, with the parties
// that it may.
func (s *Server) liveCalls(ctx context.Context) ([]dialog.Call, error) {
	if s.config.Calls == nil {
		return nil, nil
	}
	live, err := s.config.Calls(ctx)
	if err != nil {
		return nil, err
	}
	who := accessOf(ctx)
	calls := make([]dialog.Call, 0, len(live))
	for _, c := range live {
		if c.Parties = who.parties(c.Parties); len(c.Parties) > 0 || who.extensions == nil {
			calls = append(calls, c)
		}
	}
	return calls, nil
}

func (s *Server) getCall(ctx context.Context, in *struct {
	ID string `path:"id" doc:"Its call_id"`
}) (*struct{ Body Call }, error) {
	live, err := s.liveCalls(ctx)
	if err != nil {
		return nil, s.problem(err)
	}
	i := slices.IndexFunc(live, func(c dialog.Call) bool { return c.ID == in.ID })
	if i < 0 {
		return nil, huma.Error404NotFound("no such live call")
	}
	return &struct{ Body Call }{callOf(live[i])}, nil
}

// An Extension is what is known of one.
type Extension struct {
	Extension  string    `json:"extension"`
	Domain     string    `json:"domain,omitempty" doc:"In which it registers, or was last seen"`
	Kind       string    `json:"kind" enum:"phone,queue,ivr,conference"`
	ID         uint64    `json:"id,omitempty" doc:"The number that callbacks give it, if one has needed it"`
	Declared   bool      `json:"declared" doc:"The config file names it"`
	Registered bool      `json:"registered"`
	Contacts   []Contact `json:"contacts" nullable:"false" doc:"Where it is registered, as the PBX says, as far as this node has seen it"`
	Busy       bool      `json:"busy" doc:"It takes part in a live call"`
	Calls      []string  `json:"calls" nullable:"false" doc:"The call_ids of these"`
}

// A Contact is a [dialog.Contact] as the API shows it.
type Contact struct {
	URI     string    `json:"uri"`
	Expires time.Time `json:"expires"`
}

func extensionOf(k dialog.ExtensionInfo) *Extension {
	e := &Extension{
		Extension:  k.User,
		Domain:     k.Domain,
		Kind:       string(k.Kind),
		Declared:   k.Declared,
		Registered: len(k.Contacts) > 0,
		Contacts:   make([]Contact, len(k.Contacts)),
		Calls:      []string{},
	}
	for i, c := range k.Contacts {
		e.Contacts[i] = Contact{c.URI, c.Until.UTC()}
	}
	return e
}

// extensions are some, by user.
type extensions map[string]*Extension

// of returns the extension of a user, as a phone if it was not known.
func (es extensions) of(user string) *Extension {
	e, ok := es[user]
	if !ok {
		e = extensionOf(dialog.ExtensionInfo{Extension: dialog.Extension{User: user}, Kind: dialog.Phone})
		es[user] = e
	}
	return e
}

// extend adds to what the tracker knows what numbers and live calls tell. If a user
// is named, calls tell of that one only.
func (s *Server) extend(ctx context.Context, known []dialog.ExtensionInfo, numbers map[string]uint64, user string) (extensions, error) {
	es := make(extensions)
	for _, k := range known {
		es[k.User] = extensionOf(k)
	}
	for name, number := range numbers {
		es.of(name).ID = number
	}
	live, err := s.liveCalls(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range live {
		for _, p := range c.Parties {
			if p.Over || user != "" && p.Extension.User != user {
				continue
			}
			e := es.of(p.Extension.User)
			if e.Domain == "" {
				e.Domain = p.Extension.Domain
			}
			e.Busy = true
			if !slices.Contains(e.Calls, c.ID) {
				e.Calls = append(e.Calls, c.ID)
			}
		}
	}
	who := accessOf(ctx)
	for name, e := range es {
		if !who.sees(dialog.Extension{User: name, Domain: e.Domain}.String()) {
			delete(es, name)
		}
	}
	return es, nil
}

func (s *Server) listExtensions(ctx context.Context, in *struct {
	Cursor     string `query:"cursor" doc:"next of the page before"`
	Limit      int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Registered string `query:"registered" enum:"true,false" doc:"That are, or are not, registered"`
	Busy       string `query:"busy" enum:"true,false" doc:"That do, or do not, take part in a live call"`
}) (*listed[*Extension], error) {
	all, err := s.knownExtensions(ctx)
	if err != nil {
		return nil, s.problem(err)
	}
	all = slices.DeleteFunc(all, func(e *Extension) bool {
		return in.Registered != "" && e.Registered != (in.Registered == "true") || in.Busy != "" && e.Busy != (in.Busy == "true")
	})
	return page(all, in.Cursor, in.Limit, func(e *Extension) string { return e.Extension }), nil
}

// knownExtensions returns the extensions that are known and that the request may
// see, by their names.
func (s *Server) knownExtensions(ctx context.Context) ([]*Extension, error) {
	var known []dialog.ExtensionInfo
	if s.config.Extensions != nil {
		var err error
		if known, err = s.config.Extensions(ctx); err != nil {
			return nil, err
		}
	}
	numbers, err := s.config.Notifier.Numbers(ctx)
	if err != nil {
		return nil, err
	}
	es, err := s.extend(ctx, known, numbers, "")
	if err != nil {
		return nil, err
	}
	return slices.SortedFunc(maps.Values(es), func(a, b *Extension) int { return strings.Compare(a.Extension, b.Extension) }), nil
}

func (s *Server) getExtension(ctx context.Context, in *struct {
	Extension string `path:"extension" doc:"101, or 101@pbx.example"`
}) (*struct{ Body *Extension }, error) {
	e, err := s.knownExtension(ctx, in.Extension)
	switch {
	case err != nil:
		return nil, s.problem(err)
	case e == nil:
		return nil, huma.Error404NotFound("no such extension")
	}
	return &struct{ Body *Extension }{e}, nil
}

// knownExtension returns the extension with a name, 101 or 101@pbx.example, or nil
// if none is known that the request may see.
func (s *Server) knownExtension(ctx context.Context, name string) (*Extension, error) {
	user, _, _ := strings.Cut(name, "@")
	var known []dialog.ExtensionInfo
	if s.config.Extension != nil {
		k, ok, err := s.config.Extension(ctx, user)
		if err != nil {
			return nil, err
		}
		if ok {
			known = append(known, k)
		}
	}
	numbers := make(map[string]uint64)
	if number, err := s.config.Notifier.ExtensionNumber(ctx, user); err != nil {
		return nil, err
	} else if number > 0 {
		numbers[user] = number
	}
	es, err := s.extend(ctx, known, numbers, user)
	if err != nil {
		return nil, err
	}
	e, ok := es[user]
	if !ok || !named(dialog.Extension{User: user, Domain: e.Domain}, name) {
		return nil, nil
	}
	return e, nil
}
