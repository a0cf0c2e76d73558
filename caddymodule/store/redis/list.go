package redis

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Buckets returns a Key without ID for each bucket of each firm. It first applies large Applys that
// were committed. It asks every server for all of its keys, so it is for moving and copying a store.
func (s *Store) Buckets(ctx context.Context) ([]store.Key, error) {
	if err := s.noRecord(ctx); ctx.Err() != nil || s.closed.Load() {
		return nil, err
	}
	staged := make(map[string]bool)
	buckets := make(map[store.Key]bool)
	if err := s.eachKey(ctx, func(firm, rest string) {
		if rest == "t" {
			staged[firm] = true
		}
	}); err != nil {
		return nil, err
	}
	for firm := range staged {
		if err := s.applyStaged(ctx, firm); err != nil {
			return nil, err
		}
	}
	err := s.eachKey(ctx, func(firm, rest string) {
		if bucket, ok := strings.CutPrefix(rest, "i:"); ok {
			buckets[store.Key{Firm: firm, Bucket: bucket}] = true
		}
	})
	return slices.Collect(maps.Keys(buckets)), err
}

var unescapeTag = strings.NewReplacer("%25", "%", "%7B", "{", "%7D", "}")

// eachKey calls f with the firm of each key and what follows its prefix, at least once.
func (s *Store) eachKey(ctx context.Context, f func(firm, rest string)) error {
	for _, n := range s.topology.all() {
		if o := n.down.Load(); o != nil {
			return o.err
		}
		for cursor := uint64(0); ; {
			keys, next, err := n.client.Load().Scan(ctx, cursor, keyPrefix+"{*}:[ti]*", 1000).Result()
			if err != nil {
				return unavailable(s.withAdvice(err))
			}
			for _, key := range keys {
				tag, rest, ok := strings.Cut(strings.TrimPrefix(key, keyPrefix+"{"), "}:")
				if !ok {
					continue
				}
				if tag == "%" {
					tag = ""
				}
				f(unescapeTag.Replace(tag), rest)
			}
			if cursor = next; cursor == 0 {
				break
			}
		}
	}
	return nil
}
