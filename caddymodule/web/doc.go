// Package web has everything that packages with pages share: the pages themselves, rendered with
// the firm's look (Pages, and one struct for each page), responses with their headers and the pages
// for errors (Answers), forms (ReadForm), origins (Sites, OriginCheck), the names of the gate's
// cookies (Cookies), the kind of client (ReaderOf), the name of the browser (AgentOf), and cache
// headers.
package web
