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

// Class is a kind of event that is counted.
type Class uint8

const (
	MailRequest  Class = iota // a request for a mail
	Failure                   // an address that isn't the link's
	Guess                     // a code
	Password                  // a password
	Token                     // an old link's token
	ServiceToken              // a service token
)

// level is a prefix length that one client may control, with its limits: rates of mail requests,
// failures and passwords.
type level struct {
	bits                       int // of the prefix
	request, failure, password rate
}

// The sustained rate of failures is 20 in 15 minutes for one address, 60 for a /56, 100 for a /24
// and 200 for a /48. The bursts suit an office: sixty people behind one address who all request a
// mail twice and mistype a code twice within ten minutes. Correct guesses are refunded, so
// sign-ins of an office use up nothing.
//
// Passwords have lower limits, since one password can be tried on many contacts. In any 15
// minutes there are at most 20 wrong ones from one address, 60 from a /56, 100 from a /24 and 200
// from a /48; three quarters of these may come at once.
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
	// firmGuesses and firmPasswords limit the wrong codes and passwords of a firm from all
	// networks: 100 and 40 a minute.
	firmGuesses   = rate{200, 600 * time.Millisecond}
	firmPasswords = rate{200, 1500 * time.Millisecond}
	// perNetwork is how many more wrong ones a /24 or /48 has while its firm is over these
	// limits.
	perNetwork = rate{3, 20 * time.Minute}
	// knownRequests is how many mails a device or old link may request while its network is over
	// its limit.
	knownRequests = rate{6, 10 * time.Minute}
)

// maxDrain is how long the slowest of these buckets takes to drain.
const maxDrain = 150 * 45 * time.Second

// Networks counts events per network for one firm, in at most MaxBuckets buckets, about 10 MiB of
// memory. A network that gets no bucket is over its limit. Set the fields in one literal. Run
// keeps the counts across restarts.
type Networks struct {
	Firm  string
	Store store.Store // for Run
	Keys  *secret.Keyring
	Now   func() time.Time // the clock; nil: time.Now

	counters    gcra
	wrongTokens gcra         // wrong tokens counted already
	changed     atomic.Bool  // since the last snapshot
	unread      atomic.Int64 // unreadable snapshots of other processes, for Run to report

	saving sync.Mutex
	id     string         // of this process's snapshots; "": before load
	merged []store.Record // loaded snapshots of other processes, deleted with the next own one
}

type bucket struct {
	key uint64
	rate
}

// Allow counts one more event of the visitor at ip and reports whether it is allowed. If not, it
// counts nothing. Unknown addresses (the zero Addr) share one network.
func (n *Networks) Allow(c Class, ip netip.Addr) bool { return n.allowAll(n.buckets(c, ip)) }

// Refund undoes an allowed Take, for input that turned out to be right.
func (n *Networks) Refund(c Class, ip netip.Addr) {
	for _, one := range n.buckets(c, ip) {
		n.counters.refund(one.key, one.rate)
	}
}

// AllowKnown counts one more mail request by an ID that other clients don't have, such as that of
// a known device. Call it when the device's network is over its limit or all buckets are in use,
// so that known visitors aren't locked out by their neighbours. It returns false for "".
func (n *Networks) AllowKnown(id string) bool {
	return id != "" && n.allowAll([]bucket{{n.key("apart", id) | reservedBit, knownRequests}})
}

// serviceTokenUses is how often a service token may be used.
var serviceTokenUses = rate{600, 100 * time.Millisecond}

// AllowServiceToken counts one more use of a service token, and reports whether it is allowed.
func (n *Networks) AllowServiceToken(id string) bool {
	return n.allowAll([]bucket{{n.key("service-token-use", id) | reservedBit, serviceTokenUses}})
}

// allowAll counts an event in all buckets or in none.
func (n *Networks) allowAll(all []bucket) bool {
	now := n.now()
	for i, one := range all {
		if !n.counters.allow(one.key, one.rate, now) {
			for _, taken := range all[:i] {
				n.counters.refund(taken.key, taken.rate)
			}
			return false
		}
	}
	n.changed.Store(true)
	return true
}

