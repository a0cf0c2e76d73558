package caddymodule_test

// Identity information for the portal.

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// manyCompanies returns files with contacts of many companies: ann's are too many for a header,
// bob's aren't.
func manyCompanies() (companies, contacts string) {
	companies, contacts = "id,name\n", "email,first_name,companies\n"
	var all []string
	for i := range 250 {
		all = append(all, fmt.Sprintf("client-%03d-%s", i, strings.Repeat("x", 20)))
		companies += all[i] + ",Client " + fmt.Sprint(i) + "\n"
	}
	var short []string
	for i := range 93 {
		short = append(short, fmt.Sprintf("alpha-%02d-co", i))
		companies += short[i] + ",Short " + fmt.Sprint(i) + "\n"
	}
	short = append(short, "zulu-holdings")
	companies += "zulu-holdings,Zulu\nz,Z\n"
	return companies, contacts + "ann@example.com,Ann,\"" + strings.Join(all, ";") + "\"\nbob@example.com,Bob,\"" + strings.Join(short, ";") + "\"\n"
}

// companiesIn reads an assertion without verifying it.
func companiesIn(t *testing.T, jwt string) (claims struct {
	Companies []string
	Omitted   int   `json:"companies_omitted"`
	IssuedAt  int64 `json:"iat"`
	Expiry    int64 `json:"exp"`
}) {
	t.Helper()
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is no assertion", jwt)
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(body, &claims)
	}
	if err != nil {
		t.Fatal(err)
	}
	return claims
}

// A portal gets all companies of a contact, or only their number: never a part of the list, whose
// truncated last name might be another company's.
func TestALongListOfCompaniesIsSentCompletelyOrNotAtAll(t *testing.T) {
	log := newLogFile(t)
	companies, contacts := manyCompanies()
	m := startMailServer(t)
	h := openHouse(t, layout{global: log.global, app: m.app(), companies: companies, contacts: contacts, firm: "company_path /files/{company}/*"})
	m.moveInto(h)
	bob := h.in("bob@example.com")
	bob.open("/x")
	got, _ := h.portal.last()
	groups, claims := strings.Split(got.Header.Get("Remote-Groups"), ","), companiesIn(t, got.Header.Get("Portal-Assertion"))
	if len(groups) != 94 || groups[93] != "zulu-holdings" || len(claims.Companies) != 94 || claims.Omitted != 0 || got.Header.Get("Portal-Groups-Omitted") != "" {
		t.Errorf("of 94 companies the portal is told %d, at last %s, and by the assertion %d; want all", len(groups), groups[len(groups)-1], len(claims.Companies))
	}
	for range 2 {
		ann := h.in("ann@example.com")
		ann.open("/files/client-249-xxxxxxxxxxxxxxxxxxxx/x")
		got, _ = h.portal.last()
		claims = companiesIn(t, got.Header.Get("Portal-Assertion"))
		if got.Header["Remote-Groups"] != nil || len(claims.Companies) != 0 || claims.Omitted != 250 || got.Header.Get("Portal-Groups-Omitted") != "250" || got.Header.Get("Portal-Company") != "client-249-xxxxxxxxxxxxxxxxxxxx" {
			t.Errorf("of 250 companies the portal is told %q, and by the assertion %d, left out %d; want none, and how many there are", got.Header["Remote-Groups"], len(claims.Companies), claims.Omitted)
		}
		if all, _ := ann.me()["companies"].([]any); len(all) != 250 {
			t.Errorf("/-/me names %d companies; want 250", len(all))
		}
		if a := ann.open("/files/zulu-holdings/x"); a.StatusCode != 404 {
			t.Errorf("another company's page = %d; want 404", a.StatusCode)
		}
	}
	if n := strings.Count(log.text(t), "too many companies for a header"); n != 1 {
		t.Errorf("the log says %d times that companies aren't told; want once", n)
	}
	size := 0
	for name, values := range got.Header {
		if strings.HasPrefix(name, "Remote-") || strings.HasPrefix(name, "Portal-") {
			size += len(name) + len(values[0]) + 4
		}
	}
	if size > 6<<10 {
		t.Errorf("the identity headers have %d bytes; want 6 KiB at most", size)
	}
}

// Portals whose clocks are half a minute slow or fast accept the assertion.
func TestAssertionsAllowForThePortalsClock(t *testing.T) {
	h := openHouse(t, layout{})
	h.in("ann@example.com").open("/x")
	got, _ := h.portal.last()
	claims, now := companiesIn(t, got.Header.Get("Portal-Assertion")), time.Now().Unix()
	if age := now - claims.IssuedAt; age < 25 || age > 60 {
		t.Errorf("iat is %d s old; want 30 to 60", age)
	}
	if left := claims.Expiry - now; left < 25 || left > 60 {
		t.Errorf("exp is in %d s; want 30 to 60", left)
	}
}
