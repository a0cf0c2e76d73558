// Package web gives every package with pages what pages need: the pages themselves, rendered in
// the firm's look (Pages, and one struct for each page), the answers with their headers and the
// translation of errors (Answers), forms (ReadForm), origins (Sites, OriginCheck), the names of our
// cookies (Cookies), who reads an answer (ReaderOf), what browser it was (AgentOf), and what caches
// may keep.
package web
