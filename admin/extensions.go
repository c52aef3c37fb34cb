package admin

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"bellhop/admin/access"
	"bellhop/dialog"
)

// visibleCalls returns the live calls that the request of ctx may see, with the parties
// that it may see.
func (s *Server) visibleCalls(ctx context.Context) ([]dialog.Call, error) {
	if s.config.Calls == nil {
		return nil, nil
	}
	live, err := s.config.Calls(ctx)
	if err != nil {
		return nil, err
	}
	client := access.ClientOf(ctx)
	calls := make([]dialog.Call, 0, len(live))
	for _, c := range live {
		if c.Parties = client.VisibleParties(c.Parties); len(c.Parties) > 0 || client.Extensions == nil {
			calls = append(calls, c)
		}
	}
	return calls, nil
}

func (s *Server) getCall(ctx context.Context, in *struct {
	ID string `path:"id" doc:"The call_id of the call"`
}) (*struct{ Body Call }, error) {
	live, err := s.visibleCalls(ctx)
	if err != nil {
		return nil, s.apiError(err)
	}
	i := slices.IndexFunc(live, func(c dialog.Call) bool { return c.ID == in.ID })
	if i < 0 {
		return nil, huma.Error404NotFound("no such live call: ended calls are in /v1/events")
	}
	return &struct{ Body Call }{callOf(live[i])}, nil
}

// Extension is an extension as the API shows it.
type Extension struct {
	Extension  string    `json:"extension" doc:"User part of the extension"`
	Domain     string    `json:"domain,omitempty" doc:"Domain in which it registers, or was last seen"`
	Kind       string    `json:"kind" enum:"phone,queue,ivr,conference" doc:"Kind of the extension"`
	ID         uint64    `json:"id,omitempty" doc:"Number of the extension in callbacks; absent until a callback has needed one"`
	Declared   bool      `json:"declared" doc:"Declared in the config file"`
	Registered bool      `json:"registered" doc:"Has at least one registered contact"`
	Contacts   []Contact `json:"contacts" nullable:"false" doc:"Registered contacts, as the PBX confirmed them to this node"`
	Busy       bool      `json:"busy" doc:"Takes part in a live call"`
	Calls      []string  `json:"calls" nullable:"false" doc:"call_id of each of its live calls"`
}

// Contact is a [dialog.Contact] as the API shows it.
type Contact struct {
	URI     string    `json:"uri" doc:"URI of the Contact header"`
	Expires time.Time `json:"expires" doc:"End of the registration"`
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

// extensionMap holds extensions by user.
type extensionMap map[string]*Extension

// entryOf returns the extension of a user, and adds it as a phone if it is missing.
func (es extensionMap) entryOf(user string) *Extension {
	e, ok := es[user]
	if !ok {
		e = extensionOf(dialog.ExtensionInfo{Extension: dialog.Extension{User: user}, Kind: dialog.Phone})
		es[user] = e
	}
	return e
}

// mergeExtensions merges the extensions that the tracker knows with their numbers and
// with the live calls. With a user, only calls of that user count. The result has the
// extensions that the request of ctx may see.
func (s *Server) mergeExtensions(ctx context.Context, known []dialog.ExtensionInfo, numbers map[string]uint64, user string) (extensionMap, error) {
	es := make(extensionMap)
	for _, k := range known {
		es[k.User] = extensionOf(k)
	}
	for name, number := range numbers {
		es.entryOf(name).ID = number
	}
	live, err := s.visibleCalls(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range live {
		for _, p := range c.Parties {
			if p.Over || user != "" && p.Extension.User != user {
				continue
			}
			e := es.entryOf(p.Extension.User)
			if e.Domain == "" {
				e.Domain = p.Extension.Domain
			}
			e.Busy = true
			if !slices.Contains(e.Calls, c.ID) {
				e.Calls = append(e.Calls, c.ID)
			}
		}
	}
	client := access.ClientOf(ctx)
	for name, e := range es {
		if !client.CanSee(dialog.Extension{User: name, Domain: e.Domain}.String()) {
			delete(es, name)
		}
	}
	return es, nil
}

func (s *Server) listExtensions(ctx context.Context, in *struct {
	Cursor     string `query:"cursor" doc:"next from the previous page"`
	Limit      int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Maximum number of items"`
	Registered string `query:"registered" enum:"true,false" doc:"Only registered, or only unregistered, extensions"`
	Busy       string `query:"busy" enum:"true,false" doc:"Only extensions with, or only those without, a live call"`
}) (*listResponse[*Extension], error) {
	all, err := s.knownExtensions(ctx)
	if err != nil {
		return nil, s.apiError(err)
	}
	all = slices.DeleteFunc(all, func(e *Extension) bool {
		return in.Registered != "" && e.Registered != (in.Registered == "true") || in.Busy != "" && e.Busy != (in.Busy == "true")
	})
	return pageAfter(all, in.Cursor, in.Limit, func(e *Extension) string { return e.Extension }), nil
}

// knownExtensions returns the known extensions that the request of ctx may see, by
// name.
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
	es, err := s.mergeExtensions(ctx, known, numbers, "")
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
		return nil, s.apiError(err)
	case e == nil:
		return nil, huma.Error404NotFound("no such extension")
	}
	return &struct{ Body *Extension }{e}, nil
}

// knownExtension returns the extension with a name, 101 or 101@pbx.example, or nil if
// it is unknown or the request of ctx may not see it.
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
	es, err := s.mergeExtensions(ctx, known, numbers, user)
	if err != nil {
		return nil, err
	}
	e, ok := es[user]
	if !ok || !matchesName(dialog.Extension{User: user, Domain: e.Domain}, name) {
		return nil, nil
	}
	return e, nil
}
