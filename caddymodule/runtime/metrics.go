package runtime

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/doorpost-auth/doorpost/caddymodule/password"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Metrics are what a Server is like at the moment of a scrape. All labels have closed sets of values: the firms, and the words
// below. They are a prometheus.Collector.
type Metrics struct{ Server *Server }

// probeTime limits how long a scrape waits for the store.
const probeTime = 2 * time.Second

var (
	outboxEmails = describe("doorpost_outbox_emails", "Emails that wait to be sent.", "firm")
	mailServer   = describe("doorpost_mail_server_up", "1 unless no email goes out because the mail server can't be used.", "firm")
	sessions     = describe("doorpost_sessions_in_memory", "Sessions in this process's memory.", "firm")
	oldLinkUses  = describe("doorpost_old_link_uses_total", "Uses of old links since the start of the process: whether they asked for sign-in, and by what.", "firm", "asked", "by")
	storeUp      = describe("doorpost_store_up", "1 if the store answers.")
	storeSeconds = describe("doorpost_store_seconds", "How long the store took to answer one read.")
	storeTrusted = describe("doorpost_store_trusted", "1 unless the store isn't the one of last time, so that nobody gets in.", "firm")
	permits      = describe("doorpost_password_permits", "Passwords that may be checked at the same time.")
	checks       = describe("doorpost_password_checks", "Passwords that are being checked, or wait for it: those of known contacts before others.", "state")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (Metrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{outboxEmails, mailServer, sessions, oldLinkUses, storeUp, storeSeconds, storeTrusted, permits, checks} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (m Metrics) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	up, took := m.probe()
	gauge(storeUp, up)
	gauge(storeSeconds, took.Seconds())
	load := m.Server.permits().Load()
	gauge(permits, float64(load.Permits))
	gauge(checks, float64(load.Running), "running")
	gauge(checks, float64(load.WaitingPriority), "waiting-known")
	gauge(checks, float64(load.Waiting), "waiting")
	for id, f := range m.Server.firms {
		gauge(outboxEmails, float64(f.Queue.Len()), id)
		_, down := f.Queue.Outage()
		gauge(mailServer, is(!down), id)
		gauge(storeTrusted, is(f.Anchor.Err() == nil), id)
		gauge(sessions, float64(f.Sessions.Memory.Len()), id)
		for _, asked := range []bool{false, true} {
			for _, browser := range []bool{false, true} {
				to <- prometheus.MustNewConstMetric(oldLinkUses, prometheus.CounterValue, float64(f.Usage.Noted(asked, browser)), id, word(asked, "yes", "no"), word(browser, "browser", "program"))
			}
		}
	}
}

// probe asks the store for a record that there is not.
func (m Metrics) probe() (up float64, took time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), probeTime)
	defer cancel()
	begun := time.Now()
	_, err := m.Server.Engine.Store.Get(ctx, store.Key{Bucket: "probe", ID: "probe"})
	return is(err == nil || errors.Is(err, store.ErrNotFound)), time.Since(begun)
}

func (s *Server) permits() *password.Semaphore {
	return s.Engine.Keep("permits", func() any { return password.NewSemaphore() }).(*password.Semaphore)
}

func is(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

func word(is bool, yes, no string) string {
	if is {
		return yes
	}
	return no
}
