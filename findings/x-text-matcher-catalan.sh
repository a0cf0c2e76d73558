#!/usr/bin/env bash
# golang.org/x/text/language: of the languages of Spain, Catalan alone falls back to English.
#
# Version:   golang.org/x/text v0.43.0
# Guess:     with English, Spanish and French on offer, a speaker of Catalan gets Spanish, as speakers of Galician and
#            Basque do. And the tag that Match returns is one of those on offer.
# Behavior:  Galician and Basque are matched to Spanish with High confidence; Catalan, with or without a country, and
#            Aragonese and Asturian are matched to English with none. Occitan, Breton and Corsican get French. The tag
#            returned carries the region that was asked for ("es-u-rg-mxzzzz"), so it equals none of those on offer: use
#            the index.
# Observed:  see "want" at the end.
# Why it matters: a site in Spanish and English greets its Catalan clients in English unless it adds a rule of its own.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat >go.mod <<'MOD'
module finding
go 1.24
require golang.org/x/text v0.43.0
MOD
cat >main.go <<'GO'
package main

import (
	"fmt"

	"golang.org/x/text/language"
)

func main() {
	m := language.NewMatcher([]language.Tag{language.English, language.Spanish, language.French})
	for _, asked := range []string{"gl", "eu", "ca", "ca-ES", "an", "ast", "oc", "br", "co", "es-MX"} {
		tag, index, confidence := m.Match(language.MustParse(asked))
		fmt.Println(asked, tag, index, confidence)
	}
}
GO
GOFLAGS=-mod=mod go run . >got 2>log || { cat log; exit 1; }
cat got
want='gl es 1 High
eu es 1 High
ca en 0 No
ca-ES en-u-rg-eszzzz 0 No
an en 0 No
ast en 0 No
oc fr 2 High
br fr 2 High
co fr 2 High
es-MX es-u-rg-mxzzzz 1 High'
[ "$(cat got)" = "$want" ] || { echo "this has changed; it was:"; echo "$want"; exit 1; }
echo "as recorded"
