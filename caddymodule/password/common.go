package password

import (
	_ "embed"
	"slices"
	"strings"
	"sync"
)

// commonText is zxcvbn-ts's list of common passwords (49,233 from leaks, folded), one a
// line in byte order. For its source and license see common.LICENSE.
//
//go:embed common.txt
var commonText string

var commonList = sync.OnceValue(func() []string { return strings.Split(strings.TrimSuffix(commonText, "\n"), "\n") })

func isCommon(folded string) bool {
	_, found := slices.BinarySearch(commonList(), folded)
	return found
}
