package caddymodule

import (
	"os"
	"strings"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

// mainArgs makes the test binary run Caddy's main with these arguments, one per line.
const mainArgs = "DOORPOST_TEST_CADDY_ARGS"

func TestMain(m *testing.M) {
	if args, ok := os.LookupEnv(mainArgs); ok {
		os.Args = append([]string{"caddy"}, strings.Split(args, "\n")...)
		caddycmd.Main()
		os.Exit(0)
	}
	code := runInParts(m)
	for _, end := range atEnd {
		end()
	}
	os.Exit(code)
}

// atEnd are called after all tests.
var atEnd []func()

// AtEnd has the function called after all tests.
func AtEnd(end func()) { atEnd = append(atEnd, end) }
