package token_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math/bits"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

func TestT07_AMillionTokensAreAllDifferent(t *testing.T) {
	const n = 1_000_000
	heads := make([]uint64, n)
	rising, ones := 0, 0
	for i := range heads {
		s := secret.Random()
		if len(s) != 43 || i == 0 && !decodes(s) {
			t.Fatalf("%q is not 256 bits in base64url", s)
		}
		var head [9]byte
		if _, err := base64.RawURLEncoding.Decode(head[:], []byte(s[:12])); err != nil {
			t.Fatal(err)
		}
		heads[i] = binary.BigEndian.Uint64(head[:8])
		ones += bits.OnesCount64(heads[i])
		if i > 0 && heads[i] > heads[i-1] {
			rising++
		}
	}
	// Each is within six standard deviations: a false alarm in 10^9 runs.
	if mean := float64(ones) / n; mean < 31.976 || mean > 32.024 {
		t.Errorf("%.4f of 64 bits are set; want 32", mean)
	}
	if rising < n/2-1740 || rising > n/2+1740 {
		t.Errorf("%d of %d are greater than the one before; want half", rising, n)
	}
	slices.Sort(heads)
	if left := len(slices.Compact(heads)); left != n {
		t.Errorf("%d of %d have their first 64 bits from another", n-left, n)
	}
}

func decodes(s string) bool {
	b, err := base64.RawURLEncoding.DecodeString(s)
	return err == nil && len(b) == 32
}

func TestT08_TokenAndCodeAreIndependent(t *testing.T) {
	w := newWorld(t)
	seen := map[string]bool{}
	ask := w.ask(laptop, "ann@example.com")
	for range 1000 { // the same request, never applied
		issued, err := w.Issue(t.Context(), ask, token.Recipient{Contact: "ann", Address: ask.Address})
		w.must(err)
		for _, s := range []string{issued.Token, issued.Code, issued.ID} {
			if seen[s] {
				t.Fatalf("%q came twice for one request", s)
			}
			seen[s] = true
		}
	}
}

func TestT09_TheStoreHoldsNoTokensOrCodes(t *testing.T) {
	w := newWorld(t)
	cookies := []string{"the cookie of the laptop", "the cookie of the phone"}
	secrets := slices.Clone(cookies)
	var ids []string
	note := func(issued token.Issued) {
		plain := strings.ReplaceAll(issued.Code, "-", "")
		secrets = append(secrets, issued.Token, issued.Code, plain, strings.ToUpper(plain))
		raw, err := base64.RawURLEncoding.DecodeString(issued.Token)
		w.must(err)
		secrets = append(secrets, string(raw))
		ids = append(ids, issued.ID)
	}
	first := w.mail(laptop, "ann@example.com", "ann")
	note(first)
	note(w.mail(phone, "ann@example.com", "ann"))
	want(t, "a wrong code", w.guess("s", laptop, "0000-0000"), token.ErrWrongCode)
	// A request from an old link's page stores that link, to show the page again.
	w.must(w.Request(t.Context(), token.MailRequest{ID: "again", Address: "ann@example.com", Hidden: true, Link: first.Token, Browser: phone, At: w.clock.now()}))
	_, err := w.Try(t.Context(), first.Token)
	w.must(err)
	w.must(w.guess("s", laptop, first.Code))
	note(w.mail(laptop, "ann@example.com", "ann"))
	w.must(w.Store.Apply(t.Context(), store.Put(store.Key{Firm: "example", Bucket: "control", ID: "1"}, []byte("a planted secret"), w.clock.now().Add(life))))

	var dump bytes.Buffer
	for _, bucket := range []string{"flow", "link", "live", "handed-over", "in", "control"} {
		all, err := w.db.Scan(t.Context(), "example", bucket, "", "", 1000)
		w.must(err)
		if len(all) == 0 {
			t.Errorf("no records in %s", bucket)
		}
		for _, rec := range all {
			dump.WriteString(rec.Key.ID + "\n")
			dump.Write(rec.Value)
		}
	}
	file, err := os.ReadFile(w.path)
	w.must(err)
	for name, content := range map[string][]byte{"the file": file, "the records": dump.Bytes()} {
		for _, s := range append(secrets, "ann@example.com", "/orders/7") {
			if bytes.Contains(content, []byte(s)) {
				t.Errorf("%s hold %q", name, s)
			}
		}
		for _, s := range append(ids, "a planted secret") { // proves that the search works
			if !bytes.Contains(content, []byte(s)) {
				t.Errorf("%s don't hold %q", name, s)
			}
		}
	}
}

