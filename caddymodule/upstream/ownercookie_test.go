package upstream

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// A large cookie is sent as the portal has set it, with an owner cookie, and returns only for the
// same person, however the two are changed.
func TestLargeCookiesHaveAnOwnerCookie(t *testing.T) {
	b := newCookies(t, "named")
	ann, bob := Owner{Contact: "ann", Company: "acme"}, Owner{Contact: "bob", Company: "birch"}
	large := func(c string) string { return strings.Repeat(c, 4092) }
	set := func(line string, h Owner) (cookie, owner string) {
		cookie, owner = b.Seal(t.Context(), line, "portal.example", h)
		if cookie != line || owner == "" {
			t.Fatalf("out(%.20s…) = %.40s…, owner %.40q; want the cookie as it is, and an owner", line, cookie, owner)
		}
		return sent(cookie), sent(owner)
	}
	for _, attributes := range []string{"; HttpOnly", "; Path=/app; Max-Age=600; HttpOnly; Secure; SameSite=None; Partitioned", "; Expires=Thu, 01 Jan 2099 00:00:00 GMT; HttpOnly; SameSite=Strict", "; Domain=portal.example; HttpOnly; SameSite=Odd"} {
		_, owner := b.Seal(t.Context(), "sid="+large("a")+attributes, "portal.example", ann)
		c, err := http.ParseSetCookie(owner)
		like, _ := http.ParseSetCookie("sid=x" + attributes)
		if err != nil || c.Path != "/" || c.Domain != "" || !c.Secure || !c.HttpOnly || c.MaxAge != like.MaxAge || !c.Expires.Equal(like.Expires) || c.SameSite != max(0, like.SameSite) && like.SameSite != http.SameSiteDefaultMode ||
			c.Partitioned != like.Partitioned || !strings.HasPrefix(c.Name, "__Host-portal-owner-") || len(c.Name)+len(c.Value) > 400 || strings.Contains(owner, "ann") {
			t.Errorf("beside %s the owner is %s, %v; want the same life and reach", attributes, owner, err)
		}
	}
	annsCookie, annsOwner := set("sid="+large("a")+"; HttpOnly", ann)
	bobsCookie, bobsOwner := set("sid="+large("b")+"; HttpOnly", bob)
	set("named="+large("n"), ann)
	for _, line := range []string{annsCookie + "; " + annsOwner, annsOwner + "; theme=1; " + annsCookie} {
		if got := strings.Join(arrives(t, b, ann.Is, line), "|"); !strings.Contains(got, annsCookie) || strings.Contains(got, "owner") {
			t.Errorf("%.40s…: the portal gets %.60q…; want the cookie, and no owner", line, got)
		}
	}
	if got := arrives(t, b, ann.Is, annsOwner, annsCookie); !slices.Equal(got, []string{annsCookie}) {
		t.Errorf("in two lines: the portal gets %.60q…; want the cookie", got)
	}
	name := func(cookie string) string { n, _, _ := strings.Cut(cookie, "="); return n }
	seal := func(cookie string) string { _, s, _ := strings.Cut(cookie, "="); return s }
	for what, line := range map[string]string{
		"both":                          annsCookie + "; " + annsOwner,
		"no owner":                      annsCookie,
		"his owner":                     annsCookie + "; " + bobsOwner,
		"his owner under hers name":     annsCookie + "; " + name(annsOwner) + "=" + seal(bobsOwner),
		"hers cut":                      annsCookie[:2000] + "; " + annsOwner,
		"his, with her owner":           bobsCookie + "x; " + annsOwner + "; " + bobsOwner,
		"his seal in front":             "sid=" + sealPrefix + seal(bobsOwner) + "." + large("a"),
		"another spelling":              strings.Replace(annsCookie, "sid", "SID", 1) + "; " + bobsOwner,
		"an owner in another spelling":  annsCookie + "; " + strings.ToUpper(name(annsOwner)) + "=" + seal(annsOwner),
		"an owner with nothing in it":   annsCookie + "; " + name(annsOwner) + "=",
		"an owner that doesn't decode":  annsCookie + "; " + name(annsOwner) + "=!!",
		"several of them, none of them": annsCookie + "; " + bobsOwner + "; " + name(annsOwner) + "=x; " + bobsOwner,
	} {
		if got := strings.Join(arrives(t, b, bob.Is, line), "|"); strings.Contains(got, "aaaa") || strings.Contains(got, "owner") || strings.Contains(got, "bbbbx") {
			t.Errorf("%s: the portal gets %.60q…; want nothing of it", what, got)
		}
	}
	// A seal that fits stays in the cookie itself.
	if out, owner := b.Seal(t.Context(), "sid="+strings.Repeat("a", 3700)+"; HttpOnly", "portal.example", ann); owner != "" || len(out) > maxSealed || !strings.HasPrefix(out, "sid=~.") {
		t.Errorf("a cookie of 3,700 bytes leaves as %.20s…, owner %.20q; want it sealed in itself", out, owner)
	}
}

