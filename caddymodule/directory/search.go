package directory

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Search is what a firm's contacts and companies are searched in: an index in memory, of about 100 bytes for each
// contact. It is made at the first search, follows the changes of this process at once and those of others with Sync,
// and is dropped when nobody has searched for searchIdle, so that a firm in which nobody searches costs nothing. Books
// of one firm in one process share it. The zero value is ready to use; it must not be copied.
type Search struct {
	mu    sync.Mutex // held while the index is read or changed, so that many who search leave a processor to others
	index *contactIndex
	seen  []byte          // the generation up to which changes by other processes are in the index
	load  *searchLoad     // in progress, or nil
	late  map[string]bool // what has changed during the load: records' buckets and IDs
	used  time.Time
	idle  *time.Timer // drops the index
}

// searchLoad is a load of the index that all waiting searches share.
type searchLoad struct {
	done chan struct{} // closed after err is set
	err  error
}

const (
	searchIdle     = 15 * time.Minute
	searchLoadTime = 2 * time.Minute
	changeLife     = 10 * time.Minute // how long other processes can read what a change was about
	maxLogged      = 1000             // records of a change; of more, others read all
	bucketChange   = "changed"        // generation → which contacts and companies the change was about
)

func (b *Directory) search() *Search {
	if b.Search != nil {
		return b.Search
	}
	return &b.ownSearch
}

// WarmSearch makes the index of Search, if there is none, without waiting for it.
func (b *Directory) WarmSearch() {
	s := b.search()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.index == nil {
		b.beginSearchLoad(s)
	}
}

// withIndex calls f with the index, alone, and makes it before if there is none.
func (b *Directory) withIndex(ctx context.Context, f func(*contactIndex)) error {
	s := b.search()
	for {
		s.mu.Lock()
		if s.index != nil {
			f(s.index)
			s.used = time.Now()
			s.mu.Unlock()
			return nil
		}
		load := b.beginSearchLoad(s)
		s.mu.Unlock()
		select {
		case <-load.done:
			if load.err != nil {
				return load.err
			}
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", store.ErrUnavailable, context.Cause(ctx))
		}
	}
}

// beginSearchLoad returns the load in progress, or starts one. A load goes on when nobody waits for it any more, for up
// to searchLoadTime. s.mu must be held.
func (b *Directory) beginSearchLoad(s *Search) *searchLoad {
	if s.load != nil {
		return s.load
	}
	load := &searchLoad{done: make(chan struct{})}
	s.load, s.late = load, map[string]bool{}
	go func() {
		defer close(load.done)
		ctx, cancel := context.WithTimeout(context.Background(), searchLoadTime)
		defer cancel()
		index, seen, err := b.readIndex(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		late := s.late
		s.load, s.late = nil, nil
		if err == nil && !late["*"] {
			err = b.readLate(ctx, index, late)
		} else if err == nil {
			err = fmt.Errorf("everything has changed meanwhile: %w", store.ErrUnavailable)
		}
		if load.err = err; err != nil {
			return
		}
		s.index, s.seen, s.used = index, seen, time.Now()
		s.idle = time.AfterFunc(searchIdle, s.dropIdle)
	}()
	return load
}

// readIndex reads all contacts and companies into a new index. seen is the generation before.
func (b *Directory) readIndex(ctx context.Context) (x *contactIndex, seen []byte, err error) {
	if seen, err = b.generation(ctx); err != nil {
		return nil, nil, err
	}
	x = &contactIndex{recent: map[string][]byte{}, slots: map[string]uint32{}}
	err = b.eachCompany(ctx, "", func(c Company) bool {
		x.setCompany(c.ID, c.Name)
		return true
	})
	if err == nil {
		err = b.eachContact(ctx, "", func(e *storedContact) bool {
			x.base = x.appendContact(x.base, e)
			return true
		})
	}
	x.base, x.text = bytes.Clone(x.base), slices.Clone(x.text) // without the room to grow
	return x, seen, err
}

// readLate reads single records into the index.
func (b *Directory) readLate(ctx context.Context, x *contactIndex, late map[string]bool) error {
	for key := range late {
		bucket, id, _ := strings.Cut(key, "/")
		switch bucket {
		case bucketCompany:
			c, err := b.Company(ctx, id)
			if err != nil && !errors.Is(err, ErrUnknown) {
				return err
			}
			x.setCompany(id, c.Name)
		case bucketContact:
			e, err := b.contactByID(ctx, id)
			switch {
			case errors.Is(err, ErrUnknown):
				x.setContact(id, nil)
			case err != nil:
				return err
			default:
				x.setContact(id, &e)
			}
		}
	}
	return nil
}

// drop forgets the index. s.mu must be held.
func (s *Search) drop() {
	if s.index = nil; s.idle != nil {
		s.idle.Stop()
	}
	if s.late != nil {
		s.late["*"] = true
	}
}

func (s *Search) dropIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.index == nil {
		return
	}
	if rest := searchIdle - time.Since(s.used); rest > 0 {
		s.idle.Reset(rest)
		return
	}
	s.drop()
}

// changedRecords returns which contacts and companies the Ops change, as bucket/ID; nil with all if there are too many.
func changedRecords(ops []store.Op) (keys []string, all bool) {
	for _, op := range ops {
		if op.Key.Bucket == bucketContact || op.Key.Bucket == bucketCompany {
			if keys = append(keys, op.Key.Bucket+"/"+op.Key.ID); len(keys) > maxLogged {
				return nil, true
			}
		}
	}
	return keys, false
}

