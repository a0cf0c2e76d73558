#!/usr/bin/env bash
# go-mail: after a DATA command that the server refuses for now, the next message on the connection fails too.
#
# Version:   github.com/wneessen/go-mail v0.8.1
# Guess:     a message that is refused at DATA with 451 fails alone; the client sends RSET and goes on with the next one.
# Behavior:  DialAndSend sends no RSET after "451" to DATA. For servers that keep the transaction open then (Postfix does),
#            the next MAIL is out of order: "503 nested MAIL command", a permanent error. A message that nothing is wrong
#            with looks refused for good. RSET follows after that second failure.
# Observed:  see "want" at the end.
# Why it matters: a pool that keeps connections open must send RSET itself, or drop the connection, after an error at DATA.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat >go.mod <<'MOD'
module finding
go 1.24
require github.com/wneessen/go-mail v0.8.1
MOD
cat >main.go <<'GO'
package main

import (
	"bufio"
	"fmt"
	"net"
	"strings"

	"github.com/wneessen/go-mail"
)

// serve answers one connection. It refuses the first DATA with 451 and, like many servers, takes no second MAIL before RSET.
func serve(l net.Listener, seen chan<- string) {
	defer close(seen)
	c, err := l.Accept()
	if err != nil {
		return
	}
	defer c.Close()
	in := bufio.NewReader(c)
	say := func(lines ...string) { fmt.Fprint(c, strings.Join(lines, "\r\n")+"\r\n") }
	say("220 mx.test ESMTP")
	refused, open := false, false
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		verb, _, _ := strings.Cut(strings.ToUpper(strings.TrimSpace(line)), " ")
		seen <- verb
		switch {
		case verb == "EHLO":
			say("250-mx.test", "250 8BITMIME")
		case verb == "MAIL" && open:
			say("503 5.5.1 nested MAIL command")
		case verb == "MAIL":
			open = true
			say("250 2.1.0 ok")
		case verb == "RSET":
			open = false
			say("250 2.0.0 ok")
		case verb == "DATA" && !refused:
			refused = true
			say("451 4.3.0 try again later")
		case verb == "QUIT":
			say("221 2.0.0 bye")
			return
		default:
			say("250 2.0.0 ok")
		}
	}
}

func main() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	seen := make(chan string, 100)
	go serve(l, seen)
	c, err := mail.NewClient("127.0.0.1", mail.WithPort(l.Addr().(*net.TCPAddr).Port), mail.WithTLSPolicy(mail.NoTLS))
	if err != nil {
		panic(err)
	}
	var messages []*mail.Msg
	for i := range 2 {
		m := mail.NewMsg()
		if m.From("firm@example.com") != nil || m.To(fmt.Sprintf("client%d@example.com", i+1)) != nil {
			panic("addresses")
		}
		m.Subject("Hello")
		m.SetBodyString(mail.TypeTextPlain, "Hello")
		messages = append(messages, m)
	}
	_ = c.DialAndSend(messages...)
	for i, m := range messages {
		fmt.Printf("message %d: %v\n", i+1, m.SendError())
	}
	for verb := range seen {
		fmt.Println("client:", verb)
	}
}
GO
GOFLAGS=-mod=mod go run . >got 2>log || { cat log; exit 1; }
cat got
want='message 1: sending SMTP DATA command: 451 "4.3.0 try again later"
message 2: sending SMTP MAIL FROM command: 503 "5.5.1 nested MAIL command"
client: EHLO
client: NOOP
client: MAIL
client: RCPT
client: DATA
client: MAIL
client: RSET
client: QUIT'
[ "$(cat got)" = "$want" ] || { echo "this has changed; it was:"; echo "$want"; exit 1; }
echo "as recorded"
