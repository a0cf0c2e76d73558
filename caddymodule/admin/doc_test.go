package admin

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// The README repeats the package's doc, line by line.
func TestReadmeSaysTheSame(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	there := strings.Split(string(readme), "\n")
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
			t.Errorf("the README doesn't say %q", line)
		}
	}
}
