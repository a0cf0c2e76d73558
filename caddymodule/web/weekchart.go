package web

import "time"

// WeekChart is the use of old links by week, from the oldest week on.
type WeekChart []WeekUse

// WeekUse is the use of old links in a week.
type WeekUse struct {
	Begin    time.Time
	People   int // uses in browsers
	Programs int // uses by other programs, such as mail scanners
}

// Total is the number of all uses of the week.
func (w WeekUse) Total() int { return w.People + w.Programs }

// Any reports whether there was any use.
func (c WeekChart) Any() bool {
	for _, w := range c {
		if w.Total() > 0 {
			return true
		}
	}
	return false
}

// Most is the number of uses in the week with the most.
func (c WeekChart) Most() (most int) {
	for _, w := range c {
		most = max(most, w.Total())
	}
	return most
}

// First is the oldest week.
func (c WeekChart) First() WeekUse { return c[0] }

// Last is the latest week.
func (c WeekChart) Last() WeekUse { return c[len(c)-1] }

// Size of the chart in units of its drawing.
const (
	chartWidth  = 480
	chartHeight = 120
)

// Bar is a week in the drawing: uses by programs stand on those in browsers.
type Bar struct {
	X, Width                  int
	PeopleY, PeopleHeight     int
	ProgramsY, ProgramsHeight int
}

// Width is that of the drawing.
func (c WeekChart) Width() int { return chartWidth }

// Height is that of the drawing.
func (c WeekChart) Height() int { return chartHeight }

// Bars returns the weeks as they are drawn. A week with any use has a bar that can be seen.
func (c WeekChart) Bars() []Bar {
	most := max(1, c.Most())
	tall := func(n int) int {
		if n == 0 {
			return 0
		}
		return max(2, n*(chartHeight-4)/most)
	}
	step := chartWidth / max(1, len(c))
	bars := make([]Bar, len(c))
	for i, w := range c {
		people, programs := tall(w.People), tall(w.Programs)
		bars[i] = Bar{X: i*step + step/8, Width: step - step/4, PeopleY: chartHeight - people, PeopleHeight: people,
			ProgramsY: chartHeight - people - programs, ProgramsHeight: programs}
	}
	return bars
}
