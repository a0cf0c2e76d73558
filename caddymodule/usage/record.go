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
	errRecord = errors.New("usage: unreadable record")
	// errVersion: another release of Doorpost wrote the record, so don't overwrite it.
	errVersion = errors.New("usage: record of another release")
)

// day counts days since 1970 in UTC. Day 0 means none.
type day uint16

func dayOf(t time.Time) day {
	return day(min(max(0, t.Unix()/(24*60*60)), math.MaxUint16))
}

// recent reports whether the day is one of the last Days, or in the future.
func (d day) recent(today day) bool { return int(d) > int(today)-Days }

// counts holds counts of a period.
type counts struct{ hits, upgraded, notBrowsers, signIns uint64 }

func (t *counts) add(more counts) {
	t.hits += more.hits
	t.upgraded += more.upgraded
	t.notBrowsers += more.notBrowsers
	t.signIns += more.signIns
}

// daily holds the counts of a day.
type daily struct {
	day
	counts
}

// browserSeen is a browser and the day of its latest use.
type browserSeen struct {
	id uint64
	day
}

// record holds the counts of a company, or counts to add to them. The zero record is empty.
type record struct {
	first, last int64 // of use, in seconds since 1970; 0: none
	ever        counts
	days        []daily // ordered; only days with uses

	browsers []browserSeen // the latest, at most MaxBrowsers
	dropped  day           // latest day of a browser removed for a later one; 0: none was
}

// addUse counts a use by the browser b (0: none, or no room for it).
func (r *record) addUse(u Use, b uint64, now time.Time) {
	t := counts{hits: 1}
	switch {
	case u.SignIn:
		t = counts{signIns: 1}
	case u.Browser == "":
		t.notBrowsers = 1
	}
	if u.Upgraded && !u.SignIn {
		t.upgraded = 1
	}
	today := dayOf(now)
	r.ever.add(t)
	r.addDay(daily{today, t})
	if u.SignIn {
		return
	}
	r.addRange(now.Unix(), now.Unix())
	if b != 0 {
		r.addBrowser(browserSeen{b, today})
	}
}

// addRange extends first and last.
func (r *record) addRange(first, last int64) {
	if first > 0 && (r.first == 0 || first < r.first) {
		r.first = first
	}
	r.last = max(r.last, last)
}

// addDay adds counts to a day.
func (r *record) addDay(more daily) {
	i, found := slices.BinarySearchFunc(r.days, more.day, func(d daily, day day) int { return cmp.Compare(d.day, day) })
	if !found {
		r.days = slices.Insert(r.days, i, daily{day: more.day})
	}
	r.days[i].add(more.counts)
}

// addBrowser records a use by a browser. If there are too many browsers, it removes the one
// unused for longest. So as long as dropped is recent, all remaining browsers are recent, and
// there were more than MaxBrowsers.
func (r *record) addBrowser(b browserSeen) {
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
	r.addRange(more.first, more.last)
	r.ever.add(more.ever)
	for _, d := range more.days {
		r.addDay(d)
	}
	for _, b := range more.browsers {
		r.addBrowser(b)
	}
	r.dropped = max(r.dropped, more.dropped)
}

// trim removes days that are no longer recent. Days more than one ahead come from a wrong
// clock and count as today, since they would stay recent for too long.
func (r *record) trim(now time.Time) {
	today := dayOf(now)
	ahead := func(d day) bool { return int(d) > int(today)+1 }
	var late counts
	r.days = slices.DeleteFunc(r.days, func(d daily) bool {
		if ahead(d.day) {
			late.add(d.counts)
			return true
		}
		return !d.recent(today)
	})
	if late != (counts{}) {
		r.addDay(daily{today, late})
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

// usage returns the Usage of a trimmed record.
func (r *record) usage(now time.Time) Usage {
	today := dayOf(now)
	u := Usage{First: timeOf(r.first), Last: timeOf(r.last), Ever: r.ever.sum(len(r.browsers), r.dropped > 0)}
	var t counts
	for _, d := range r.days {
		t.add(d.counts)
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

func (t counts) sum(browsers int, more bool) Sum {
	return Sum{Hits: toInt(t.hits), Upgraded: toInt(t.upgraded), NotBrowsers: toInt(t.notBrowsers), SignIns: toInt(t.signIns), Browsers: browsers, MoreBrowsers: more}
}

func toInt(n uint64) int { return int(min(n, math.MaxInt)) }

func timeOf(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}

// encode returns the version, and numbers as varints: first, last, ever, dropped, the number
// of days, the days, and the browsers.
func (r *record) encode() []byte {
	b := make([]byte, 0, 64+16*len(r.days)+10*len(r.browsers))
	b = append(b, version)
	b = binary.AppendUvarint(b, uint64(r.first))
	b = binary.AppendUvarint(b, uint64(r.last))
	b = r.ever.encode(b)
	b = binary.AppendUvarint(b, uint64(r.dropped))
	b = binary.AppendUvarint(b, uint64(len(r.days)))
	for _, d := range r.days {
		b = d.counts.encode(binary.BigEndian.AppendUint16(b, uint16(d.day)))
	}
	for _, s := range r.browsers {
		b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint64(b, s.id), uint16(s.day))
	}
	return b
}

func (t counts) encode(b []byte) []byte {
	for _, n := range []uint64{t.hits, t.upgraded, t.notBrowsers, t.signIns} {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

// decode decodes what encode returned. With an error, the record is zero.
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
			r.browsers = append(r.browsers, browserSeen{binary.BigEndian.Uint64(id), in.day()})
		}
	}
	if in.bad || len(r.browsers) > MaxBrowsers {
		return record{}, errRecord
	}
	return r, nil
}

// reader reads numbers one after the other. After the first failure, all reads fail.
type reader struct {
	rest []byte
	bad  bool
}

// take returns the next n bytes, or nil if there are fewer.
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

func (in *reader) tally() counts {
	return counts{in.number(math.MaxUint64), in.number(math.MaxUint64), in.number(math.MaxUint64), in.number(math.MaxUint64)}
}
