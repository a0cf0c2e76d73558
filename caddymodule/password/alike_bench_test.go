package password

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
)

// BenchmarkAlike prints how well timing distinguishes kinds of visitors that must look
// alike: for each kind the median, and the share of pairs with a mistyped password of a
// contact in which it took longer (AUC: 0.5 is chance). With -benchtime 2000x it takes
// 2,000 samples of each.
func BenchmarkAlike(b *testing.B) {
	for _, imports := range []bool{false, true} {
		b.Run(fmt.Sprintf("imported=%t", imports), func(b *testing.B) { alike(b, imports) })
	}
}

func alike(b *testing.B, imports bool) {
	w, ctx := newWorld(b).as(func(p *Passwords) { p.Cost = Standard }), context.Background()
	w.set("mistyped", good)
	w.set("throttled", good)
	for range ForUnknown.Burst {
		w.is("throttled", other, ErrWrong)
	}
	classes := []string{"mistyped", "nobody", "none", "throttled"}
	if imports {
		w.must(w.Import(ctx, "bcrypt", bcryptOf(b, good)))
		classes = append(classes, "bcrypt")
	}
	took := make([][]time.Duration, len(classes))
	for round := 0; b.Loop(); round++ {
		if round%ForUnknown.Burst == 0 { // refill the budgets
			w.must(w.deleteGuesses(ctx, "mistyped"))
			w.must(w.deleteGuesses(ctx, "bcrypt"))
			w.must(w.deleteGuesses(ctx, "none"))
		}
		for _, i := range rand.Perm(len(classes)) { // in random order
			a := Attempt{Contact: classes[i], Address: "ann@example.com", Password: other}
			if a.Contact == "nobody" {
				a.Contact, a.Address = "", address.Address(fmt.Sprintf("x%d@example.net", round))
			}
			from := time.Now()
			if _, err := w.Check(ctx, a); !errors.Is(err, ErrWrong) {
				b.Fatal(err)
			}
			took[i] = append(took[i], time.Since(from))
		}
	}
	slices.Sort(took[0])
	for i, class := range classes {
		slices.Sort(took[i])
		longer := 0.0
		for _, d := range took[i] {
			at, found := slices.BinarySearch(took[0], d)
			if longer += float64(at); found {
				longer += 0.5
			}
		}
		b.ReportMetric(longer/float64(len(took[i])*len(took[0])), class+"-AUC")
		b.ReportMetric(float64(took[i][len(took[i])/2].Microseconds())/1000, class+"-ms")
	}
}
