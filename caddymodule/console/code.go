package console

import (
	"cmp"
	"net/http"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// waitingAtOnce is how many browsers a page lists.
const waitingAtOnce = 10

// GetCode shows the browsers that a code may be made for, to read to a contact over the phone.
func (h *Handlers) GetCode(w http.ResponseWriter, r *http.Request) error {
	if _, err := h.staff(r); err != nil {
		return err
	}
	c, err := h.contact(r.Context(), web.OnlyValue(r.URL.Query()["id"]))
	if err != nil {
		return err
	}
	return h.showWaiting(w, r, c, nil)
}

// showWaiting shows the browsers. failed is why no code was made; nil: none was to be yet.
func (h *Handlers) showWaiting(w http.ResponseWriter, r *http.Request, c directory.Contact, failed error) error {
	page := h.codePage(c)
	problem, err := problemOf(failed)
	if err != nil {
		return err
	}
	list, err := h.Firm.WaitingBrowsers(r.Context(), admin.ByEmail{Email: string(c.Email())})
	if err != nil {
		if problem, err = problemOf(err); err != nil {
			return err
		}
	}
	for i, b := range list.Browsers {
		if i == waitingAtOnce {
			page.More = len(list.Browsers) - i
			break
		}
		page.Waiting = append(page.Waiting, web.WaitingRow{Request: b.Request, Agent: b.Agent, Email: b.Email.Display(), At: b.At.Local(), Known: b.Known})
	}
	status := http.StatusOK
	if page.Failed = problem; problem != "" {
		status = http.StatusConflict
	}
	h.Answers.Page(w, r, status, page)
	return nil
}

func (h *Handlers) codePage(c directory.Contact) web.StaffCodePage {
	return web.StaffCodePage{ID: c.ID, Name: cmp.Or(c.Name(), c.Email().Display()), Phone: c.Phone, SignIn: h.Answers.Sites.URL.String()}
}

// PostCode makes a code, and shows it in its answer: it is at no URL.
func (h *Handlers) PostCode(w http.ResponseWriter, r *http.Request) error {
	by, get, err := h.mayChange(w, r)
	if err != nil {
		return err
	}
	c, err := h.contact(r.Context(), get("id"))
	if err != nil {
		return err
	}
	if get("request") == "" {
		return web.ErrBadForm
	}
	made, err := admin.Do(r.Context(), h.Firm, by, "contacts/phone-code", admin.Firm.PhoneCode, admin.PhoneCode{Email: string(c.Email()), Request: get("request")})
	if err != nil {
		return h.showWaiting(w, r, c, err)
	}
	page := h.codePage(c)
	page.Code, page.Agent, page.Until = made.Code, made.Browser.Agent, made.Until.Local()
	for _, char := range made.Code {
		if word := spelling[char]; word != "" {
			page.Spelt = append(page.Spelt, web.SpeltRow{Char: string(char), Word: word})
		}
	}
	h.Answers.Page(w, r, http.StatusOK, page)
	return nil
}

// spelling says the characters of codes so that they are heard over the phone.
var spelling = func() map[rune]string {
	words := map[rune]string{'0': "zero", '1': "one", '2': "two", '3': "three", '4': "four", '5': "five", '6': "six", '7': "seven", '8': "eight", '9': "nine"}
	for _, word := range []string{"Alfa", "Bravo", "Charlie", "Delta", "Echo", "Foxtrot", "Golf", "Hotel", "Juliett", "Kilo", "Mike", "November", "Papa", "Quebec", "Romeo", "Sierra", "Tango", "Victor", "Whiskey", "X-ray", "Yankee", "Zulu"} {
		char := rune(word[0]) + 'a' - 'A'
		words[char] = string(char) + " as in " + word
	}
	return words
}()
