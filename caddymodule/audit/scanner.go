package audit

import (
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// robots are substrings in the User-Agent of programs that open links by themselves.
// Browsers don't contain them.
var robots = []string{
	"bot", "crawl", "spider", "scan", "preview", "headless", "python", "curl", "wget", "java/", "go-http", "okhttp", "libwww",
	"httpclient", "barracuda", "proofpoint", "mimecast", "safelinks", "bingpreview", "skypeuripreview", "facebookexternalhit", "whatsapp",
}

// Automatic reports whether a request for a link looks automatic, by its method, its
// User-Agent, or a modern browser's User-Agent without Sec-Fetch headers (fetch: the
// request had one). It is a guess for people to read; nothing is allowed or refused
// because of it.
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
	// Chrome has sent Sec-Fetch headers since 2019, Firefox since 2021, but Safari only
	// since 2023, and many old phones are still in use.
	return !fetch && (strings.Contains(ua, "chrome/") || strings.Contains(ua, "firefox/"))
}

// scannerTime is how soon after delivery mail scanners open links. Few people read a mail
// that fast, and those who do are on the network of their request.
const scannerTime = 10 * time.Second

// Scanner reports whether a link was probably opened by a mail scanner: by a program, or
// from another network than the request within seconds after the mail server accepted the
// mail. asked and sent are the events before; zero values if unknown. It is a guess, like
// Automatic.
func Scanner(opened, asked, sent Event) bool {
	if opened.Automatic {
		return true
	}
	soon := !sent.Time.IsZero() && !opened.Time.Before(sent.Time) && opened.Time.Sub(sent.Time) <= scannerTime
	return soon && asked.IP.IsValid() && opened.IP.IsValid() && network(asked.IP) != network(opened.IP)
}

// network returns the usual network of one customer of a provider: a /24, or a /56.
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
