package config

import (
	"os"
	"strings"
	"testing"
)

// TestDocsNameEverySetting: docs/caddyfile.md has each setting by its name.
func TestDocsNameEverySetting(t *testing.T) {
	page, err := os.ReadFile("../../docs/caddyfile.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range Settings() {
		name := path[strings.LastIndex(path, ".")+1:]
		if !strings.Contains(string(page), "`"+name) {
			t.Errorf("docs/caddyfile.md doesn't name %s", strings.ReplaceAll(path, ".", " "))
		}
	}
}
