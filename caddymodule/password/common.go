package password

import (
	_ "embed"
	"slices"
	"strings"
	"sync"
)

// commonText is the list of common passwords that zxcvbn-ts keeps (49,233 of them, from
// what was stolen elsewhere, folded): one a line, in the order of bytes. Where it is from,
// and its licence: common.LICENSE.
//
//go:embed common.txt
var commonText string

var commonList = sync.OnceValue(func() []string { return strings.Split(strings.TrimSuffix(commonText, "\n"), "\n") })

// isCommon reports whether a folded text is a common password.
func isCommon(folded string) bool {
	_, found := slices.BinarySearch(commonList(), folded)
	return found
}
