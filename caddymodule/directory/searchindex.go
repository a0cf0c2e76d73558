package directory

import (
	"bytes"
	"encoding/base32"
	"encoding/binary"
	"maps"
	"math"
	"runtime"
	"slices"
	"strings"
)

// contactIndex finds contacts and companies by parts of their names and addresses. It holds only what is compared: in
// base one contact behind the other, in the order of their IDs, so that 100,000 of them are read through in some
// milliseconds. It isn't safe for concurrent use.
type contactIndex struct {
	base   []byte            // see appendContact
	recent map[string][]byte // by ID: contacts changed since base was made, in the same form; nil: removed
	slots  map[string]uint32 // company ID → its place in companies
	text   []indexedCompany  // by place; a removed company has no text
}

type indexedCompany struct{ id, text string }

// maxRecent is how many changed contacts stand beside base before they are merged into it.
const maxRecent = 2000

// yieldEvery is after how many contacts a search lets others have the processor.
const yieldEvery = 4096

var idEncoding = base32.HexEncoding.WithPadding(base32.NoPadding)

const rawID = 20 // bytes of an ID that newID has made

// appendContact appends a contact to an index: the ID (a zero and its bytes, or its length and text), the text, and the
// places of the companies, the latter two behind their lengths.
func (x *contactIndex) appendContact(to []byte, e *storedContact) []byte {
	var raw [rawID]byte
	if n, err := idEncoding.Decode(raw[:], []byte(strings.ToUpper(e.ID))); err == nil && n == rawID && len(e.ID) == idEncoding.EncodedLen(rawID) {
		to = append(append(to, 0), raw[:]...)
	} else {
		to = append(binary.AppendUvarint(to, uint64(len(e.ID))), e.ID...)
	}
	var text strings.Builder
	text.WriteString(e.Name())
	for _, a := range e.Emails {
		text.WriteString(" " + string(a))
	}
	key := nameKey(text.String())
	to = append(binary.AppendUvarint(to, uint64(len(key))), key...)
	to = binary.AppendUvarint(to, uint64(len(e.Companies)))
	for _, id := range e.Companies {
		to = binary.AppendUvarint(to, uint64(x.slot(id)))
	}
	return to
}

// slot returns the place of a company.
func (x *contactIndex) slot(id string) uint32 {
	at, ok := x.slots[id]
	if !ok {
		at = uint32(len(x.text))
		id = strings.Clone(id) // it may be a part of something large
		x.slots[id] = at
		x.text = append(x.text, indexedCompany{id: id})
	}
	return at
}

// setCompany adds or changes a company; an empty name removes it.
func (x *contactIndex) setCompany(id, name string) {
	text := ""
	if name != "" {
		text = nameKey(id + " " + name)
	}
	at, there := x.slots[id]
	if !there && strings.HasPrefix(text, id) {
		at, id = uint32(len(x.text)), text[:len(id)] // which takes no memory of its own
		x.slots[id] = at
		x.text = append(x.text, indexedCompany{id: id})
	} else if !there {
		at = x.slot(id)
	}
	x.text[at].text = text
}

// entry is a contact in an index. Its slices are parts of the index.
type entry struct {
	id        []byte
	raw       bool // id is in bytes
	text      []byte
	companies []byte
	whole     []byte
}

func (e entry) ID() string {
	if e.raw {
		return strings.ToLower(idEncoding.EncodeToString(e.id))
	}
	return string(e.id)
}

// nextEntry returns the first contact of data, and the data behind it.
func nextEntry(data []byte) (e entry, rest []byte) {
	field := func(rest []byte) ([]byte, []byte) {
		n, size := binary.Uvarint(rest)
		return rest[size : size+int(n)], rest[size+int(n):]
	}
	if rest = data; rest[0] == 0 {
		e.raw, e.id, rest = true, rest[1:1+rawID], rest[1+rawID:]
	} else {
		e.id, rest = field(rest)
	}
	e.text, rest = field(rest)
	n, size := binary.Uvarint(rest)
	rest = rest[size:]
	begin := rest
	for range n {
		_, size := binary.Uvarint(rest)
		rest = rest[size:]
	}
	e.companies = begin[:len(begin)-len(rest)]
	e.whole = data[:len(data)-len(rest)]
	return e, rest
}

