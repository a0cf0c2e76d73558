package usage

import (
	"cmp"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"time"
)

const version = 1

var (
	errRecord = errors.New("usage: a record that can't be read")
	// errVersion: another release of Doorpost wrote the record, so it isn't written over.
	errVersion = errors.New("usage: a record of another release")
)

// day counts days from 1970 on, by UTC. Day 0 stands for none.
type day uint16

func dayOf(t time.Time) day {
	return day(min(max(0, t.Unix()/(24*60*60)), math.MaxUint16))
}

// recent reports whether the day is one of the last Days; one that is yet to come is.
func (d day) recent(today day) bool { return int(d) > int(today)-Days }

// tally is what was counted.
type tally struct{ hits, asked, others, signIns uint64 }

func (t *tally) add(more tally) {
	t.hits += more.hits
	t.asked += more.asked
	t.others += more.others
	t.signIns += more.signIns
}

// daily is what was counted on a day.
type daily struct {
	day
	tally
}

// seen is a browser, and when it came last.
type seen struct {
	id uint64
	day
}

// record is what is known of a company, or what is to be added to that. The zero record
// knows nothing.
type record struct {
	first, last int64 // use, in seconds since 1970; 0: none
	ever        tally
	days        []daily // in order, those with a use alone

	browsers []seen // at most MaxBrowsers, the latest
	dropped  day    // the last day of those that had to go, for later ones; 0: none had to
}

// note counts a use, by the browser b, if any: 0 also where there is no place for one.
func (r *record) note(u Use, b uint64, now time.Time) {
	t := tally{hits: 1}
	switch {
	case u.SignIn:
		t = tally{signIns: 1}
	case u.Browser == "":
		t.others = 1
	}
	if u.Upgraded && !u.SignIn {
		t.asked = 1
	}
	today := dayOf(now)
	r.ever.add(t)
	r.count(daily{today, t})
	if u.SignIn {
		return
	}
	r.span(now.Unix(), now.Unix())
	if b != 0 {
		r.meet(seen{b, today})
	}
}

// span takes in that there were uses from first until last.
func (r *record) span(first, last int64) {
	if first > 0 && (r.first == 0 || first < r.first) {
		r.first = first
	}
	r.last = max(r.last, last)
}

// count adds to a day.
func (r *record) count(more daily) {
	i, found := slices.BinarySearchFunc(r.days, more.day, func(d daily, day day) int { return cmp.Compare(d.day, day) })
	if !found {
		r.days = slices.Insert(r.days, i, daily{day: more.day})
	}
	r.days[i].add(more.tally)
}

// meet takes in that a browser came. Where there are too many, the one that stayed away
// the longest has to go; so as long as that one's last day is recent, all others' are, and
// there were more than MaxBrowsers.
func (r *record) meet(b seen) {
	oldest := 0
	for i, other := range r.browsers {
		if other.id == b.id {
			r.browsers[i].day = max(other.day, b.day)
			return
		}
		if other.day < r.browsers[oldest].day {
			oldest = i
		}
	}
	switch {
	case len(r.browsers) < MaxBrowsers:
		r.browsers = append(r.browsers, b)
	case b.day < r.browsers[oldest].day:
		r.dropped = max(r.dropped, b.day)
	default:
		r.dropped = max(r.dropped, r.browsers[oldest].day)
		r.browsers[oldest] = b
	}
}

// merge adds another record.
func (r *record) merge(more *record) {
	r.span(more.first, more.last)
	r.ever.add(more.ever)
	for _, d := range more.days {
		r.count(d)
	}
	for _, b := range more.browsers {
		r.meet(b)
	}
	r.dropped = max(r.dropped, more.dropped)
}

// trim lets go of the days that aren't recent any more. What a clock said that was ahead by
// more than a day is as if it were today, or it would count as recent until then.
func (r *record) trim(now time.Time) {
	today := dayOf(now)
	ahead := func(d day) bool { return int(d) > int(today)+1 }
	var late tally
	r.days = slices.DeleteFunc(r.days, func(d daily) bool {
		if ahead(d.day) {
			late.add(d.tally)
			return true
		}
		return !d.recent(today)
	})
	if late != (tally{}) {
		r.count(daily{today, late})
	}
	for i, b := range r.browsers {
		if ahead(b.day) {
			r.browsers[i].day = today
		}
	}
	if ahead(r.dropped) {
		r.dropped = today
	}
	if r.last > now.Add(24*time.Hour).Unix() {
		r.last = max(0, now.Unix())
	}
	r.first = min(r.first, r.last)
}

