package upstream

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

func newCookies(t testing.TB, names ...string) *PortalCookies {
	t.Helper()
	db, err := bolt.Open(filepath.Join(t.TempDir(), "doorpost.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return cookiesOn(t, db, names...)
}

func cookiesOn(t testing.TB, s store.Store, names ...string) *PortalCookies {
	t.Helper()
	keys, err := secret.New([]byte("the secret of these tests, 32 long"))
	if err != nil {
		t.Fatal(err)
	}
	var cookies []CookieRule
	for _, name := range names {
		cookies = append(cookies, CookieRule{Name: name})
	}
	return &PortalCookies{Firm: "example", Store: s, Keys: keys, Gate: web.CookiesFor(&url.URL{Scheme: "https", Host: "portal.example"}), Configured: BindingsOf(cookies), Log: slog.New(slog.DiscardHandler)}
}

// first returns the first result of Seal: the cookie without the owner cookie.
func first(cookie, _ string) string { return cookie }

// sent returns the cookie that a browser sends after it received the Set-Cookie line.
func sent(line string) string {
	pair, _, _ := strings.Cut(line, ";")
	return pair
}

// arrives returns the Cookie lines for the portal when a browser sends the given ones.
func arrives(t *testing.T, b *PortalCookies, allowed func(Owner) (bool, error), lines ...string) []string {
	t.Helper()
	h := http.Header{"Cookie": lines}
	if err := b.Unseal(t.Context(), h, allowed); err != nil {
		t.Fatal(err)
	}
	return h["Cookie"]
}

func TestSealedCookies(t *testing.T) {
	b := newCookies(t, "legacy_sid")
	dana := Owner{Contact: "dana", Company: "acme"}
	for _, c := range []struct {
		line, value   string
		PortalCookies bool
	}{
		{"PHPSESSID=abc; path=/; HttpOnly", "PHPSESSID=abc", true},
		{"PHPSESSID=abc; path=/; httponly=yes; SameSite=Lax", "PHPSESSID=abc", true},
		{`sid="a b.c~"; HttpOnly`, `sid="a b.c~"`, true},
		{"sid=a=b=c; HttpOnly", "sid=a=b=c", true},
		{"legacy_sid=xyz; path=/", "legacy_sid=xyz", true}, // sealed because it is configured
		{"theme=dark; path=/", "theme=dark", false},        // for scripts
		{"theme=dark; path=/HttpOnly", "theme=dark", false},
		{"gone=; Max-Age=0; HttpOnly", "gone=", false}, // deleted
		{"nothing; HttpOnly", "nothing", false},
	} {
		out, _ := b.Seal(t.Context(), c.line, "portal.example", dana)
		_, attributes, _ := strings.Cut(c.line, ";")
		if _, got, _ := strings.Cut(out, ";"); got != attributes {
			t.Errorf("%s: the attributes became %q", c.line, got)
		}
		if bound := out != c.line; bound != c.PortalCookies {
			t.Errorf("out(%q) = %q; want it bound: %v", c.line, out, c.PortalCookies)
		}
		if strings.Contains(out, "dana") || strings.Contains(out, "acme") {
			t.Errorf("out(%q) = %q, which names somebody", c.line, out)
		}
		if got := arrives(t, b, dana.Is, sent(out)); !slices.Equal(got, []string{c.value}) {
			t.Errorf("%s: the portal gets %q; want %q", c.line, got, c.value)
		}
		want := []string{c.value}
		if c.PortalCookies {
			want = nil
		}
		if got := arrives(t, b, Owner{Contact: "bob", Company: "acme"}.Is, sent(out)); !slices.Equal(got, want) {
			t.Errorf("%s: for another person the portal gets %q; want %q", c.line, got, want)
		}
	}
}

// However a sealed cookie is changed, it isn't valid for another owner.
func TestSealedCookiesAreValidOnlyForTheirOwner(t *testing.T) {
	b := newCookies(t)
	set := func(line string, h Owner) string { return sent(first(b.Seal(t.Context(), line, "portal.example", h))) }
	set("portal_sid=x; HttpOnly", Owner{Contact: "dana"})
	danas := set("PHPSESSID=danas; HttpOnly", Owner{Contact: "dana", Company: "acme"})
	bobs := set("PHPSESSID=bobs; HttpOnly", Owner{Contact: "bob", Company: "birch"})
	seal := func(cookie string) string { return cookie[:strings.LastIndex(cookie, ".")+1] }
	other := cookiesOn(t, b.Store)
	other.Firm = "other"
	for name, cookie := range map[string]string{
		"hers":                       danas,
		"hers under his seal":        seal(bobs) + "danas",
		"hers without a seal":        "PHPSESSID=danas",
		"hers under another name":    strings.Replace(danas, "PHPSESSID", "phpsessid", 1),
		"a name that reads alike":    "phpsessid=danas",
		"an escaped name":            "PHPSESS%49D=danas",
		"a name for PHP":             "portal.sid=danas; portal[sid=danas; portal sid=danas; portal%5fsid=danas; portal_sid%00x=danas",
		"a mark and nothing":         "PHPSESSID=~.",
		"a mark and no seal":         "PHPSESSID=~..danas",
		"a seal that is cut":         seal(danas)[:40] + ".danas",
		"another firm's":             sent(first(other.Seal(t.Context(), "PHPSESSID=danas; HttpOnly", "portal.example", Owner{Contact: "bob", Company: "birch"}))),
		"one that doesn't decode":    "PHPSESSID=~.!!!.danas",
		"with spaces around":         " PHPSESSID = danas",
		"behind one that is his":     bobs + "; PHPSESSID=danas",
		"in front of one that's his": "PHPSESSID=danas; " + bobs,
		"behind a comma":             "a=1,PHPSESSID=danas; b=2, portal.sid=danas; ,PHPSESSID=danas",
		"behind a space":             "a=1 PHPSESSID=danas; b=2\tPHPSESSID=danas",
		"in a value with quotes":     `a="1,PHPSESSID=danas"; b="1 PHPSESSID=danas"`,
		"behind a separator":         `a=1,{PHPSESSID=danas; b=2 "(PHPSESSID"=danas`,
		"with white space of others": "\u00a0PHPSESSID=danas; PHPSESSID\u00a0=danas; \ufeffPHPSESSID=danas; \tPHPSESSID=danas; PHPSESSID\t=danas",
		"in bytes of Latin-1":        "\xa0PHPSESSID=danas; PHPSESSID\x85=danas",
		"in quotes":                  `"PHPSESSID"=danas; 'PHPSESSID"=danas; \PHPSESSID=danas`,
		"with a separator":           "@PHPSESSID=danas; PHPSESSID@=danas; a:PHPSESSID=danas; (PHPSESSID)=danas; PHPSESSID{}=danas",
		"as an array":                "PHPSESSID[]=danas; PHPSESSID[a]=danas; a[PHPSESSID]=danas; PHPSESSID]=danas; [PHPSESSID=danas; a[b][PHPSESSID]=danas",
		"escaped, with more":         "%20PHPSESSID=danas; PHPSESSID%20=danas; %22PHPSESSID%22=danas; a%3B%20PHPSESSID=danas; PHPSESS%2549D=danas; PHPSESS%49D%zz=danas; %PHPSESS%49D=danas",
		"without a name":             "=PHPSESSID=danas; =danas",
	} {
		for _, line := range arrives(t, b, Owner{Contact: "bob", Company: "birch"}.Is, cookie) {
			if strings.Contains(line, "danas") {
				t.Errorf("%s: the portal gets %q", name, line)
			}
		}
	}
	for _, line := range []string{"a=1,2; b=1 2", "a=PHPSESSID, b", "a=1,x=PHPSESSID=2", "a=b=PHPSESSID=1", "prefs[theme]=dark; prefs[a][]=1", "AMCV_1%40AdobeOrg=1; my%20cookie=2; 100%=3",
		"a.b=1; $Version=1; !#$&'*+-.^_`|~=2; c", `a="x y"; b={"c":1}; d=%7B%22e%22%3A1%7D; f=ü`, "a=1;b=2;  c=3; ; d=4"} {
		if got := arrives(t, b, Owner{}.Is, line); !slices.Equal(got, []string{line}) {
			t.Errorf("%s: the portal gets %q; want it as it is", line, got)
		}
	}
	// Unless scripts use a cookie of that name, the portal doesn't know another name.
	if got := arrives(t, b, Owner{}.Is, "a=1; "+danas+"; b=2", "c=3"); !slices.Equal(got, []string{"a=1; b=2", "c=3"}) {
		t.Errorf("the portal gets %q; want the others as they were", got)
	}
}

// Learned names survive a restart, so that a seal can't be cut off after one.
func TestSealedNamesAreRemembered(t *testing.T) {
	b := newCookies(t)
	everybody := func(Owner) (bool, error) { return true, nil }
	if got := arrives(t, b, everybody, "PHPSESSID=early"); len(got) != 1 {
		t.Errorf("before the portal has set it, the portal gets %q; want it as it was sent", got)
	}
	b.Seal(t.Context(), "PHPSESSID=x; HttpOnly", "portal.example", Owner{Contact: "ann"})
	again := cookiesOn(t, b.Store)
	if got := arrives(t, again, everybody, "PHPSESSID=early; theme=dark"); !slices.Equal(got, []string{"theme=dark"}) {
		t.Errorf("after a restart the portal gets %q; want no cookie without its seal", got)
	}
	var log bytes.Buffer
	b.Log = slog.New(slog.NewTextHandler(&log, nil))
	for i := range 3 * maxLearned {
		b.Seal(t.Context(), strings.Repeat("n", i+1)+"=x; HttpOnly", "portal.example", Owner{Contact: "ann"})
	}
	if len(*b.learned.Load()) > maxLearned {
		t.Errorf("%d names are remembered; want %d at most", len(*b.learned.Load()), maxLearned)
	}
	if n := strings.Count(log.String(), "portal_session NAME"); n != 1 {
		t.Errorf("the log says %d times that there are too many; want once: %s", n, log.String())
	}
}

// If scripts may read a session cookie, it isn't sealed, and the log tells the operator what to
// write.
func TestWarningAboutASessionThatIsNotSealed(t *testing.T) {
	var log bytes.Buffer
	b := newCookies(t)
	b.Log = slog.New(slog.NewTextHandler(&log, nil))
	for _, line := range []string{"theme=dark", "ASP.NET_SessionId=x; HttpOnly", "PHPSESSID=x; path=/", "PHPSESSID=y; path=/"} {
		b.Seal(t.Context(), line, "portal.example", Owner{Contact: "ann"})
	}
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "portal_session PHPSESSID") || strings.Contains(got, "=x;") {
		t.Errorf("the log says\n%s\nwant one line on PHPSESSID", got)
	}
}
