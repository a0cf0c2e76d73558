package action

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/brand"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/notice"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/phone"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

const (
	// NoticeLife is how long it is tried to hand over a notice, and how long its key is remembered.
	NoticeLife = 48 * time.Hour

	noticeBatch = 50 // contacts whose mails are accepted in one step
	noticeTries = 8  // how often others may be faster, in a row
)

var (
	// ErrKeyUsed: the key was used for another notice.
	ErrKeyUsed = errors.New("action: the key was used for another notice")
	// ErrNoTemplate: there is no template of that name.
	ErrNoTemplate = errors.New("action: no such template")
	// ErrNoTexts: texts were asked for, and nothing sends any.
	ErrNoTexts = errors.New("action: nothing sends texts")
)

// Notices tell contacts by mail or text that something waits for them in the portal. Set its fields in one
// literal before use.
type Notices struct {
	Firm      string
	Store     store.Store
	Keys      *secret.Keyring
	Directory *directory.Directory
	Queue     *outbox.Queue
	Texts     *outbox.Queue // of the channel outbox.Text; without a Sender, nothing sends texts
	Region    string        // of phone numbers without a country code; see phone.Parse
	Messages  *brand.Messages
	Unread    *notice.Unread
	Audit     *audit.Log
	Now       func() time.Time // the clock; nil: time.Now

	// OnUntrusted is told of records that are none of ours; see sealed.Bucket.
	OnUntrusted func(context.Context, store.Key)
}

// Notice is a message to contacts of a company.
type Notice struct {
	Kind     string            `json:"kind"`               // of the mail: brand.KindNewQuestions, …
	Template string            `json:"template,omitempty"` // the name of a template of the firm's own, in place of the kind's; "": none
	Company  string            `json:"company"`            // its id
	To       []address.Address `json:"to,omitempty"`       // whom; nil: all contacts of the company
	Data     map[string]string `json:"data,omitempty"`     // for the template; see brand.CheckData
	Path     string            `json:"path,omitempty"`     // where it leads on this site; "": to the company's page
	Text     TextMode          `json:"text,omitempty"`     // whether by text

	// Key stands for the notice: with the same one the same notice isn't sent twice within NoticeLife. "": none does.
	Key string `json:"-"`
}

// TextMode says whether a notice goes out as a text message.
type TextMode string

// The modes.
const (
	TextNot  TextMode = ""     // by mail alone
	TextToo  TextMode = "too"  // by mail, and by text to those who have a number
	TextOnly TextMode = "only" // by text alone
)

// NoticeSent says who is told. The mails and texts are promised: they are in the store.
type NoticeSent struct {
	Company string    `json:"company"` // its id
	Queued  []Told    `json:"queued"`
	Skipped []Skipped `json:"skipped"`

	Again bool `json:"-"` // it was done before, by the same key
}

// Told is a contact who gets a notice.
type Told struct {
	Contact string          `json:"contact"` // ID
	Email   address.Address `json:"email"`   // where the mail goes
	Name    string          `json:"name"`
	Request string          `json:"request,omitempty"` // which ties the mail's events together; "": there is no mail
	Text    *ToldByText     `json:"text,omitempty"`    // nil: there is no text
}

// ToldByText is the text that a contact gets.
type ToldByText struct {
	To      string `json:"to"`      // the number, in part
	Request string `json:"request"` // which ties the text's events together
}

// Skipped is somebody who gets none.
type Skipped struct {
	Email  address.Address `json:"email"`
	Code   string          `json:"code"` // one of Skipped…
	Reason string          `json:"reason"`
	By     string          `json:"by,omitempty"` // "text": they get no text; "": neither mail nor text
}

// Why somebody gets no notice, or no text.
const (
	SkippedUnknown  = "unknown"  // the address is no contact's
	SkippedDisabled = "disabled" // the contact may not sign in
	SkippedOther    = "other"    // the contact doesn't belong to the company

	SkippedNoNumber = "no_number" // the contact has no phone number that texts can go to
	SkippedTextsOff = "texts_off" // the contact wants no texts
)

// noticeRequest is the payload of a request for the mail of a notice.
type noticeRequest struct {
	Contact  string            `json:"contact"`
	Email    address.Address   `json:"email"`
	Company  string            `json:"company"`
	Template string            `json:"template,omitempty"`
	Data     map[string]string `json:"data,omitempty"`
	Path     string            `json:"path,omitempty"`
	At       time.Time         `json:"at"`
}

// noticeRecord is the record of an idempotency key.
type noticeRecord struct {
	Digest string     `json:"digest"` // of the notice
	At     time.Time  `json:"at"`
	Answer NoticeSent `json:"answer"` // so far
	Done   bool       `json:"done,omitempty"`
}

