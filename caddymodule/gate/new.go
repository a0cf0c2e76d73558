package gate

import (
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/time/rate"

	"github.com/doorpost-auth/doorpost/caddymodule/account"
	"github.com/doorpost-auth/doorpost/caddymodule/action"
	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/api"
	"github.com/doorpost-auth/doorpost/caddymodule/assertion"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/console"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/legacy"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/mailbox"
	"github.com/doorpost-auth/doorpost/caddymodule/notice"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/password"
	"github.com/doorpost-auth/doorpost/caddymodule/reports"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/servicetoken"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/signin"
	"github.com/doorpost-auth/doorpost/caddymodule/site"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/upstream"
	"github.com/doorpost-auth/doorpost/caddymodule/usage"
	"github.com/doorpost-auth/doorpost/caddymodule/visitor"
	"github.com/doorpost-auth/doorpost/caddymodule/wayback"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// Settings are the configuration of a firm's gate.
type Settings struct {
	Firm   string // the firm's id
	Serial uint64 // differs from other gates of the firm with the same sessions, as at a reload
	Sites  *site.Sites
	Prefix string // of the gate's own pages, such as "/-"
	Public []Public

	Legacy        *legacy.Rules         // old links and companies' paths; nil if there are none
	PortalSession []upstream.CookieRule // bindings of the portal's cookies, in addition to its HttpOnly ones
	Identity      upstream.Wanted       // identity headers for the portal; empty means all
	ClearStorage  bool                  // browsers clear script storage at sign-out and when another person signs in
	NoNewDevice   bool                  // no mails about sign-ins on new devices
	NoPasswords   bool                  // passwords are off

	Pages      *web.Pages
	Logo       *Logo  // nil if the firm has none
	MailFolder string // shown by the preview mailbox; "" if there is none
}

// Records are the stores that a firm's gate reads and writes.
type Records struct {
	Directory    *directory.Directory
	Sessions     *session.Sessions
	Tokens       *token.Tokens
	Passwords    *password.Passwords
	Networks     *limit.Networks
	Devices      *limit.Devices
	Mails        *limit.Mails
	LastContacts *action.LastContacts
	Queue        *outbox.Queue
	Assertion    *assertion.Signer
	Usage        *usage.Counter // of old links; required if there are any
	Reports      *reports.Reports
	Audit        *audit.Log
	Unread       *notice.Unread  // nil if contacts get no notices
	Notices      *action.Notices // nil if contacts get no notices

	Announcements *action.Announcements

	ServiceTokens *servicetoken.Tokens // nil if the firm's programs can't call

	// Anchor says whether the store is trusted; nil means always. While it isn't, nobody is signed
	// in, whatever is cached, and old links ask for sign-in.
	Anchor *anchor.Store

	Log      *slog.Logger
	ClientIP func(*http.Request) netip.Addr // the client's address; invalid if unknown
	Now      func() time.Time               // the clock
}

// New returns a gate that is ready to serve. It sets the dependencies of all its parts.
func New(s Settings, rec Records) *Gate {
	if s.NoPasswords {
		rec.Passwords = nil
	}
	keys, db := rec.Tokens.Keys, rec.Tokens.Store
	cookies := web.CookiesFor(s.Sites.URL)
	answers := &web.Answers{Pages: s.Pages, Log: rec.Log, Sites: s.Sites, Prefix: s.Prefix, ClearStorage: s.ClearStorage,
		StoreErrors: []error{secret.ErrSealed, directory.ErrFormat}}
	ways := &wayback.Ways{Firm: s.Firm, Prefix: s.Prefix, AllowedPages: []string{"/companies", "/account", "/reports", account.ReportsPath, account.ReportsPath + "*", "/staff", "/staff/", "/staff/contacts", "/staff/companies", "/staff/company", "/staff/announce", "/staff/emails", "/staff/devices", "/staff/log", signin.SignedInPath},
		Legacy: s.Legacy, Keys: keys}
	visitors := &visitor.Visitors{Firm: s.Firm, Serial: s.Serial, Directory: rec.Directory, Sessions: rec.Sessions, Devices: rec.Devices, Anchor: rec.Anchor,
		Cookies: cookies, ClientIP: rec.ClientIP, Assertion: rec.Assertion, Wanted: s.Identity, Log: rec.Log, Now: rec.Now}

	var attempts *action.PasswordAttempts
	var changes *action.PasswordChanges
	if rec.Passwords != nil {
		attempts = action.NewPasswordAttempts(action.PasswordAttempts{Directory: rec.Directory, Passwords: rec.Passwords, Devices: rec.Devices,
			Networks: rec.Networks, Log: rec.Log})
		changes = &action.PasswordChanges{Directory: rec.Directory, Passwords: rec.Passwords, Sessions: rec.Sessions, Devices: rec.Devices, Mails: rec.Mails,
			Queue: rec.Queue, Audit: rec.Audit, Now: rec.Now}
	}
	signIn := &signin.Handlers{
		Firm: s.Firm, Keys: keys, Answers: answers, Ways: ways, Visitors: visitors, Cookies: cookies,
		Directory: rec.Directory, Tokens: rec.Tokens, Passwords: rec.Passwords, Devices: rec.Devices, Networks: rec.Networks, Audit: rec.Audit, Now: rec.Now,
		Requests: &action.MailRequests{Tokens: rec.Tokens, Queue: rec.Queue, Networks: rec.Networks, Audit: rec.Audit, Now: rec.Now},
		SignIn: &action.SignIn{Directory: rec.Directory, Sessions: rec.Sessions, Devices: rec.Devices, Mails: rec.Mails, Networks: rec.Networks,
			LastContacts: rec.LastContacts, Replay: &action.Replay{Firm: s.Firm, Store: db, Keys: keys, Now: rec.Now},
			Queue: rec.Queue, NoNewDevice: s.NoNewDevice, Audit: rec.Audit, Now: rec.Now},
		Attempts: attempts, Changes: changes,
	}
	rules := rules{prefix: s.Prefix, public: s.Public}
	insecure := &insecure{sites: s.Sites, ways: ways, cookies: cookies}
	office := admin.Firm{Portal: &action.Portal{Sites: s.Sites, Legacy: s.Legacy, Prefix: s.Prefix}, Directory: rec.Directory, Sessions: rec.Sessions, Tokens: rec.Tokens, Queue: rec.Queue, Audit: rec.Audit, Usage: rec.Usage, Reports: rec.Reports, Anchor: rec.Anchor, Notices: rec.Notices, Announcements: rec.Announcements,
		ServiceTokens: rec.ServiceTokens, NoPasswords: rec.Passwords == nil, NoOldLinks: !s.Legacy.HasLinks()}
	if rec.Notices != nil {
		office.Messages = rec.Notices.Messages
	}
	g := &Gate{
		rules: rules, insecure: insecure, visitors: visitors,
		forward: &forwarder{
			Firm: s.Firm, Legacy: s.Legacy, Usage: rec.Usage, Directory: rec.Directory, Sessions: rec.Sessions, Networks: rec.Networks, Audit: rec.Audit, Unread: rec.Unread,
			Log: rec.Log, Now: rec.Now, keys: keys, cookies: cookies,
			bound: &upstream.PortalCookies{Firm: s.Firm, Store: db, Keys: keys, Gate: cookies, Configured: upstream.BindingsOf(s.PortalSession), Log: rec.Log},
			rules: rules, answers: answers, visitors: visitors, signin: signIn, ways: ways, insecure: insecure,
			home:    homesOf(s.Legacy),
			guessed: &rate.Sometimes{Interval: 10 * time.Minute}, refused: &rate.Sometimes{First: 10, Interval: time.Minute},
		},
		origins: web.NewOriginCheck(s.Sites, cookies), answers: answers, ways: ways, signin: signIn,
		account: &account.Handlers{Answers: answers, Ways: ways, Visitors: visitors, Cookies: cookies,
			Directory: rec.Directory, Legacy: s.Legacy, Sessions: rec.Sessions, Tokens: rec.Tokens, Passwords: rec.Passwords, Reports: rec.Reports, Audit: rec.Audit, Unread: rec.Unread, Now: rec.Now,
			Attempts: attempts, Changes: changes},
		console: &console.Handlers{Answers: answers, Visitors: visitors, Now: rec.Now,
			Firm: office, Overviews: &admin.Overviews{Firm: office}},
		status: &status{firm: s.Firm, answers: answers, visitors: visitors, sessions: rec.Sessions, assertion: rec.Assertion, logo: s.Logo},
	}
	if s.MailFolder != "" {
		g.mailbox = &mailbox.Mailbox{Folder: s.MailFolder, Firm: s.Firm, Keys: keys, Answers: answers}
	}
	if rec.ServiceTokens != nil {
		g.api = &api.Handler{Firm: office, Networks: rec.Networks, ClientIP: rec.ClientIP, Log: rec.Log,
			Insecure: func(r *http.Request) bool { return insecure.is(r) && !rec.ClientIP(r).Unmap().IsLoopback() }}
	}
	g.routes = g.routeTable()
	return g
}
