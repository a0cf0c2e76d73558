package loopback

import "testing"

func TestIs(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "LocalHost": true, "localhost.": true, "portal.localhost": true, "a.b.localhost.": true,
		"127.0.0.1": true, "127.9.9.9": true, "::1": true, "[::1]": true, "::ffff:127.0.0.1": true,
		"": false, ".": false, "example.com": false, "localhost.example.com": false, "notlocalhost": false,
		"10.0.0.1": false, "0.0.0.0": false, "::": false, "127.0.0.1.example.com": false, "2130706433": false,
	} {
		if got := Is(host); got != want {
			t.Errorf("Is(%q) = %t; want %t", host, got, want)
		}
	}
}
