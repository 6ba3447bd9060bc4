package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httputil"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
)

// headerForwarded marks a request that one gateway passed to another, so that two that take each other for the leader
// do not pass it back and forth.
const headerForwarded = "X-Pangaea-Forwarded"

// front answers users: by itself while it leads, else by passing the request on to the gateway that does. A leader that
// has just gone is waited for a little, since another takes its place within seconds.
func (g *Gateway) front(api http.Handler, transport http.RoundTripper) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.until(r.Context(), leaderPatience, func() bool { return g.leading || g.leader.HTTPAddr != "" || g.problem != "" })
		g.mu.Lock()
		leading, leader, problem := g.leading, g.leader, g.problem
		g.mu.Unlock()
		switch {
		case leading:
			api.ServeHTTP(w, r)
		case leader.HTTPAddr == "" || r.Header.Get(headerForwarded) != "":
			http.Error(w, "No cluster leader: "+or(problem, "the pool's gateways are electing one, try again in some seconds"), http.StatusInternalServerError)
		default:
			g.forward(leader.HTTPAddr, transport).ServeHTTP(w, r)
		}
	})
}

const leaderPatience = 5 * time.Second

func (g *Gateway) forward(address string, transport http.RoundTripper) http.Handler {
	scheme := "http"
	if g.settings.tls != nil {
		scheme = "https"
	}
	return &httputil.ReverseProxy{
		Transport: transport, FlushInterval: -1,
		ErrorLog: g.logger.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = scheme, address, r.In.Host
			r.Out.Header.Set(headerForwarded, "1")
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, fmt.Sprintf("cannot reach the leading gateway at %s: %s: try again in some seconds", address, err), http.StatusInternalServerError)
		},
	}
}

// serverTLS reads the API's certificate and what the other gateways' are checked against.
func serverTLS(config *TLS) (server, client *tls.Config, err error) {
	if config == nil {
		return nil, nil, nil
	}
	pair, err := tls.LoadX509KeyPair(config.CertFile, config.KeyFile)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the API's certificate: %w: correct tls.cert_file and tls.key_file", err)
	}
	server = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	client = &tls.Config{MinVersion: tls.VersionTLS12}
	if config.CAFile != "" {
		text, err := os.ReadFile(config.CAFile)
		if err != nil {
			return nil, nil, fmt.Errorf("cannot read tls.ca_file: %w", err)
		}
		client.RootCAs = x509.NewCertPool()
		if !client.RootCAs.AppendCertsFromPEM(text) {
			return nil, nil, fmt.Errorf("cannot use tls.ca_file %s: it holds no certificate", config.CAFile)
		}
	}
	return server, client, nil
}
