package dialog_test

import (
	"cmp"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"bellhop/dialog"
	"bellhop/dialog/flowtest"
	"bellhop/sip/flowhop"
)

// TestMessagesAreNotRetained shows a tracker the messages of every flow. Neither the tracker
// nor an event may have a part of a message, because that would keep the whole message in
// memory.
func TestMessagesAreNotRetained(t *testing.T) {
	forEachFlow(t, func(t *testing.T, f *flowtest.Flow) {
		checkNotRetained(t, f.Config.Dialog, flowhop.Record(t, f))
	})
	t.Run("two calls with the same start of the Call-ID", func(t *testing.T) {
		var inputs []flowhop.Input
		for _, last := range []string{"1", "2"} {
			m := dialog.Message{
				At: end, Src: dialog.Edge, Dst: dialog.PBX, From: netip.MustParseAddrPort("192.0.2.11:5060"),
				Method: "INVITE", CallID: strings.Repeat("a", 30) + last, FromTag: "f", Branch: "b", CSeq: 1,
				Head: "INVITE sip:102@pbx.example SIP/2.0\r\nFrom: <sip:101@pbx.example>\r\n",
			}
			inputs = append(inputs, flowhop.Input{At: m.At, Message: &m})
		}
		checkNotRetained(t, dialog.Config{Learn: true}, inputs)
	})
}

// checkNotRetained shows inputs to a tracker, and looks for parts of their messages in it
// after each of them. The tracker also has the events that it emitted last.
func checkNotRetained(t *testing.T, c dialog.Config, inputs []flowhop.Input) {
	o := &flowhop.Observer{Tracker: dialog.New(c)}
	w := &memoryWalker{t: t}
	for _, in := range inputs {
		if in.Message != nil {
			m := *in.Message
			in.Message = &m
			w.addMessage(joinStrings(&m))
		}
		o.Show(in)
		w.seen = map[any]bool{}
		w.walk(reflect.ValueOf(o.Tracker), "")
	}
}

// joinStrings puts the strings of a message into one block of memory, which it returns.
func joinStrings(m *dialog.Message) string {
	fields := []*string{&m.Trunk, &m.Method, &m.CallID, &m.FromTag, &m.ToTag, &m.Branch, &m.AOR, &m.CID, &m.Head, &m.Body}
	var b strings.Builder
	for _, s := range fields {
		b.WriteString(*s)
	}
	block := b.String()
	rest := block
	for _, s := range fields {
		*s, rest = rest[:len(*s)], rest[len(*s):]
	}
	return block
}

// A memoryWalker looks for parts of messages in a value and all that it refers to.
type memoryWalker struct {
	t        *testing.T
	messages []string     // in order of their addresses
	seen     map[any]bool // pointers whose values were walked
}

func address(s string) uintptr { return uintptr(unsafe.Pointer(unsafe.StringData(s))) }

// findMessage returns the index in messages of the first that ends after the address at.
func (w *memoryWalker) findMessage(at uintptr) int {
	i, _ := slices.BinarySearchFunc(w.messages, at, func(m string, at uintptr) int { return cmp.Compare(address(m)+uintptr(len(m)), at+1) })
	return i
}

func (w *memoryWalker) addMessage(block string) {
	w.messages = slices.Insert(w.messages, w.findMessage(address(block)), block)
}

// walk walks a value; name is the struct field that has it.
func (w *memoryWalker) walk(v reflect.Value, name string) {
	switch v.Kind() {
	case reflect.String:
		s := v.String()
		if i := w.findMessage(address(s)); s != "" && i < len(w.messages) && address(w.messages[i]) <= address(s) {
			w.t.Errorf("%s has %q of the message\n%s", name, s, w.messages[i])
		}
	case reflect.Pointer:
		if key := [2]any{v.Type(), v.Pointer()}; !v.IsNil() && !w.seen[key] && v.Type() != reflect.TypeFor[*regexp.Regexp]() {
			w.seen[key] = true
			w.walk(v.Elem(), name)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			w.walk(v.Field(i), v.Type().Name()+"."+v.Type().Field(i).Name)
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			w.walk(v.Index(i), name)
		}
	case reflect.Map:
		for of := v.MapRange(); of.Next(); {
			w.walk(of.Key(), name)
			w.walk(of.Value(), name)
		}
	}
}
