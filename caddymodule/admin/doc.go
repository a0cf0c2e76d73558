// Package admin is the operator's side of Doorpost as JSON over HTTP: Handler serves it
// on Caddy's admin listener, Client speaks to it for the command line and for tests.
//
// There is no authentication here: who may reach the listener may do everything, by
// Caddy's own rules (its Host and Origin checks, the permissions of a unix socket). It
// is never on the site's listener.
//
// # Requests
//
// FIRM is the firm's id. Every request but the first is a POST with a JSON body and
// Content-Type: application/json. Addresses travel in bodies and never in URLs, which
// are logged. A field that isn't known is an error.
//
//	GET  /doorpost/                                → {"firms": [{"id": "example"}]}
//
//	POST /doorpost/FIRM/contacts/list     LIST, perhaps with "only": "disabled"
//	                                               → {"contacts": [CONTACT], "next": "…"}
//	POST /doorpost/FIRM/contacts/add      CHANGE   → {"contact": CONTACT, "sessions_ended": 0}
//	POST /doorpost/FIRM/contacts/set      {"email": "ann@example.com", "change": CHANGE}
//	POST /doorpost/FIRM/contacts/disable  {"email": "ann@example.com"}
//	POST /doorpost/FIRM/contacts/enable   {"email": "ann@example.com"}
//	POST /doorpost/FIRM/contacts/remove   {"email": "ann@example.com", "version": "…"}
//	POST /doorpost/FIRM/contacts/lasting-link {"email": "ann@example.com"}
//	                                               → {"contact": CONTACT, "link": "…"}, which holds no secret
//	POST /doorpost/FIRM/contacts/link     {"email": "ann@example.com"}, which mails that link
//	                                               → {"contact": CONTACT, "to": "…", "request": "…"}
//	POST /doorpost/FIRM/contacts/waiting  {"email": "ann@example.com"}
//	                                               → {"contact": CONTACT, "browsers": [WAITING]}
//	POST /doorpost/FIRM/contacts/phone-code {"email": "ann@example.com", "request": "…"}
//	                                               → {"contact": CONTACT, "code": "…", "until": "…", "browser": WAITING}
//	POST /doorpost/FIRM/contacts/import   CSV      → IMPORT
//	POST /doorpost/FIRM/contacts/timeline {"email": "ann@example.com", "since": "2026-03-01T09:00:00Z"}
//	                                               → TIMELINE
//
//	POST /doorpost/FIRM/companies/list    LIST     → {"companies": [COMPANY], "next": "…"}
//	POST /doorpost/FIRM/companies/add     {"id": "acme", "name": "Acme Ltd", "legacy_tokens": ["…"]}
//	POST /doorpost/FIRM/companies/set     {"id": "acme", "change": {"name": "Acme Ltd"}}
//	POST /doorpost/FIRM/companies/remove  {"id": "acme"}
//	POST /doorpost/FIRM/companies/restore {"id": "acme"}
//	POST /doorpost/FIRM/companies/import  CSV      → IMPORT
//
//	POST /doorpost/FIRM/files/list        {}       → {"files": [FILE]}
//
//	POST /doorpost/FIRM/upgrade           {"companies": ["acme"], "all": false, "undo": false,
//	                                       "dry_run": true}  → UPGRADE
//
//	POST /doorpost/FIRM/legacy/usage      LIST     → {"counted_since": "…", "companies": [USAGE], "next": "…"}
//
//	POST /doorpost/FIRM/notify            NOTIFY   → NOTIFIED
//
//	POST /doorpost/FIRM/announce          ANNOUNCE → ANNOUNCED
//	POST /doorpost/FIRM/announce/status   {}       → {"announcement": ANNOUNCEMENT}, null before the first one
//	POST /doorpost/FIRM/announce/stop     {}       → {"announcement": ANNOUNCEMENT}
//
//	POST /doorpost/FIRM/preview           PREVIEW  → {"kinds": ["sign-in"], "languages": ["en"], "mails": [SAMPLE]}
//
//	POST /doorpost/FIRM/contacts/upsert   {"email": "ann@example.com", "change": CHANGE}
//	POST /doorpost/FIRM/companies/upsert  {"id": "acme", "change": {"name": "Acme Ltd"}}
//
//	POST /doorpost/FIRM/tokens/create     {"name": "portal", "scopes": ["notify"]} → TOKEN, with "token"
//	POST /doorpost/FIRM/tokens/list       {}       → {"tokens": [TOKEN]}
//	POST /doorpost/FIRM/tokens/revoke     {"id": "k3q27wej"} → TOKEN
//
//	POST /doorpost/FIRM/reset-link        {"email": "ann@example.com"}
//	                                               → {"contact": CONTACT, "to": "ann@example.com", "request": "…"}
//
//	POST /doorpost/FIRM/mail/list         {"failed": false, "after": "…", "limit": 100}
//	                                               → {"mails": [MAIL], "next": "…"}
//	POST /doorpost/FIRM/mail/retry        {"id": "…"}  → {"mail": MAIL}
//	POST /doorpost/FIRM/mail/test         {"email": "you@example.com"}  → DIALOGUE
//
//	POST /doorpost/FIRM/sessions/list     {"email": "ann@example.com"}, or LIST for everybody's
//	                                               → {"sessions": [SESSION], "next": "…"}
//	POST /doorpost/FIRM/sessions/revoke   {"email": "ann@example.com"}
//
//	POST /doorpost/FIRM/reports/publish   FORM     → {"report": REPORT, "contacts": 2}
//	POST /doorpost/FIRM/reports/list      {"company": "acme", "after": "…", "limit": 100}
//	                                               → {"reports": [REPORT], "next": "…"}
//	POST /doorpost/FIRM/reports/remove    {"id": "…"}  → {"report": REPORT, "contacts": 0}
//
//	POST /doorpost/FIRM/audit/list        {"since": "2026-03-01T09:00:00Z", "after": "…", "limit": 100}
//	                                               → {"events": [EVENT], "next": "…"}
//	POST /doorpost/FIRM/audit/unknown     {}       → {"addresses": [STRANGER]}
//
//	POST /doorpost/FIRM/store/accept      {"reopen": false}
//	                                               → {"all_upgraded": false, "upgraded": ["acme"], "sessions_ended": 3}
//
//	GET  /doorpost/doctor                          → {"ok": true, "findings": [FINDING]}
//	POST /doorpost/backup                 {}       → the store, as application/octet-stream
//
// Where no answer is given, a request about a contact is answered like contacts/add,
// one about a company with {"company": COMPANY, "contacts": 0}; contacts is how many
// lost the company, with remove, or have it again, with restore. Any of an address's contact names that contact.
//
// # Shapes
//
// LIST asks for one page: {"text": "ann acme", "after": "…", "limit": 100}. Every word
// of text must be in what is listed (in a contact's name, addresses or companies; in a
// company's id or name). limit is 100 unless said, at most 1000; "next" of an answer,
// if there is one, is "after" of the next page. All three may be left out. "only" narrows
// contacts to those who are "disabled", who have "never-signed-in", or who belong to a company
// whose "old-links" still open without sign-in.
//
//	CONTACT  {"id": "…", "email": "ann@example.com", "other_emails": [], "first_name": "Ann",
//	          "last_name": "Lee", "phone": "", "companies": ["acme"], "role": "client",
//	          "locale": "en-GB", "disabled": false, "texts": "on", "version": "…"}, and "stored_role" where the Caddyfile
//	         makes staff of somebody whom the store has as a client
//	CHANGE   what is to become of a contact: email, other_emails, first_name, last_name,
//	         phone, companies (ids or unique names), role ("client" or "staff"), locale, texts,
//	         disabled. What is left out stays; a list replaces the whole list. add_emails,
//	         remove_emails, add_companies and remove_companies change single entries. version
//	         is that of the CONTACT that the change is based on (see below).
//	COMPANY  {"id": "acme", "name": "Acme Ltd", "legacy_links": 2, "state": "open", "version": "…"}
//	SESSION  {"id": "…", "email": "ann@example.com", "name": "Ann Lee", "method": "link",
//	          "agent": "Safari on iPhone", "shared": false, "begun_at": "2026-03-01T09:00:00Z",
//	          "seen_at": "…", "expires_at": "…"}
//	EVENT    {"id": "…", "time": "2026-03-01T10:02:00.5Z", "event": "signed-in", "contact": "…",
//	          "session": "…", "address": "a•••@example.com", "method": "link",
//	          "agent": "Safari on iPhone", "ip": "203.0.113.9", "request": "…"}
//	REPORT   {"id": "…", "company": "acme", "company_name": "Acme Ltd", "title": "July statement",
//	          "file": "july.pdf", "type": "application/pdf", "size": 1048576,
//	          "published_at": "2026-03-01T09:00:00Z", "url": "https://clients.example.com/-/reports/…"}
//	STRANGER {"email": "ann@exmaple.com", "count": 3, "first": "…", "last": "…",
//	          "agent": "Safari on iPhone"}
//	WAITING  {"request": "…", "email": "ann@example.com", "agent": "Safari on iPhone",
//	          "at": "2026-03-01T09:00:00Z", "known": true}, known where the contact has signed in on it before
//	TIMELINE {"email": "ann@example.com", "contact": CONTACT, "sessions": 1, "events": [EVENT],
//	          "similar": [STRANGER], "asked": STRANGER, "near": [CONTACT]}
//
// Disabling and removing a contact, and taking an address away from one, end the
// contact's sessions and the links on their way: sessions_ended counts them. It is so
// with sessions/revoke, and the next request of such a browser is signed out. Who loses an
// address loses the password, too: whoever reads the mail there may have set it.
//
// "version" stands for the state of a contact or company: it is another one once anything of it
// differs. A change or removal of a contact, or a change of a company, with a version is made in that
// state alone; else it is refused (409, changed), so that nobody overwrites what somebody else has
// written meanwhile: read again, see what is different, and send the version that it has now.
//
// "lost" of an answer are addresses that the contact has no more, and "hints" say of new
// ones that look like a slip what was likely meant. A company that is removed can be
// restored, with its old links and its contacts; one that is added again begins anew.
//
// contacts/phone-code makes a code to read to a contact over the phone. It signs them in once, within ten
// minutes, and only in the browser that it was made for: one whose page waits for a sign-in email to one of
// their addresses, of which contacts/waiting lists those that asked within half an hour. request names the
// browser; without it, the only one that waits ("choose": there are several, "not_waiting": there is none).
// Staff get no such code ("staff").
//
// reset-link mails a link to choose a password, good once, for 24 hours, to that address
// of the contact. request is that of its events. Nobody can choose for somebody else.
//
// reports/publish takes a form (multipart/form-data) with the fields company, an id, title and
// notify ("true"), which may be left out, and file, which comes last, such as curl sends with
// -F company=acme -F file=@july.pdf. The file goes to the disk as it comes, up to 2048 MiB. Nobody
// sees any of it before all of it is there. contacts is how many may download it. With notify
// they are told by email: told is an answer as that of notify, or not_told the error. Reports are
// listed from the newest on, of all companies where none is named; company_name is missing
// where the company was removed.
//
// store/accept takes the store as the right one from now on, although it is new, empty, older or
// another one than last time (see docs/operations.md). Until then every other request is answered
// 503, "untrusted_store". upgraded are the companies that stay upgraded; with reopen, what the
// store says of old links counts alone.
//
// mail/list lists the emails that the mail server hasn't taken yet, in the order of sending, or,
// with failed, those that ended unsent within the last 48 hours. Each page has mail_server, as in a
// TIMELINE, while none goes out. mail/retry has an email of either list tried again now: one that
// was refused is made anew, with a new link; one whose time is over isn't sent any more ("late").
// mail/test sends an email that says only that it is a test, with the firm's own settings, over a
// connection of its own, and shows what was said, without secrets.
//
//	MAIL     {"id": "…", "kind": "sign-in", "to": "a•••@example.com", "asked_at": "…", "until": "…",
//	          "tries": 1, "reason": "RCPT TO: 450 4.2.0 Mailbox busy", "advice": "…", "next": "…"},
//	         and "failed": "…" in place of next, with "late": true where its time was over
//	DIALOGUE {"to": "you@example.com", "server": "smtp.example.com:587", "at": "…",
//	          "lines": [{"by": "server", "text": "250 2.0.0 Ok: queued", "means": "…", "after": 0.4}],
//	          "accepted": true}, and "reason" and "advice" where it isn't. by is "doorpost", "server"
//	         or "note"; after is seconds since the beginning
//
//	FINDING  {"check": "store", "firm": "example", "ok": false, "what": "…", "do": "…"}
//
// # Upgrade
//
// The old links of an upgraded company ask for sign-in, those of an open one work as
// ever. companies are ids or unique names; all stands for every company, also those that
// are added later. undo is the way back. Nothing is changed with dry_run.
//
//	UPGRADE  {"dry_run": true,
//	          "changed": [{"id": "acme", "name": "Acme Ltd", "contacts": ["ann@example.com"]}],
//	          "refused": [{"id": "birch", "name": "Birch & Sons", "contacts": []}],
//	          "unchanged": 3, "linkless": 1, "linked": 5, "done": 4}
//
// contacts are those who are asked to sign in. A company without one is refused, as nobody
// could reach it any more, and stays open; the others are changed. Of those unchanged,
// linkless have no old links, so that they ask for sign-in anyway. Of the linked companies
// of the firm, which have old links, done are upgraded then. "no_legacy_link": true says that
// the Caddyfile has no legacy_link, so that old links aren't known as such.
//
// # Notices
//
// A notice tells contacts of a company by email that something waits for them in the portal.
// to are the contacts who are meant, by any of their addresses; without it, all of the company.
// data stands in the email where its template says {{.Data.count}}: texts, numbers, true or false,
// up to 20, of 500 characters each. template is the name of one of your own, in place of
// new-questions. text "too" sends a text message as well, to those who have a phone number, and "only" no
// email. All but company may be left out.
//
//	NOTIFY   {"company": "acme", "to": ["ann@example.com"], "template": "", "data": {"count": 3},
//	          "key": "questions-2026-03-acme"}
//	NOTIFIED {"company": "acme",
//	          "queued":  [{"contact": "…", "email": "ann@example.com", "name": "Ann Lee", "request": "…"}],
//	          "skipped": [{"email": "eve@example.com", "code": "disabled", "reason": "…"}]}
//
// The emails that are queued are in the store, and are tried for 48 hours. Of those skipped, code is
// "unknown" (no contact's address), "disabled", or "other" (not of this company). request is that of
// the email's events. With text, those queued may have "text": {"to": "+44…58", "request": "…"}, and those skipped
// "by": "text", with the code "no_number" or "texts_off": they get no text.
//
// key, or the header Idempotency-Key, stands for the notice: after an error or a lost answer, send the same
// request with the same key, to whichever server. For 48 hours nobody is told twice, and the answer is the
// same. With another notice the key is refused (422, key_used).
//
// # Announcements
//
// An announcement tells contacts by email, each of them once, that old links ask for sign-in. companies are ids;
// without them it goes to the contacts of all. With again it goes also to those who were told before. resume goes on with the
// one that was stopped. key, or the header Idempotency-Key, stands for it: with that of the latest one none begins.
//
//	ANNOUNCE  {"companies": ["acme"], "again": false, "resume": false, "dry_run": false, "key": "…"}
//	ANNOUNCED {"dry_run": false, "begun": true, "announcement": ANNOUNCEMENT}, with dry_run "plan": PLAN in its place
//	PLAN      {"contacts": 118,
//	           "first": [{"email": "ann@example.com", "name": "Ann Lee", "companies": ["acme"]}],
//	           "skipped": {"already": 1, "disabled": 2, "no_company": 1, "staff": 3},
//	           "skipped_first": [{"email": "eve@example.com", "code": "disabled", "reason": "is disabled"}]}
//	ANNOUNCEMENT {"id": "…", "state": "running", "companies": ["acme"], "begun_at": "2026-03-01T09:00:00Z",
//	              "queued": 400, "sent": 120, "waiting": 280, "not_sent": 0, "remaining": 39600, "skipped": {"disabled": 2},
//	              "unsent": [{"contact": "…", "email": "bob@example.com", "code": "refused", "reason": "…"}]}
//
// begun says that it is this request that began it: one that is running already, to the same contacts, is answered as it is,
// and another one is refused (409, announcing). Where nobody is left to tell, id is empty. state is "running", "stopped" or
// "done". Of the emails that are queued so far, those that are waiting are in the outbox; remaining is how many contacts come
// after them. A contact whose email wasn't sent (code is "refused" or "late" by the mail server, or "gone": disabled, removed, or of no
// company any more) is told by the next announcement.
//
// # Previews
//
// A preview is an email as clients get it, with made-up data. Without kind there is one of every kind, without language one of
// each. With to, the first one is sent there, marked as a preview: "sent" of the answer is {"to": "…", "request": "…"}.
//
//	PREVIEW  {"kind": "sign-in", "language": "es", "to": "you@example.com"}
//	SAMPLE   {"kind": "password-changed", "variant": "removed", "language": "es", "from": "…", "subject": "…", "text": "…",
//	          "html": "…", "message": "the whole email, as it is sent"}
//
// # Service tokens
//
// With a service token, the firm's own programs send some of these requests to the site itself, at
// /-/api/ (see docs/notices.md). token of the answer to create is the token, which is shown this once; id
// stands for it in lists and events. upsert changes what is there, or adds it. An event of such a program
// has "by": "token" and the token's id.
//
//	TOKEN    {"id": "k3q27wej", "name": "portal", "scopes": ["notify"], "created_at": "2026-03-01T09:00:00Z",
//	          "last_used": "2026-03-01T09:00:00Z"}
//
// # Use of old links
//
// Who still uses old links is counted by company. USAGE has recent, of the last 90 days,
// and ever; its page lists companies with old links, or with a use, and may hold fewer than
// limit. Where they were never used, or not for 400 days, first_used and last_used are
// missing. Uses before counted_since aren't known.
//
//	USAGE    {"id": "acme", "name": "Acme Ltd", "legacy_links": 2, "state": "open",
//	          "recent": SUM, "ever": SUM, "first_used": "…", "last_used": "…"}
//	SUM      {"hits": 12, "asked": 5, "not_browsers": 4, "sign_ins": 1, "browsers": 3,
//	          "more_browsers": false}
//
// Of the hits, asked are those of links that asked for sign-in, and not_browsers those by
// what isn't a browser, such as a mail scanner. browsers are different ones, up to 200, the
// latest: more_browsers says that there were more. The dry run of an upgrade (not of undo)
// has counted_since, too, and recent, ever, first_used and last_used of each company that is
// changed or refused.
//
// # History
//
// An EVENT is one of asked, unknown, disabled, limited, delayed, queued, waiting, sent,
// refused, late (what became of a request for a mail), notified (a notice to the contact was
// accepted; what is the kind of mail, company what it is about), dropped (it isn't sent: they were removed or left the company), opened, opened-old, unknown-link (a link that let
// nobody in: a good one, one that is over, one that never was), wrong-code, wrong-mail,
// wrong-password, signed-in, signed-out, password-set, password-removed, entered (staff
// looked at the pages of the company), downloaded (a report, whose id and title stand there), changed and untrusted-record (a record in the store was
// sealed by none of the secrets; what is its bucket). Of its fields those are there that say
// something:
// request ties the events of one request together; reason holds the codes and words by
// which the mail server refused, without addresses and links; automatic says that a link was opened by what looks like a program,
// scanner, in a timeline, by what looks like a mail scanner; "more": 1234 stands for so
// many further events of a flood. With changed: by ("admin", or "file" of the Caddyfile),
// what ("contacts/disable"), company, fields (names alone) and count (rows changed,
// sessions ended, contacts that lost the company). Elsewhere what is "set-password" where
// a mail was asked for, or a link opened, to set a password.
//
// Events are listed in the order of time. With several servers on one store an event may
// turn up some seconds late: who follows the list asks again for the last seconds, and goes
// by id. In a TIMELINE, contact is missing where the address is nobody's; then asked says
// whether somebody asked with it, and near are contacts with an address like it. similar
// are addresses like the contact's that somebody asked with and that are nobody's. former is
// there where the address was a contact's: the contact, unless it was removed, and when the
// address was lost, where that is known. waiting are the mails that aren't sent yet, each with
// request, kind, tries, reason, next and until; mail_server, with since, reason and next, is
// there while this server's mail server can't be used. no_company says that the contact
// belongs to none of the firm's companies.
//
// # Import
//
// The body is the CSV file itself, Content-Type: text/csv, up to 256 MiB. All of it is
// imported or, with an error, nothing. With ?dry_run=true nothing is changed in any
// case, and the answer says what would be. "first" are up to 100 of them; of what is
// changed, those that lose a value come first: "emptied" names the fields.
//
// What an import overlooks, the query says: ignore_columns=true leaves out columns that
// aren't known, column=Client=companies takes the column Client as ours (it may be there
// several times), and skip_bad_rows=true imports the other rows where single ones can't be
// taken: "skipped" lists these. "warnings" are rows that were taken and may hold a slip;
// "lose_companies" counts contacts who belong to no company any more.
//
//	IMPORT   {"kind": "contacts", "dry_run": false,
//	          "added":     {"count": 1, "first": [{"line": 2, "item": "ann@example.com"}]},
//	          "changed":   {"count": 1, "first": [{"line": 3, "item": "bob@example.com", "name": "Bob Ray",
//	                                           "fields": ["phone"], "emptied": ["phone"]}]},
//	          "unchanged": {"count": 118},
//	          "kept":      {"count": 1, "first": [{"line": 9, "item": "cid@example.com", "reason": "removed by hand"}]},
//	          "sessions_ended": 0}
//
// A password_hash isn't in any answer. Where it isn't taken, though all else of the row is,
// "kept" says so: "a password was set, used or removed here", or "passwords are off".
//
// Who asks with Accept: application/x-ndjson gets lines instead: any number of
// {"progress": {"done": 3000, "total": 100000}}, and at last {"result": IMPORT}, or an
// error as below.
//
// # Files
//
// A FILE is one that the Caddyfile names, as this server sees it. A changed file of contacts
// or companies is loaded within seconds. state is "loaded", "refused" (nothing of it was
// loaded: rows or error say why), "waiting" (not read yet) or "stale" (a logo, template or
// secret that has changed; a forced reload reads it). load is the last load that succeeded,
// at whichever server.
//
//	FILE     {"kind": "contacts", "path": "/etc/doorpost/contacts.csv", "state": "loaded",
//	          "read_at": "2026-03-01T09:00:00Z",
//	          "load": {"at": "2026-03-01T09:00:00Z", "added": 1, "changed": 0, "unchanged": 118,
//	                   "left_alone": {"count": 1, "first": [KEPT]}}}
//	KEPT     {"line": 2, "item": "ann@example.com", "reason": "changed by hand", "fields": ["phone"]}
//
// Rows are left alone that say what they said at the load before, and whose contact or
// company was changed, disabled or removed by hand since. A TIMELINE has that of its contact
// as "file".
//
// # Errors
//
//	{"error": "ann@example.com belongs to another contact", "code": "taken",
//	 "field": "email", "remedy": "…", "rows": [{"line": 7, "column": "email", "reason": "…"}], "more": 0}
//
// field, remedy, rows and more are there where they say something; rows are the bad
// rows of a file, the first hundred, and more counts the rest.
//
//	400  bad_request  what was sent can't be read, or has a field that isn't known
//	     invalid      a value can't be taken: field says which
//	     rows         an import's file has bad rows; nothing was changed
//	403  not_client   the contact is staff, which a service token can't change
//	404  unknown      no such contact or company
//	     unknown_firm, not_found, not_configured
//	405  method
//	403  cross_origin a web page of another site sent a form
//	409  announcing   another announcement is going out
//	     not_stopped  no announcement was stopped
//	     taken        the address, id or old link is another's
//	     staff        the Caddyfile names the address under staff
//	     disabled, passwords_off, limited: no link to set a password is mailed, no code made
//	     not_waiting, choose: no browser waits for a code over the phone, or several do
//	     late         the email's time is over
//	     no_folder    the Caddyfile names no folder for reports that all machines share
//	     changed      it isn't in the state any more that version stands for
//	     conflict     others changed the same thing at the same time; try again
//	413  too_large
//	422  key_used     the key stood for another notice
//	415  media_type
//	500  internal     the server's log says more
//	503  unavailable  the store or the server can't do it just now; try again
//
// The commands print the same on stderr with --json, and have two codes of their own:
// usage (exit code 2) and failed, for what isn't the server's.
package admin
