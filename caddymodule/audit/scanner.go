package audit

import (
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// robots are words of programs that open links by themselves; browsers of people have
// none of them.
var robots = []string{
	"bot", "crawl", "spider", "scan", "preview", "headless", "python", "curl", "wget", "java/", "go-http", "okhttp", "libwww",
	"httpclient", "barracuda", "proofpoint", "mimecast", "safelinks", "bingpreview", "skypeuripreview", "facebookexternalhit", "whatsapp",
}

// Automatic reports whether a request for a link looks like that of a program, by
// itself: its method, its words, or a new browser's name without what new browsers
// send (fetch: there was a Sec-Fetch header). It is a guess for people to read, and
// nothing is allowed or refused by it.
func Automatic(method, userAgent string, fetch bool) bool {
	ua := strings.ToLower(userAgent)
	if method == http.MethodHead || ua == "" {
		return true
	}
	for _, word := range robots {
		if strings.Contains(ua, word) {
			return true
		}
	}
	// Chrome and Firefox have sent Sec-Fetch headers since 2019 and 2021; Safari only
	// since 2023, and many an old phone is still in use.
	return !fetch && (strings.Contains(ua, "chrome/") || strings.Contains(ua, "firefox/"))
}

// scannerTime is how soon after a mail was taken scanners open its links. Few people
// read a mail that fast, and those who do are where they asked.
const scannerTime = 10 * time.Second

// Scanner reports whether a link was opened by what looks like a mail scanner: a
// program, or somebody in another network than the one that asked, within seconds
// after the mail server took the mail. asked and sent are the events before; zero ones
// say nothing. It is a guess, as Automatic is.
func Scanner(opened, asked, sent Event) bool {
	if opened.Automatic {
		return true
	}
	soon := !sent.Time.IsZero() && !opened.Time.Before(sent.Time) && opened.Time.Sub(sent.Time) <= scannerTime
	return soon && asked.IP.IsValid() && opened.IP.IsValid() && network(asked.IP) != network(opened.IP)
}

// network is what one customer of a provider has: a /24, or a /56.
func network(ip netip.Addr) netip.Prefix {
	bits := 56
	if ip = ip.Unmap(); ip.Is4() {
		bits = 24
	}
	p, err := ip.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