// A large cookie has an owner even after the limit of remembered names is reached.
func TestLargeCookieHasAnOwnerEvenIfItsNameIsNotLearned(t *testing.T) {
	b := newCookies(t)
	ann, bob := Owner{Contact: "ann"}, Owner{Contact: "bob"}
	for i := range maxLearned {
		b.Seal(t.Context(), fmt.Sprintf("n%d=x; HttpOnly", i), "portal.example", ann)
	}
	cookie, owner := b.Seal(t.Context(), "late="+strings.Repeat("a", 4000)+"; HttpOnly", "portal.example", ann)
	line := sent(cookie) + "; " + sent(owner)
	if got := arrives(t, b, ann.Is, line); len(got) != 1 || got[0] != sent(cookie) {
		t.Errorf("its owner's portal gets %.60q; want the cookie", got)
	}
	if got := arrives(t, b, bob.Is, line); len(got) != 0 {
		t.Errorf("with another person the portal gets %.60q; want nothing", got)
	}
}

// An owner cookie is removed together with its cookie, or at the next response after its cookie got
// another value.
func TestOwnerCookiesAreRemovedWithTheirCookies(t *testing.T) {
	b := newCookies(t)
	ann := Owner{Contact: "ann"}
	set := func(value string) (cookie, owner string) {
		cookie, owner = b.Seal(t.Context(), "sid="+strings.Repeat(value, 4000)+"; HttpOnly", "portal.example", ann)
		return sent(cookie), sent(owner)
	}
	name := func(cookie string) string { n, _, _ := strings.Cut(cookie, "="); return n }
	now, nowOwner := set("a")
	_, oldOwner := set("b")
	next := "sid=" + strings.Repeat("c", 4000) + "; HttpOnly"
	for what, c := range map[string]struct {
		sent []string
		set  []string
		gone []string
	}{
		"a new value":                   {[]string{now + "; " + nowOwner}, []string{next}, nil},
		"a new value, an old owner":     {[]string{now + "; " + nowOwner + "; " + oldOwner}, []string{next}, []string{oldOwner}},
		"the same value":                {[]string{now + "; " + nowOwner}, []string{now + "; HttpOnly"}, nil},
		"a small value":                 {[]string{"sid=~.x.1; " + nowOwner}, []string{"sid=2; HttpOnly"}, []string{nowOwner}},
		"taken away":                    {[]string{now, nowOwner}, []string{"sid=; Path=/"}, []string{nowOwner}},
		"taken away by Max-Age":         {[]string{now, nowOwner}, []string{"sid=x; Max-Age=0"}, []string{nowOwner}},
		"taken away by Expires":         {[]string{now, nowOwner}, []string{"sid=deleted; expires=Thu, 01-Jan-1970 00:00:01 GMT; Max-Age=0; path=/; httponly"}, []string{nowOwner}},
		"kept for a while":              {[]string{now, nowOwner}, []string{"sid=x; expires=Thu, 01-Jan-1970 00:00:01 GMT; Max-Age=60"}, nil},
		"one of two paths":              {[]string{now + "; sid=y; " + nowOwner}, []string{"sid=; Path=/app"}, nil},
		"another cookie":                {[]string{now + "; " + nowOwner}, []string{"other=; Path=/"}, nil},
		"none was sent":                 {[]string{now}, []string{"sid=; Path=/"}, nil},
		"twice":                         {[]string{now + "; " + nowOwner}, []string{"sid=; Path=/", "sid=; Path=/app"}, []string{nowOwner}},
		"an old owner beside a new one": {[]string{oldOwner, now, nowOwner}, []string{"sid=; Path=/"}, []string{oldOwner, nowOwner}},
	} {
		var want []string
		for _, owner := range c.gone {
			want = append(want, b.Gate.New(name(owner), "", -time.Second).String())
		}
		got := b.ObsoleteOwners(c.sent, c.set)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: gone are %.200q; want %.200q", what, got, want)
		}
	}
}

// Anybody can send thousands of cookies together with an owner cookie. They are checked in linear
// time; quadratic time would be minutes.
func TestManyCookiesWithAnOwnerAreCheckedInLinearTime(t *testing.T) {
	b := newCookies(t)
	line := "__Host-portal-owner-x=y; " + strings.Repeat("a=1; ", 300_000) + "b=2"
	h, done := http.Header{"Cookie": {line}}, make(chan error, 1)
	go func() { done <- b.Unseal(t.Context(), h, Owner{}.Is) }()
	select {
	case err := <-done:
		if _, want, _ := strings.Cut(line, "; "); err != nil || !slices.Equal(h["Cookie"], []string{want}) {
			t.Errorf("the portal gets %.60q…, %v; want all but the owner", h["Cookie"], err)
		}
	case <-time.After(time.Minute):
		t.Error("300,000 cookies took more than a minute")
	}
}
