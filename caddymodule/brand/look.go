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
	LightAccent, LightOnAccent string // on a white page: the accent, and text on it
	DarkAccent, DarkOnAccent   string // on a dark page
}

type colour struct{ r, g, b float64 } // sRGB, 0 to 1

var (
	white     = colour{1, 1, 1}
	black     = colour{0, 0, 0}
	lightPage = white
	darkPage  = colour{0x16 / 255.0, 0x18 / 255.0, 0x1c / 255.0} // of pages and of mails
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
	light := towards(accent, black, lightPage)
	dark := towards(accent, white, darkPage)
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

// towards mixes c with end until it can be read on the page, and text on it.
func towards(c, end, page colour) colour {
	for i := range 101 {
		k := float64(i) / 100
		mixed, _ := parseColour(colour{c.r + (end.r-c.r)*k, c.g + (end.g-c.g)*k, c.b + (end.b-c.b)*k}.String())
		if contrast(mixed, page) >= readable && contrast(mixed, onIt(mixed)) >= readable {
			return mixed
		}
	}
	return end
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
