package config

import (
	"cmp"
	"net/url"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/loopback"
)

// OAuth is how to log in to a mail server by access tokens in place of a password.
type OAuth struct {
	// Provider is "microsoft", "google", or the URL of another provider's token endpoint.
	// Required.
	Provider string `json:"provider,omitempty"`

	// ClientID is the application's, as the provider shows it. Required.
	ClientID string `json:"client_id,omitempty"`

	// ClientSecret is the application's, if it has one. Write {file./PATH} or {env.NAME}.
	ClientSecret string `json:"client_secret,omitempty"`

	// Tenant is the tenant's ID or domain, with microsoft. Default: "common".
	Tenant string `json:"tenant,omitempty"`

	// RefreshToken is the first one, for the mailbox that the username of the mail block names.
	// One that the provider puts in its place is kept in the store. Required. Write
	// {file./PATH} or {env.NAME}.
	RefreshToken string `json:"refresh_token,omitempty"`
}

func (c *OAuth) texts() []textSetting {
	return []textSetting{
		{"mail.oauth", &c.Provider}, {"mail.oauth.client_id", &c.ClientID}, {"mail.oauth.client_secret", &c.ClientSecret},
		{"mail.oauth.tenant", &c.Tenant}, {"mail.oauth.refresh_token", &c.RefreshToken},
	}
}

// secrets are the settings that nobody may read.
func (c *OAuth) secrets() []textSetting {
	return []textSetting{{"mail.oauth.client_secret", &c.ClientSecret}, {"mail.oauth.refresh_token", &c.RefreshToken}}
}

// TokenURL returns where access tokens come from.
func (c OAuth) TokenURL() string {
	switch c.Provider {
	case "microsoft":
		return "https://login.microsoftonline.com/" + cmp.Or(c.Tenant, "common") + "/oauth2/v2.0/token"
	case "google":
		return "https://oauth2.googleapis.com/token"
	}
	return c.Provider
}

// validate reports the first setting that can't stand, and what to write instead.
func (c OAuth) validate() error {
	switch {
	case c.Provider == "":
		return invalid("mail.oauth", `which provider? Write "oauth microsoft", "oauth google", or the URL where tokens come from`)
	case c.ClientID == "":
		return invalid("mail.oauth", "has no client_id; write %s", examples["mail.oauth.client_id"])
	case c.RefreshToken == "":
		return invalid("mail.oauth", "has no refresh_token; write %s", examples["mail.oauth.refresh_token"])
	case c.Tenant != "" && c.Provider != "microsoft":
		return invalid("mail.oauth.tenant", "belongs to microsoft alone; remove it")
	case !hasPlaceholder(c.Tenant) && strings.Trim(c.Tenant, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-") != "":
		return invalid("mail.oauth.tenant", "%q is no tenant; write its ID or its domain, such as example.onmicrosoft.com", c.Tenant)
	case c.Provider == "microsoft", c.Provider == "google", hasPlaceholder(c.Provider):
		return nil
	}
	u, err := url.Parse(c.Provider)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && (u.Scheme != "http" || !loopback.Is(u.Hostname())) {
		return invalid("mail.oauth", `there is no provider %q; write "oauth microsoft", "oauth google", or the URL where tokens come from, such as https://login.example.com/token`, c.Provider)
	}
	return nil
}
