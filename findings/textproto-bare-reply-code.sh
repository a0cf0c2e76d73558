#!/usr/bin/env bash
# Go's net/textproto: an SMTP reply of a code alone is an error, so an accepted mail looks refused.
#
# Version:   Go 1.26 (net/textproto, below net/smtp and the mail clients built on it)
# Guess:     "250" CR LF is read as code 250 with an empty text. RFC 5321, 4.2, has the space and the text optional in the
#            grammar and says that "no text at all" must be acceptable, although servers shouldn't send bare codes.
# Behavior:  ReadResponse and ReadCodeLine return the error "short response". A reply with a space behind the code is
#            read as expected. A client that takes the error for a failure sends a mail again that the server has.
# Observed:  see "want" at the end.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
printf 'module finding\ngo 1.24\n' >go.mod
cat >main.go <<'GO'
package main

import (
	"bufio"
	"fmt"
	"net/textproto"
	"strings"
)

func main() {
	for _, reply := range []string{"250 \r\n", "250\r\n"} {
		code, text, err := textproto.NewReader(bufio.NewReader(strings.NewReader(reply))).ReadResponse(250)
		fmt.Printf("%q: code %d, text %q, error %v\n", reply, code, text, err)
	}
}
GO
go run . >got
cat got
want='"250 \r\n": code 250, text "", error <nil>
"250\r\n": code 0, text "", error short response: "250"'
[ "$(cat got)" = "$want" ] || { echo "this has changed; it was:"; echo "$want"; exit 1; }
echo "as recorded"