func TestKeys_OlderSecretsStillWork(t *testing.T) {
	before := newWorld(t)
	before.Keys = keyring(t, oldSecret)
	byLink := before.mail(laptop, "ann@example.com", "ann")
	byCode := before.mail(phone, "bob@example.com", "bob")
	spare := before.mail(tablet, "cy@example.com", "cy")

	without := before.as(func(o *token.Tokens) { o.Keys = keyring(t, newSecret) })
	_, err := without.Peek(t.Context(), spare.Token)
	want(t, "Peek when the old secret is gone", err, token.ErrUnknown)
	want(t, "Guess when the old secret is gone", without.guess("s0", tablet, spare.Code), token.ErrNoGuessesLeft)

	after := before.as(func(o *token.Tokens) { o.Keys = keyring(t, newSecret, oldSecret) })
	want(t, "a link from before", after.spend("s1", byLink.Token, laptop), nil)
	want(t, "a code from before", after.guess("s2", phone, byCode.Code), nil)
	want(t, "a code that was tried meanwhile", after.guess("s4", tablet, spare.Code), nil)
	want(t, "the used link from before", after.spend("s3", byLink.Token, laptop), token.ErrInactive)
	now := after.mail(laptop, "ann@example.com", "ann")
	_, err = before.Peek(t.Context(), now.Token)
	want(t, "a link closed by the new secret, at the old one", err, token.ErrUnknown)
}

func TestK02_AStoreFailureIsReturned(t *testing.T) {
	for name, do := range map[string]func(w *world, issued token.Issued, ask token.MailRequest) error{
		"Ask": func(w *world, _ token.Issued, ask token.MailRequest) error {
			return w.Request(context.Background(), ask)
		},
		"Asked": func(w *world, _ token.Issued, _ token.MailRequest) error {
			_, err := w.LastRequest(context.Background(), laptop)
			return err
		},
		"Issue": func(w *world, _ token.Issued, ask token.MailRequest) error {
			_, err := w.Issue(context.Background(), ask, token.Recipient{Contact: "ann", Address: ask.Address})
			return err
		},
		"HandOver": func(w *world, i token.Issued, _ token.MailRequest) error {
			_, err := w.HandOver(context.Background(), i.ID, w.clock.now(), false)
			return err
		},
		"GiveUp": func(w *world, i token.Issued, _ token.MailRequest) error {
			_, err := w.GiveUp(context.Background(), i.ID)
			return err
		},
		"Peek": func(w *world, i token.Issued, _ token.MailRequest) error {
			_, err := w.Peek(context.Background(), i.Token)
			return err
		},
		"Try": func(w *world, i token.Issued, _ token.MailRequest) error {
			_, err := w.Try(context.Background(), i.Token)
			return err
		},
		"Spend": func(w *world, i token.Issued, _ token.MailRequest) error {
			_, err := w.Spend(context.Background(), i.Token, laptop)
			return err
		},
		"Guess": func(w *world, i token.Issued, _ token.MailRequest) error {
			_, err := w.Guess(context.Background(), laptop, i.Code, false)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			ask := w.ask(laptop, "ann@example.com")
			issued := w.issue(ask, "ann")
			w.handOver(issued, true)
			n := 0
			for ; ; n++ { // the first call fails, then the second, … until it succeeds
				broken := w.as(func(o *token.Tokens) {
					o.Store = &watched{Store: w.db, away: func(call int) bool { return call == n }}
				})
				err := do(broken, issued, ask)
				if err == nil {
					break
				}
				if !errors.Is(err, store.ErrUnavailable) {
					t.Fatalf("the store is away at call %d: %v; want ErrUnavailable", n, err)
				}
			}
			if n == 0 {
				t.Error("the store was never away")
			}
		})
	}
}

