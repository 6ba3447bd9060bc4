package gateway

import (
	"net/http"
	"slices"
	"strings"
)

// passed names what a user may get of a member's headers. Members are strangers: what they send must not set cookies,
// send a browser elsewhere or be a page of the gateway's.
func passed(name string) bool {
	return strings.HasPrefix(name, "X-Nomad-") || strings.HasPrefix(name, "Sec-Websocket-") || slices.Contains([]string{
		"Connection", "Content-Encoding", "Content-Length", "Content-Type", "Date", "Transfer-Encoding", "Upgrade",
	}, name)
}

// cleanHeaders takes out of a member's answer what could act on a user's browser.
func cleanHeaders(response *http.Response) {
	for name := range response.Header {
		if !passed(name) {
			delete(response.Header, name)
		}
	}
	response.Trailer = nil
	if response.StatusCode == http.StatusSwitchingProtocols {
		return
	}
	kind, _, _ := strings.Cut(response.Header.Get("Content-Type"), ";")
	if strings.TrimSpace(kind) != "application/json" {
		response.Header.Set("Content-Type", "text/plain; charset=utf-8")
	}
	response.Header.Set("X-Content-Type-Options", "nosniff")
	response.Header.Set("Content-Security-Policy", "default-src 'none'; sandbox")
}
