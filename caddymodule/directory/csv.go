package directory

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/encoding/charmap"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
)

// Limits of a CSV file.
const (
	maxRows      = 1_000_000
	maxRow       = 64 << 10 // bytes
	maxRowErrors = 100      // listed ones; the rest are counted
)

// RowError reports a problem in one row of a file.
type RowError struct {
	Line   int    `json:"line"`             // where the row begins in the file, from 1
	Column string `json:"column,omitempty"` // column name, if the problem is in one column
	Reason string `json:"reason"`           // for the operator
}

func (e RowError) Error() string {
	if e.Column == "" {
		return fmt.Sprintf("line %d: %s", e.Line, e.Reason)
	}
	return fmt.Sprintf("line %d, %s: %s", e.Line, e.Column, e.Reason)
}

// Masked returns the error for a log, without personal data from the file: it hides quoted values
// of personal columns, and the local part of addresses.
func (e RowError) Masked() RowError {
	switch e.Column {
	case "companies", "role", "locale", "disabled", "id", "name", "":
	default:
		e.Reason = quotedText.ReplaceAllString(e.Reason, `"…"`)
	}
	e.Reason = anyAddress.ReplaceAllString(e.Reason, "…@$1")
	return e
}

var (
	quotedText = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
	anyAddress = regexp.MustCompile(`[^\s"@]+@([^\s"@]+)`)
)

// RowErrors are the bad rows of a file, in line order.
type RowErrors struct {
	Rows []RowError `json:"rows"` // at most maxRowErrors
	More int        `json:"more"` // number of further ones

	lines map[int]bool // of all of them
	whole bool         // the whole file is unusable, not only single rows
}

func (e *RowErrors) Error() string {
	var b strings.Builder
	for i, r := range e.Rows {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(r.Error())
	}
	if e.More > 0 {
		fmt.Fprintf(&b, "\nand %d more", e.More)
	}
	return b.String()
}

func (e *RowErrors) add(line int, column, reason string) {
	if e.lines == nil {
		e.lines = map[int]bool{}
	}
	e.lines[line] = true
	if len(e.Rows) == maxRowErrors {
		e.More++
		return
	}
	e.Rows = append(e.Rows, RowError{line, column, reason})
}

func (e *RowErrors) count() int { return len(e.Rows) + e.More }

// orNil returns e sorted by line, or nil if it is empty.
func (e *RowErrors) orNil() error {
	if len(e.Rows) == 0 {
		return nil
	}
	slices.SortStableFunc(e.Rows, func(a, b RowError) int { return a.Line - b.Line })
	return e
}

// ImportOptions relax the checks of an import.
type ImportOptions struct {
	// Columns maps names of columns in the file to the columns they are imported as.
	Columns map[string]string
	// IgnoreColumns ignores unknown columns.
	IgnoreColumns bool
	// SkipBadRows skips rows that can't be imported and imports the others.
	SkipBadRows bool
}

// Check returns an error if Columns maps to an unknown column.
func (o ImportOptions) Check(kind Kind) error {
	known := contactColumns
	if kind == Companies {
		known = companyColumns
	}
	for from, to := range o.Columns {
		if !slices.ContainsFunc(known, func(k string) bool { return columnKey(k) == columnKey(to) }) && !(kind == Contacts && columnKey(to) == fullNameColumn) {
			return &FieldError{Field: "columns", Reason: fmt.Sprintf("%s is to be taken as %s, which is none of %s", quoted(from), quoted(to), strings.Join(known, ", "))}
		}
	}
	return nil
}

// table reads a CSV file row by row and records unreadable rows in bad.
type table struct {
	bad     RowErrors
	csv     *csv.Reader
	input   *rowLimiter
	options ImportOptions
	columns []int    // for each column of the file: its index in known, or unnamed, ignored or fullName
	known   []string // the valid names of columns
	name    string   // full name in the last row, if the file has such a column
	rows    int
	line    int // where the last row began

	hasBOM            bool
	utf8, windows1252 int  // last line with text that is valid only as UTF-8, and only as Windows-1252
	macRoman          bool // the last row was read as Windows-1252, but is most likely Mac Roman
	stopped           bool // the rest of the file can't be read
}

