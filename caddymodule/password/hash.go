package password

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/alexedwards/argon2id"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/text/unicode/norm"
)

// Cost is what an argon2id hash takes.
type Cost struct {
	Memory  uint32 // in KiB
	Time    uint32 // passes over the memory
	Threads uint8
}

// Standard is the second of the settings that OWASP's Password Storage Cheat Sheet calls
// equal in strength (46 MiB and one pass, 19 MiB and two, 12 and three, …). One thread,
// because a check should take one core and no more; 19 MiB, because several checks at
// once should fit the smallest machine that runs a portal.
var Standard = Cost{Memory: 19 * 1024, Time: 2, Threads: 1}

// What is taken from elsewhere. A check of any contact costs what the dearest hash of
// the firm does, so what is dearer isn't taken.
const (
	maxMemory  = 128 * 1024 // KiB
	maxTime    = 10
	maxThreads = 16
	minBcrypt  = 4
	maxBcrypt  = 14 // takes about a second

	saltLength, keyLength = 16, 32 // bytes of ours, and the most and the least of others:
	minSalt, maxSalt      = 8, 64
	minKey, maxKey        = 16, 64
	maxHash               = 256 // characters of all of it

	bcryptSees = 72 // bytes of a password; it ignores the rest
)

// ErrHash: this is no hash of a password, or none that is taken. Every error of CheckHash
// wraps it, says why, and doesn't repeat the hash.
var ErrHash = errors.New("not a password hash that can be used")

// CheckHash tells whether a hash from elsewhere can be imported: bcrypt ($2a$, $2b$ or
// $2y$) with a cost of 4 to 14, or argon2id, version 19, with m up to 128 MiB, t up to 10
// and p up to 16. It computes nothing.
func CheckHash(hash string) error {
	_, err := parseHash(hash)
	return err
}

// shape is all that the time of a check depends on, in the words of the hash itself:
// $argon2id$v=19$m=19456,t=2,p=1 or $2$12. The zero value is no hash.
type shape string

// parsed is a hash that is within the bounds.
type parsed struct {
	shape shape
	cost  Cost // of argon2id; zero: bcrypt
}

var bcryptForm = regexp.MustCompile(`^\$2[aby]\$(0[4-9]|1[0-4])\$[./A-Za-z0-9]{53}$`)

func parseHash(hash string) (parsed, error) {
	bad := func(why string) (parsed, error) { return parsed{}, fmt.Errorf("%w: %s", ErrHash, why) }
	switch {
	case len(hash) > maxHash:
		return bad("it is too long")
	case bcryptForm.MatchString(hash):
		return parsed{shape: shape("$2$" + hash[4:6])}, nil
	case strings.HasPrefix(hash, "$2"):
		return bad(fmt.Sprintf("of bcrypt, $2a$, $2b$ and $2y$ can be used, with a cost of %02d to %d", minBcrypt, maxBcrypt))
	case !strings.HasPrefix(hash, "$argon2id$"):
		return bad("only bcrypt ($2y$…) and argon2id ($argon2id$…) can be used")
	}
	params, salt, key, err := argon2id.DecodeHash(hash)
	if err != nil {
		return bad("it isn't written as $argon2id$v=19$m=…,t=…,p=…$salt$hash")
	}
	cost := Cost{params.Memory, params.Iterations, params.Parallelism}
	head := cost.shape()
	switch {
	// What Sscanf forgives (spaces, signs, zeros, a tail) isn't one thing any more.
	case hash != string(head)+"$"+base64.RawStdEncoding.EncodeToString(salt)+"$"+base64.RawStdEncoding.EncodeToString(key):
		return bad("it isn't written as $argon2id$v=19$m=…,t=…,p=…$salt$hash")
	case cost.Memory > maxMemory || cost.Time > maxTime || cost.Threads > maxThreads:
		return bad(fmt.Sprintf("it is too dear to check: at most m=%d, t=%d and p=%d", maxMemory, maxTime, maxThreads))
	case cost.Time == 0 || cost.Threads == 0 || cost.Memory < 8*uint32(cost.Threads): // RFC 9106, section 3.1
		return bad("its t or p is 0, or its m less than 8 times p")
	case len(salt) < minSalt || len(salt) > maxSalt || len(key) < minKey || len(key) > maxKey:
		return bad("its salt or its hash is too short or too long")
	}
	return parsed{shape: head, cost: cost}, nil
}

func (c Cost) shape() shape {
	return shape(fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d", argon2.Version, c.Memory, c.Time, c.Threads))
}

// bytes is the memory that computing such a hash takes.
func (c Cost) bytes() uint64 { return uint64(c.Memory) << 10 }

func (c Cost) hash(password string) (string, error) {
	hash, err := argon2id.CreateHash(password, &argon2id.Params{
		Memory: c.Memory, Iterations: c.Time, Parallelism: c.Threads, SaltLength: saltLength, KeyLength: keyLength,
	})
	if err != nil {
		return "", fmt.Errorf("hashing a password: %w", err)
	}
	return hash, nil
}

// dummy returns a hash of this shape that no password has.
func (s shape) dummy() string {
	var b [saltLength + keyLength]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	if cost, found := strings.CutPrefix(string(s), "$2$"); found {
		text := strings.ReplaceAll(base64.RawStdEncoding.EncodeToString(b[:]), "+", ".")
		return "$2b$" + cost + "$" + text[:53]
	}
	enc := base64.RawStdEncoding
	return string(s) + "$" + enc.EncodeToString(b[:saltLength]) + "$" + enc.EncodeToString(b[saltLength:])
}

// matches reports whether the hash, which parseHash has let through, is the password's.
// It takes its full time whatever the password is.
func matches(hash, password string) bool {
	if strings.HasPrefix(hash, "$2") {
		err := bcrypt.CompareHashAndPassword([]byte(hash), []byte(password))
		// bcrypt would let in whoever knows how a longer one begins. Nothing is cut off
		// here, also not what another portal cut off: who has such a password sets a new one.
		return err == nil && len(password) <= bcryptSees
	}
	match, _, err := argon2id.CheckHash(password, hash)
	return err == nil && match
}

// normal is the form of a password that is hashed: NFKC, so that it is the same on every
// keyboard (NIST SP 800-63B-4, section 3.1.1.2).
func normal(password string) string { return norm.NFKC.String(password) }
