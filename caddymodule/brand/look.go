package brand

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
)

// Look is a firm's colours, readable whatever the accent: each pair has a contrast of
// at least 4.5 to 1, and so has the accent to the page (WCAG 2.2, 1.4.3 and 1.4.11).
type Look struct {
	LightAccent, LightOnAccent string // on a light page: the accent, and text on it
	DarkAccent, DarkOnAccent   string // on a dark page
}

type colour struct{ r, g, b float64 } // sRGB, 0 to 1

var (
	white = colour{1, 1, 1}
	black = colour{0, 0, 0}

	// Of what pages and mails have behind the accent, the colours that leave it the
	// least contrast.
	lightPage = colour{0xf3 / 255.0, 0xf4 / 255.0, 0xf1 / 255.0}
	darkPage  = colour{0x22 / 255.0, 0x27 / 255.0, 0x25 / 255.0}
)

const (
	defaultAccent = "#0b6e4f"
	readable      = 4.5
)

// Look returns the colours. An accent that isn't one (see Validate) is the default's.
func (b Brand) Look() Look {
	accent, err := parseColour(b.Accent)
	if err != nil {
		accent, _ = parseColour(defaultAccent)
	}
	light := until(darker, accent, lightPage)
	dark := until(lighter, accent, darkPage)
	return Look{light.String(), onIt(light).String(), dark.String(), onIt(dark).String()}
}

var hexColour = regexp.MustCompile(`^#([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$`)

func parseColour(s string) (colour, error) {
	if !hexColour.MatchString(s) {
		return colour{}, fmt.Errorf(`accent: %q is no colour; write it as #rgb or #rrggbb, in quotes: accent "%s"`, s, defaultAccent)
	}
	h := s[1:]
	if len(h) == 3 {
		h = strings.Join([]string{h[:1], h[:1], h[1:2], h[1:2], h[2:], h[2:]}, "")
	}
	n, err := strconv.ParseUint(h, 16, 32)
	if err != nil {
		return colour{}, err
	}
	return colour{float64(n>>16) / 255, float64(n>>8&255) / 255, float64(n&255) / 255}, nil
}

func (c colour) String() string {
	return fmt.Sprintf("#%02x%02x%02x", byte(math.Round(c.r*255)), byte(math.Round(c.g*255)), byte(math.Round(c.b*255)))
}

// until changes the accent step by step, from as it is to an end that can be read for
// sure, until it can be read on the page, and text on it.
func until(change func(c colour, k float64) colour, accent, page colour) colour {
	const steps = 200
	for i := range steps {
		// As it will be written: rounding must not undo what was reached.
		c, _ := parseColour(change(accent, float64(i)/steps).String())
		if contrast(c, page) >= readable && contrast(c, onIt(c)) >= readable {
			return c
		}
	}
	return change(accent, 1)
}

// darker goes to black, lighter over the brightest colour of the same hue to white.
func darker(c colour, k float64) colour { return c.mix(black, k) }

func lighter(c colour, k float64) colour {
	most := max(c.r, c.g, c.b)
	if most == 0 {
		return c.mix(white, k)
	}
	bright := colour{c.r / most, c.g / most, c.b / most}
	if k < .5 {
		return c.mix(bright, 2*k)
	}
	return bright.mix(white, 2*k-1)
}

func (c colour) mix(end colour, k float64) colour {
	return colour{c.r + (end.r-c.r)*k, c.g + (end.g-c.g)*k, c.b + (end.b-c.b)*k}
}

// onIt is white or black, whichever is read better on c.
func onIt(c colour) colour {
	if contrast(c, white) >= contrast(c, black) {
		return white
	}
	return black
}

// contrast is WCAG's ratio of two colours, 1 to 21.
func contrast(a, b colour) float64 {
	x, y := a.luminance(), b.luminance()
	return (max(x, y) + .05) / (min(x, y) + .05)
}

func (c colour) luminance() float64 {
	linear := func(v float64) float64 {
		if v <= .04045 {
			return v / 12.92
		}
		return math.Pow((v+.055)/1.055, 2.4)
	}
	return .2126*linear(c.r) + .7152*linear(c.g) + .0722*linear(c.b)
}
