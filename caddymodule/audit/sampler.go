package audit

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"
)

const (
	maxField    = 256  // bytes of a field with a visitor's input
	maxText     = 4096 // bytes of any field
	maxMessages = 1024 // number of messages with limits of their own
)

// Cut shortens a visitor's input for the log: to at most 256 bytes and an ellipsis.
func Cut(text string) string { return cut(text, maxField) }

func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	return text[:most] + "…"
}

// Sampler limits repeated log lines: of each message a thousand lines in a row are written,
// then one a second, whose field "left_out" counts the lines left out before it. So repeated
// messages can't fill the disk. Fields are cut at 4 KiB.
//
// A Sampler is a slog.Handler. Handlers returned by WithAttrs and WithGroup share its memory
// and count by their fields, so that one firm's lines don't hide another's. It is safe for
// concurrent use.
type Sampler struct {
	to     slog.Handler
	state  *samples
	fields string // given by WithAttrs and WithGroup; part of the key
}

// samples is the shared memory of Samplers.
type samples struct {
	now func() time.Time

	mu  sync.Mutex
	all map[string]*sample // by fields and message
}

type sample struct {
	pass    *rate.Limiter
	leftOut int // since the last line
}

// NewSampler returns a Sampler that passes lines on to a handler.
func NewSampler(to slog.Handler, now func() time.Time) *Sampler {
	return &Sampler{to: to, state: &samples{now: now, all: make(map[string]*sample)}}
}

// Enabled implements slog.Handler.
func (s *Sampler) Enabled(ctx context.Context, level slog.Level) bool {
	return s.to.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (s *Sampler) Handle(ctx context.Context, r slog.Record) error {
	leftOut, pass := s.state.pass(s.fields + r.Message)
	if !pass {
		return nil
	}
	line := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		line.AddAttrs(short(a))
		return true
	})
	if leftOut > 0 {
		line.AddAttrs(slog.Int("left_out", leftOut))
	}
	return s.to.Handle(ctx, line)
}

// WithAttrs implements slog.Handler.
func (s *Sampler) WithAttrs(attrs []slog.Attr) slog.Handler {
	fields := s.fields
	for _, a := range attrs {
		fields += a.String() + "\x00"
	}
	return &Sampler{s.to.WithAttrs(attrs), s.state, fields}
}

// WithGroup implements slog.Handler.
func (s *Sampler) WithGroup(name string) slog.Handler {
	return &Sampler{s.to.WithGroup(name), s.state, s.fields + name + "\x00"}
}

// pass reports whether to write a line, and how many were left out before it.
func (s *samples) pass(message string) (leftOut int, pass bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.all[message]
	if one == nil {
		if len(s.all) >= maxMessages {
			message = "" // ours are few; a library's may not be
			one = s.all[message]
		}
		if one == nil {
			one = &sample{pass: rate.NewLimiter(floodRate, floodBurst)}
			s.all[message] = one
		}
	}
	if !one.pass.AllowN(s.now(), 1) {
		one.leftOut++
		return 0, false
	}
	leftOut, one.leftOut = one.leftOut, 0
	return leftOut, true
}

// short cuts the text of a field, including an error's.
func short(a slog.Attr) slog.Attr {
	v := a.Value.Resolve()
	switch v.Kind() {
	case slog.KindString:
		return slog.String(a.Key, cut(v.String(), maxText))
	case slog.KindAny:
		switch is := v.Any().(type) {
		case error:
			return slog.String(a.Key, cut(is.Error(), maxText))
		case fmt.Stringer:
			return slog.String(a.Key, cut(is.String(), maxText))
		}
	}
	return slog.Attr{Key: a.Key, Value: v}
}
