package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"blitiri.com.ar/go/spf"
	"github.com/emersion/go-msgauth/dmarc"
	"golang.org/x/net/publicsuffix"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/loopback"
)

// dns looks whether receivers can tell that the firm's mails are the firm's: by SPF (RFC 7208), DKIM (RFC
// 6376) and DMARC (RFC 7489).
func (f Firm) dns(ctx context.Context) []Finding {
	if f.Mail == nil || f.URL == nil || loopback.Is(f.URL.Hostname()) { // a trial: nothing leaves this machine
		return nil
	}
	domain := address.Address(f.Sender).Domain()
	passes, all := f.spf(ctx, domain)
	signs := false
	for _, k := range f.Keys {
		ok, found := f.dkim(ctx, domain, k)
		signs = signs || ok
		all = append(all, found)
	}
	return append(all, f.dmarc(ctx, domain, passes, signs))
}

// spf reports whether the mail server may send for the domain, as far as it can be told.
func (f Firm) spf(ctx context.Context, domain string) (passes bool, all []Finding) {
	found := Finding{Check: "spf"}
	host, _, _ := net.SplitHostPort(f.Mail.SMTP.Address)
	addresses, err := f.resolver().LookupIPAddr(ctx, host)
	if err != nil || len(addresses) == 0 {
		found.What = fmt.Sprintf("the address of the mail server %s isn't in DNS: %v", host, err)
		found.Do = "check the host in `mail smtp`"
		return false, []Finding{found}
	}
	local := loopback.Is(addresses[0].IP.String()) || addresses[0].IP.IsPrivate()
	result, why := spf.None, error(nil)
	for _, a := range addresses {
		result, why = spf.CheckHostWithSender(a.IP, domain, f.Sender, spf.WithResolver(f.resolver()), spf.WithContext(ctx))
		if result == spf.Pass {
			break
		}
	}
	switch result {
	case spf.Pass:
		found.OK, found.What = true, fmt.Sprintf("SPF of %s lets %s send", domain, host)
		return true, []Finding{found}
	case spf.None:
		found.What = domain + " has no SPF record, so many receivers take its mails for spam"
		found.Do = fmt.Sprintf(`write a TXT record at %s: v=spf1 and the "include:" that your mail service gives, then ~all`, domain)
	case spf.TempError:
		found.What, found.Do = fmt.Sprintf("SPF of %s can't be read: %v", domain, why), "check this machine's DNS, and try again"
	case spf.PermError:
		found.What, found.Do = fmt.Sprintf("SPF of %s is wrong: %v", domain, why), "correct the TXT record; receivers take it for none"
	default:
		if local {
			found.OK, found.What = true, domain+" has an SPF record; whether it names this machine's public address can't be seen from here"
			return false, []Finding{found}
		}
		found.What = fmt.Sprintf("SPF of %s doesn't let %s (%s) send", domain, host, addresses[0].IP)
		found.Do = `write the "include:" of your mail service into the TXT record of ` + domain + "; or, if it sends from other addresses than it takes emails at and says that SPF is complete, leave it"
	}
	return false, []Finding{found}
}

// dkim reports whether the public key in DNS is the one of ours.
func (f Firm) dkim(ctx context.Context, domain string, k Key) (ok bool, found Finding) {
	name := k.Selector + "._domainkey." + domain
	found = Finding{Check: "dkim", Do: fmt.Sprintf("write a TXT record at %s: v=DKIM1; k=%s; p=%s", name, k.Kind, k.Public)}
	records, err := f.resolver().LookupTXT(ctx, name)
	if notThere(err) || err == nil && len(records) == 0 {
		found.What = "there is no key at " + name + ", so receivers take our signatures for wrong"
		return false, found
	} else if err != nil {
		found.What, found.Do = fmt.Sprintf("the key at %s can't be read: %v", name, err), "check this machine's DNS, and try again"
		return false, found
	}
	tags := tagsOf(records[0])
	switch {
	case len(records) > 1:
		found.What, found.Do = fmt.Sprintf("there are %d records at %s, and receivers may take any", len(records), name), "leave one: v=DKIM1; k="+k.Kind+"; p="+k.Public
	case tags["p"] == "":
		found.What = "the key at " + name + " is revoked (p= is empty)"
	case tags["p"] != k.Public:
		found.What = "the key at " + name + " isn't the one that mails are signed with"
	default:
		return true, Finding{Check: "dkim", OK: true, What: "the key at " + name + " is the one that mails are signed with"}
	}
	return false, found
}

