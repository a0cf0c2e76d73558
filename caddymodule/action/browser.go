// Package action holds the use cases that change the records of several packages in one step:
// signing in (SignIn), asking for a mail (MailRequests) and making it (MailJobs), trying a password
// (PasswordAttempts) and changing one (PasswordChanges), signing out other devices (RevokeOthers).
// It is given the browser of a request (Browser), and knows no pages.
package action

import (
	"net/netip"

	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

// Browser has a request's data about its browser. It proves nothing about the person.
type Browser struct {
	IP           netip.Addr // invalid where it isn't known
	Agent        string     // the browser in words, such as "Safari on iPhone"
	Flow         string     // the cookie of a browser that asked for a mail; "": there is none
	DeviceCookie string     // the cookie of a device that has been signed in on; "": there is none
	Device       string     // ID of that device; "": there is none
	Languages    string     // those that it accepts, as in the header Accept-Language
}

// FlowID returns the ID under which tokens know the browser, or "".
func (b Browser) FlowID() string {
	if b.Flow == "" {
		return ""
	}
	return token.BrowserOf(b.Flow)
}

// NewestDevice returns the cookie that the browser's device is to have from now on, and its ID;
// a new one where it has none.
func (b Browser) NewestDevice(devices *limit.Devices) (cookie, id string) {
	if b.Device == "" {
		return devices.New()
	}
	return devices.Renew(b.DeviceCookie), b.Device
}
