#!/usr/bin/env bash
# go-redis: user and password of a failover URL are the sentinels'; those of the Redis servers are parameters.
#
# Version:   github.com/redis/go-redis/v9 v9.23.0
# Guess:     In redis://user:password@sentinel:26379?master_name=portal the credentials are those of the Redis servers, as in
#            every other redis:// URL and in ParseURL of the same package; sentinels seldom have any.
# Behavior:  ParseFailoverURL puts them into SentinelUsername and SentinelPassword alone. Username and Password of the Redis
#            servers come from the parameters username and password. Who writes the URL as elsewhere gets NOAUTH from the
#            master, and sends the password of the data to every sentinel.
# Observed:  see "want" at the end.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
printf 'module finding\ngo 1.24\nrequire github.com/redis/go-redis/v9 v9.23.0\n' >go.mod
cat >main.go <<'GO'
package main

import (
	"fmt"

	"github.com/redis/go-redis/v9"
)

func main() {
	one, err := redis.ParseURL("redis://portal:of-the-data@127.0.0.1:6379/0")
	if err != nil {
		panic(err)
	}
	fmt.Printf("one server: to Redis %q %q\n", one.Username, one.Password)
	all, err := redis.ParseFailoverURL("redis://portal:of-the-data@127.0.0.1:26379/0?master_name=portal")
	if err != nil {
		panic(err)
	}
	fmt.Printf("failover: to Redis %q %q, to sentinels %q %q\n", all.Username, all.Password, all.SentinelUsername, all.SentinelPassword)
	all, err = redis.ParseFailoverURL("redis://127.0.0.1:26379/0?master_name=portal&username=portal&password=of-the-data")
	fmt.Printf("by parameters: to Redis %q %q, to sentinels %q %q, error %v\n", all.Username, all.Password, all.SentinelUsername, all.SentinelPassword, err)
}
GO
go mod tidy >/dev/null 2>&1
go run . >got
cat got
want='one server: to Redis "portal" "of-the-data"
failover: to Redis "" "", to sentinels "portal" "of-the-data"
by parameters: to Redis "portal" "of-the-data", to sentinels "" "", error <nil>'
[ "$(cat got)" = "$want" ] || { echo "this has changed; it was:"; echo "$want"; exit 1; }
echo "as recorded"