// Values of table.columns other than an index.
const (
	unnamed  = -1
	ignored  = -2
	fullName = -3 // first and last name in one column
)

// fullNameColumn is the columnKey of a column with full names.
const fullNameColumn = "name"

// newTable reads the header: a line with names from known, of which the first is required. If the
// header is unusable, the table has no rows.
func newTable(r io.Reader, known []string, options ImportOptions) (*table, error) {
	t := &table{known: known, options: options, input: &rowLimiter{r: r}}
	in := bufio.NewReaderSize(t.input, maxRow)
	t.input.remaining = maxRow
	head, err := in.Peek(maxRow)
	if err != nil && err != io.EOF && err != errLongRow {
		return nil, fmt.Errorf("reading CSV: %w", err)
	}
	if bytes.HasPrefix(head, []byte("\xef\xbb\xbf")) {
		t.hasBOM = true
		head = head[3:]
		in.Discard(3)
	}
	if bytes.HasPrefix(head, []byte("PK\x03\x04")) {
		t.stop(1, "the file is a workbook; save it as “CSV UTF-8”")
		return t, nil
	}
	if isUTF16(head) {
		t.stop(1, "the file is in UTF-16; save it as “CSV UTF-8”")
		return t, nil
	}
	first, _, _ := bytes.Cut(bytes.TrimLeft(head, "\r\n"), []byte("\n"))
	first = bytes.TrimSuffix(first, []byte("\r"))
	switch {
	case len(bytes.TrimSpace(first)) == 0:
		t.stop(1, "the file is empty; its first line must name the columns: "+strings.Join(known, ", "))
		return t, nil
	case bytes.Contains(first, []byte("\r")):
		t.stop(1, "lines end with a carriage return alone; save the file as “CSV UTF-8”")
		return t, nil
	}
	t.csv = csv.NewReader(in)
	t.csv.Comma = delimiter(first)
	t.csv.FieldsPerRecord = -1
	t.csv.ReuseRecord = true
	return t, t.header()
}

// isUTF16 checks for a byte order mark, and for the zero bytes of Latin text in UTF-16.
func isUTF16(head []byte) bool {
	if len(head) < 2 {
		return false
	}
	return bytes.HasPrefix(head, []byte("\xff\xfe")) || bytes.HasPrefix(head, []byte("\xfe\xff")) || head[0] == 0 || head[1] == 0
}

// delimiter returns the character that splits the header into the most names.
func delimiter(header []byte) rune {
	best, most := ',', 0
	for _, d := range []rune{',', ';', '\t'} {
		r := csv.NewReader(bytes.NewReader(header))
		r.Comma = d
		if names, _ := r.Read(); len(names) > most {
			best, most = d, len(names)
		}
	}
	return best
}

// synonyms maps other names of columns, as address books and accounting programs export them, to
// ours. All are in the form of columnKey.
var synonyms = map[string]string{
	"mail": "email", "emailaddress": "email", "primaryemail": "email", "mainemail": "email", "email1": "email", "email1value": "email", "email1address": "email",
	"email2": "otheremails", "email2value": "otheremails", "email2address": "otheremails", "otheremail": "otheremails", "alternateemail": "otheremails",
	"givenname": "firstname", "forename": "firstname",
	"surname": "lastname", "familyname": "lastname",
	"phonenumber": "phone", "telephone": "phone", "mainphone": "phone", "businessphone": "phone", "phone1value": "phone", "mobile": "phone", "mobilenumber": "phone", "mobilephone": "phone",
	"company": "companies", "companyname": "companies", "organization": "companies", "organizationname": "companies", "*contactname": "companies",
	"language": "locale",
	"fullname": fullNameColumn, "displayname": fullNameColumn, "contact": fullNameColumn,
	// of companies
	"companyid": "id", "clientid": "id",
}

// columnKey returns the form in which column names are compared: "First Name" and "firstname" match
// first_name.
func columnKey(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || r == '-' || r == '_' {
			return -1
		}
		return unicode.ToLower(r)
	}, s)
}

