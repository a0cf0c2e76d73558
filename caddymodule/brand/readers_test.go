package brand

import (
	"mime"
	"net/mail"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// No header begins with an empty line, or has a longer one than 76 characters, however long
// the firm's name is and whatever its letters; and it reads as it was written.
func TestLongNamesFillTheFirstLine(t *testing.T) {
	for _, name := range []string{"Example Bookkeeping", strings.Repeat("Long Name ", 7) + "Inc", "Büro Köhler", strings.Repeat("Köhler, Söhne & Töchter ", 4) + "OHG",
		"משרד הנהלת חשבונות לדוגמה בעיר תל אביב", strings.Repeat("会計事務所", 12)} {
		b := Brand{Name: name, From: "hello@example.com"}
		letter := write(t, b, "", full)
		data, err := letter.Bytes(asked)
		if err != nil {
			t.Fatal(err)
		}
		head, _, _ := strings.Cut(string(data), "\r\n\r\n")
		for line := range strings.SplitSeq(head, "\r\n") {
			if regexp.MustCompile(`^[A-Za-z-]+: *$`).MatchString(line) || len(line) > 78 || strings.Contains(line, "=?") && len(line) > 76 {
				t.Errorf("%s: a header has the line %q", name, line)
			}
		}
		m, err := mail.ReadMessage(strings.NewReader(string(data)))
		if err != nil {
			t.Fatal(err)
		}
		from, err := mail.ParseAddress(m.Header.Get("From"))
		if err != nil || from.Name != name || from.Address != "hello@example.com" {
			t.Errorf("From reads as %v, %v; want %q", from, err, name)
		}
		subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
		if err != nil || subject != letter.Subject || !strings.Contains(subject, name) {
			t.Errorf("Subject reads as %q, %v; want %q", subject, err, letter.Subject)
		}
	}
}

// A name that is written from right to left stands for itself and doesn't turn its line.
func TestANameFromRightToLeftDoesNotTurnItsLine(t *testing.T) {
	const firm, first = "משרד דוגמה", "أمل"
	d := full
	d.FirstName = first
	letter := write(t, Brand{Name: firm, From: "hello@example.com"}, "", d)
	for _, want := range []string{"Hello \u2068" + first + "\u2069,", "from \u2068" + firm + "\u2069 will"} {
		if !strings.Contains(letter.Text, want) {
			t.Errorf("the text has no %q:\n%s", want, letter.Text)
		}
	}
	if !strings.Contains(letter.HTML, "Hello <bdi>"+first+"</bdi>,") || strings.Count(letter.HTML, "<bdi>"+firm+"</bdi>") < 2 {
		t.Errorf("the HTML doesn't isolate the names:\n%s", letter.HTML)
	}
	if strings.ContainsAny(letter.Subject, "\u2068\u2069") {
		t.Errorf("the subject has characters of direction: %q", letter.Subject)
	}
	if plain := write(t, example, "", full); strings.ContainsAny(plain.Text, "\u2068\u2069") {
		t.Error("names from left to right are isolated, too")
	}
}

// A double click takes the whole code: nothing stands between its halves.
func TestTheCodeIsOneWord(t *testing.T) {
	letter := write(t, example, "", full)
	text := regexp.MustCompile(`<[^>]*>`).ReplaceAllString(letter.HTML, "")
	if !strings.Contains(text, "k7mq2xhd") || strings.Contains(text, "k7mq-2xhd") {
		t.Error("in the HTML the halves of the code are apart")
	}
}

// The support line can be tapped, and is nothing else but links and text.
func TestTheSupportLineCanBeTapped(t *testing.T) {
	b := example
	b.Support = `help@example.com, +1 555 0100 <b>`
	letter := write(t, b, "", full)
	for _, want := range []string{`<a href="mailto:help@example.com"`, `<a href="tel:&#43;15550100"`, "&lt;b&gt;"} {
		if !strings.Contains(letter.HTML, want) {
			t.Errorf("the HTML has no %s:\n%s", want, letter.HTML)
		}
	}
	if !strings.Contains(letter.Text, b.Support) {
		t.Errorf("the text has no support line:\n%s", letter.Text)
	}
}

// Filters count links, and take text of no size for hidden: the parts of a mail name the same
// links, as often.
func TestWhatFiltersCount(t *testing.T) {
	l, err := NewMessages(example, "")
	if err != nil {
		t.Fatal(err)
	}
	url := regexp.MustCompile(`https?://[^\s"'<>]+`)
	for kind, write := range map[string]func() (Message, error){
		KindSignIn: func() (Message, error) { return l.SignIn(full) }, KindSetPassword: func() (Message, error) { return l.SetPassword(SetPassword{Mail: Mail(full)}) },
		KindPasswordChanged: func() (Message, error) { return l.PasswordChanged(PasswordChanged{Mail: Mail(full)}) }, KindNewDevice: func() (Message, error) { return l.NewDevice(NewDevice{Mail: Mail(full)}) },
	} {
		letter, err := write()
		if err != nil {
			t.Fatal(err)
		}
		text := url.FindAllString(letter.Text, -1)
		links := regexp.MustCompile(`href="(https?:[^"]+)"`).FindAllStringSubmatch(letter.HTML, -1)
		if n := len(text) + len(links); n%2 != 0 || len(links) == 0 {
			t.Errorf("%s: %d links in the text, %d in the HTML; want an even number", kind, len(text), len(links))
		}
		if slices.ContainsFunc(text, func(u string) bool { return u != links[0][1] }) {
			t.Errorf("%s: the text leads to %q; want %s", kind, text, links[0][1])
		}
		if regexp.MustCompile(`font-size:\s*0`).MatchString(letter.HTML) {
			t.Errorf("%s: there is text of no size", kind)
		}
	}
}
