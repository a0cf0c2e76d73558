// Package phone reads phone numbers, and counts the segments of text messages to them.
package phone

import (
	"errors"
	"strconv"
	"strings"

	"github.com/nyaruka/phonenumbers"
)

// Number is a phone number in the form of ITU-T E.164: "+", the country code, and the rest, at most 15
// digits. Its zero value is no number.
type Number string

// Errors of Parse.
var (
	ErrNoNumber = errors.New("is no phone number")
	ErrNoRegion = errors.New("has no country code; write it with + and the country code, such as +44 20 7946 0958, or set phone_region in the Caddyfile")
	ErrLength   = errors.New("is too short or too long for a number of its country")
)

// Parse reads a number as people write it. region is where a number without a country code is from, two
// letters by ISO 3166-1 such as "GB"; "": such numbers are refused. Parse checks the length of the number
// and not whether anybody has it.
func Parse(text, region string) (Number, error) {
	n, err := phonenumbers.Parse(text, region)
	switch {
	case errors.Is(err, phonenumbers.ErrInvalidCountryCode) && region == "" && !strings.HasPrefix(strings.TrimSpace(text), "+"):
		return "", ErrNoRegion
	case err != nil:
		return "", ErrNoNumber
	case phonenumbers.IsPossibleNumberWithReason(n) != phonenumbers.IS_POSSIBLE:
		return "", ErrLength
	}
	return Number(phonenumbers.Format(n, phonenumbers.E164)), nil
}

// IsRegion reports whether Parse knows the region.
func IsRegion(region string) bool { return phonenumbers.GetSupportedRegions()[region] }

// Masked is the number for logs and lists: the country code and the last two digits.
func (n Number) Masked() string {
	parsed, err := phonenumbers.Parse(string(n), "")
	if err != nil || len(n) < 6 {
		return "…"
	}
	return "+" + strconv.Itoa(int(parsed.GetCountryCode())) + "…" + string(n[len(n)-2:])
}