// tagsOf reads a list of tags (RFC 6376, section 3.2).
func tagsOf(record string) map[string]string {
	tags := map[string]string{}
	for part := range strings.SplitSeq(record, ";") {
		if name, value, ok := strings.Cut(part, "="); ok {
			tags[strings.TrimSpace(name)] = strings.Join(strings.Fields(value), "")
		}
	}
	return tags
}

// dmarc says what receivers do with a mail of the domain whose sender they can't be sure of, and
// whether that concerns ours. The envelope and the signatures are of the domain in From, so what
// passes is aligned.
func (f Firm) dmarc(ctx context.Context, domain string, spfPasses, signs bool) Finding {
	found := Finding{Check: "dmarc"}
	policy, at, err := f.policyOf(ctx, domain)
	proof := spfPasses || signs
	switch {
	case errors.Is(err, dmarc.ErrNoPolicy):
		found.What = domain + " has no DMARC record, which Google and Yahoo ask for"
		found.Do = fmt.Sprintf("write a TXT record at _dmarc.%s: v=DMARC1; p=none", domain)
	case err != nil:
		found.What, found.Do = fmt.Sprintf("the DMARC record of %s can't be used: %v", domain, err), "correct the TXT record, such as v=DMARC1; p=none"
	case !proof && policy != dmarc.PolicyNone && len(f.Keys) == 0:
		found.What = fmt.Sprintf("DMARC at %s says %s, SPF doesn't pass, and Doorpost signs with no key", at, policy)
		found.Do = "have your mail service sign with DKIM for " + domain + ", or write `dkim` into the block `brand`; see Mail in the docs"
	case !proof && policy != dmarc.PolicyNone:
		found.What = fmt.Sprintf("DMARC at %s says %s, and neither SPF nor DKIM passes, so receivers do that with our mails", at, policy)
		found.Do = "repair SPF or DKIM, as said above"
	case !proof:
		found.OK, found.What = true, fmt.Sprintf("DMARC at %s says %s; neither SPF nor a key of ours passes", at, policy)
	default:
		found.OK, found.What = true, fmt.Sprintf("DMARC at %s says %s, and our mails pass", at, policy)
	}
	return found
}

// policyOf returns the policy for the domain, and where it stands.
func (f Firm) policyOf(ctx context.Context, domain string) (policy dmarc.Policy, at string, err error) {
	look := func(domain string) (*dmarc.Record, error) {
		return dmarc.LookupWithOptions(domain, &dmarc.LookupOptions{LookupTXT: func(name string) ([]string, error) { return f.resolver().LookupTXT(ctx, name) }})
	}
	record, err := look(domain)
	if err == nil {
		return record.Policy, "_dmarc." + domain, nil
	}
	org, orgErr := publicsuffix.EffectiveTLDPlusOne(domain)
	if !errors.Is(err, dmarc.ErrNoPolicy) || orgErr != nil || org == domain {
		return "", "", err
	}
	if record, err = look(org); err != nil {
		return "", "", err
	}
	policy = record.Policy
	if record.SubdomainPolicy != "" {
		policy = record.SubdomainPolicy
	}
	return policy, "_dmarc." + org, nil
}

// notThere reports whether DNS says that there is no such record.
func notThere(err error) bool {
	said, ok := errors.AsType[*net.DNSError](err)
	return ok && said.IsNotFound
}
