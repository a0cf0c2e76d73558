package store_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

func TestConcurrentSwapsAllSucceed(t *testing.T) {
	for _, callers := range []int{2, 8, 100} {
		s := open(t)
		var wg sync.WaitGroup
		var mu sync.Mutex
		failed := 0
		for range callers {
			wg.Go(func() {
				err := store.Swap(t.Context(), s, key("count"), func(was []byte) ([]byte, time.Time, []store.Op, error) {
					return append(was, '.'), time.Time{}, nil, nil
				})
				if err != nil {
					mu.Lock()
					failed++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if failed > 0 {
			t.Errorf("%d of %d Swaps failed", failed, callers)
		}
		want(t, s, "count", strings.Repeat(".", callers-failed))
	}
}