// followSearch updates the index after a change that may have been made. If the store fails, the next search makes it
// anew.
func (b *Directory) followSearch(ctx context.Context, ops []store.Op) {
	keys, all := changedRecords(ops)
	if len(keys) == 0 && !all {
		return
	}
	s := b.search()
	s.mu.Lock()
	defer s.mu.Unlock()
	b.updateIndex(ctx, s, keys, all)
}

// updateIndex reads the changed records into the index. s.mu must be held.
func (b *Directory) updateIndex(ctx context.Context, s *Search, keys []string, all bool) {
	if all {
		s.drop()
		return
	}
	late := map[string]bool{}
	for _, key := range keys {
		late[key] = true
		if s.late != nil {
			s.late[key] = true
		}
	}
	if s.index == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
	defer cancel()
	if b.readLate(ctx, s.index, late) != nil {
		s.drop()
	}
}

// logChange returns the Ops with one that tells other processes which records the change to a generation is about.
func (b *Directory) logChange(generation []byte, ops []store.Op) []store.Op {
	if b.Peers == nil {
		return ops
	}
	keys, all := changedRecords(ops)
	if all {
		keys = []string{"*"}
	}
	value := append([]byte{format}, strings.Join(keys, "\n")...)
	return append(ops, store.Put(b.key(bucketChange, changeID(generation)), value, b.now().Add(changeLife)))
}

// changeID is the ID of the record about the change to a generation; they sort in its order.
func changeID(generation []byte) string { return fmt.Sprintf("%016x", generationCount(generation)) }

func generationCount(generation []byte) uint64 {
	if len(generation) != 9 {
		return 0
	}
	return binary.BigEndian.Uint64(generation[1:])
}

// catchUpSearch brings the index up to date with the changes by other processes up to a generation.
func (b *Directory) catchUpSearch(ctx context.Context, now []byte) error {
	s := b.search()
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.Peers == nil || s.index == nil || bytes.Equal(s.seen, now) {
		return nil
	}
	recs, err := b.Store.Scan(ctx, b.Firm, bucketChange, "", changeID(s.seen), maxLogged)
	if err != nil {
		return fmt.Errorf("reading what has changed: %w", err)
	}
	var keys []string
	all, next := false, generationCount(s.seen)
	for _, rec := range recs {
		if next++; rec.Key.ID != fmt.Sprintf("%016x", next) || checkFormat(rec) != nil {
			all = true // some are gone
			break
		}
		for key := range strings.SplitSeq(string(rec.Value[1:]), "\n") {
			all = all || key == "*"
			keys = append(keys, key)
		}
	}
	if all || next < generationCount(now) || len(keys) > maxLogged || len(now) != 9 {
		s.drop()
		return nil
	}
	s.seen = binary.BigEndian.AppendUint64([]byte{format}, next)
	b.updateIndex(ctx, s, keys, false)
	return nil
}

// found returns up to limit results of a search, in order: next returns the IDs of some that the index finds after an
// ID, and get what the store has of one, and whether it is a result still.
func found[T any](limit int, after string, next func(after string, n int) ([]string, error), get func(id string) (T, bool, error)) (all []T, err error) {
	for len(all) < limit {
		ids, err := next(after, limit-len(all))
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			v, ok, err := get(id)
			if err != nil {
				return nil, err
			}
			if after = id; ok {
				all = append(all, v)
			}
		}
		if len(ids) == 0 {
			break
		}
	}
	return all, nil
}

// searchContacts is Contacts for a text that isn't empty.
func (b *Directory) searchContacts(ctx context.Context, words []string, after string, limit int) ([]Contact, error) {
	names := map[string]string{} // of companies that were looked up
	return found(limit, after, func(after string, n int) (ids []string, err error) {
		err = b.withIndex(ctx, func(x *contactIndex) { ids = x.contacts(words, after, n) })
		return ids, err
	}, func(id string) (Contact, bool, error) {
		e, err := b.contactByID(ctx, id)
		if errors.Is(err, ErrUnknown) {
			return Contact{}, false, nil
		} else if err != nil {
			return Contact{}, false, err
		}
		c := b.effective(e)
		if c.matches(words, nil) {
			return c, true, nil
		}
		for _, id := range c.Companies {
			if _, known := names[id]; known {
				continue
			}
			company, err := b.Company(ctx, id)
			if err != nil && !errors.Is(err, ErrUnknown) {
				return Contact{}, false, err
			}
			names[id] = company.Name
		}
		return c, c.matches(words, names), nil
	})
}

// searchCompanies is Companies for a text that isn't empty.
func (b *Directory) searchCompanies(ctx context.Context, words []string, after string, limit int) ([]Company, error) {
	return found(limit, after, func(after string, n int) (ids []string, err error) {
		err = b.withIndex(ctx, func(x *contactIndex) { ids = x.companies(words, after, n) })
		return ids, err
	}, func(id string) (Company, bool, error) {
		c, err := b.Company(ctx, id)
		if errors.Is(err, ErrUnknown) {
			return Company{}, false, nil
		}
		return c, err == nil && containsAll(nameKey(c.ID+" "+c.Name), words), err
	})
}
