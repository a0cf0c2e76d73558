package web

import (
	"net/http"
	"strings"

	"github.com/mileusna/useragent"
)

// AgentOf names the browser that made the request, such as "Safari on iPhone". It returns only
// fixed words, so that no visitor's text gets into a mail or a list.
func AgentOf(r *http.Request) string {
	ua := r.UserAgent()
	if len(ua) > 512 {
		ua = ua[:512]
	}
	parsed := useragent.Parse(ua)
	name, system := browsers[parsed.Name], systems[parsed.OS]
	switch {
	case strings.Contains(ua, "iPad"):
		system = "iPad"
	case strings.Contains(ua, "iPhone"):
		system = "iPhone"
	}
	switch {
	case name == "" && system == "":
		return "a browser"
	case name == "":
		return "a browser on " + system
	case system == "":
		return name
	}
	return name + " on " + system
}

var browsers = map[string]string{
	useragent.Chrome: "Chrome", useragent.HeadlessChrome: "Chrome", useragent.Safari: "Safari", useragent.Firefox: "Firefox",
	useragent.Edge: "Edge", useragent.Opera: "Opera", useragent.OperaMini: "Opera", useragent.InternetExplorer: "Internet Explorer",
	useragent.Vivaldi: "Vivaldi", "Samsung Browser": "Samsung Internet",
}

var systems = map[string]string{
	useragent.Windows: "Windows", useragent.MacOS: "a Mac", useragent.Linux: "Linux", useragent.Android: "Android",
	useragent.IOS: "iPhone", useragent.ChromeOS: "a Chromebook",
}
