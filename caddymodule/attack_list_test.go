package caddymodule_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// attackIDs are the attacks that the gate is tested against, by class: H identity headers, P
// paths, R redirects after sign-in, L links of mails, E addresses and mail, T links and codes,
// S sessions and forms, N information in answers, X input, W the wire, D floods. Tests whose
// names begin with TestH01_ belong to H01, mostly in files attack_*_test.go; tests of lower
// packages cover a case by unit, in addition, or where requests can't show it.
const attackIDs = `H01 H02 H03 H05 H07 H09 H10 H12 H13 H14 H16 H17
	P01 P03 P04 P06 P07 P08 P10 P12 P13 P14 P17 P18
	R01 R02 R04 R07 R08 R09 R10 L01 L03 L04 L07
	E01 E02 E04 E05 E07 E10 E11 E14 E15 E16 E17
	T01 T02 T03 T05 T07 T08 T09 T10 T11 T13 T14 T15 T17 T18 T19
	S01 S02 S03 S04 S07 S09 S10 S11 S13 S14 S15 S16
	N01 N02 N03 N07 X01 X02 X05 X06 X07 X08
	W04 W06 W07 W08 W09 W10 W11
	D01 D03 D04 D06 D08 D09 D10 D11 D12 D14 D15 D17`

// attackedElsewhere lists the cases without a test of their own name: the tests that cover
// them, with a remark, or the reason why there is none.
const attackedElsewhere = `
H07 The names of the identity headers can't be configured.
P13 There is no forward-auth: the gate judges its own request line alone (TestP03_CVE_2026_40575_HeadersGiveNoAccess).
R02 TestR01_CVE_2020_11053_RedirectsStayOnTheSite TestCorpus_R01_Redirects FuzzSafe
R04 No other origin can be allowed, so that none can be mistaken for one (TestR01_CVE_2020_11053_RedirectsStayOnTheSite).
R09 No URL is signed. What a link means lies in the store, under its firm (TestT17_CVE_2025_46815_OnePurpose).
L03 TestL01_CVE_2025_64101_TheLinkIsTheConfiguredOne TestL04_HTTP2_ThePoisonedHost
E02 TestE01_OneAddressOrNone FuzzParse
E10 TestE01_OneAddressOrNone TestSMTPRefusesWhatCouldBeReadAsMore FuzzParse FuzzMessage
E11 TestE01_OneAddressOrNone TestCorpus_E11_Addresses
E14 TestE07_SpellingsAreOneAddress TestE01_OneAddressOrNone
E16 TestSMTPEncryptsOrDoesNotSend TestSMTPDoesNotHearWhatIsInjectedBeforeTLS
E17 TestE01_OneAddressOrNone
S11 TestS04_CookiesOfAnHTTPSSite TestS09_PageWithoutTLSIsAnotherSite
W07 HTTP/2 is Go's, and the gate is a handler behind it; what it does with frames of every kind is TestW06_CVE_2023_44487_FloodsOfFrames.
W10 TestW09_CVE_2024_24791_LargeBodiesOfAnonymousVisitors
D06 TestX08_CVE_2024_21494_EventsAreRecordedOnce
D09 TestNetworks_AnOfficeOfSixtyBehindOneAddress
D11 Codes have a budget of their own, which is one over all browsers: TestT11_FortyGuessesAnHourInAllBrowsers.`

// Each case has tests or a reason, and each test or reason has a case. With -v it prints the
// list.
func TestAttacks_EachHasItsTest(t *testing.T) {
	names := testNames(t)
	elsewhere := map[string]string{}
	for line := range strings.SplitSeq(strings.TrimSpace(attackedElsewhere), "\n") {
		id, rest, _ := strings.Cut(line, " ")
		elsewhere[id] = rest
		for _, name := range regexp.MustCompile(`\b(Test|Fuzz)\w+`).FindAllString(rest, -1) {
			if !slices.Contains(names, name) {
				t.Errorf("%s: there is no %s", id, name)
			}
		}
	}
	ids := strings.Fields(attackIDs)
	for _, id := range ids {
		var own []string
		for _, name := range names {
			if strings.HasPrefix(name, "Test"+id+"_") {
				own = append(own, name)
			}
		}
		if len(own) == 0 && elsewhere[id] == "" {
			t.Errorf("%s has no test", id)
		}
		t.Logf("%s %s", id, strings.TrimSpace(strings.Join(own, " ")+" "+elsewhere[id]))
		delete(elsewhere, id)
	}
	for id := range elsewhere {
		t.Errorf("%s is no attack of the list", id)
	}
	for _, name := range names {
		if m := regexp.MustCompile(`^Test([HPRLETSNXWD]\d\d)_`).FindStringSubmatch(name); m != nil && !slices.Contains(ids, m[1]) {
			t.Errorf("%s is for no attack of the list", name)
		}
	}
}

// TestWhatHoldsExplainsEveryID: the docs explain every ID in a test's name, and no others.
func TestWhatHoldsExplainsEveryID(t *testing.T) {
	page, err := os.ReadFile("../docs/what-holds.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\| ([A-Z]\d\d) \|`).FindAllStringSubmatch(string(page), -1) {
		if told[row[1]] {
			t.Errorf("%s is there twice", row[1])
		}
		told[row[1]] = true
	}
	used := map[string]bool{}
	for _, id := range strings.Fields(attackIDs) {
		used[id] = true
	}
	for _, name := range testNames(t) {
		for _, m := range regexp.MustCompile(`^(?:Test|Fuzz|Benchmark)(?:Browser_|Corpus_)?([A-Z]\d\d)_`).FindAllStringSubmatch(name, 1) {
			used[m[1]] = true
		}
	}
	for id := range used {
		if !told[id] {
			t.Errorf("docs/what-holds.md doesn't say what %s stands for", id)
		}
	}
	for id := range told {
		if !used[id] {
			t.Errorf("docs/what-holds.md explains %s, which no test has", id)
		}
	}
}

// testNames returns the names of all tests and fuzz targets of these packages, on any
// platform.
func testNames(t *testing.T) (names []string) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && (strings.HasPrefix(f.Name.Name, "Test") || strings.HasPrefix(f.Name.Name, "Fuzz")) {
				names = append(names, f.Name.Name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
