package nomad

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
)

// Config says how to reach the member's own Nomad.
type Config struct {
	Address   string `hcl:"address,optional"`    // default http://127.0.0.1:4646
	TokenFile string `hcl:"token_file,optional"` // file that holds the ACL token
	CAFile    string `hcl:"ca_file,optional"`    // authorities of Nomad's HTTPS certificate
	CertFile  string `hcl:"cert_file,optional"`  // client certificate, if Nomad wants one
	KeyFile   string `hcl:"key_file,optional"`
}

const defaultAddress = "http://127.0.0.1:4646"

// Client speaks to the member's Nomad. It is safe for concurrent use.
type Client struct {
	address   *url.URL
	token     string
	api       *api.Client
	transport http.RoundTripper
}

// ErrUnavailable is in the chain of errors that say that Nomad cannot be reached.
var ErrUnavailable = errors.New("cannot reach Nomad")

// Open prepares a client. It does not connect.
func Open(config Config) (*Client, error) {
	if config.Address == "" {
		config.Address = defaultAddress
	}
	address, err := url.Parse(config.Address)
	if err != nil || address.Host == "" || (address.Scheme != "http" && address.Scheme != "https") {
		return nil, fmt.Errorf("cannot use nomad.address %q: want http://host:port or https://host:port", config.Address)
	}
	token := ""
	if config.TokenFile != "" {
		text, err := os.ReadFile(config.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read nomad.token_file: %w", err)
		}
		token = strings.TrimSpace(string(text))
	}
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 5 * time.Second, MaxIdleConns: 64, MaxIdleConnsPerHost: 64,
		IdleConnTimeout: 90 * time.Second, DisableCompression: true,
	}
	httpClient := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	tlsConfig := &api.TLSConfig{CACert: config.CAFile, ClientCert: config.CertFile, ClientKey: config.KeyFile}
	if address.Scheme == "https" {
		err = api.ConfigureTLS(httpClient, tlsConfig)
		if err != nil {
			return nil, fmt.Errorf("cannot use nomad.ca_file, cert_file and key_file: %w", err)
		}
	}
	client, err := api.NewClient(&api.Config{Address: config.Address, SecretID: token, HttpClient: httpClient})
	if err != nil {
		return nil, fmt.Errorf("cannot use nomad.address %q: %w", config.Address, err)
	}
	client.SetSecretID(token) // an empty one too: the environment's NOMAD_TOKEN is not the agent's
	return &Client{address: address, token: token, api: client, transport: httpClient.Transport}, nil
}

// wrap names what failed, and the address when Nomad could not be reached at all.
func (c *Client) wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	var network *url.Error
	if errors.As(err, &network) {
		return fmt.Errorf("cannot %s: %w at %s: %w: start it or correct nomad.address", what, ErrUnavailable, c.address.Host, err)
	}
	return fmt.Errorf("cannot %s: %w", what, err)
}

// StatusOf returns the HTTP status in an error of Nomad's, or 0 if it carries none.
func StatusOf(err error) int {
	var response api.UnexpectedResponseError
	if errors.As(err, &response) && response.HasStatusCode() {
		return response.StatusCode()
	}
	return 0
}

// NotFound reports whether Nomad said that there is no such thing.
func NotFound(err error) bool { return StatusOf(err) == http.StatusNotFound }
