package web

import "testing"

// What a spreadsheet would take for a formula begins with an apostrophe.
func TestCell(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"": "", "Ann Lee": "Ann Lee", "a=b": "a=b", "=1+1": "'=1+1", "+1": "'+1", "-1": "'-1", "@x": "'@x", " =1": "' =1", "\t=1": "' =1", "\r\n=1": "'  =1", "＝1": "'＝1", "a\nb": "a b", "ü": "ü",
	} {
		if got := Cell(in); got != want {
			t.Errorf("Cell(%q) = %q; want %q", in, got, want)
		}
	}
}
