package outbox

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
)

// oauthServer is a mail server that takes one access token of portal@example.com, and refuses others as
// Google and Microsoft do. It offers mechanisms.
func oauthServer(t *testing.T, mechanisms, token, refusal string) string {
	return script(t, func(c net.Conn, r *bufio.Reader) {
		fmt.Fprint(c, "220 hello\r\n")
		for {
			line, err := r.ReadString('\n')
			word := strings.Fields(line)
			switch {
			case err != nil || len(word) == 0:
				return
			case word[0] == "EHLO":
				fmt.Fprint(c, "250-hello\r\n250 AUTH "+mechanisms+"\r\n")
			case word[0] == "AUTH" && len(word) == 3 && word[1] == "XOAUTH2" &&
				word[2] == base64.StdEncoding.EncodeToString([]byte("user=portal@example.com\x01auth=Bearer "+token+"\x01\x01")):
				fmt.Fprint(c, "235 2.7.0 Accepted\r\n")
			case word[0] == "AUTH":
				fmt.Fprint(c, "334 "+base64.StdEncoding.EncodeToString([]byte(`{"status":"400","schemes":"Bearer"}`))+"\r\n")
				if line, err := r.ReadString('\n'); err != nil || line != "\r\n" {
					fmt.Fprint(c, "501 an empty line belongs here\r\n")
					return
				}
				fmt.Fprint(c, refusal+"\r\n")
			case word[0] == "DATA":
				fmt.Fprint(c, "354 go on\r\n")
				for line != ".\r\n" {
					if line, err = r.ReadString('\n'); err != nil {
						return
					}
				}
				fmt.Fprint(c, "250 taken\r\n")
			default:
				fmt.Fprint(c, "250 fine\r\n")
			}
		}
	})
}

// bearer returns the tokens one after the other, whenever the last one was refused.
func bearer(tokens ...string) AccessToken {
	return func(_ context.Context, refused string) (string, error) {
		for refused != "" && len(tokens) > 1 && refused == tokens[0] {
			tokens = tokens[1:]
		}
		return tokens[0], nil
	}
}

func TestAnAccessTokenLogsIn(t *testing.T) {
	const refusal = "535 5.7.8 Username and Password not accepted"
	addr := oauthServer(t, "PLAIN XOAUTH2", "good-token", refusal)
	s := SMTP{Address: addr, TLS: TLSOff, Username: "portal@example.com", AccessToken: bearer("good-token")}
	if err := s.Send(t.Context(), message("ann@example.org")); err != nil {
		t.Errorf("Send = %v; want it sent", err)
	}
	s.AccessToken = bearer("revoked-token", "good-token")
	if d := s.Talk(t.Context(), message("ann@example.org")); !d.Accepted || strings.Contains(told(d), "-token") || strings.Contains(told(d), "Bearer") {
		t.Errorf("after a token that was revoked:\n%s\nwant another one to be asked for, and none shown", told(d))
	}
}

func TestRefusedAccessTokensSayWhatToDo(t *testing.T) {
	for name, c := range map[string]struct{ offers, refusal, reason, advice string }{
		"switched off in the tenant": {"XOAUTH2", "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant. Visit https://aka.ms/smtp_auth_disabled for more information.",
			"SmtpClientAuthentication is disabled", "SMTP AUTH is switched off in Microsoft 365."},
		"another mailbox": {"XOAUTH2", "535 5.7.3 Authentication unsuccessful", "535 5.7.3", "`username` has to be the mailbox that `refresh_token` is for"},
		"no OAuth there":  {"PLAIN LOGIN", "", "offers no login by OAuth", ""},
	} {
		s := SMTP{Address: oauthServer(t, c.offers, "good-token", c.refusal), TLS: TLSOff, Username: "portal@example.com", AccessToken: bearer("other-token")}
		err := s.Send(t.Context(), message("ann@example.org"))
		if !errors.Is(err, ErrServer) || !strings.Contains(err.Error(), c.reason) || strings.Contains(err.Error(), "other-token") {
			t.Errorf("%s: Send = %v; want ErrServer with %q", name, err, c.reason)
			continue
		}
		if advice := Advice(Reason(err)); !strings.HasPrefix(advice, c.advice) && !strings.Contains(advice, c.advice) {
			t.Errorf("%s: Advice(%q) = %q; want %q", name, Reason(err), advice, c.advice)
		}
	}
	s := SMTP{Address: oauthServer(t, "XOAUTH2", "x", ""), TLS: TLSOff, Username: "portal@example.com",
		AccessToken: func(context.Context, string) (string, error) {
			return "", errors.New("OAuth: invalid_grant: consent was withdrawn")
		}}
	if err := s.Send(t.Context(), message("ann@example.org")); !errors.Is(err, ErrServer) || Reason(err) != "connecting: OAuth: invalid_grant: consent was withdrawn" {
		t.Errorf("without a token: Send = %v; want ErrServer with why", err)
	}
}
