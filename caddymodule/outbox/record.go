package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

// The queue holds a small record of each entry, which changes with every try; the messages hold
// the bytes of the mails, which never change. See also bucketUnsent.
const (
	bucketQueue   = "queue"
	bucketLetters = "letter"

	version = 1 // the first byte of every value; what follows is sealed
	keep    = 6 * time.Hour
)

// errVersion: a newer Doorpost wrote this record.
var errVersion = errors.New("written by a newer version")

// entry is the record of one request.
type entry struct {
	Kind     string    `json:"kind"`
	Asked    time.Time `json:"asked"`
	NotAfter time.Time `json:"not_after"`
	Payload  []byte    `json:"payload,omitempty"` // for Prepare

	Ready bool   `json:"ready,omitempty"` // the mail lies in the messages
	From  string `json:"from,omitempty"`
	To    string `json:"to,omitempty"`
	Ref   string `json:"ref,omitempty"`

	Common bool `json:"common,omitempty"` // as in Prepared

	Tries int       `json:"tries,omitempty"` // hand-overs that failed for this message
	Due   time.Time `json:"due,omitzero"`    // not before
	Last  string    `json:"last,omitempty"`  // why the last one failed

	Ended time.Time `json:"ended,omitzero"` // when it ended unsent

	Owner string    `json:"owner,omitempty"` // the queue that has it in hand,
	Until time.Time `json:"until,omitzero"`  // at most until then
}

// sealer turns entries into records and back. A value opens only at the key it was
// made for: moved to another firm or entry it is worth nothing.
type sealer struct {
	firm    string
	channel Channel
	keys    *secret.Keyring
}

func (q *Queue) sealerOf() sealer { return sealer{q.Firm, q.Channel, q.Keys} }

func (s sealer) key(bucket, id string) store.Key {
	return store.Key{Firm: s.firm, Bucket: s.channel.bucket(bucket), ID: id}
}

func (s sealer) seal(k store.Key, plain []byte) []byte {
	return append([]byte{version}, s.keys.Seal("queue", place(k), plain)...)
}

func (s sealer) open(k store.Key, value []byte) ([]byte, error) {
	if len(value) == 0 || value[0] != version {
		return nil, errVersion
	}
	return s.keys.Open("queue", place(k), value[1:])
}

// Reseal seals with the newest secret what an older one has sealed.
func (q *Queue) Reseal(ctx context.Context) error {
	for _, bucket := range []string{bucketQueue, bucketLetters, bucketUnsent} {
		if _, err := sealed.Reseal(ctx, q.Store, q.Keys, q.Firm, q.Channel.bucket(bucket), "queue", place); err != nil {
			return err
		}
	}
	return nil
}

func place(k store.Key) string { return k.Firm + "/" + k.Bucket + "/" + k.ID }

func (s sealer) sealEntry(id string, e entry) []byte {
	return s.seal(s.key(bucketQueue, id), e.plain())
}

func (e entry) plain() []byte {
	plain, err := json.Marshal(e)
	if err != nil {
		panic("outbox: " + err.Error()) // a time beyond the year 9999, and nothing else
	}
	return plain
}

func (s sealer) openEntry(rec store.Record) (entry, error) {
	var e entry
	plain, err := s.open(rec.Key, rec.Value)
	if err == nil {
		err = json.Unmarshal(plain, &e)
	}
	if err != nil {
		return entry{}, fmt.Errorf("reading the entry: %w", err)
	}
	return e, nil
}

// expires is when the store forgets the entry on its own: some time after its end, so
// that the queue sees it end, and says so.
func (e entry) expires() time.Time { return e.NotAfter.Add(keep) }