// usage is what a record that was trimmed says.
func (r *record) usage(now time.Time) Usage {
	today := dayOf(now)
	u := Usage{First: moment(r.first), Last: moment(r.last), Ever: r.ever.sum(len(r.browsers), r.dropped > 0)}
	var t tally
	for _, d := range r.days {
		t.add(d.tally)
	}
	n := 0
	for _, b := range r.browsers {
		if b.recent(today) {
			n++
		}
	}
	u.Recent = t.sum(n, r.dropped > 0 && r.dropped.recent(today))
	return u
}

func (t tally) sum(browsers int, more bool) Sum {
	return Sum{Hits: number(t.hits), Asked: number(t.asked), NotBrowsers: number(t.others), SignIns: number(t.signIns), Browsers: browsers, MoreBrowsers: more}
}

func number(n uint64) int { return int(min(n, math.MaxInt)) }

func moment(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}

// encode writes the version, and numbers as varints: first, last, ever, dropped, how many
// days and these, and then the browsers.
func (r *record) encode() []byte {
	b := make([]byte, 0, 64+16*len(r.days)+10*len(r.browsers))
	b = append(b, version)
	b = binary.AppendUvarint(b, uint64(r.first))
	b = binary.AppendUvarint(b, uint64(r.last))
	b = r.ever.encode(b)
	b = binary.AppendUvarint(b, uint64(r.dropped))
	b = binary.AppendUvarint(b, uint64(len(r.days)))
	for _, d := range r.days {
		b = d.tally.encode(binary.BigEndian.AppendUint16(b, uint16(d.day)))
	}
	for _, s := range r.browsers {
		b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint64(b, s.id), uint16(s.day))
	}
	return b
}

func (t tally) encode(b []byte) []byte {
	for _, n := range []uint64{t.hits, t.asked, t.others, t.signIns} {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

// decode reads what encode has written. With an error, the record is the zero one.
func decode(b []byte) (record, error) {
	in := reader{rest: b}
	switch v := in.take(1); {
	case v == nil:
		return record{}, errRecord
	case v[0] != version:
		return record{}, errVersion
	}
	r := record{first: int64(in.number(math.MaxInt64)), last: int64(in.number(math.MaxInt64)), ever: in.tally()}
	r.dropped = day(in.number(math.MaxUint16))
	for range in.number(math.MaxUint16) {
		d := daily{in.day(), in.tally()}
		if len(r.days) > 0 && d.day <= r.days[len(r.days)-1].day {
			in.bad = true
		}
		if in.bad {
			return record{}, errRecord
		}
		r.days = append(r.days, d)
	}
	for len(in.rest) > 0 && !in.bad {
		if id := in.take(8); id != nil {
			r.browsers = append(r.browsers, seen{binary.BigEndian.Uint64(id), in.day()})
		}
	}
	if in.bad || len(r.browsers) > MaxBrowsers {
		return record{}, errRecord
	}
	return r, nil
}

// reader reads numbers one after the other; once something is bad all is.
type reader struct {
	rest []byte
	bad  bool
}

// take returns the next n bytes, nil where there are fewer.
func (in *reader) take(n int) []byte {
	if in.bad || len(in.rest) < n {
		in.bad = true
		return nil
	}
	b := in.rest[:n]
	in.rest = in.rest[n:]
	return b
}

func (in *reader) number(most uint64) uint64 {
	n, size := binary.Uvarint(in.rest)
	if in.bad || size <= 0 || n > most {
		in.bad = true
		return 0
	}
	in.rest = in.rest[size:]
	return n
}

func (in *reader) day() day {
	if b := in.take(2); b != nil {
		return day(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (in *reader) tally() tally {
	return tally{in.number(math.MaxUint64), in.number(math.MaxUint64), in.number(math.MaxUint64), in.number(math.MaxUint64)}
}
