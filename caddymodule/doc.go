// Package caddymodule is Doorpost: email sign-in for the portal that a firm already has.
//
// It stands in front of an existing web application as a Caddy module. It asks visitors
// for their email address, mails them a one-time link, keeps them signed in with a
// cookie, and tells the application who they are. The application need not change.
//
// # Words
//
//	gate       the door of one firm: asks who is there, lets in, tells the portal
//	prefix     where the gate's own pages are, /- unless set otherwise
//	firm       the business that runs the portal, with its own brand
//	portal     the existing application behind the gate
//	contact    a person who may sign in; one address belongs to one contact
//	company    a client of the firm; a contact may belong to several
//	staff      a contact of the firm itself, who reaches every company
//	link, code what a sign-in mail carries: a one-time URL, and eight characters to
//	           type in the browser that asked
//	live       (of a link) it works; of one purse at most three do
//	grant      a proof that was accepted, by link or by code: whom to sign in
//	session    one signed-in browser; Live is how the process holds it
//	visitor    who makes a request: a session, and the contact it belongs to
//	book       the directory of a firm: its contacts and companies
//	old link   a one-click URL of one company, whose token was the key to the portal
//	new link   the URL in its place, with the company's id: it holds no secret
//	open       (of a company) its old links work as ever; upgraded: they ask for sign-in
//	visit      what an open company's old link gives: a way in without a person
//	bound      (of a portal's cookie) good only for the contact and company, or the visit,
//	           that it was set for
//	budget     how often something may happen. A purse is whose budget of mails it is: a
//	           contact's, or that of a device which they have signed in on before
//	trail      the events at the door, as they are stored
//	ask        what a browser asked for: a sign-in mail, for an address
//	letter     a mail that is written; the outbox hands it over to a mail server
//
// An outbox.Request is an ask that was committed and that no worker has read yet; every
// other request is one of HTTP.
//
// # The house
//
//	caddymodule      the glue: App and Handler, by which Caddy starts and serves it all
//	├── runtime      the store and the firms of a running server, with their background work
//	├── config       everything that can be written: settings, grammar, checks
//	├── cli          "caddy doorpost …": the commands, clients of the admin endpoint
//	├── gate         a visitor's way in; begin reading at Gate.ServeHTTP
//	├── signin       the pages by which visitors sign in: prompt, link, code, password
//	├── console      the pages of staff: whom to help, why they can't get in, upgrades
//	├── account      the pages of a visitor who is signed in, about themselves
//	├── mailbox      the mails of a mail folder, to try it all out
//	├── visitor      who makes a request, and what the portal is told about them
//	├── wayback      where somebody goes on after the sign-in: safe, and sealed if need be
//	├── upstream     what the portal gets from visitors, and they from it
//	├── web          pages, forms, errors: what every package with pages needs
//	├── admin        the commands' actions as JSON on Caddy's admin endpoint
//	├── explain      what happened at the door in plain words, and what to do
//	├── action       what changes the records of several packages in one step: sign-in,
//	│                mails, passwords
//	├── brand        how a firm looks and speaks: colours, letters
//	├── directory    contacts and companies; CSV read → plan → apply
//	├── legacy       old one-click links: what a URL is, and rewriting in both directions
//	├── tokensearch  the tokens of old links, in whatever text they stand
//	├── session      cookies, records, and the look-up in memory; also as a Store of
//	│                gorilla/sessions, for handlers that speak that interface
//	├── token        one-time links and codes: issue, peek, spend
//	├── password     passwords: policy, argon2id behind permits, guesses
//	├── limit        budgets: of mails, of networks, of known devices
//	├── outbox       what goes out, goes out: queue, worker, SMTP, mail folder
//	├── assertion    the signed word about a visitor, and the keys to check it
//	├── audit        what happened at the door
//	├── usage        who still uses old links
//	├── address      the one grammar of an email address
//	├── site         the origins under which people come to a portal
//	├── typo         how far a word is from one that may have been meant
//	├── secret       every key, derived from the one secret outside the store
//	└── store        small records by key, which is all that the packages above know of
//	                 a database: store/bolt keeps them in one file, for one process;
//	                 store/redis on a server, for many; store/sealed seals records,
//	                 each for its key; store/anchor tells a store that was lost, emptied
//	                 or put back from the one of last time, and answers for it
//
// Only caddymodule, config and cli know Caddy. Imports point down, siblings don't know one
// another; imports_test.go holds all of that.
//
// # One request
//
//	GET /orders/7                               no cookie
//	  Handler → gate: what they say about themselves is stripped; Protected; nobody
//	  401 and the prompt, at this very URL
//	POST /-/sign-in   email=ann@example.com
//	  one Apply commits the request and what the browser asked for, alike for every
//	  valid address; 303 /-/sent. Nothing has been looked up yet
//	a worker          contact → link and code (their MACs are stored) → letter → one
//	                  Apply turns the request into a sealed mail → SMTP
//	GET /-/link?t=…   in the browser that asked: one Apply spends the link and begins the
//	                  session; 303 /orders/7. In any other: the address once more
//	GET /orders/7     cookie: one hash, one look-up in memory; the identity is set; portal
//
// And one by an old link, with the patterns /one-click/{token}/* and /portal/{company}/*:
//
//	GET /one-click/TOKEN/7    its company is open: portal, with a visit and no identity
//	                          upgraded: 302 /-/go?x=…, where the URL is sealed; there the
//	                          prompt, and after the way above 302 /portal/acme/7
//	GET /portal/acme/7        a contact of acme: the old URL is put back for the portal, and
//	                          what its answer's headers say of old URLs becomes new again
//
// # What holds it together
//
// A link is used up if and only if somebody is in: token returns its changes, session
// adds its own, and the store applies all or none. A mail is in the store before anyone
// is told it is coming. What ends is deleted before anything else happens. A store that
// can't answer means 503, never a way in and never "signed out". Nothing that opens a
// door lies in the store in a form that opens it.
package caddymodule
