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

// Cost holds the parameters of an argon2id hash.
type Cost struct {
	Memory  uint32 // in KiB
	Time    uint32 // passes over the memory
	Threads uint8
}

// Standard is one of the settings that OWASP's Password Storage Cheat Sheet calls equal in
// strength (46 MiB and one pass, 19 MiB and two, 12 and three, …). It has one thread, so that
// a check uses only one core, and 19 MiB, so that several concurrent checks fit the smallest
// machine that runs a portal.
var Standard = Cost{Memory: 19 * 1024, Time: 2, Threads: 1}

// Limits for imported hashes. Every check costs as much as the firm's most expensive hash, so
// hashes above the limits are rejected.
const (
	maxMemory  = 128 * 1024 // KiB
	maxTime    = 10
	maxThreads = 16
	minBcrypt  = 4
	maxBcrypt  = 14 // takes about a second

	saltLength, keyLength = 16, 32 // bytes of our hashes; bounds for others:
	minSalt, maxSalt      = 8, 64
	minKey, maxKey        = 16, 64
	maxHash               = 256 // length of the whole hash in characters

	bcryptMaxBytes = 72 // bytes; bcrypt ignores the rest of a password
)

// ErrHash: the text is not a password hash, or is outside the limits. Errors of CheckHash
// wrap it and give the reason, but don't contain the hash.
var ErrHash = errors.New("not a password hash that can be used")

// CheckHash reports whether a hash can be imported: bcrypt ($2a$, $2b$ or $2y$) with a cost
// of 4 to 14, or argon2id, version 19, with m up to 128 MiB, t up to 10 and p up to 16. It
// doesn't compute any hash.
func CheckHash(hash string) error {
	_, err := parseHash(hash)
	return err
}

// hashParams are the parameters on which the time of a check depends, as written in the hash:
// $argon2id$v=19$m=19456,t=2,p=1 or $2$12. "" means no hash.
type hashParams string

// parsed is a hash within the limits.
type parsed struct {
	params hashParams
	cost   Cost // of argon2id; zero for bcrypt
}

var bcryptForm = regexp.MustCompile(`^\$2[aby]\$(0[4-9]|1[0-4])\$[./A-Za-z0-9]{53}$`)

func parseHash(hash string) (parsed, error) {
	bad := func(why string) (parsed, error) { return parsed{}, fmt.Errorf("%w: %s", ErrHash, why) }
	switch {
	case len(hash) > maxHash:
		return bad("it is too long")
	case bcryptForm.MatchString(hash):
		return parsed{params: hashParams("$2$" + hash[4:6])}, nil
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
	head := cost.params()
	switch {
	// Sscanf accepts spaces, signs, leading zeros and a tail, so require the canonical
	// spelling.
	case hash != string(head)+"$"+base64.RawStdEncoding.EncodeToString(salt)+"$"+base64.RawStdEncoding.EncodeToString(key):
		return bad("it isn't written as $argon2id$v=19$m=…,t=…,p=…$salt$hash")
	case cost.Memory > maxMemory || cost.Time > maxTime || cost.Threads > maxThreads:
		return bad(fmt.Sprintf("it is too expensive to check: use at most m=%d, t=%d and p=%d", maxMemory, maxTime, maxThreads))
	case cost.Time == 0 || cost.Threads == 0 || cost.Memory < 8*uint32(cost.Threads): // RFC 9106, section 3.1
		return bad("its t or p is 0, or its m less than 8 times p")
	case len(salt) < minSalt || len(salt) > maxSalt || len(key) < minKey || len(key) > maxKey:
		return bad("its salt or its hash is too short or too long")
	}
	return parsed{params: head, cost: cost}, nil
}

func (c Cost) params() hashParams {
	return hashParams(fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d", argon2.Version, c.Memory, c.Time, c.Threads))
}

// bytes returns the memory needed to compute a hash.
func (c Cost) bytes() uint64 { return uint64(c.Memory) << 10 }

func (c Cost) hash(password string) (string, error) {
	hash, err := argon2id.CreateHash(password, &argon2id.Params{
		Memory: c.Memory, Iterations: c.Time, Parallelism: c.Threads, SaltLength: saltLength, KeyLength: keyLength,
	})
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	return hash, nil
}

// dummy returns a hash with these parameters that matches no password.
func (s hashParams) dummy() string {
	var b [saltLength + keyLength]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	if cost, found := strings.CutPrefix(string(s), "$2$"); found {
		text := strings.ReplaceAll(base64.RawStdEncoding.EncodeToString(b[:]), "+", ".")
		return "$2b$" + cost + "$" + text[:53]
	}
	enc := base64.RawStdEncoding
	return string(s) + "$" + enc.EncodeToString(b[:saltLength]) + "$" + enc.EncodeToString(b[saltLength:])
}

// matches reports whether a hash accepted by parseHash is the password's. It takes the same
// time for every password.
func matches(hash, password string) bool {
	if strings.HasPrefix(hash, "$2") {
		err := bcrypt.CompareHashAndPassword([]byte(hash), []byte(password))
		// bcrypt compares only the first 72 bytes, so an attacker who knows these could use
		// any longer password. Doorpost rejects longer ones: a contact with such an imported
		// password sets a new one.
		return err == nil && len(password) <= bcryptMaxBytes
	}
	match, _, err := argon2id.CheckHash(password, hash)
	return err == nil && match
}

// normalize returns the form of a password that is hashed: NFKC, so that it is the same from
// every keyboard (NIST SP 800-63B-4, section 3.1.1.2).
func normalize(password string) string { return norm.NFKC.String(password) }
