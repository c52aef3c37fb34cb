package websocket

import (
	"fmt"
	"net/url"
	"strings"
)

// ParseOrigin returns the origin of a page in the form in which browsers send it (RFC 6454
// §6.2): scheme and host in lower case, the port only if it is not that of the scheme.
func ParseOrigin(s string) (string, error) {
	u, err := url.Parse(s)
	scheme, host, ok := strings.Cut(s, "://")
	switch {
	case !ok || scheme == "":
		return "", fmt.Errorf("origin %q has no scheme: write https://%s", s, strings.TrimLeft(s, ":/"))
	case err != nil || u.Hostname() == "" || strings.HasSuffix(u.Host, ":"):
		return "", fmt.Errorf("origin %q is not scheme://host[:port]", s)
	case u.User != nil || host != u.Host:
		return "", fmt.Errorf("origin %q has more than scheme, host and port: write %s://%s", s, scheme, u.Host)
	case strings.Contains(u.Host, "*"):
		return "", fmt.Errorf("origin %q has a wildcard: list each host", s)
	case strings.ContainsFunc(s, func(r rune) bool { return r > '~' }):
		return "", fmt.Errorf("origin %q has letters beyond ASCII: write the host as browsers send it, xn--…", s)
	}
	origin := strings.ToLower(s)
	switch u.Scheme {
	case "https", "wss":
		origin = strings.TrimSuffix(origin, ":443")
	case "http", "ws":
		origin = strings.TrimSuffix(origin, ":80")
	}
	return origin, nil
}
