#!/usr/bin/env bash
# Every test of Doorpost. Needs Go and git; what else a test needs, it installs from
# Debian's packages (Redis, nginx, Chromium, Firefox, npm, PHP) or from npm (axe-core, which judges accessibility).
#
#   ./test.sh          all of it, as CI runs it
#   ./test.sh quick    formatting, vet and the Go tests that need nothing else
#   ./test.sh long     all of it, and fuzzing, kills at length and floods of 30 days (seven hours, most of them fuzzing)
#   ./test.sh speed    how fast it is, beside a plain Caddy, on both stores (20 minutes; nothing else should run)
#   ./test.sh uniform  whether the time of an answer tells who is a contact, on both stores (four hours)
set -euo pipefail
cd "$(dirname "$0")"
what=${1:-all}
case $what in all | quick | long | speed | uniform) ;; *) sed -n '2,10s/^# \?//p' "$0"; exit 2 ;; esac

say() { printf '\n== %s\n' "$*"; }

install() { # install COMMAND PACKAGE: from Debian's packages, if the command isn't there
	command -v "$1" >/dev/null && return
	say "installing $2"
	local root=
	[ "$(id -u)" = 0 ] || root=sudo
	command -v apt-get >/dev/null || { echo "this needs $1: please install $2" >&2; exit 1; }
	[ -n "${updated:-}" ] || $root apt-get update -qq
	updated=1
	DEBIAN_FRONTEND=noninteractive $root apt-get install -y -qq --no-install-recommends "$2" >/dev/null
}

gotest() { # go test, with what failed once more at the end, where a long log is read first
	local log
	log=$(mktemp)
	if go test "$@" 2>&1 | tee "$log"; then rm "$log"; return; fi
	failed "$log"
	return 1
}

failed() { # failed LOG
	say "what failed"
	grep -nE -A12 '^ *--- FAIL|^panic: |^fatal error: |^FAIL|^WARNING: DATA RACE' "$1" | grep -v '"level":"' | cut -c1-500 | tail -n 100
	rm "$1"
}

case $what in speed | uniform)
	install redis-server redis-server
	for store in bolt redis; do
		say "$what on $store"
		case $what in
		speed) gotest -tags measure ./caddymodule -run '^TestSpeed' -segments 24 -store $store -v -timeout 1h ;;
		uniform) gotest -tags measure ./caddymodule -run '^TestUniform' -samples 2000 -store $store -v -timeout 4h ;;
		esac
	done
	if [ "$what" = speed ]; then
		install smtp-sink postfix
		gotest -tags measure ./caddymodule/outbox -run '^TestSpeed' -v
	fi
	[ "$what" = uniform ] || gotest ./caddymodule/gate ./caddymodule/session -run '^$' -bench '^Benchmark(Gate|Lookup)$'
	exit
	;;
esac

say "formatting"
unformatted=$(git ls-files '*.go' | xargs gofmt -l)
[ -z "$unformatted" ] || { echo "not formatted; run gofmt -w on:"; echo "$unformatted"; exit 1; }

say "vet"
go vet ./...
go vet -tags browser,servers,measure ./caddymodule/ ./caddymodule/brand ./caddymodule/outbox ./caddymodule/store/redis

say "tests"
gotest ./...
[ "$what" = quick ] && exit

say "tests with a Redis server"
install redis-server redis-server
compgen -G '/usr/sbin/nginx' >/dev/null || install nginx nginx
gotest -tags servers ./caddymodule/store/redis
gotest -tags servers ./caddymodule/outbox -run '^TestKillOnRedis$'
measures='^Test(Speed|Uniform|MeasureRedis|LargeReports|SignInDuringAnAnnouncement)' # their short forms only show that they run
gotest -tags servers,measure ./caddymodule -store redis -skip "$measures"
for store in sentinel cluster; do # what differs there is in store/redis; all front-door tests run with -store, too
	gotest -tags servers,measure ./caddymodule -store $store -run '^Test(K08_|T03_|AnotherStoreIsNoticed|UpgradedLinksStayClosedWhenTheStoreIsLost|SignInLeads)'
done

say "signatures of mails, by another implementation"
install dkimverify python3-dkim
compgen -G '/usr/lib/python3/dist-packages/nacl' >/dev/null || install python3-nacl python3-nacl
gotest -tags servers ./caddymodule/brand -run '^TestSignatures'

say "tests for data races"
CGO_ENABLED=1 gotest -race ./caddymodule/store/... ./caddymodule/session ./caddymodule/token ./caddymodule/outbox ./caddymodule/directory

fuzz() { # fuzz TARGET PACKAGE. Go before 1.27 may end a run that found nothing with an error (go.dev/issue/75804)
	local log
	log=$(mktemp)
	if ! go test -run '^$' -fuzz "^$1\$" -fuzztime 10m -fuzzminimizetime 1s "$2" 2>&1 | tee "$log" &&
		! { grep -q '^    context deadline exceeded$' "$log" && ! grep -qE 'Failing input|^panic: |_test.go:' "$log"; }; then
		failed "$log"
		return 1
	fi
	rm "$log"
}

if [ "$what" = long ]; then
	say "the figures that docs/limits.md has, over 30 days of a test clock"
	gotest ./caddymodule/action -run '^TestFloodFigures$' -flood-days 30

	say "fuzzing"
	for package in $(go list ./caddymodule/...); do
		for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
			fuzz "$target" "$package"
		done
	done

	say "the figures on a Redis server, in short"
	gotest -tags servers,measure ./caddymodule -store redis -run "$measures"

	say "killing, at length"
	gotest ./caddymodule/store/bolt -kills 500 -timeout 60m
	gotest -tags servers ./caddymodule/outbox -kills 500 -timeout 60m
	gotest -tags servers ./caddymodule/store/redis -run 'Failover|OldMaster|OneShard' -long -count 20 -timeout 120m
	gotest ./caddymodule -run 'K09|K16|K17' -kills 500 -long -timeout 60m
	gotest -tags servers ./caddymodule -run K08_OneLink -rounds 1000 -timeout 60m
fi

say "tests with a browser"
install chromium chromium
install firefox-esr firefox-esr
install npm npm
install php php-cli
install curl curl
compgen -G '/usr/sbin/php-fpm*' >/dev/null || install php-fpm php-fpm
npm install --silent --no-save --no-package-lock --prefix .testing axe-core@4 >/dev/null
gotest -tags browser -run '^Test(Browser|PHP)' -count 1 ./caddymodule/

say "the binary, and the README's first command"
./xcaddy.sh .testing/caddy
.testing/caddy list-modules --skip-standard
.testing/caddy validate --config Caddyfile.example
./.ci/example .testing/caddy
