package web

import "slices"

// Section is an entry of the menu on the staff's pages.
type Section string

// The menu's entries, in its order.
const (
	SectionHome      Section = "home"
	SectionContacts  Section = "contacts"
	SectionCompanies Section = "companies"
	SectionReports   Section = "reports"
	SectionEmails    Section = "emails"
	SectionDevices   Section = "devices"
	SectionLog       Section = "log"
)

// StaffSection is implemented by the pages with the staff's menu, where "" means that a page has none after all.
type StaffSection interface {
	Page
	Section() Section
}

// MenuRow is an entry of the staff's menu.
type MenuRow struct {
	Path    string // under the prefix
	Label   string
	Current bool // the page is part of it
}

// menuOf returns the staff's menu for a page; nil if it has none.
func menuOf(page Page) []MenuRow {
	p, ok := page.(StaffSection)
	if !ok || p.Section() == "" {
		return nil
	}
	at := p.Section()
	return []MenuRow{
		{"/staff/", "Home", at == SectionHome},
		{"/staff/contacts", "Contacts", at == SectionContacts},
		{"/staff/companies", "Companies", at == SectionCompanies},
		{"/reports/", "Reports", at == SectionReports},
		{"/staff/emails", "Emails", at == SectionEmails},
		{"/staff/devices", "Devices", at == SectionDevices},
		{"/staff/log", "Log", at == SectionLog},
	}
}

// staffSamples returns the pages of staff with made-up data.
func staffSamples() []Page {
	return slices.Concat(
		staffHomeSamples(),
		staffContactsSamples(),
		staffContactSamples(),
		staffAddSamples(),
		staffEditSamples(),
		staffCodeSamples(),
		staffCompaniesSamples(),
		staffCompanySamples(),
		staffEmailsSamples(),
		staffDevicesSamples(),
		staffLogSamples(),
		staffAnnounceSamples(),
		staffViewSamples(),
		staffPreviewSamples(),
	)
}