// wanted is a word that is searched for, with the companies that have it.
type wanted struct {
	word      []byte
	companies []bool // by place; nil: none has it
}

func (x *contactIndex) wanted(words []string) []wanted {
	all := make([]wanted, len(words))
	for i, word := range words {
		all[i].word = []byte(word)
		for at, c := range x.text {
			if strings.Contains(c.text, word) {
				if all[i].companies == nil {
					all[i].companies = make([]bool, len(x.text))
				}
				all[i].companies[at] = true
			}
		}
	}
	// The longest first: it is likely the rarest.
	slices.SortStableFunc(all, func(a, b wanted) int { return len(b.word) - len(a.word) })
	return all
}

func (e entry) has(all []wanted) bool {
	for _, w := range all {
		if !bytes.Contains(e.text, w.word) && (w.companies == nil || !e.hasCompany(w.companies)) {
			return false
		}
	}
	return true
}

func (e entry) hasCompany(places []bool) bool {
	for rest := e.companies; len(rest) > 0; {
		at, size := binary.Uvarint(rest)
		if rest = rest[size:]; places[at] {
			return true
		}
	}
	return false
}

// contacts returns the IDs of up to limit contacts that have every word, in order, after an ID.
func (x *contactIndex) contacts(words []string, after string, limit int) []string {
	return x.having(x.wanted(words), after, limit)
}

// members returns the IDs of the contacts that belong to a company, in order.
func (x *contactIndex) members(company string) []string {
	at, known := x.slots[company]
	if !known {
		return nil
	}
	places := make([]bool, len(x.text))
	places[at] = true
	return x.having([]wanted{{word: inNoText, companies: places}}, "", math.MaxInt)
}

// inNoText is a word that no contact has.
var inNoText = []byte{0}

// having returns the IDs of up to limit contacts that have all that is wanted, in order, after an ID.
func (x *contactIndex) having(all []wanted, after string, limit int) []string {
	var found []string
	for id, data := range x.recent {
		if id > after && data != nil {
			if e, _ := nextEntry(data); e.has(all) {
				found = append(found, id)
			}
		}
	}
	var from []byte // in the form of base, if it has one
	if raw, err := idEncoding.DecodeString(strings.ToUpper(after)); err == nil && len(raw) == rawID {
		from = raw
	}
	n := 0
	for i, rest := 0, x.base; len(rest) > 0 && n < limit; i++ {
		if i%yieldEvery == yieldEvery-1 {
			runtime.Gosched()
		}
		var e entry
		e, rest = nextEntry(rest)
		if after != "" && (e.raw && from != nil && bytes.Compare(e.id, from) <= 0 || (!e.raw || from == nil) && e.ID() <= after) || !e.has(all) {
			continue
		}
		id := e.ID()
		if _, changed := x.recent[id]; !changed {
			found = append(found, id)
			n++
		}
	}
	slices.Sort(found)
	return found[:min(len(found), limit)]
}

// companies returns the IDs of up to limit companies that have every word, in order, after an ID.
func (x *contactIndex) companies(words []string, after string, limit int) []string {
	var found []string
	for _, c := range x.text {
		if c.text != "" && c.id > after && containsAll(c.text, words) {
			found = append(found, c.id)
		}
	}
	slices.Sort(found)
	return found[:min(len(found), limit)]
}

// setContact adds or changes a contact, or, with nil, removes it.
func (x *contactIndex) setContact(id string, e *storedContact) {
	if x.recent[id] = nil; e != nil {
		x.recent[id] = x.appendContact(nil, e)
	}
	if len(x.recent) > maxRecent {
		x.merge()
	}
}

// merge makes a new base of all contacts.
func (x *contactIndex) merge() {
	base := make([]byte, 0, len(x.base)+len(x.base)/16)
	changed := slices.Sorted(maps.Keys(x.recent))
	take := func(upTo string, all bool) {
		for len(changed) > 0 && (all || changed[0] < upTo) {
			base = append(base, x.recent[changed[0]]...)
			changed = changed[1:]
		}
	}
	for rest := x.base; len(rest) > 0; {
		var e entry
		e, rest = nextEntry(rest)
		id := e.ID()
		take(id, false)
		if _, there := x.recent[id]; !there {
			base = append(base, e.whole...)
		}
	}
	take("", true)
	x.base, x.recent = base, map[string][]byte{}
}
