package gate

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

// nodes returns the elements of a page in order.
func nodes(t testing.TB, page string) []*html.Node {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(slices.Collect(root.Descendants()), func(n *html.Node) bool { return n.Type != html.ElementNode })
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

// words returns the text of a page that a person reads or hears.
func words(t testing.TB, page string) string {
	var b strings.Builder
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	for n := range root.Descendants() {
		if n.Type == html.TextNode && n.Parent.Data != "style" && n.Parent.Data != "script" {
			b.WriteString(n.Data)
		}
		b.WriteString(attr(n, "alt") + " " + attr(n, "title") + " " + attr(n, "placeholder") + " ")
	}
	return strings.Join(strings.Fields(b.String()), " ")
}