func (s *Notices) keys() *sealed.Bucket[noticeRecord] {
	return &sealed.Bucket[noticeRecord]{Store: s.Store, Keys: s.Keys, Firm: s.Firm, Name: "notice-key", Now: s.Now, Format: '1', OnUntrusted: s.OnUntrusted}
}

// Reseal seals with the newest secret what older ones have sealed. The error is the store's.
func (s *Notices) Reseal(ctx context.Context) error {
	_, err := s.keys().Reseal(ctx)
	return err
}

// Send commits the mails of a notice, each together with the company's latest notice and the event that
// tells of it. proof are conditions of each step, such as that the caller may still do so.
//
// With a Key nobody is told twice: after a crash or an error, also at another machine, the same notice goes on
// where it was, and once it is done its answer is the same. The error is ErrKeyUsed, directory.ErrUnknown for the company, outbox.ErrFull,
// ErrNoTemplate, store.ErrConflict where a condition of proof doesn't hold, or the store's.
func (s *Notices) Send(ctx context.Context, n Notice, proof ...store.Op) (NoticeSent, error) {
	if _, err := s.Directory.Company(ctx, n.Company); err != nil {
		return NoticeSent{}, err
	}
	if n.Template != "" && !slices.Contains(s.Messages.NoticeTemplates(), n.Template) {
		return NoticeSent{}, ErrNoTemplate
	}
	if n.Text != TextNot && (s.Texts.Sender == nil || !brand.HasText(n.Kind)) {
		return NoticeSent{}, ErrNoTexts
	}
	digest, err := n.digest()
	if err != nil {
		return NoticeSent{}, err
	}
	if n.Key == "" {
		n.Key = rand.Text()
	}
	all, skipped, err := s.recipients(ctx, n)
	if err != nil {
		return NoticeSent{}, err
	}
	for tries := 0; ; {
		was, err := s.find(ctx, n.Key)
		if err != nil {
			return NoticeSent{}, err
		}
		state := was.Value
		switch {
		case state.Digest == "":
			state = noticeRecord{Digest: digest, At: s.now().UTC(), Answer: NoticeSent{Company: n.Company, Queued: []Told{}}}
		case state.Digest != digest:
			return NoticeSent{}, ErrKeyUsed
		case state.Done:
			state.Answer.Again = true
			return state.Answer, nil
		}
		rest := slices.DeleteFunc(slices.Clone(all), func(r recipient) bool {
			return slices.ContainsFunc(state.Answer.Queued, func(t Told) bool { return t.Contact == r.Contact.ID })
		})
		state.Answer.Skipped = skipped
		if len(rest)+len(state.Answer.Queued) == 0 {
			return state.Answer, nil // nothing that mustn't be done twice
		}
		state.Done = len(rest) <= noticeBatch
		switch err := s.tell(ctx, n, rest[:min(len(rest), noticeBatch)], was, &state, proof); {
		case errors.Is(err, store.ErrConflict) && tries < noticeTries: // another one with this key, perhaps
			tries++
		case err != nil:
			return NoticeSent{}, err
		case state.Done:
			return state.Answer, nil
		default:
			tries = 0
		}
	}
}

// recipient is a contact who is to get a notice.
type recipient struct {
	directory.Contact
	to     address.Address
	number phone.Number // for a text; "": there is none
}

// recipients returns the contacts who get the notice, and the named ones who don't.
func (s *Notices) recipients(ctx context.Context, n Notice) (all []recipient, skipped []Skipped, err error) {
	skipped = []Skipped{}
	skip := func(a address.Address, code, reason string) { skipped = append(skipped, Skipped{a, code, reason, ""}) }
	consider := func(c directory.Contact, a address.Address) {
		switch {
		case c.Disabled:
			skip(a, SkippedDisabled, "the contact is disabled")
		case !reaches(c, n.Company):
			skip(a, SkippedOther, "the contact doesn't belong to the company")
		case !slices.ContainsFunc(all, func(r recipient) bool { return r.Contact.ID == c.ID }):
			r := recipient{Contact: c, to: a}
			if n.Text != TextNot {
				var why Skipped
				if r.number, why = textTo(c, s.Region); r.number == "" {
					why.Email, why.By = a, outbox.Text.String()
					skipped = append(skipped, why)
				}
			}
			if r.number != "" || n.Text != TextOnly {
				all = append(all, r)
			}
		}
	}
	if n.To == nil {
		contacts, err := s.Directory.ContactsOf(ctx, n.Company)
		for _, c := range contacts {
			consider(c, c.Email())
		}
		return all, skipped, err
	}
	for _, a := range n.To {
		c, err := s.Directory.ByEmail(ctx, a)
		switch {
		case errors.Is(err, directory.ErrUnknown):
			skip(a, SkippedUnknown, "no contact has this address")
		case err != nil:
			return nil, nil, err
		default:
			consider(c, a)
		}
	}
	return all, skipped, nil
}

