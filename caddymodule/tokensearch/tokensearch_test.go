package tokensearch

import (
	"bytes"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

const (
	harbor = "hb7Qm2xVt9Kp4Rz"
	oak    = "os3Lw8nYc5Td1Gf"
	signs  = "q+/8 Zr==w2"
	short  = "1042"
	words  = "harborbakery"
)

func indexed() *Index {
	x := new(Index)
	x.Replace(map[string][]Token{"harbor-bakery": {{Text: harbor, Bits: 80}, {Text: words, Bits: 11, Common: true}}, "oak-street-dental": {{Text: oak, Bits: 80}, {Text: short, Bits: 13, Common: true}}, "signs": {{Text: signs, Bits: 60}}}, nil)
	return x
}

func found(hits []Hit, text string) (all []string) {
	for _, h := range hits {
		all = append(all, fmt.Sprintf("%s:%s", strings.Join(h.Companies, "+"), text[h.Start:h.End]))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func TestFind(t *testing.T) {
	nested := harbor
	for range maxLayers {
		nested = escaped(nested)
	}
	for _, c := range []struct{ text, want string }{
		{"", ""},
		{"/orders/7?page=2&sort=name", ""},
		{harbor, "harbor-bakery:" + harbor},
		{"/open.php?x=1&y=" + harbor + "#z", "harbor-bakery:" + harbor},
		{"x" + harbor + oak + "y", "harbor-bakery:" + harbor + " oak-street-dental:" + oak},
		{strings.ToUpper(harbor), "harbor-bakery:" + strings.ToUpper(harbor)},
		{harbor[:14], ""},
		{harbor[1:], ""},
		{"hb7%51m2xVt9Kp4Rz", "harbor-bakery:hb7%51m2xVt9Kp4Rz"},
		{"a%20" + escaped(harbor) + "%20b", "harbor-bakery:" + escaped(harbor)},
		{nested, "harbor-bakery:" + nested},
		{`{"k":"\u0068b7Qm2xVt9Kp4Rz"}`, `harbor-bakery:\u0068b7Qm2xVt9Kp4Rz`},
		{`%5Cu0068b7Qm2xVt9Kp4Rz`, `harbor-bakery:%5Cu0068b7Qm2xVt9Kp4Rz`},
		{`\x68b7\u{51}m2xVt9\Kp4Rz`, `harbor-bakery:\x68b7\u{51}m2xVt9\Kp4Rz`},
		{"<k>&#104;b7&#x51;m2xVt9Kp4Rz</k>", "harbor-bakery:&#104;b7&#x51;m2xVt9Kp4Rz"},
		{"%u0068b7Qm2xVt9Kp4Rz", "harbor-bakery:%u0068b7Qm2xVt9Kp4Rz"},
		{"hb7%Qm2xVt9Kp4Rz", "harbor-bakery:hb7%Qm2xVt9Kp4Rz"},
		{"ｈｂ7Qm2xVt9Kp4Rz", "harbor-bakery:ｈｂ7Qm2xVt9Kp4Rz"},
		{"ȟb7Qm2xVt9Kp4Rz", "harbor-bakery:ȟb7Qm2xVt9Kp4Rz"},
		{"h\xe07", ""},
		{"hb٧Qm2xVt9Kp4Rz", "harbor-bakery:hb٧Qm2xVt9Kp4Rz"},
		{"h\x00b\x007\x00Q\x00m\x002\x00x\x00V\x00t\x009\x00K\x00p\x004\x00R\x00z\x00", "harbor-bakery:h\x00b\x007\x00Q\x00m\x002\x00x\x00V\x00t\x009\x00K\x00p\x004\x00R\x00z\x00"},
		{"hb7Q\nm2xVt9Kp4Rz", ""},
		{"a=" + url.QueryEscape(signs), "signs:" + url.QueryEscape(signs)},
		{"a=" + signs, "signs:" + signs},
		{strings.ReplaceAll(signs, " ", "+"), "signs:" + strings.ReplaceAll(signs, " ", "+")},
		{"/orders/1042?q=harborbakery", ""}, // too little entropy
		{"%", ""}, {`\`, ""}, {"&#", ""}, {"&#x", ""}, {"&#x;", ""}, {`\u{`, ""}, {`\u{110000}`, ""}, {"%u", ""}, {"\xc3", ""},
	} {
		if got := strings.Join(found(indexed().Find(c.text), c.text), " "); got != c.want {
			t.Errorf("Find(%q) = %s; want %s", c.text, got, c.want)
		}
	}
}

func escaped(s string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, "%%%02x", s[i])
	}
	if b.Len() > 2000 { // escaping every character would become too long
		return strings.ReplaceAll(s, "%", "%25")
	}
	return b.String()
}

func TestOf(t *testing.T) {
	x := indexed()
	x.Set("elm", []Token{{Text: "1042", Bits: 13, Common: true}, {Text: strings.ToLower(harbor), Bits: 80}})
	for _, c := range []struct{ text, want string }{
		{"", ""}, {"1042", "oak-street-dental elm"}, {"HARBORBAKERY", "harbor-bakery"}, {harbor, "harbor-bakery elm"}, {harbor + "x", ""}, {"10", ""},
	} {
		if got := strings.Join(x.Companies(c.text), " "); got != c.want {
			t.Errorf("Of(%q) = %s; want %s", c.text, got, c.want)
		}
	}
}

// A token is found while at least one company has it.
func TestSetReplacesACompanysTokens(t *testing.T) {
	var x Index
	is := func(want string) {
		t.Helper()
		if got := strings.Join(found(x.Find(harbor+" "+oak), harbor+" "+oak), " "); got != want {
			t.Errorf("Find = %s; want %s", got, want)
		}
	}
	is("")
	x.Set("harbor-bakery", []Token{{Text: harbor, Bits: 80}})
	is("harbor-bakery:" + harbor)
	x.Set("elm", []Token{{Text: harbor, Bits: 80}})
	is("harbor-bakery+elm:" + harbor)
	x.Set("harbor-bakery", []Token{{Text: oak, Bits: 80}})
	is("elm:" + harbor + " harbor-bakery:" + oak)
	x.Set("elm", nil)
	is("harbor-bakery:" + oak)
	x.Replace(map[string][]Token{"elm": {{Text: harbor, Bits: 80}}}, nil)
	is("elm:" + harbor)
	x.Set("elm", nil)
	is("")
	for i := range 3 * maxRecent {
		x.Set(fmt.Sprintf("company-%d", i), []Token{{Text: fmt.Sprintf("%08dxYzQ", i), Bits: 50}})
	}
	text := fmt.Sprintf("%08dxYzQ, %08dxyzq, %08dxYzQ", 7, 3*maxRecent-1, 3*maxRecent)
	if got := strings.Join(found(x.Find(text), text), " "); got != "company-2999:00002999xyzq company-7:00000007xYzQ" {
		t.Errorf("among %d companies Find = %s", 3*maxRecent, got)
	}
}

func TestBody(t *testing.T) {
	x := indexed()
	hides := func(h Hit) bool { return !slices.Contains(h.Companies, "oak-street-dental") }
	long := strings.Repeat("An ordinary text, 100% of it, goes on and on.\n", 2000)
	for _, c := range []struct{ in, want string }{
		{"", ""}, {"a=1&b=2", "a=1&b=2"},
		{`{"client":"` + harbor + `","mine":"` + oak + `"}`, `{"client":"*","mine":"` + oak + `"}`},
		{long + harbor + long, long + "*" + long},
		{long + `hb7\u0051m2xVt9Kp4Rz` + long, long + "*" + long},
		{long + escaped(harbor), long + "*"},
		{"hb7Qm2xVt9Kp4R", "hb7Qm2xVt9Kp4R"},
		{"hb7Qm2xVt9Kp4R and more", "hb7Qm2xVt9Kp4R and more"},
		{harbor + harbor, "**"},
		{"\xff\xfe" + long + "h\x00b\x007\x00Q\x00m\x002\x00x\x00V\x00t\x009\x00K\x00p\x004\x00R\x00z\x00", "\xff\xfe" + long + "*"},
	} {
		for name, read := range map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "by the byte": iotest.OneByteReader, "by halves": iotest.HalfReader, "with its end": iotest.DataErrReader} {
			in := c.in
			if name == "by the byte" {
				in = strings.ReplaceAll(in, long, "100% ")
			}
			got, err := io.ReadAll(x.Body(io.NopCloser(read(strings.NewReader(in))), hides))
			want := strings.ReplaceAll(c.want, long, strings.Repeat(long, 1))
			if name == "by the byte" {
				want = strings.ReplaceAll(want, long, "100% ")
			}
			if !isMasked(string(got), want) || err != nil || len(got) != len(in) {
				t.Errorf("%s: %.80q is read as %q, %v; want %.80q", name, in, tail(got), err, want)
			}
		}
	}
}

func tail(b []byte) []byte { return b[max(0, len(b)-80):] }

// isMasked reports whether got equals want, in which * stands for a hidden character.
func isMasked(got, want string) bool {
	for i, part := range strings.Split(want, "*") {
		at := strings.Index(got, part)
		if at < 0 || i == 0 && at > 0 {
			return false
		}
		got = got[at+len(part):]
	}
	return !strings.Contains(strings.ToLower(got), strings.ToLower(harbor))
}

// Text that can't become a token isn't held back, so that streams in both directions work.
func TestBodyHoldsBackOnlyTokens(t *testing.T) {
	in, w := io.Pipe()
	body := indexed().Body(in, func(Hit) bool { return true })
	for _, message := range []string{"hello", "100%", "a\\", "é", "hb7", "\x00\x00\x00\x00\x02\x08\x68"} {
		go io.WriteString(w, message)
		got := make([]byte, len(message))
		if _, err := io.ReadFull(body, got); err != nil || string(got) != message {
			t.Errorf("%q is read as %q, %v before more is sent", message, got, err)
		}
	}
	w.Close()
	if rest, err := io.ReadAll(body); len(rest) > 0 || err != nil {
		t.Errorf("at its end there is %q, %v", rest, err)
	}
}

// The filtered body contains no token, however the token is written and split.
func FuzzBody(f *testing.F) {
	f.Add("x=", uint64(0), uint16(3), "&y=2")
	f.Add("{\"a\":\"", uint64(0x5a5a5a5a5a5a), uint16(1), "\"}")
	f.Add(strings.Repeat("\xe9%", 40), uint64(1<<40), uint16(7), "")
	f.Fuzz(func(t *testing.T, before string, how uint64, size uint16, behind string) {
		var b strings.Builder
		for i := range len(harbor) {
			switch c := harbor[i]; how >> (3 * i) & 7 {
			case 1:
				fmt.Fprintf(&b, "%%%02X", c)
			case 2:
				fmt.Fprintf(&b, "%%25%02x", c)
			case 3:
				fmt.Fprintf(&b, `\u%04x`, c)
			case 4:
				b.WriteString(strings.ToUpper(string(c)))
			case 5:
				b.WriteRune(rune(c) + 0xfee0)
			case 6:
				b.WriteString(string(c) + "\u200b")
			default:
				b.WriteByte(c)
			}
		}
		in := before + b.String() + behind
		x := indexed()
		if len(x.Find(in)) == 0 {
			if last := before[max(0, len(before)-16):]; !strings.ContainsAny(last, `%\&`) && before == strings.ToValidUTF8(before, "") {
				t.Fatalf("Find(%q) finds nothing", in)
			}
			return // the text before it has changed its meaning
		}
		got, err := io.ReadAll(x.Body(io.NopCloser(&parts{[]byte(in), int(size%100) + 1}), func(Hit) bool { return true }))
		if err != nil || len(got) != len(in) {
			t.Fatalf("%q is read as %q, %v", in, got, err)
		}
		if hits := x.Find(string(got)); len(hits) > 0 {
			t.Fatalf("%q is read as %q, which has %v", in, got, hits)
		}
	})
}

// parts is a reader that returns a fixed number of bytes at a time.
type parts struct {
	rest []byte
	size int
}

func (p *parts) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(p.size, len(b))], p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func TestFold(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"abc-1", "abc-1"}, {"ABC", "abc"}, {"Ünïcôdé", "unicode"}, {"ＡＢＣ１２", "abc12"}, {"𝒜𝔟𝕔", "abc"}, {"Straße", "strasse"}, {"ıİiI", "iiii"},
		{"a\u200bb\x00c\td", "abcd"}, {"٤2", "42"}, {"\xc1\xa1b", "ab"}, {"caf\xe9", "cafe"}, {"ﬁx㎏", "fixkg"}, {"中文", ""}, {"ŁÓdŹ", "lodz"}, {"smørrebrød", "smorrebrod"}, {"Æðel", "aedel"}, {"œuvre", "oeuvre"}, {"ⓐ①🅰", "a1a"}, {"ẞ", "ss"}, {"ℏꝠꞅ", "hvys"}, {"K", "k"},
	} {
		if got := Fold(c.in); got != c.want {
			t.Errorf("Fold(%q) = %q; want %q", c.in, got, c.want)
		}
	}
}

func BenchmarkFind(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		companies := map[string][]Token{}
		for i := range n {
			companies[fmt.Sprint(i)] = []Token{{Text: fmt.Sprintf("%x%xQv", uint32(i)*2654435761, i), Bits: 60}}
		}
		x := new(Index)
		x.Replace(companies, nil)
		for name, text := range map[string]string{
			"url":     "/assets/css/portal.min.css?v=12",
			"headers": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8 " + strings.Repeat("sid=5f3aGh81kLmNq0; theme=dark; ", 20),
			"escaped": strings.Repeat("name=J%C3%BCrgen&", 10),
		} {
			b.Run(fmt.Sprintf("%s of %d bytes, %d tokens", name, len(text), n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					x.Find(text)
				}
			})
		}
		for name, text := range map[string][]byte{"text": bytes.Repeat([]byte("An ordinary text goes on and on.\n"), 32<<10), "photo": photo(1 << 20)} {
			b.Run(fmt.Sprintf("body of %s, %d tokens", name, n), func(b *testing.B) {
				b.SetBytes(int64(len(text)))
				for b.Loop() {
					io.Copy(io.Discard, x.Body(io.NopCloser(bytes.NewReader(text)), func(Hit) bool { return true }))
				}
			})
		}
	}
}

// photo returns bytes that look like compressed data.
func photo(size int) []byte {
	b := make([]byte, size)
	state := uint64(1)
	for i := range b {
		state = state*6364136223846793005 + 1442695040888963407
		b[i] = byte(state >> 56)
	}
	return b
}

// A token that a text repeats is found once at each place, in order.
func TestFindOneTokenManyTimes(t *testing.T) {
	for _, before := range []string{"", "%20"} { // plain, and with escapes
		text := before + strings.Repeat(harbor+"/", 5000)
		hits := indexed().Find(text)
		if len(hits) != 5000 || !slices.IsSortedFunc(hits, func(a, b Hit) int { return a.Start - b.Start }) || text[hits[4999].Start:hits[4999].End] != harbor {
			t.Errorf("behind %q there are %d hits; want 5,000 in order", before, len(hits))
		}
	}
}

// BenchmarkFindOneTokenManyTimes shows that a text of eight times the length takes about eight
// times as long.
func BenchmarkFindOneTokenManyTimes(b *testing.B) {
	for _, n := range []int{2000, 16_000} {
		text := strings.Repeat(harbor+"/", n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				indexed().Find(text)
			}
		})
	}
}

// drops is a body that arrives a few bytes at a time.
type drops struct{ from io.Reader }

func (d drops) Read(p []byte) (int, error) { return d.from.Read(p[:min(len(p), 100)]) }

func (drops) Close() error { return nil }

// Held bytes aren't searched again for each few new bytes; a search takes time proportional to
// them.
func TestBodyInSmallPieces(t *testing.T) {
	text := harbor[:6] + strings.Repeat("\u00ad", 20_000) + harbor[6:] // with invisible hyphens
	s := indexed().Body(drops{strings.NewReader(text)}, func(Hit) bool { return true }).(*stream)
	var all []byte
	searches := 0
	for ; s.err == nil; searches++ {
		s.fetch()
		all = append(all, s.buf[s.returned:s.searched]...)
		s.returned = s.searched
	}
	if len(all) != len(text) || bytes.Contains(all, []byte(harbor[6:])) {
		t.Errorf("%d bytes of %d, with the token: %t", len(all), len(text), bytes.Contains(all, []byte(harbor[6:])))
	}
	if searches > 60 {
		t.Errorf("400 pieces cost %d searches; want a few dozen", searches)
	}
}

// However many invisible characters are between the characters of a token, and however the body
// arrives, the portal doesn't receive the token. A text without a token stays the same.
func TestBodyWithATokenSpreadWide(t *testing.T) {
	for _, invisible := range []string{"\x00", "\u200b", "\u00ad", "%00", "%e2%80%8b", "%25E2%2580%258B", `\u200b`, "&#8203;", "中", "%E4%B8%AD"} {
		for _, between := range []int{1, 5000, 70_000} { // bytes
			if between > 5000 && invisible != "\u200b" && invisible != "%00" {
				continue
			}
			gap := strings.Repeat(invisible, between/len(invisible)+1)
			for _, in := range []string{harbor[:1] + gap + harbor[1:], harbor[:3] + gap + harbor[3:], "k=" + harbor[:9] + gap + harbor[9:] + "&x=1", harbor[:14] + gap + harbor[14:],
				strings.Join(strings.Split(harbor, ""), gap[:min(len(gap), 3000/len(invisible)*len(invisible))])} {
				x := indexed()
				for _, size := range []int{1000, 1 << 20} {
					got, err := io.ReadAll(x.Body(io.NopCloser(&parts{[]byte(in), size}), func(Hit) bool { return true }))
					if err != nil || len(got) != len(in) || len(x.Find(string(got))) > 0 {
						t.Errorf("%q with %d bytes of %q, read by %d: %d bytes, %v, with the token: %t", in[:10], between, invisible, size, len(got), err, len(x.Find(string(got))) > 0)
					}
					got, err = io.ReadAll(x.Body(io.NopCloser(&parts{[]byte(in), size}), func(Hit) bool { return false }))
					if err != nil || string(got) != in {
						t.Errorf("%q with %d bytes of %q, read by %d: %v, and a text that may pass is changed", in[:10], between, invisible, size, err)
					}
				}
			}
		}
	}
}

// Returned bytes aren't searched again and again if a body arrives a few bytes at a time.
func TestBodyByTheByteSearchesLittle(t *testing.T) {
	const size = 20_000
	s := indexed().Body(io.NopCloser(&parts{photo(size), 1}), func(Hit) bool { return true }).(*stream)
	searched := 0
	for ; s.err == nil; s.returned = s.searched {
		s.fetch()
		searched += len(s.buf)
	}
	if most := size * 2 * (overlap + s.tokens.longest + 64); searched > most || overlap > 1000 {
		t.Errorf("%d bytes cost searching %d; want at most %d, which is an overlap of %d bytes for each", size, searched, most, overlap)
	}
}