// A forged or damaged record signs nobody in, calls Alarm, and is overwritten by the next
// request, so nobody is stuck. A record of a later release is an error of the store.
func TestRecords_ForgedOnesAreIgnored(t *testing.T) {
	for _, bucket := range []string{"flow", "link", "live", "handed-over", "tries"} {
		for name, spoil := range map[string]func([]byte) []byte{
			"another version":      func(v []byte) []byte { return append([]byte{'3'}, v[1:]...) },
			"an earlier version":   func(v []byte) []byte { return append([]byte{'1'}, v[1:]...) },
			"in the clear":         func(v []byte) []byte { return []byte("1{}") },
			"empty":                func([]byte) []byte { return []byte{} },
			"garbage":              func(v []byte) []byte { return append(v[:len(v)-1:len(v)-1], v[len(v)-1]^0x40) },
			"that of another firm": nil,
		} {
			w, alarms := newWorld(t), 0
			w = w.as(func(o *token.Tokens) { o.OnUntrusted = func(context.Context, store.Key) { alarms++ } })
			issued := w.mail(laptop, "ann@example.com", "ann")
			want(t, "a wrong code", w.guess("s", laptop, "0000-0000"), token.ErrWrongCode)
			all, err := w.db.Scan(t.Context(), "example", bucket, "", "", 10)
			w.must(err)
			value := all[0].Value
			if spoil != nil {
				value = spoil(value)
			} else {
				other := w.as(func(o *token.Tokens) { o.Firm = "other" })
				other.mail(laptop, "ann@example.com", "ann")
				want(t, "a wrong code", other.guess("s", laptop, "0000-0000"), token.ErrWrongCode)
				theirs, err := w.db.Scan(t.Context(), "other", bucket, "", "", 10)
				w.must(err)
				value = theirs[0].Value
			}
			w.must(w.Store.Apply(t.Context(), store.Put(all[0].Key, value, all[0].Expires)))
			if bucket == "link" || bucket == "live" || bucket == "handed-over" {
				if err := w.spend("s", issued.Token, laptop); !errors.Is(err, token.ErrInactive) && !errors.Is(err, token.ErrUnknown) {
					t.Errorf("%s record, %s: Spend = %v; want it over or unknown", bucket, name, err)
				}
			}
			if bucket != "link" {
				want(t, bucket+" record, "+name+": the right code", w.guess("s", laptop, issued.Code), token.ErrWrongCode)
			}
			if alarms == 0 {
				t.Errorf("%s record, %s: no alarm", bucket, name)
			}
			again := w.mail(laptop, "ann@example.com", "ann")
			want(t, bucket+" record, "+name+": the next link", w.spend("s2", again.Token, laptop), nil)
		}
	}
	w := newWorld(t)
	issued := w.mail(laptop, "ann@example.com", "ann")
	later := sealed.Bucket[any]{Store: w.Store, Keys: w.Keys, Firm: "example", Name: "live", Format: 9}
	op, err := later.Put("ann", nil, time.Time{})
	w.must(err)
	w.must(w.Store.Apply(t.Context(), op))
	want(t, "Spend with a record of a later release", w.spend("s", issued.Token, laptop), store.ErrUnavailable)
}

func FuzzPeek(f *testing.F) {
	w := newWorld(f)
	issued := w.mail(laptop, "ann@example.com", "ann")
	for _, seed := range []string{"", "\x00", "null", "[]", issued.ID, issued.Code, issued.Token[:25], issued.Token + "a",
		strings.Repeat("A", 43), strings.Repeat("\xff", 43), strings.Repeat("/", 43), strings.Repeat("a", 26), issued.Token[:25] + "\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.Contains(strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
				return r
			}
			return -1
		}, s), issued.Token) {
			return // the link with changes that Clean undoes
		}
		link, err := w.Peek(context.Background(), s)
		if !errors.Is(err, token.ErrUnknown) || link != (token.Link{}) {
			t.Fatalf("Peek(%q) = %+v, %v; want nothing, ErrUnknown", s, link, err)
		}
		_, err = w.Guess(context.Background(), s, s, false)
		if _, shape := errors.AsType[token.ShapeError](err); !shape && !errors.Is(err, token.ErrWrongCode) {
			t.Fatalf("Guess(%q) = %v; want ErrCode or a ShapeError", s, err)
		}
	})
}
