// Package upstream filters what passes between visitors and the portal: the headers that say who is
// signed in (Identity), the removal of visitors' headers that could say so (StripIdentity), and the
// portal's own session cookies, each of which is returned only for its owner (PortalCookies).
package upstream
