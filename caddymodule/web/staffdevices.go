package web

import "time"

// StaffDevicesPage lists where contacts are signed in. Its forms: POST {prefix}/staff/devices with q, after; and with id,
// session, do.
type StaffDevicesPage struct {
	Query    string // as typed
	Contacts []DeviceOwner
	After    string // where this page begins
	Next     string // start of the next page; empty if there is none
	Done     string // message about the last action; empty if none
	Failed   string // why it failed; empty if it didn't
}

// DeviceOwner is a contact with the browsers that they are signed in with.
type DeviceOwner struct {
	ID, Name, Email string
	Staff           bool
	Devices         []StaffDeviceRow
}

// StaffDeviceRow is a browser that is signed in.
type StaffDeviceRow struct {
	ID, Agent   string
	How         string // how they signed in: link, code or password
	Shared      bool
	Begun, Seen time.Time
	Own         bool // it is the visitor's own
}

func (StaffDevicesPage) file() string { return "staff-devices.html" }

// Section implements StaffSection.
func (StaffDevicesPage) Section() Section { return SectionDevices }

func staffDevicesSamples() []Page {
	when := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	return []Page{
		StaffDevicesPage{},
		StaffDevicesPage{Query: "nobody", Failed: "This session is over."},
		StaffDevicesPage{Query: "ann", After: "1", Next: "7", Done: "They are signed out.", Contacts: []DeviceOwner{
			{ID: "7", Name: "Ann Lee", Email: "ann@example.com", Devices: []StaffDeviceRow{{ID: "H1", Agent: "Safari on iPhone", How: "link", Begun: when, Seen: when}, {ID: "H2", Agent: "Chrome on Windows", How: "code", Shared: true, Begun: when, Seen: when}}},
			{ID: "9", Email: "owner@example.com", Staff: true, Devices: []StaffDeviceRow{{ID: "H3", How: "password", Begun: when, Seen: when, Own: true}}}}},
	}
}
