package audit

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestSampler_WritesABurstThenOneASecond(t *testing.T) {
	now := time.Date(2026, 3, 1, 10, 2, 3, 0, time.UTC)
	var out bytes.Buffer
	log := slog.New(NewSampler(slog.NewTextHandler(&out, nil), func() time.Time { return now }))
	one, other := log.With("firm", "example"), log.With("firm", "other")
	const flood = 50_000
	for i := range flood {
		one.Info("flooded", "i", i)
		if i%1000 == 999 {
			now = now.Add(time.Second)
		}
	}
	if n := strings.Count(out.String(), "flooded"); n < floodBurst || n > floodBurst+flood/1000 {
		t.Errorf("%d lines of %d in 50 s; want a thousand, and one a second", n, flood)
	}
	for name, log := range map[string]func(){
		"another message":         func() { one.Info("calm") },
		"the same, of other firm": func() { other.Info("flooded") },
	} {
		before := out.Len()
		if log(); out.Len() == before {
			t.Errorf("%s has no line", name)
		}
	}
	now = now.Add(time.Hour)
	out.Reset()
	one.Info("flooded")
	one.Info("flooded")
	lines := strings.Split(out.String(), "\n")
	if !strings.Contains(lines[0], "left_out=") || strings.Contains(lines[1], "left_out=") {
		t.Errorf("the lines after the flood are\n%s\nwant the first alone to say how many were left out", out.String())
	}
}

func TestSampler_CountsUnusualMessagesTogether(t *testing.T) {
	var out bytes.Buffer
	now := time.Now()
	log := slog.New(NewSampler(slog.NewTextHandler(&out, nil), func() time.Time { return now }))
	for i := range 10 * floodBurst {
		log.Info(fmt.Sprint("message ", i))
	}
	if n := strings.Count(out.String(), "\n"); n > maxMessages+floodBurst {
		t.Errorf("%d lines of as many messages; want at most %d", n, maxMessages+floodBurst)
	}
}

func TestSampler_CutsFields(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(NewSampler(slog.NewTextHandler(&out, nil), time.Now))
	long := strings.Repeat("é", 1<<20)
	log.Error("long", "text", long, "error", errors.New(long), "any", bytes.NewBufferString(long), "number", 7)
	if n := out.Len(); n > 4*maxText || !strings.Contains(out.String(), "number=7") {
		t.Errorf("a line with fields of 1 MiB has %d bytes", n)
	}
	for _, text := range []string{"", "short", strings.Repeat("x", maxField), long} {
		got := Cut(text)
		if !utf8.ValidString(got) || len(got) > maxField+len("…") || len(text) <= maxField && got != text {
			t.Errorf("Cut of %d bytes = %q", len(text), got)
		}
	}
}
