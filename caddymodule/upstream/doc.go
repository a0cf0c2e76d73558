// Package upstream holds what the portal gets from visitors, and they from the portal: the headers
// that say who is signed in (Identity), and no others that could say so (StripIdentity); and the
// portal's own session cookies, each of which comes back only from whom it was set for
// (PortalCookies).
package upstream
