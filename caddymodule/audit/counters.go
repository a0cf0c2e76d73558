package audit

import "github.com/prometheus/client_golang/prometheus"

// Counters count the events of all firms. They are a prometheus.Collector:
//
//	doorpost_events_total{firm, event}   events, including those that sampling kept out of the log
//	doorpost_events_lost_total{firm}     events that were counted but could not be stored
//
// Both labels have bounded sets of values. The same Counters may be registered with any number of
// registries.
type Counters struct{ events, lost *prometheus.CounterVec }

// NewCounters returns Counters at zero.
func NewCounters() *Counters {
	return &Counters{
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "doorpost_events_total", Help: "Events, by firm and kind.",
		}, []string{"firm", "event"}),
		lost: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "doorpost_events_lost_total", Help: "Events missing from the stored history because the store was unavailable for too long.",
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

// init creates the series of a firm, so that they exist before the first event.
func (c *Counters) init(firm string) {
	for kind := range kinds {
		c.events.WithLabelValues(firm, string(kind))
	}
	c.lost.WithLabelValues(firm)
}

func (c *Counters) count(firm string, kind Kind) {
	if _, known := kinds[kind]; !known {
		kind = "other" // keeps the number of labels bounded
	}
	c.events.WithLabelValues(firm, string(kind)).Inc()
}

func (c *Counters) addLost(firm string, n int) { c.lost.WithLabelValues(firm).Add(float64(n)) }
