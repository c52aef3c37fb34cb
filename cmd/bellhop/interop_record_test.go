//go:build interop

package main

import (
	"cmp"
	"encoding/csv"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tolerance is the largest difference between the talk times of bellhop and of the PBX.
const tolerance = 100 * time.Millisecond

// A record is Asterisk's record of a scenario: the rows of its CDR, and the channels of
// its CEL, in the order of their starts.
type record struct {
	rows     []cdrRow
	channels []*channel
}

// A cdrRow is a row of the CDR: a channel and its peer.
type cdrRow struct {
	channel, dst string // names of channels
	answered     bool   // the channel was, by whatever
	disposition  string
	billsec      int
}

// A channel is Asterisk's side of a dialog.
type channel struct {
	name     string // PJSIP/102-00000001
	ext      string // 102, trunk
	flow     string // in: Asterisk called it
	call     string // the linkedid with which it began
	began    time.Time
	answered time.Time
	ended    time.Time
	left     time.Time     // it left a conference then: ConfBridge ends the channel later, up to 0.4 s after a BYE
	queued   time.Duration // it talked so long with members of a queue
}

func extOf(channel string) string {
	name, ok := strings.CutPrefix(channel, "PJSIP/")
	if !ok {
		return ""
	}
	return name[:strings.LastIndexByte(name, '-')]
}

// readRecord reads the CDR and the CEL of a scenario, each after a comment with its
// columns.
func readRecord(file string) (*record, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var r record
	head, cel, ok := strings.Cut(string(b), "# CEL:")
	if !ok {
		return nil, fmt.Errorf("%s has no CEL", file)
	}
	rows, err := readCSV(head)
	if err != nil {
		return nil, fmt.Errorf("%s: CDR: %w", file, err)
	}
	for _, row := range rows {
		if len(row) < 15 {
			return nil, fmt.Errorf("%s: CDR: a row has %d columns", file, len(row))
		}
		billsec, _ := strconv.Atoi(row[13])
		r.rows = append(r.rows, cdrRow{channel: row[5], dst: row[6], answered: row[10] != "", disposition: row[14], billsec: billsec})
	}
	_, cel, _ = strings.Cut(cel, "\n")
	if rows, err = readCSV(cel); err != nil {
		return nil, fmt.Errorf("%s: CEL: %w", file, err)
	}
	entered := map[string]time.Time{}
	for _, row := range rows {
		if len(row) < 9 || extOf(row[5]) == "" {
			continue
		}
		event, name := row[0], row[5]
		at, err := time.Parse("2006-01-02 15:04:05.000", row[1])
		if err != nil {
			return nil, fmt.Errorf("%s: CEL: %w", file, err)
		}
		i := slices.IndexFunc(r.channels, func(c *channel) bool { return c.name == name })
		if event == "CHAN_START" && i < 0 {
			c := &channel{name: name, ext: extOf(name), flow: "out", call: row[8], began: at}
			if row[3] == "s" || row[3] == "" {
				c.flow = "in"
			}
			r.channels = append(r.channels, c)
			continue
		}
		if i < 0 {
			continue
		}
		c := r.channels[i]
		switch event {
		case "ANSWER":
			if c.answered.IsZero() {
				c.answered = at
			}
		case "HANGUP":
			c.ended = cmp.Or(c.left, at)
		case "BRIDGE_ENTER":
			entered[name], c.left = at, time.Time{}
		case "BRIDGE_EXIT":
			if row[6] == "ConfBridge" {
				c.left = at
			}
			if row[6] == "Queue" && !entered[name].IsZero() {
				c.queued += at.Sub(entered[name])
			}
			delete(entered, name)
		}
	}
	return &r, nil
}

func readCSV(text string) ([][]string, error) {
	c := csv.NewReader(strings.NewReader(text))
	c.Comment = '#'
	c.FieldsPerRecord = -1
	return c.ReadAll()
}

// String formats the rows of the CDR.
func (r *record) String() string {
	var words []string
	for _, row := range r.rows {
		who := extOf(row.channel)
		if who == "" {
			who = "local"
		}
		if dst := extOf(row.dst); dst != "" {
			who += ">" + dst
		}
		if row.disposition == "ANSWERED" {
			words = append(words, fmt.Sprintf("%s ANSWERED %ds", who, row.billsec))
		} else {
			words = append(words, who+" "+row.disposition)
		}
	}
	if words == nil {
		return "-"
	}
	return strings.Join(words, ", ")
}

// dispositions are the status words of a hangup that are valid for a disposition of the
// CDR. The CDR has fewer words: it does not tell whether the caller gave up, nor whether
// a phone was reached.
var dispositions = map[string][]string{
	"ANSWERED":   {"ANSWER"},
	"BUSY":       {"BUSY"},
	"NO ANSWER":  {"NOANSWER", "CANCEL", "CHANUNAVAIL", "FORWARDED"},
	"FAILED":     {"CHANUNAVAIL", "CONGESTION"},
	"CONGESTION": {"CONGESTION", "CHANUNAVAIL"},
}

// A turn is bellhop's events of one party.
type turn struct {
	id, call, ext, flow string
	events              []received
	answered            bool
	talked, bridged     time.Duration
	status              string
	transferred         bool
}

// turns groups the callbacks by party, and checks what holds for all parties.
func turns(came []received) (parties []*turn, differences []string) {
	differ := func(format string, args ...any) { differences = append(differences, fmt.Sprintf(format, args...)) }
	numbers := map[string][]int64{}
	seen := map[string]bool{}
	for _, c := range came {
		if id := c.fields["event_id"]; seen[id] {
			differ("%s of %s came twice", c.fields["event_type"], c.extension())
			continue
		} else {
			seen[id] = true
		}
		if call := c.fields["call_id"]; call != "" && !c.registration() { // it began in another scenario
			numbers[call] = append(numbers[call], c.count("sequence"))
		}
		switch c.fields["event_type"] {
		case "message-in", "message-out", "voicemail", "registered", "unregistered":
			continue // events that belong to no party
		}
		i := slices.IndexFunc(parties, func(t *turn) bool { return t.id == c.fields["sub_call_id"] })
		if i < 0 {
			i = len(parties)
			parties = append(parties, &turn{id: c.fields["sub_call_id"], call: c.fields["call_id"], ext: c.extension(), flow: c.fields["call_flow"]})
		}
		p := parties[i]
		p.events = append(p.events, c)
		p.transferred = p.transferred || c.fields["transferred"] == "true"
		if c.fields["call_id"] != p.call {
			differ("%s %s: the CallID changes", p.ext, p.flow)
		}
	}
	for _, n := range numbers {
		slices.Sort(n)
		for i, seq := range n {
			if seq != int64(i+1) {
				differ("the sequence of a call has a gap: %v", n)
				break
			}
		}
	}
	for _, p := range parties {
		slices.SortStableFunc(p.events, func(a, b received) int { return int(a.count("sequence") - b.count("sequence")) })
		many := map[string]int{}
		var answer int64
		for i, c := range p.events {
			typ := c.fields["event_type"]
			many[typ]++
			dial := typ == "dial-in" || typ == "dial-out"
			if dial != (i == 0) || (typ == "hangup") != (i == len(p.events)-1) {
				differ("%s %s: %s is number %d of its %d events", p.ext, p.flow, typ, i+1, len(p.events))
			}
			switch typ {
			case "answer":
				p.answered, answer = true, c.number("EventTime")
			case "hangup":
				p.status = c.fields["call_status"]
				d := c.number("Duration")
				p.talked = time.Duration(d) * time.Microsecond
				p.bridged = time.Duration(c.count("bridged_duration")) * time.Microsecond
				if p.answered && d != c.number("EventTime")-answer || !p.answered && d != 0 {
					differ("%s %s: Duration is %d µs, but the answer %d and the hangup %d", p.ext, p.flow, d, answer, c.number("EventTime"))
				}
			}
		}
		if many["dial-in"]+many["dial-out"] != 1 || many["hangup"] != 1 || many["answer"] > 1 {
			differ("%s %s: %v", p.ext, p.flow, many)
		}
	}
	return parties, differences
}

// judge compares bellhop's events with the record, for every channel.
func (res *result) judge(r *record) {
	parties, differences := turns(res.came)
	differ := func(format string, args ...any) { differences = append(differences, fmt.Sprintf(format, args...)) }
	calls := map[string][]string{}  // CallIDs by linkedid
	linked := map[string][]string{} // and the other way round
	taken := map[*turn]bool{}
	for _, c := range r.channels {
		if c.ext == "trunk" {
			continue // no extension's
		}
		i := slices.IndexFunc(parties, func(t *turn) bool { return t.ext == c.ext && t.flow == c.flow && !taken[t] })
		if i < 0 {
			differ("%s %s: no callbacks, but a channel", c.ext, c.flow)
			continue
		}
		p := parties[i]
		taken[p] = true
		who := p.ext + " " + p.flow
		if !slices.Contains(calls[c.call], p.call) {
			calls[c.call] = append(calls[c.call], p.call)
		}
		if !slices.Contains(linked[p.call], c.call) {
			linked[p.call] = append(linked[p.call], c.call)
		}
		if was := !c.answered.IsZero(); was != p.answered {
			differ("%s answer: %v, the channel says %v", who, p.answered, was)
		} else if was {
			if talked := c.ended.Sub(c.answered); (talked - p.talked).Abs() > tolerance {
				differ("%s talk: %v, the channel says %v", who, p.talked.Round(time.Millisecond), talked)
			}
		}
		for _, row := range r.rows {
			word := row.disposition
			if c.flow == "in" && row.dst != c.name || c.flow == "out" && row.channel != c.name {
				continue
			}
			if c.flow == "out" && row.answered {
				word = "ANSWERED" // if only by the PBX
			} else if c.flow == "out" && !c.answered.IsZero() {
				continue // a row of before it was
			}
			if c.flow == "in" && word == "ANSWERED" && c.answered.IsZero() {
				continue // a pickup may leave such a row of the phone that was not answered
			}
			if !slices.Contains(dispositions[word], p.status) {
				differ("%s disposition: %s, the CDR says %s", who, p.status, word)
			}
		}
	}
	for _, ids := range calls {
		if len(ids) > 1 {
			differ("call: %d CallIDs, but one linkedid", len(ids))
		}
	}
	for _, ids := range linked {
		if len(ids) > 1 {
			differ("call: one CallID, but %d linkedids", len(ids))
		}
	}
	for _, p := range parties {
		switch who := p.ext + " " + p.flow; {
		case taken[p]:
		case interopKinds[p.ext] != "" && p.flow == "in":
			if p.answered {
				differ("%s: a %s answered", who, interopKinds[p.ext])
			}
			var queued time.Duration
			for _, c := range r.channels {
				if slices.Contains(linked[p.call], c.call) {
					queued += c.queued
				}
			}
			if interopKinds[p.ext] == "queue" && (queued-p.bridged).Abs() > tolerance {
				differ("%s bridged: %v, the channel says %v", who, p.bridged.Round(time.Millisecond), queued)
			}
		case p.transferred && p.flow == "out":
			i := slices.IndexFunc(r.channels, func(c *channel) bool { return c.ext == "trunk" && c.flow == "in" })
			if i < 0 {
				differ("%s: forwarded, but the PBX called no trunk", who)
				continue
			}
			c := r.channels[i]
			if was := !c.answered.IsZero(); was != p.answered {
				differ("%s answer: %v, the trunk's channel says %v", who, p.answered, was)
			} else if talked := c.ended.Sub(c.answered); was && (talked-p.talked).Abs() > tolerance {
				differ("%s talk: %v, the trunk's channel says %v", who, p.talked.Round(time.Millisecond), talked)
			}
		default:
			differ("%s channel: none, but callbacks", who)
		}
	}
	res.differences = append(res.differences, differences...)
}