// column returns the index of the known column with this name, or unnamed. own is false if the name
// is a synonym.
func (t *table) column(name string) (column int, own bool) {
	key := columnKey(name)
	for from, to := range t.options.Columns {
		if columnKey(from) == key {
			return t.place(columnKey(to)), true
		}
	}
	if k := t.place(key); k != unnamed {
		return k, true
	}
	return t.place(synonyms[key]), false
}

func (t *table) place(key string) int {
	if key == fullNameColumn && t.known[0] == contactColumns[0] {
		return fullName
	}
	return slices.IndexFunc(t.known, func(k string) bool { return columnKey(k) == key }) // unnamed is -1
}

func (t *table) header() error {
	record, err := t.read()
	if record == nil {
		return err
	}
	record = slices.Clone(record) // the reader reuses it
	if t.looksLikeRow(record) {
		t.stop(t.line, "the first line looks like a row; put a line with the names of the columns above it: "+strings.Join(t.known, ", "))
		return nil
	}
	seen, missing := map[int]bool{}, maps.Clone(t.options.Columns)
	for _, name := range record { // a column's own name takes precedence over a synonym
		if k, own := t.column(name); own && k != unnamed {
			seen[k] = true
		}
		maps.DeleteFunc(missing, func(from, _ string) bool { return columnKey(from) == columnKey(name) })
	}
	for _, from := range slices.Sorted(maps.Keys(missing)) {
		t.bad.add(t.line, "", fmt.Sprintf("there is no column %s to be taken as %s", quoted(from), t.options.Columns[from]))
	}
	named := map[int]bool{}
	for i, name := range record {
		k, own := t.column(name)
		if !own && seen[k] && t.options.IgnoreColumns { // synonym of a column that is present
			k = ignored
		}
		twice := named[k] || !own && seen[k]
		if k == fullName && (seen[int(fFirst)] || seen[int(fLast)]) {
			k = ignored
		}
		switch {
		case strings.TrimSpace(name) == "": // spreadsheets export such cells after the last column
			k = unnamed
		case k == ignored:
		case (k == unnamed || twice) && t.options.IgnoreColumns:
			k = ignored
		case k == unnamed && columnKey(name) == "password" && slices.Contains(t.known, "password_hash"):
			t.bad.add(t.line, "", fmt.Sprintf("column %d, %s, isn't taken: nobody chooses a password for somebody else; delete the column (hashes from an earlier portal go into password_hash)", i+1, quoted(name)))
		case k == unnamed:
			t.bad.add(t.line, "", fmt.Sprintf("column %d, %s, isn't known; rename it to one of %s, or delete the column, or import the file with --ignore-columns", i+1, quoted(name), strings.Join(t.known, ", ")))
		case twice:
			t.bad.add(t.line, "", fmt.Sprintf("column %d, %s, is %s, which is there already; delete one of the two", i+1, quoted(name), t.columnName(k)))
		}
		if k != ignored && k != unnamed {
			named[k] = true
		}
		t.columns = append(t.columns, k)
	}
	if !named[0] && len(t.bad.Rows) == 0 {
		t.bad.add(t.line, "", fmt.Sprintf("there is no column %s", t.known[0]))
	}
	t.stopped = len(t.bad.Rows) > 0
	t.bad.whole = t.stopped
	return nil
}

func (t *table) columnName(k int) string {
	if k == fullName {
		return fullNameColumn
	}
	return t.known[k]
}

// looksLikeRow reports whether the first line is a row of a file without a header.
func (t *table) looksLikeRow(record []string) bool {
	for _, cell := range record {
		if k, _ := t.column(cell); k != unnamed {
			return false
		}
	}
	if t.known[0] != contactColumns[0] {
		return IsCompanyID(strings.TrimSpace(record[0])) && len(record) > 1
	}
	return slices.ContainsFunc(record, func(cell string) bool { _, err := address.Parse(cell); return err == nil })
}

// next returns the cells of the next readable row by their index in known, "" for columns that the
// file lacks. It returns nil at the end of the file and if the rest is unreadable.
func (t *table) next() ([]string, error) {
	for {
		record, err := t.read()
		if record == nil {
			return nil, err
		}
		if !slices.ContainsFunc(record, func(s string) bool { return strings.TrimSpace(s) != "" }) {
			continue // a row of delimiters, as spreadsheets export at the end
		}
		if t.rows++; t.rows > maxRows {
			t.stop(t.line, fmt.Sprintf("more than %d rows", maxRows))
			return nil, nil
		}
		if cells, ok := t.cells(record); ok {
			return cells, nil
		}
	}
}