// buckets returns the buckets for an event of the class, the widest network first: while a whole
// network is over its limit, its addresses use no buckets.
func (n *Networks) buckets(c Class, ip netip.Addr) []bucket {
	kind, of := "bad", func(l level) rate { return l.failure }
	all := make([]bucket, 0, 4)
	switch c {
	case MailRequest:
		kind, of = "ask", func(l level) rate { return l.request }
	case Password:
		kind, of = "password", func(l level) rate { return l.password }
	case Token:
		kind = "token"
	case ServiceToken:
		kind = "service-token"
	}
	ip, levels := levelsOf(ip)
	for i := range levels {
		l := levels[len(levels)-1-i]
		all = append(all, bucket{n.key(kind, prefix(ip, l.bits)), of(l)})
	}
	return all
}

// tokenMemory is how long the same wrong token from the same network isn't counted again, as when
// a page reloads or has pictures. It tells an attacker nothing new.
const tokenMemory = time.Hour

// WrongToken must be called after an allowed Take of Token if the token turned out to be wrong.
// It refunds the Take if the same token was counted before.
func (n *Networks) WrongToken(ip netip.Addr, token string) {
	of, levels := levelsOf(ip)
	if n.wrongTokens.seenRecently(n.key("wrong-token", prefix(of, levels[0].bits), token), tokenMemory, n.now()) {
		n.Refund(Token, ip)
	}
}

// levelsOf returns an address without zone and IPv4 mapping, and the levels it belongs to, the
// narrowest first.
func levelsOf(ip netip.Addr) (netip.Addr, []level) {
	ip = ip.Unmap().WithZone("")
	if ip.Is6() {
		return ip, levels6
	}
	return ip, levels4
}

// AllowFirm counts one more Guess or Password for the whole firm, and reports whether it is
// allowed. If not, it counts nothing. While the firm is over its limit, each network still has a
// few, so that an attack from many networks is slowed down without locking out visitors of
// others. refund undoes the count, for input that turned out to be right.
func (n *Networks) AllowFirm(c Class, ip netip.Addr) (refund func(), ok bool) {
	all, firm := bucket{n.key("guess") | reservedBit, firmGuesses}, "guess"
	if c == Password {
		all, firm = bucket{n.key("spraying") | reservedBit, firmPasswords}, "password"
	}
	if !n.allowAll([]bucket{all}) {
		ip, levels := levelsOf(ip)
		all = bucket{n.key("calm", firm, prefix(ip, levels[len(levels)-1].bits)), perNetwork}
		if !n.allowAll([]bucket{all}) {
			return func() {}, false
		}
	}
	return func() { n.counters.refund(all.key, all.rate) }, true
}

// prefix returns the network of an address as text. The zero Addr has one, too.
func prefix(ip netip.Addr, bits int) string {
	if !ip.IsValid() {
		return "/" + strconv.Itoa(bits)
	}
	return netip.PrefixFrom(ip, bits).Masked().String()
}

// Pseudonym returns a pseudonym of an address's network, the /24 or for IPv6 the /48. It reveals
// nothing without the secret.
func (n *Networks) Pseudonym(ip netip.Addr) string {
	ip = ip.Unmap().WithZone("")
	bits := 24
	if ip.Is6() {
		bits = 48
	}
	return n.Keys.MAC("network", n.Firm, prefix(ip, bits))[:16]
}

// key returns the key of a bucket that every client can create.
func (n *Networks) key(parts ...string) uint64 {
	mac, err := base64.RawURLEncoding.DecodeString(n.Keys.MAC("limit", append([]string{n.Firm}, parts...)...))
	if err != nil {
		panic("limit: " + err.Error()) // a MAC is base64url
	}
	return binary.BigEndian.Uint64(mac) &^ reservedBit
}

func (n *Networks) now() time.Time {
	if n.Now != nil {
		return n.Now()
	}
	return time.Now()
}
