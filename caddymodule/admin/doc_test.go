package admin

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// docs/admin-api.md repeats the package's doc, line by line.
func TestDocsRepeatThePackageDoc(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/admin-api.md")
	if err != nil {
		t.Fatal(err)
	}
	there := strings.Split(string(page), "\n")
	_, doc1, found := strings.Cut(string(doc), "// # Requests\n")
	if !found {
		t.Fatal("the doc has no part on requests")
	}
	for line := range strings.SplitSeq(doc1, "\n") {
		line, found := strings.CutPrefix(line, "//")
		if !found {
			continue
		}
		line = strings.TrimPrefix(strings.Replace(line, "\t", "    ", 1), " ")
		if strings.HasPrefix(line, "   ") { // what the tab has become
			line = " " + line
		}
		if head, ok := strings.CutPrefix(line, "# "); ok {
			line = "**" + head + ".**"
		}
		if !slices.Contains(there, line) {
			t.Errorf("docs/admin-api.md doesn't say %q", line)
		}
	}
}
