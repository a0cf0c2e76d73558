package password

import (
	_ "embed"
	"slices"
	"strings"
	"sync"
	"unicode"
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

// nearlyCommon reports whether a folded text is a common password over and over, or one
// with a little before or behind it: up to four different signs or digits, or more that
// are a pattern or common themselves (sunshine!!, password12345678, dragon19841984).
func nearlyCommon(folded string) bool {
	r := []rune(folded)
	if isCommon(string(r[:unit(r)])) {
		return true
	}
	core := strings.TrimFunc(folded, func(c rune) bool { return !unicode.IsLetter(c) })
	if core == "" || !isCommon(core) {
		return false
	}
	before, behind, _ := strings.Cut(folded, core)
	rest := before + behind
	return isCommon(rest) || isRegular(rest)
}
