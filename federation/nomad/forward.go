package nomad

import (
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"

	"github.com/hashicorp/go-hclog"
)

// Forward returns a handler that passes a request to Nomad with the agent's token in place of whatever token came
// with it, streams and websockets included. modify sees each answer before it is sent on; it may be nil. An error of
// modify turns the answer into a 502 and nothing of Nomad's answer leaves.
func (c *Client) Forward(logger hclog.Logger, modify func(*http.Response) error) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: c.address.Scheme, Host: c.address.Host})
			r.Out.Host = c.address.Host
			for _, header := range []string{"X-Nomad-Token", "Authorization", "Cookie", "Origin", "Referer", "Accept-Encoding"} {
				r.Out.Header.Del(header)
			}
			if c.token != "" {
				r.Out.Header.Set("X-Nomad-Token", c.token)
			}
		},
		Transport:      c.transport,
		FlushInterval:  -1, // log and event streams must not wait in a buffer
		ModifyResponse: modify,
		ErrorLog:       stdLogger(logger),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			logger.Debug("cannot pass a request to Nomad", "error", err)
			http.Error(w, "member cannot reach its Nomad", http.StatusBadGateway)
		},
	}
}

func stdLogger(logger hclog.Logger) *log.Logger {
	return logger.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug})
}
