//go:build interop

package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// An expectation lists the callbacks that a scenario should cause. It is a text file:
//
//	# a comment
//	! 102 in talk: the reason why the PBX's record differs, and is right
//	dial-out 101 Call=1 CallFlow=out CallStatus=CALLING CalledNumber=102
//	or dial-out 101 Call=1 CallFlow=out CallStatus=CALLING CalledNumber=103
//
// A line with "or" may come instead of the line before, because the PBX sends either.
// Each other line is a callback: its type, its extension, and its fields by the names
// that flows use. The first line of a party has all fields that matter; each later one
// has flow, status, and the fields that have changed. Call=1 is the first call, Turn=2
// an extension's second turn in the same direction in it. The lines of a party are
// compared in order. Those of different parties are in the order of their times, which
// is not compared. No line has times or durations: they are compared with the PBX's
// record.
type expectation struct {
	comment []string
	excuses []string // without the "!"
	lines   []line
}

// A line is one callback of an expectation.
type line struct {
	text                    string
	typ, ext, call          string
	flow, turn, status, key string // key names the party
	or                      string // text that may come instead, or ""
}

func readExpectation(file string) (e expectation, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return e, err
	}
	for text := range strings.Lines(string(b)) {
		text = strings.TrimSpace(text)
		switch {
		case text == "":
		case text[0] == '#':
			e.comment = append(e.comment, text)
		case text[0] == '!':
			if _, why, ok := strings.Cut(text, ": "); !ok || why == "" {
				return e, fmt.Errorf("%s: %q does not say why", file, text)
			}
			e.excuses = append(e.excuses, strings.TrimSpace(text[1:]))
		case strings.HasPrefix(text, "or "):
			if len(e.lines) == 0 {
				return e, fmt.Errorf("%s: %q follows no line", file, text)
			}
			e.lines[len(e.lines)-1].or = text[len("or "):]
		default:
			words := strings.Fields(text)
			if len(words) < 2 {
				return e, fmt.Errorf("%s: %q has no extension", file, text)
			}
			l := line{text: text, typ: words[0], ext: words[1]}
			for _, w := range words[2:] {
				switch name, value, _ := strings.Cut(w, "="); name {
				case "Call":
					l.call = value
				case "CallFlow":
					l.flow = value
				case "Turn":
					l.turn = value
				case "CallStatus":
					l.status = value
				}
			}
			l.key = l.call + " " + l.ext + " " + l.flow + " " + l.turn
			e.lines = append(e.lines, l)
		}
	}
	return e, nil
}

// compare returns the differences between the callbacks and the expected lines.
func (e expectation) compare(got []line) (differences []string) {
	want := map[string][]string{}
	come := map[string][]string{}
	var keys []string
	for _, l := range e.lines {
		if l.or != "" && slices.Contains(texts(got), l.or) {
			l.text = l.or
		}
		want[l.key] = append(want[l.key], l.text)
		keys = append(keys, l.key)
	}
	for _, l := range got {
		come[l.key] = append(come[l.key], l.text)
		keys = append(keys, l.key)
	}
	slices.Sort(keys)
	for _, key := range slices.Compact(keys) {
		if w, c := want[key], come[key]; !slices.Equal(w, c) {
			missing := slices.DeleteFunc(slices.Clone(w), func(l string) bool { return slices.Contains(c, l) })
			extra := slices.DeleteFunc(slices.Clone(c), func(l string) bool { return slices.Contains(w, l) })
			if len(missing)+len(extra) == 0 {
				missing, extra = w, c // in another order
			}
			d := "callbacks"
			for _, l := range missing {
				d += "\n  want " + l
			}
			for _, l := range extra {
				d += "\n  got  " + l
			}
			differences = append(differences, d)
		}
	}
	return differences
}

// explain removes the differences for which the expectation has a reason, and adds the
// reasons without a difference.
func (e expectation) explain(differences []string) (left []string) {
	used := map[string]bool{}
	for _, d := range differences {
		i := slices.IndexFunc(e.excuses, func(x string) bool {
			what, _, _ := strings.Cut(x, ": ")
			return strings.HasPrefix(d, what+":")
		})
		if i < 0 {
			left = append(left, d)
			continue
		}
		used[e.excuses[i]] = true
	}
	for _, x := range e.excuses {
		if !used[x] {
			left = append(left, "explained, but not so: "+x)
		}
	}
	return left
}