func (t *table) cells(record []string) ([]string, bool) {
	if len(record) != len(t.columns) {
		t.bad.add(t.line, "", fmt.Sprintf("has %d fields, the first line has %d; a field that holds %q needs double quotes around it", len(record), len(t.columns), t.csv.Comma))
		return nil, false
	}
	cells := make([]string, len(t.known))
	t.name, t.macRoman = "", false
	for i, s := range record {
		k := t.columns[i]
		if k == ignored {
			continue
		}
		if k == unnamed {
			if strings.TrimSpace(s) != "" {
				t.bad.add(t.line, "", fmt.Sprintf("column %d has no name in the first line, but a value here", i+1))
				return nil, false
			}
			continue
		}
		s, reason := t.decode(s)
		if reason != "" {
			t.bad.add(t.line, t.columnName(k), reason)
			return nil, false
		}
		if k == fullName {
			t.name = s
			continue
		}
		cells[k] = s
	}
	return cells, true
}

// decode converts a cell to UTF-8. A file must be in one encoding: text that looks like UTF-8 by
// chance is rarer than a file assembled from two encodings.
func (t *table) decode(s string) (text, reason string) {
	if isASCII(s) {
		return s, ""
	}
	if utf8.ValidString(s) {
		t.utf8 = t.line
	} else {
		t.windows1252 = t.line
	}
	switch {
	case t.windows1252 == 0:
		return s, ""
	case t.hasBOM:
		return "", "is not valid UTF-8, which the file says it is in"
	case t.utf8 != 0:
		return "", fmt.Sprintf("the file is in UTF-8 in line %d and in Windows-1252 in line %d; save it as “CSV UTF-8”", t.utf8, t.windows1252)
	}
	text, err := charmap.Windows1252.NewDecoder().String(s)
	if err != nil || strings.ContainsRune(text, utf8.RuneError) {
		return "", "is neither UTF-8 nor Windows-1252; save the file as “CSV UTF-8”"
	}
	t.macRoman = t.macRoman || strings.ContainsAny(text, likelyMacRoman)
	return text, ""
}

// likelyMacRoman are the characters that Mac Roman's accented letters become when read as
// Windows-1252. Names hardly ever have them.
const likelyMacRoman = "\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d\u2022\u02dc\u2122\u0161\u203a\u0153\u017e\u0178"

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// read returns the next record, or nil at the end and if nothing more can be read. Errors are those
// of the underlying reader; problems in the file are in t.bad.
func (t *table) read() ([]string, error) {
	if t.stopped || t.csv == nil {
		return nil, nil
	}
	t.input.remaining = maxRow
	record, err := t.csv.Read()
	var syntax *csv.ParseError
	switch {
	case err == nil:
		t.line, _ = t.csv.FieldPos(0)
		return record, nil
	case err == io.EOF:
		t.stopped = true
		return nil, nil
	case errors.Is(err, errLongRow):
		t.stop(t.line+1, fmt.Sprintf("a row is longer than %d bytes; a double quote may not be closed", maxRow))
		return nil, nil
	case errors.As(err, &syntax):
		t.stop(syntax.StartLine, "a double quote is not where it can be: write a field that holds one as \"5\"\" pipe\"; the rest of the file was not read")
		return nil, nil
	}
	return nil, fmt.Errorf("reading CSV: %w", err)
}

func (t *table) stop(line int, reason string) {
	t.bad.add(line, "", reason)
	t.stopped, t.bad.whole = true, true
}

// rowLimiter limits the memory for one row: an unclosed quote would read the whole file.
type rowLimiter struct {
	r         io.Reader
	remaining int
}

var errLongRow = errors.New("row too long")

func (m *rowLimiter) Read(p []byte) (int, error) {
	if m.remaining <= 0 {
		return 0, errLongRow
	}
	n, err := m.r.Read(p[:min(len(p), m.remaining)])
	m.remaining -= n
	return n, err
}
