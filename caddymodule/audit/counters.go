package audit

import "github.com/prometheus/client_golang/prometheus"

// Counters count the events of all firms as a prometheus.Collector:
//
//	doorpost_events_total{firm, event}   events, also those that a flood kept out of the log
//	doorpost_events_lost_total{firm}     events that were counted, but that the store has no record of
//
// Both labels are of closed sets. The same Counters may be registered with any number
// of registries, one after the other or at once.
type Counters struct{ events, lost *prometheus.CounterVec }

// NewCounters returns counters that begin at zero.
func NewCounters() *Counters {
	return &Counters{
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "doorpost_events_total", Help: "What happened at the door, by firm and kind of event.",
		}, []string{"firm", "event"}),
		lost: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "doorpost_events_lost_total", Help: "Events that are missing in the stored history, since the store was away for too long.",
		}, []string{"firm"}),
	}
}

// Describe implements prometheus.Collector.
func (c *Counters) Describe(to chan<- *prometheus.Desc) {
	c.events.Describe(to)
	c.lost.Describe(to)
}

// Collect implements prometheus.Collector.
func (c *Counters) Collect(to chan<- prometheus.Metric) {
	c.events.Collect(to)
	c.lost.Collect(to)
}

// show makes the series of a firm, so that they are there before anything happens.
func (c *Counters) show(firm string) {
	for kind := range kinds {
		c.events.WithLabelValues(firm, string(kind))
	}
	c.lost.WithLabelValues(firm)
}

func (c *Counters) count(firm string, kind Kind) {
	if _, known := kinds[kind]; !known {
		kind = "other" // whatever comes, the labels stay few
	}
	c.events.WithLabelValues(firm, string(kind)).Inc()
}

func (c *Counters) lose(firm string, n int) { c.lost.WithLabelValues(firm).Add(float64(n)) }
