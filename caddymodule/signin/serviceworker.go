package signin

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// A service worker of the portal may answer page loads itself, as progressive web apps do. Then
// nothing of ours is seen any more once the session is over: neither the prompt nor the link of
// an email. So where a browser looks for a new version of the worker, which it does by itself
// at every page load, a visitor who isn't signed in gets one that answers nothing, and page
// loads reach the gate again. After the sign-in the portal's page registers its own as always.

// workerScript is that version. It takes over at once, and loads tabs once more that show one
// of our pages, or the earlier worker's answer in place of it. That load waits for the worker
// to be active, so the worker must not wait for the load.
const workerScript = `'use strict';
addEventListener('install', function () { skipWaiting(); });
addEventListener('activate', function (e) {
  var claimed = clients.claim();
  e.waitUntil(claimed);
  claimed.then(function () { return clients.matchAll({type: 'window'}); }).then(function (tabs) {
    tabs.forEach(function (tab) {
      if (new URL(tab.url).pathname.indexOf(PREFIX + '/') === 0) tab.navigate(tab.url).catch(function () {});
    });
  });
});
`

// looksForWorker reports whether a browser looks for a new version of a service worker. No
// script can set this header (Fetch, forbidden request-header; Service Workers, "Update").
func looksForWorker(r *http.Request) bool {
	dest := r.Header.Get("Sec-Fetch-Dest")
	return r.Method == http.MethodGet && r.Header.Get("Service-Worker") == "script" && (dest == "" || dest == "serviceworker")
}

// giveWorker answers it.
func (h *Handlers) giveWorker(w http.ResponseWriter) {
	script := strings.ReplaceAll(workerScript, "PREFIX", strconv.Quote(h.Answers.Prefix))
	header := w.Header()
	header.Set("Content-Type", "text/javascript; charset=utf-8")
	web.SetNeverCached(header)
	header.Set("Content-Security-Policy", "default-src 'none'")
	header.Set("Service-Worker-Allowed", "/") // as wide as the portal's own may be
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Length", strconv.Itoa(len(script)))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write([]byte(script)) // the browser may be gone
}