// rewrite writes the callbacks into the file if they differ.
func (e expectation) rewrite(file string, got []line) error {
	if len(e.compare(got)) == 0 {
		return nil
	}
	all := slices.Clone(e.comment)
	for _, x := range e.excuses {
		all = append(all, "! "+x)
	}
	all = append(all, texts(got)...)
	return os.WriteFile(file, []byte(strings.Join(all, "\n")+"\n"), 0o644)
}

func texts(lines []line) (all []string) {
	for _, l := range lines {
		all = append(all, l.text)
	}
	return all
}

// lineFields are the fields of a line after Call, Turn, CallFlow and CallStatus, with
// their names in the dialect json.
var lineFields = []struct{ name, json string }{
	{"CallerIDNum", "caller_id_num"},
	{"CallerIDName", "caller_id_name"},
	{"CallerExtension", "caller_extension"},
	{"CalledNumber", "called_number"},
	{"CalledExtension", "called_extension"},
	{"CalledDID", "called_did"},
	{"Diversion", "diversion"},
	{"Transfered", "transferred"},
	{"RemoteNumber", "remote_number"},
	{"ANI", "ani"},
	{"CallBackID", "callback_id"},
	{"Bridged", "bridged"},
	{"SipCode", "sip_code"},
	{"Q850", "q850"},
	{"HangupBy", "hangup_by"},
	{"AnsweredElsewhere", "answered_elsewhere"},
	{"Missed", "missed"},
	{"MessageText", "message_text"},
	{"OtherCall", "other_call_id"},
	{"Correlation", "correlation"},
}

// lines formats callbacks, which are in the order of their times. It leaves out
// registrations if there are calls too: phones register in every scenario.
func lines(came []received) (all []line) {
	var calls []string
	turns := map[string][]string{}          // parties of an extension in a call and direction
	known := map[string]map[string]string{} // fields of a party's last line
	number := func(list []string, id string) ([]string, string) {
		i := slices.Index(list, id)
		if i < 0 {
			i, list = len(list), append(list, id)
		}
		return list, strconv.Itoa(i + 1)
	}
	owners := map[string]string{} // extensions by party
	for _, c := range came {
		if owners[c.fields["sub_call_id"]] == "" && c.fields["event_type"] != "transfer" {
			owners[c.fields["sub_call_id"]] = c.extension()
		}
	}
	only := !slices.ContainsFunc(came, func(c received) bool { return !c.registration() })
	for _, c := range came {
		if c.registration() && !only {
			continue
		}
		l := line{typ: c.fields["event_type"], ext: c.extension(), flow: c.fields["call_flow"], status: c.fields["call_status"]}
		if owner := owners[c.fields["sub_call_id"]]; owner != "" && c.fields["sub_call_id"] != "" {
			l.ext = owner
		}
		text := l.typ + " " + l.ext
		add := func(name, value string) {
			if strings.ContainsAny(value, " \"\n\r\t") {
				value = strconv.Quote(value)
			}
			text += " " + name + "=" + value
		}
		if id := c.fields["call_id"]; id != "" {
			calls, l.call = number(calls, id)
			add("Call", l.call)
			place := l.call + " " + l.ext + " " + l.flow
			var turn string
			if turns[place], turn = number(turns[place], c.fields["sub_call_id"]); turn != "1" {
				l.turn = turn
				add("Turn", turn)
			}
		}
		l.key = l.call + " " + l.ext + " " + l.flow + " " + l.turn
		if l.flow != "" {
			add("CallFlow", l.flow)
		}
		if l.status != "" {
			add("CallStatus", l.status)
		}
		before := known[l.key]
		known[l.key] = map[string]string{}
		for _, f := range lineFields {
			value := c.fields[f.json]
			if f.name == "OtherCall" && value != "" {
				calls, value = number(calls, value)
			}
			if value == l.ext && (f.name == "CallerExtension" && l.flow == "out" || f.name == "CalledExtension" && l.flow != "out") {
				continue // its own
			}
			known[l.key][f.name] = value
			if value != before[f.name] {
				add(f.name, value)
			}
		}
		l.text = text
		all = append(all, l)
	}
	return all
}

func (c received) registration() bool {
	return strings.HasSuffix(c.fields["event_type"], "registered")
}

// extension returns the extension of an event, or the target of a transfer.
func (c received) extension() string {
	if c.fields["call_flow"] == "out" || c.fields["event_type"] == "message-out" {
		return c.fields["caller_extension"]
	}
	return c.fields["called_extension"]
}
