#!/bin/sh
# Builds a Caddy with its standard modules and Doorpost.
#
#	./xcaddy.sh [OUTPUT]    default: ./caddy, or ./caddy.exe for Windows
#
# With xcaddy where that is installed, else with go build and the same flags. GOOS,
# GOARCH and GOARM choose another machine, as with go build.
set -eu

case "${1:-}" in
-*)
	sed -n '2,7s/^# \{0,1\}//p' "$0"
	exit 2
	;;
esac

here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
output=${1:-caddy$(go env GOEXE)}
case $output in
/*) ;;
*) output=$PWD/$output ;;
esac
mkdir -p -- "$(dirname -- "$output")"

module=github.com/doorpost-auth/doorpost
caddy=$(go -C "$here" list -m -f '{{.Version}}' github.com/caddyserver/caddy/v2)
export CGO_ENABLED=0

if command -v xcaddy >/dev/null 2>&1; then
	echo "building Caddy $caddy with xcaddy: $output"
	# The version says that nobody need be asked for ours, and the empty module that
	# there is none at the package's own path: some proxies answer 403 to such a
	# question, where 404 would do, and go gives up.
	empty=$(mktemp -d)
	trap 'rm -rf "$empty"' EXIT
	echo "module $module/caddymodule" >"$empty/go.mod"
	xcaddy build "$caddy" --output "$output" \
		--with "$module/caddymodule@v0.0.0" \
		--replace "$module@v0.0.0=$here" \
		--replace "$module/caddymodule@v0.0.0=$empty"
else
	echo "building Caddy $caddy with go build (no xcaddy here): $output"
	go -C "$here" build -o "$output" \
		-ldflags "-w -s" -trimpath -tags nobadger,nomysql,nopgx ./cmd/caddy
fi
