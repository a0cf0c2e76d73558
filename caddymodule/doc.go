// Package caddymodule is Doorpost: email sign-in for the portal that a firm already has.
//
// It stands in front of an existing web application as a Caddy module. It asks visitors
// for their email address, mails them a one-time link, keeps them signed in with a
// cookie, and tells the application who they are. The application need not change.
//
// # Words
//
//	firm       the business that runs the portal, with its own brand and contacts
//	portal     the existing application behind the gate
//	gate       what stands in front of a firm's portal: it identifies visitors, and tells
//	           the portal who they are
//	prefix     where the gate's own pages are, /- unless set otherwise
//	contact    a person who may sign in; an address belongs to one contact
//	company    a client of the firm; a contact may belong to several
//	staff      a contact of the firm itself, who reaches every company
//	directory  the contacts and companies of a firm
//	visitor    the person or program that makes a request: a session and its contact, or none
//	session    one signed-in browser
//	link, code what a sign-in mail carries: a one-time URL, and eight characters to
//	           type in the browser that asked for it
//	old link   a one-click URL of one company, whose token was the key to the portal
//	new link   the URL that replaces it; it has the company's id and holds no secret
//	open       (of a company) its old links work as before; upgraded: they ask for sign-in
//	visit      what an open company's old link gives: a cookie for that company, without a
//	           person
//	bound      (of a portal's cookie) it comes back to the portal only with the contact and
//	           company, or the visit, that it was set for
//	budget     how many mails may be asked for, by contact, network or known device
//	notice     a mail to a company's contacts that something waits in the portal
//	outbox     the mails that wait in the store until a mail server has taken them
//
// # The house
//
//	caddymodule      the glue: App and Handler, by which Caddy starts and serves it all
//	├── runtime      the store and the firms of a running server, with their background work
//	├── config       everything that can be written: settings, grammar, checks
//	├── cli          "caddy doorpost …": the commands, clients of the admin endpoint
//	├── gate         the flow of every request; begin reading at Gate.ServeHTTP
//	├── signin       the pages by which visitors sign in: prompt, link, code, password
//	├── console      the pages of staff: whom to help, why they can't get in, upgrades
//	├── account      the pages of a visitor who is signed in, about themselves
//	├── api          notices and the directory for a firm's own programs, with a service token
//	├── mailbox      the mails of a mail folder, to try it all out
//	├── visitor      the session and contact of a request, and what the portal is told of them
//	├── wayback      the page that a visitor wanted before the sign-in: checked, and sealed
//	│                where it holds a token
//	├── upstream     what the portal gets from visitors, and they from it
//	├── web          pages, forms, errors: what every package with pages needs
//	├── admin        the commands' actions as JSON on Caddy's admin endpoint
//	├── doctor       what is wrong around: the mail server, DNS, the site from outside
//	├── explain      events in plain words, and advice for a contact who can't sign in
//	├── action       use cases that change records of several packages in one Apply:
//	│                sign-in, mails, passwords
//	├── brand        a firm's colors, and the text of its mails
//	├── directory    contacts and companies; CSV read → plan → apply
//	├── legacy       old one-click links: classify a URL, rewrite it in both directions
//	├── tokensearch  finds tokens of old links in URLs, headers and bodies
//	├── session      cookies, records, and the look-up in memory; also as a Store of
//	│                gorilla/sessions, for handlers that speak that interface
//	├── token        one-time links and codes: issue, peek, spend
//	├── password     passwords: policy, argon2id with bounded memory, guesses
//	├── limit        rate limits of mails, networks and known devices
//	├── oauth        the access token by which the outbox logs in to a mail server
//	├── outbox       the queue of mails: workers, SMTP, mail folder
//	├── assertion    the JWT about a visitor, and the public keys to verify it
//	├── audit        the event log: sign-ins, mails, changes
//	├── usage        counts the use of old links
//	├── servicetoken the tokens by which a firm's own programs call
//	├── notice       the notices that contacts haven't read yet
//	├── address      the grammar of an email address
//	├── phone        phone numbers, and the segments of text messages
//	├── site         the origins of a portal: its url and further site blocks
//	├── typo         the edit distance between two words
//	├── language     translates the texts of pages
//	├── secret       the keys, all derived from the one secret outside the store
//	└── store        small records by key; the packages above know nothing else of a database.
//	                 store/bolt keeps them in one file, for one process; store/redis on a
//	                 server, for many; store/sealed seals each record for its key;
//	                 store/anchor detects a store that was lost, emptied or replaced
//
// Only caddymodule, config and cli know Caddy. Imports point down, siblings don't know one
// another; imports_test.go holds all of that.
//
// # One request
//
//	GET /orders/7                               no cookie
//	  Handler → gate: identity headers of the request are removed; a protected page; no session
//	  401 and the prompt, at this URL
//	POST /-/sign-in   email=ann@example.com
//	  one Apply commits the mail request and the browser's part of it, the same for every
//	  valid address; 303 /-/sent. No contact has been looked up yet
//	a worker          contact → link and code (their MACs are stored) → message → one
//	                  Apply turns the request into a sealed mail → SMTP
//	GET /-/link?t=…   in the browser that asked: one Apply spends the link and begins the
//	                  session; 303 /orders/7. Any other browser asks for the address again
//	GET /orders/7     cookie: one hash, one look-up in memory; the identity is set; portal
//
// And by an old link, with the patterns /one-click/{token}/* and /portal/{company}/*:
//
//	GET /one-click/TOKEN/7    its company is open: portal, with a visit and no identity
//	                          upgraded: 302 /-/go?x=…, where the URL is sealed; there the
//	                          prompt, and after the sign-in 302 /portal/acme/7
//	GET /portal/acme/7        a contact of acme: the portal gets the old URL; old URLs in the
//	                          headers of its answer become new ones
//
// # Rules that hold everywhere
//
// A link is spent if and only if its session begins: token returns its changes, session adds its
// own, and the store applies all or none. A mail is in the store before anyone is told that it is
// coming. A session that ends is deleted from the store before anything else happens. If the store
// can't answer, the answer is 503: never access, and never "signed out". The store holds no session,
// link, code or password in a form that can be used to sign in.
package caddymodule
