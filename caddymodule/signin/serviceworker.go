package signin

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// A portal's service worker may answer page loads itself, as in progressive web apps. After the
// session has ended, visitors would then see neither the prompt nor the page of a mailed link.
// Browsers check for a new version of the worker by themselves at every page load; a visitor who
// isn't signed in then gets a worker that answers nothing, so that page loads reach the gate again.
// After the sign-in the portal's page registers its own worker as usual.

// workerScript is that worker. It becomes active at once and reloads tabs that show one of the
// gate's pages, or the earlier worker's response in place of one. The reload waits for the worker
// to be active, so the worker must not wait for the reload.
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

// isWorkerUpdate reports whether a browser checks for a new version of a service worker. Scripts
// can't set this header (Fetch, forbidden request-header; Service Workers, "Update").
func isWorkerUpdate(r *http.Request) bool {
	dest := r.Header.Get("Sec-Fetch-Dest")
	return r.Method == http.MethodGet && r.Header.Get("Service-Worker") == "script" && (dest == "" || dest == "serviceworker")
}

// serveWorker answers with workerScript.
func (h *Handlers) serveWorker(w http.ResponseWriter) {
	script := strings.ReplaceAll(workerScript, "PREFIX", strconv.Quote(h.Answers.Prefix))
	header := w.Header()
	header.Set("Content-Type", "text/javascript; charset=utf-8")
	web.SetNeverCached(header)
	header.Set("Content-Security-Policy", "default-src 'none'")
	header.Set("Service-Worker-Allowed", "/") // the widest scope that the portal's own worker may have
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Length", strconv.Itoa(len(script)))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write([]byte(script)) // the browser may have disconnected
}