// textTo returns the number that a contact gets texts at, or why there is none.
func textTo(c directory.Contact, region string) (phone.Number, Skipped) {
	switch {
	case c.NoTexts:
		return "", Skipped{Code: SkippedTextsOff, Reason: "the contact wants no texts"}
	case c.Phone == "":
		return "", Skipped{Code: SkippedNoNumber, Reason: "the contact has no phone number"}
	}
	n, err := phone.Parse(c.Phone, region)
	if err != nil {
		return "", Skipped{Code: SkippedNoNumber, Reason: "the phone number " + err.Error()}
	}
	return n, Skipped{}
}

func reaches(c directory.Contact, company string) bool {
	return c.Role == directory.Staff || slices.Contains(c.Companies, company)
}

// tell commits the mails to some contacts, and state as the new record of the key, in one step.
func (s *Notices) tell(ctx context.Context, n Notice, some []recipient, was sealed.Record[noticeRecord], state *noticeRecord, proof []store.Op) error {
	now := s.now()
	ops := slices.Clone(proof)
	var events []audit.Event
	var wake []func()
	var pages []notice.Page
	for _, r := range some {
		payload, err := json.Marshal(noticeRequest{r.Contact.ID, r.to, n.Company, n.Template, n.Data, n.Path, now})
		if err != nil {
			return fmt.Errorf("writing a request: %w", err)
		}
		told := Told{Contact: r.Contact.ID, Email: r.to, Name: r.Contact.Name()}
		add := func(queue *outbox.Queue, event audit.Event) (id string, err error) {
			id = outbox.NewID(n.Kind, now)
			if err := queue.Full(id); err != nil {
				return "", err
			}
			event.Kind, event.Contact, event.Request, event.What, event.Company = audit.Notified, r.Contact.ID, id, n.Kind, n.Company
			event, stored := s.Audit.With(event)
			events = append(events, event)
			wake = append(wake, func() { queue.Wake(id) })
			ops = append(append(ops, queue.Add(outbox.Request{ID: id, Kind: n.Kind, Asked: now, NotAfter: now.Add(NoticeLife), Payload: payload})), stored...)
			return id, nil
		}
		if n.Text != TextOnly {
			if told.Request, err = add(s.Queue, audit.Event{Address: r.to.Masked()}); err != nil {
				return err
			}
		}
		if r.number != "" {
			told.Text = &ToldByText{To: r.number.Masked()}
			if told.Text.Request, err = add(s.Texts, audit.Event{Address: told.Text.To, Method: audit.Text}); err != nil {
				return err
			}
		}
		if n.Kind != brand.KindReportPublished { // the list of reports marks what is new
			pages = append(pages, notice.Page{Contact: r.Contact.ID, Company: n.Company})
		}
		state.Answer.Queued = append(state.Answer.Queued, told)
	}
	if len(pages) > 0 {
		latest, err := s.Unread.Put(notice.Latest{Kind: n.Kind, At: now.UTC()}, pages...)
		if err != nil {
			return err
		}
		ops = append(ops, latest...)
	}
	known, err := s.keys().Write(was, *state, state.At.Add(NoticeLife))
	if err != nil {
		return err
	}
	if err := s.Store.Apply(ctx, append(ops, known)...); err != nil {
		return err
	}
	for _, e := range events {
		s.Audit.Record(ctx, e)
	}
	for _, queue := range wake {
		queue()
	}
	return nil
}

// find returns what is known of a key, with a zero Value where that is nothing.
func (s *Notices) find(ctx context.Context, key string) (sealed.Record[noticeRecord], error) {
	const purpose = "notice key"
	for _, mac := range s.Keys.Lookups(purpose, s.Firm, key) {
		if rec, err := s.keys().Find(ctx, mac); err != nil || rec.Value.Digest != "" {
			return rec, err
		}
	}
	return s.keys().Find(ctx, s.Keys.MAC(purpose, s.Firm, key))
}

// digest tells one notice from another.
func (n Notice) digest() (string, error) {
	plain, err := json.Marshal(n) // maps are written in order
	sum := sha256.Sum256(plain)
	return hex.EncodeToString(sum[:]), err
}

func (s *Notices) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}
