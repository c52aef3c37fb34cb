package ops

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"bellhop/admin/access"
	"bellhop/dialog"
	"bellhop/notify"
)

// ErrNoExtension is the error of an extension that is unknown, or that the client may not
// see.
var ErrNoExtension = errors.New("no such extension")

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

// mergeExtensions returns the extensions that the client may see, by user: those of
// known, those that have a number in numbers, and the parties of live calls. If user is
// not "", only parties with this user count.
func (o *Operations) mergeExtensions(ctx context.Context, known []dialog.ExtensionInfo, numbers map[string]uint64, user string) (extensionMap, error) {
	es := make(extensionMap)
	for _, k := range known {
		es[k.User] = extensionOf(k)
	}
	for name, number := range numbers {
		es.entryOf(name).ID = number
	}
	live, err := o.Calls(ctx)
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

// TrackedExtensions returns the extensions that the tracker knows and that the client may
// see.
func (o *Operations) TrackedExtensions(ctx context.Context) ([]dialog.ExtensionInfo, error) {
	if o.config.Extensions == nil {
		return nil, nil
	}
	known, err := o.config.Extensions(ctx)
	if err != nil {
		return nil, err
	}
	client := access.ClientOf(ctx)
	return slices.DeleteFunc(slices.Clone(known), func(k dialog.ExtensionInfo) bool { return !client.CanSee(k.Extension.String()) }), nil
}

// Extensions returns the known extensions that the client may see, sorted by name. An
// extension is known if the tracker knows it, it has a number, or it is in a live call.
func (o *Operations) Extensions(ctx context.Context) ([]*Extension, error) {
	var known []dialog.ExtensionInfo
	if o.config.Extensions != nil {
		var err error
		if known, err = o.config.Extensions(ctx); err != nil {
			return nil, err
		}
	}
	numbers, err := o.notifier.Numbers.All(ctx)
	if err != nil {
		return nil, err
	}
	es, err := o.mergeExtensions(ctx, known, numbers, "")
	if err != nil {
		return nil, err
	}
	return slices.SortedFunc(maps.Values(es), func(a, b *Extension) int { return strings.Compare(a.Extension, b.Extension) }), nil
}

// Extension returns the extension with a name, 101 or 101@pbx.example, or ErrNoExtension.
func (o *Operations) Extension(ctx context.Context, name string) (*Extension, error) {
	user, _, _ := strings.Cut(name, "@")
	var known []dialog.ExtensionInfo
	if o.config.Extension != nil {
		k, ok, err := o.config.Extension(ctx, user)
		if err != nil {
			return nil, err
		}
		if ok {
			known = append(known, k)
		}
	}
	numbers := make(map[string]uint64)
	if number, err := o.notifier.Numbers.Number(ctx, user); err != nil {
		return nil, err
	} else if number > 0 {
		numbers[user] = number
	}
	es, err := o.mergeExtensions(ctx, known, numbers, user)
	if err != nil {
		return nil, err
	}
	e, ok := es[user]
	if !ok || !(dialog.Extension{User: user, Domain: e.Domain}).Is(name) {
		return nil, ErrNoExtension
	}
	return e, nil
}

// NumberExtension returns the number of an extension, and allots one if it has none, see
// [notify.NumberTable.Allot].
func (o *Operations) NumberExtension(ctx context.Context, user string) (uint64, error) {
	return o.notifier.Numbers.Allot(ctx, user)
}

// KnownNumber returns the number of an extension; 0: it has none, or this node does not
// know it yet, see [notify.NumberTable.Known].
func (o *Operations) KnownNumber(user string) uint64 { return o.notifier.Numbers.Known(user) }

// ExtensionKind returns the kind of an extension: phone, unless the config has another.
// "" stands for all extensions; its kind is phone too.
func (o *Operations) ExtensionKind(extension string) dialog.Kind {
	user, _, _ := strings.Cut(extension, "@")
	if o.config.Kind == nil || user == "" {
		return dialog.Phone
	}
	return cmp.Or(o.config.Kind(user), dialog.Phone)
}

// ExtensionNumbered returns the extension with a number; "": no extension that the client
// may see has it.
func (o *Operations) ExtensionNumbered(ctx context.Context, number uint64) (user string, err error) {
	user, err = o.notifier.Numbers.Extension(ctx, number)
	if err != nil || user != "" && !access.ClientOf(ctx).CanSee(user) {
		return "", err
	}
	return user, nil
}

// IsKnown reports whether an extension that the client may see has a number or a
// subscription.
func (o *Operations) IsKnown(ctx context.Context, name string) (bool, error) {
	if !access.ClientOf(ctx).CanSee(name) {
		return false, nil
	}
	number, err := o.notifier.Numbers.Number(ctx, name)
	return number != 0 || slices.ContainsFunc(o.notifier.Subscriptions(), func(sub notify.Subscription) bool {
		return sub.Extension == name
	}), err
}
