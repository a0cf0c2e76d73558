package runtime

import (
	"context"
	"errors"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

func TestK15_TheClockNeverGoesBack(t *testing.T) {
	c := newClock()
	start := c.start.Round(0)
	const year = 365 * 24 * time.Hour
	for _, step := range []struct {
		what         string
		passed       time.Duration // since the start
		wall, wanted time.Duration // after the start
	}{
		{"at first", 0, 0, 0},
		{"a second later", time.Second, time.Second, time.Second},
		{"set back by an hour", 2 * time.Second, 2*time.Second - time.Hour, 2 * time.Second},
		{"and again by ten years", 3 * time.Second, 3*time.Second - 10*year, 3 * time.Second},
		{"set right", 4 * time.Second, 4 * time.Second, 4 * time.Second},
		{"a night's sleep", 5 * time.Second, 8 * time.Hour, 8 * time.Hour},
		{"a second later", 6 * time.Second, 8*time.Hour + time.Second, 8*time.Hour + time.Second},
		{"set back after the sleep", 7 * time.Second, 7 * time.Second, 8*time.Hour + 2*time.Second},
		{"slewed forward", 8 * time.Second, 8*time.Hour + 3*time.Second + 4*time.Millisecond, 8*time.Hour + 3*time.Second + 4*time.Millisecond},
		{"slewed back", 9 * time.Second, 8*time.Hour + 3*time.Second, 8*time.Hour + 4*time.Second + 4*time.Millisecond},
	} {
		if got := c.at(start.Add(step.wall), step.passed).Sub(start); got != step.wanted {
			t.Errorf("%s: the time = %v after the start; want %v", step.what, got, step.wanted)
		}
	}
	if now := newClock().Now(); time.Since(now).Abs() > time.Minute {
		t.Errorf("Now = %v; want about %v", now, time.Now())
	}
}

// Whatever the machine's clock does, nobody sees the time go back.
func TestK15_TheClockForManyAtOnce(t *testing.T) {
	c := newClock()
	start := c.start.Round(0)
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			last := start
			for i := range 20_000 {
				jump := time.Duration((i*7919+worker*104729)%2000-1000) * time.Millisecond
				now := c.at(start.Add(time.Duration(i)*time.Microsecond+jump), time.Duration(i)*time.Microsecond)
				if now.Before(last) {
					t.Errorf("the time went back by %v", last.Sub(now))
					return
				}
				last = now
			}
		})
	}
	all.Wait()
}

// What has run out stays so when the machine's clock is set back, and what hasn't goes
// on by the time that really passes.
func TestK15_WhatRanOutStaysDead(t *testing.T) {
	c := newClock()
	start := c.start.Round(0)
	var passed, set time.Duration // since the start; what the machine's clock was set by
	now := func() time.Time { return c.at(start.Add(passed+set), passed) }
	db, err := bolt.Open(filepath.Join(t.TempDir(), "doorpost.db"), bolt.Options{Clock: now, Sweep: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	keys, err := secret.New([]byte(secret.Random()))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	sessions := &session.Sessions{Firm: "example", Store: db, Keys: keys, Idle: time.Hour, Max: 2 * time.Hour, Now: now}
	tokens := &token.Tokens{Firm: "example", Store: db, Keys: keys, Life: 10 * time.Minute, Now: now}

	b, err := sessions.Begin(ctx, session.Session{Contact: "ann"}, nil)
	if err == nil {
		err = db.Apply(ctx, b.Ops...)
	}
	browser := token.BrowserOf(secret.Random())
	ask := token.MailRequest{ID: "ask", Address: address.Address("ann@example.com"), To: "/", Browser: browser, At: now()}
	if err == nil {
		err = tokens.Request(ctx, ask)
	}
	issued, err2 := tokens.Issue(ctx, ask, token.Recipient{Contact: "ann", Address: ask.Address})
	if err = errors.Join(err, err2); err == nil {
		err = db.Apply(ctx, issued.Ops...)
	}
	for _, accepted := range []bool{false, true} {
		ops, err3 := tokens.HandOver(ctx, issued.ID, now(), accepted)
		if err = errors.Join(err, err3); err == nil {
			err = db.Apply(ctx, ops...)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string, link, in bool) {
		t.Helper()
		if _, err := tokens.Spend(ctx, issued.Token, browser); (err == nil) != link {
			t.Errorf("%s: the link's error = %v; want it to work: %v", when, err, link)
		}
		if _, err := sessions.Lookup(ctx, b.Cookie); (err == nil) != in {
			t.Errorf("%s: the session's error = %v; want it to live: %v", when, err, in)
		}
	}
	check("at first", true, true)
	set = -time.Hour
	check("the clock set back by an hour", true, true)
	passed = 9 * time.Minute
	check("nine minutes later", true, true)
	passed = 11 * time.Minute
	check("eleven minutes later by a clock that is back", false, true)
	set = 4 * time.Minute
	check("four minutes ahead", false, true)
	passed = 61 * time.Minute
	check("an idle hour later", false, false)
	for _, set = range []time.Duration{-time.Hour, -24 * time.Hour, 0} {
		check("the clock set by "+set.String(), false, false)
	}
}

// What has run out stays so when the clock is set back while nothing runs.
func TestK15_TheClockIsSetBackBetweenTwoStarts(t *testing.T) {
	ctx := t.Context()
	db, err := bolt.Open(filepath.Join(t.TempDir(), "doorpost.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, c := range []struct {
		behind, made time.Duration // by the machine's clock; and made up for
	}{{0, 0}, {-time.Hour, 0}, {time.Minute, time.Minute}, {time.Hour, time.Hour}, {mostBehind, mostBehind}, {mostBehind + time.Hour, 0}, {87600 * time.Hour, 0}} {
		last := newClock()
		last.NotBefore(last.Now().Add(c.behind)) // which was right then
		if c.behind < 0 {
			last.start = last.start.Add(c.behind)
			err = db.Apply(ctx, store.Put(noted, strconv.AppendInt(nil, last.start.UnixMilli(), 10), time.Time{}))
		} else {
			err = last.note(ctx, db)
		}
		if err != nil {
			t.Fatal(err)
		}
		next := newClock()
		behind, err := next.resume(ctx, db)
		if err != nil || (behind-c.behind).Abs() > 5*time.Second {
			t.Errorf("behind by %v: resume = %v, %v", c.behind, behind, err)
		}
		if made := next.Now().Sub(time.Now()); (made - c.made).Abs() > 5*time.Second {
			t.Errorf("behind by %v: %v is made up for; want %v", c.behind, made, c.made)
		}
	}
}
