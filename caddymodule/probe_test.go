package caddymodule_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
)

// The documented block for probes by IP address answers them like the gate, and answers nothing
// else.
func TestTheDocumentedBlockForProbes(t *testing.T) {
	docs, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	const begin = "    http://:8081 {\n"
	at := strings.Index(string(docs), begin)
	end := strings.Index(string(docs[max(at, 0):]), "\n    }\n")
	if at < 0 || end < 0 {
		t.Fatal("docs/operations.md has no block for probes")
	}
	_, port, _ := net.SplitHostPort(freeAddress(t))
	block := strings.Replace(string(docs)[at:at+end]+"\n    }\n", ":8081", ":"+port, 1)
	h := openHouse(t, layout{more: block, url: "https://clients.example.com"})
	for path, want := range map[string]int{"/-/health": 204, "/": 404, "/-/sign-in": 404, "/orders/7": 404, "/-/health/": 404} {
		for _, host := range []string{"10.1.2.3", "10.1.2.3:" + port, "127.0.0.1:" + port, "clients.example.com"} {
			r, err := http.NewRequest("GET", fmt.Sprintf("http://127.0.0.1:%s%s", port, path), nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Host = host
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("GET %s with Host %s = %d; want %d", path, host, resp.StatusCode, want)
			}
		}
	}
	if _, n := h.portal.last(); n != 0 {
		t.Errorf("the portal saw %d requests; want none", n)
	}
}
