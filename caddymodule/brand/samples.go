package brand

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/language"
)

// Sample is a message about made-up people, as clients would get it.
type Sample struct {
	Kind     string // such as KindSignIn, or the name of a template of the firm's own
	Variant  string // in a word or two, such as "removed"; "": the usual one
	Language string // its tag
	Message  Message

	link string
}

// SampleLinks are where the links of samples lead. They needn't work.
type SampleLinks struct {
	Own  string // of Doorpost's own pages: https://clients.example.com/-
	Page string // of a company
}

var trialLinks = SampleLinks{Own: "https://clients.example.com/-", Page: "https://clients.example.com/portal/acme"}

// Kinds returns the kinds of messages that contacts get, and the names of templates of the firm's own.
func (l *Messages) Kinds() []string {
	order := slices.Concat(otherKinds, noticeKinds)
	kinds := slices.DeleteFunc(slices.Clone(order), func(kind string) bool { return kind == kindTest })
	for _, name := range slices.Sorted(maps.Keys(l.pairs[language.English.Tag])) {
		if !slices.Contains(order, name) {
			kinds = append(kinds, name)
		}
	}
	return kinds
}

// Samples returns the messages of a kind in a language, one for each variant; none if there is no such kind or language.
func (l *Messages) Samples(kind, tag string, links SampleLinks) ([]Sample, error) {
	if !slices.Contains(l.Kinds(), kind) || l.pairs[tag] == nil {
		return nil, nil
	}
	return l.samples(kind, tag, false, links)
}

// samples returns the messages of a kind. With poor, nothing is known of the contact, and notices bring nothing.
func (l *Messages) samples(kind, tag string, poor bool, links SampleLinks) (all []Sample, err error) {
	mail := Mail{To: "ann@example.com", FirstName: "Ann", LastName: "Baker", Companies: []string{"Acme", "Baker & Sons"},
		Code: "k7mq-2xhd", Life: 10 * time.Minute, AskedAt: time.Date(2026, 3, 2, 10, 2, 31, 0, time.Local), Agent: "Safari on iPhone", Language: tag}
	one := mail
	one.Companies = mail.Companies[:1]
	data := map[string]string{"count": "3", "due": l.languages.Choose(tag, "").Date(time.Date(2026, 3, 12, 0, 0, 0, 0, time.UTC), "2 January"),
		"note": "The bank statements of October are missing, too.", "title": "July statement"}
	if poor {
		mail.FirstName, mail.LastName, mail.Companies, mail.Agent, data = "", "", nil, "", nil
		one = mail
	}
	add := func(variant, link string, write func(Mail) (Message, error), m Mail) {
		if err != nil {
			return
		}
		m.Link = link
		var letter Message
		letter, err = write(m)
		all = append(all, Sample{kind, variant, tag, letter, link})
	}
	token := "?t=k3q27wejlsqcjmqnzkissp5yh4"
	switch kind {
	case KindSignIn:
		add("", links.Own+"/link"+token, func(m Mail) (Message, error) { return l.SignIn(SignIn(m)) }, mail)
	case KindSetPassword:
		for _, staff := range []bool{false, true} {
			variant, m := "", mail
			if staff {
				variant, m.Life = "by staff", 24*time.Hour
			}
			add(variant, links.Own+"/password/set"+token, func(m Mail) (Message, error) { return l.SetPassword(SetPassword{Mail: m, ByStaff: staff}) }, m)
		}
	case KindPasswordChanged:
		add("", links.Own+"/help", func(m Mail) (Message, error) { return l.PasswordChanged(PasswordChanged{Mail: m}) }, mail)
		add("removed", links.Own+"/help", func(m Mail) (Message, error) { return l.PasswordChanged(PasswordChanged{Mail: m, Removed: true}) }, mail)
	case KindNewDevice:
		add("", links.Own+"/account", func(m Mail) (Message, error) { return l.NewDevice(NewDevice{Mail: m}) }, mail)
		add("by password", links.Own+"/help", func(m Mail) (Message, error) { return l.NewDevice(NewDevice{Mail: m, ByPassword: true}) }, mail)
	case KindPortalUpdate:
		add("", links.Page, func(m Mail) (Message, error) { return l.PortalUpdate(PortalUpdate{Mail: m}) }, one)
		add("several companies", links.Own+"/companies", func(m Mail) (Message, error) { return l.PortalUpdate(PortalUpdate{Mail: m}) }, mail)
		add("before the upgrade", links.Page, func(m Mail) (Message, error) { return l.PortalUpdate(PortalUpdate{Mail: m, Open: true}) }, one)
	case KindReportPublished:
		add("", links.Own+"/reports/", func(m Mail) (Message, error) {
			return l.Notice(Notice{Mail: m, Kind: kind, Company: "Acme", Data: data})
		}, mail)
	default:
		template := ""
		if kind != KindNewQuestions {
			template = kind
		}
		notice := func(data map[string]string) func(Mail) (Message, error) {
			return func(m Mail) (Message, error) {
				return l.Notice(Notice{Mail: m, Kind: KindNewQuestions, Template: template, Company: "Acme", Data: data})
			}
		}
		add("", links.Page, notice(data), mail)
		if data != nil {
			add("without data", links.Page, notice(nil), mail)
		}
	}
	return all, err
}

// Preview returns the sample as a message to an address, marked as a preview.
func (s Sample) Preview(to string) Message {
	const mark = "This is a preview with made-up data. Its links sign nobody in."
	m := s.Message
	m.To, m.Subject = to, "[Preview] "+m.Subject
	m.Text = mark + "\n\n" + m.Text
	banner := `<div style="padding:12px 16px;background:#fff3c4;color:#1b1f1d;font-family:sans-serif;font-size:15px;line-height:22px;">` + mark + `</div>`
	if i := strings.Index(m.HTML, "<body"); i >= 0 {
		if j := strings.IndexByte(m.HTML[i:], '>'); j >= 0 {
			m.HTML = m.HTML[:i+j+1] + "\n" + banner + m.HTML[i+j+1:]
			return m
		}
	}
	m.HTML = banner + "\n" + m.HTML
	return m
}
