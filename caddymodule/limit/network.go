package limit

import (
	"encoding/base64"
	"encoding/binary"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Class is what is counted.
type Class uint8

// The classes.
const (
	Ask      Class = iota // for a mail
	Failure               // an address that isn't the link's
	Guess                 // a code
	Password              // a password
	Token                 // an old link's token
)

// level is a part of the net that one hand may hold, and how much it may do: once its
// burst is used up, one more in every.
type level struct {
	bits               int // of the prefix
	ask, bad, password rate
}

// The sustained rate of failures is 20 in 15 minutes for one address, 60 for a /56, 100
// for a /24 and 200 for a /48. The bursts are those of an office: sixty people behind one
// address who all ask twice and mistype a code twice within ten minutes. A guess that was
// right is given back, so an office that gets in uses up nothing.
//
// Passwords are another matter: the same one can be tried on everybody. So in no quarter
// of an hour are there more wrong ones than 20 from one address, 60 from a /56, 100 from
// a /24 and 200 from a /48; three quarters of that may come at once.
var (
	levels4 = []level{
		{32, rate{150, 24 * time.Second}, rate{150, 45 * time.Second}, rate{15, 3 * time.Minute}},
		{24, rate{300, 12 * time.Second}, rate{200, 9 * time.Second}, rate{75, 36 * time.Second}},
	}
	levels6 = []level{
		{64, rate{150, 24 * time.Second}, rate{150, 45 * time.Second}, rate{15, 3 * time.Minute}},
		{56, rate{200, 18 * time.Second}, rate{170, 15 * time.Second}, rate{45, time.Minute}},
		{48, rate{300, 12 * time.Second}, rate{250, 4500 * time.Millisecond}, rate{150, 18 * time.Second}},
	}
	// firmGuesses and firmPasswords are how many wrong codes and passwords a firm takes from all
	// sides: 100 and 40 a minute.
	firmGuesses   = rate{200, 600 * time.Millisecond}
	firmPasswords = rate{200, 1500 * time.Millisecond}
	// calm is how many more a /24 or /48 may get wrong while its firm is over that.
	calm = rate{3, 20 * time.Minute}
	// asksApart is what a device or old link may ask for when its network may not.
	asksApart = rate{6, 10 * time.Minute}
)

// longest is what the slowest of them takes to be paid off.
const longest = 150 * 45 * time.Second

// Networks counts for a firm what networks do, in memory of at most Cells cells, about
// 10 MiB. A network that finds no cell is over its limit. Set its fields in one literal; to keep
// the counts over restarts, have Run run.
type Networks struct {
	Firm  string
	Store store.Store // for Run
	Keys  *secret.Keyring
	Now   func() time.Time // the clock; nil: time.Now

	cells   cells
	tokens  cells        // wrong tokens that were counted
	changed atomic.Bool  // since the last snapshot
	unread  atomic.Int64 // snapshots of others that could not be read, for Run to tell

	saving sync.Mutex
	id     string         // of this process's snapshots; "": nothing was taken over yet
	merged []store.Record // snapshots of others that were, to be deleted with the next of ours
}

type cell struct {
	key uint64
	rate
}

// Take counts one more by the visitor at ip, and reports whether there may be: if not,
// nothing was counted. Addresses that aren't known (the zero Addr) are one network.
func (n *Networks) Take(c Class, ip netip.Addr) bool { return n.take(n.cellsOf(c, ip)) }

// GiveBack undoes a Take that was granted, for what turned out to be right.
func (n *Networks) GiveBack(c Class, ip netip.Addr) {
	for _, one := range n.cellsOf(c, ip) {
		n.cells.giveBack(one.key, one.rate)
	}
}

// TakeApart counts one more ask by what no stranger has, such as a device that was signed
// in on, where its network is over its limit: who was here before isn't locked out by
// their neighbours, nor where all cells are in use. It is false for "".
func (n *Networks) TakeApart(id string) bool {
	return id != "" && n.take([]cell{{n.key("apart", id) | rareBit, asksApart}})
}

// take is all or nothing.
func (n *Networks) take(all []cell) bool {
	now := n.now()
	for i, one := range all {
		if !n.cells.take(one.key, one.rate, now) {
			for _, taken := range all[:i] {
				n.cells.giveBack(taken.key, taken.rate)
			}
			return false
		}
	}
	n.changed.Store(true)
	return true
}

// cellsOf returns what an event of the class counts for, the widest first: where a whole
// network is over its limit, its addresses take up no cells.
func (n *Networks) cellsOf(c Class, ip netip.Addr) []cell {
	kind, of := "bad", func(l level) rate { return l.bad }
	all := make([]cell, 0, 4)
	switch c {
	case Ask:
		kind, of = "ask", func(l level) rate { return l.ask }
	case Password:
		kind, of = "password", func(l level) rate { return l.password }
	case Token:
		kind = "token"
	}
	ip, levels := levelsOf(ip)
	for i := range levels {
		l := levels[len(levels)-1-i]
		all = append(all, cell{n.key(kind, prefix(ip, l.bits)), of(l)})
	}
	return all
}

// sameToken is how long a wrong token isn't counted again where it came from: of a page that
// loads again, or has pictures. Somebody who guesses learns nothing by it.
const sameToken = time.Hour

// WrongToken is to be called after a Take of Token that was granted, for a token that turned out
// to be wrong. It gives back what was counted for that token before.
func (n *Networks) WrongToken(ip netip.Addr, token string) {
	of, levels := levelsOf(ip)
	if n.tokens.again(n.key("wrong-token", prefix(of, levels[0].bits), token), sameToken, n.now()) {
		n.GiveBack(Token, ip)
	}
}

// levelsOf returns an address without what doesn't matter, and the levels that it belongs to,
// the narrowest first.
func levelsOf(ip netip.Addr) (netip.Addr, []level) {
	ip = ip.Unmap().WithZone("")
	if ip.Is6() {
		return ip, levels6
	}
	return ip, levels4
}

// TakeFirm counts one more Guess or Password for the whole firm, and reports whether there may
// be: if not, nothing was counted. While the firm is over its limit, each network that hasn't got
// several wrong by then has a few: so what comes from everywhere is slowed down, and shuts
// nobody out who comes from elsewhere. giveBack undoes what was counted, for what turned out to
// be right.
func (n *Networks) TakeFirm(c Class, ip netip.Addr) (giveBack func(), ok bool) {
	all, firm := cell{n.key("guess") | rareBit, firmGuesses}, "guess"
	if c == Password {
		all, firm = cell{n.key("spraying") | rareBit, firmPasswords}, "password"
	}
	if !n.take([]cell{all}) {
		ip, levels := levelsOf(ip)
		all = cell{n.key("calm", firm, prefix(ip, levels[len(levels)-1].bits)), calm}
		if !n.take([]cell{all}) {
			return func() {}, false
		}
	}
	return func() { n.cells.giveBack(all.key, all.rate) }, true
}

// prefix returns the network of an address in words; the zero Addr is in one, too.
func prefix(ip netip.Addr, bits int) string {
	if !ip.IsValid() {
		return "/" + strconv.Itoa(bits)
	}
	return netip.PrefixFrom(ip, bits).Masked().String()
}

// Name stands for the neighbourhood of an address, all of which one hand may hold: the
// /24, or the /48 of IPv6. It says nothing to who doesn't have the secret.
func (n *Networks) Name(ip netip.Addr) string {
	ip = ip.Unmap().WithZone("")
	bits := 24
	if ip.Is6() {
		bits = 48
	}
	return n.Keys.MAC("network", n.Firm, prefix(ip, bits))[:16]
}

// key returns the key of what everybody can make.
func (n *Networks) key(parts ...string) uint64 {
	mac, err := base64.RawURLEncoding.DecodeString(n.Keys.MAC("limit", append([]string{n.Firm}, parts...)...))
	if err != nil {
		panic("limit: " + err.Error()) // a MAC is base64url
	}
	return binary.BigEndian.Uint64(mac) &^ rareBit
}

func (n *Networks) now() time.Time {
	if n.Now != nil {
		return n.Now()
	}
	return time.Now()
}
