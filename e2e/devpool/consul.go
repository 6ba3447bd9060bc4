package devpool

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"pangaea/federation/state"
)

// consul is the pool's Consul: one server with ACLs on, deny by default, and its built-in CA.
type consul struct {
	process    *process
	address    string // host:port of its HTTP API
	management string // the bootstrap token; it stays in this process
	dir        string
}

const consulConfig = `
server           = true
bootstrap_expect = 1
datacenter       = "pool"
node_name        = "pool-consul"
data_dir         = %[1]q
bind_addr        = "127.0.0.1"
addresses {
  http = "127.0.0.1 %[2]s"
  grpc = "127.0.0.1 %[2]s"
}
ports {
  grpc     = 8502
  grpc_tls = -1
  dns      = -1
}
connect { enabled = true }
acl {
  enabled        = true
  default_policy = "deny"
  tokens {
    initial_management = %[3]q
    agent              = %[3]q
  }
}
disable_update_check = true
`

// startConsul starts Consul and waits until it has a leader and its ACL system answers.
func startConsul(ctx context.Context, dir, binary string) (*consul, error) {
	c := &consul{address: BridgeAddress + ":8500", management: newUUID(), dir: dir}
	data := filepath.Join(dir, "consul")
	config := filepath.Join(dir, "consul.hcl")
	err := os.WriteFile(config, fmt.Appendf(nil, consulConfig, data, BridgeAddress, c.management), 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot configure Consul: %w", err)
	}
	c.process, err = start(dir, command{name: "consul", argv: []string{binary, "agent", "-config-file", config, "-log-level", "warn"}})
	if err != nil {
		return nil, err
	}
	err = c.process.await(ctx, "Consul has a leader", func(ctx context.Context) error {
		return c.call(ctx, http.MethodGet, "/v1/acl/token/self", nil, nil)
	})
	if err != nil {
		return c, err
	}
	return c, c.process.await(ctx, "Consul has a certificate authority", func(ctx context.Context) error {
		var roots struct{ Roots []json.RawMessage }
		err := c.call(ctx, http.MethodGet, "/v1/agent/connect/ca/roots", nil, &roots)
		if err == nil && len(roots.Roots) == 0 {
			return fmt.Errorf("it has no root yet")
		}
		return err
	})
}

// tokenFor makes a policy and a token with it, and returns the path of a file that holds the token.
func (c *consul) tokenFor(ctx context.Context, name, rules string) (string, error) {
	err := c.call(ctx, http.MethodPut, "/v1/acl/policy", map[string]string{"Name": name, "Rules": rules}, nil)
	if err != nil {
		return "", fmt.Errorf("cannot make the Consul policy %s: %w", name, err)
	}
	var token struct{ SecretID string }
	request := map[string]any{"Description": name, "Policies": []map[string]string{{"Name": name}}}
	err = c.call(ctx, http.MethodPut, "/v1/acl/token", request, &token)
	if err != nil {
		return "", fmt.Errorf("cannot make the Consul token of %s: %w", name, err)
	}
	path := filepath.Join(c.dir, "tokens", name)
	err = os.WriteFile(path, []byte(token.SecretID), 0o600)
	if err != nil {
		return "", fmt.Errorf("cannot keep the token of %s: %w", name, err)
	}
	return path, nil
}

// userToken makes a token that may submit jobs to the named namespaces of the pool.
func (c *consul) userToken(ctx context.Context, namespaces ...string) (string, error) {
	rules, err := state.PolicyUser(namespaces...)
	if err != nil {
		return "", err
	}
	path, err := c.tokenFor(ctx, "user", rules)
	if err != nil {
		return "", err
	}
	token, err := os.ReadFile(path)
	return string(token), err
}

// call makes one request to Consul's HTTP API with the management token.
func (c *consul) call(ctx context.Context, method, path string, in, out any) error {
	return callJSON(ctx, method, "http://"+c.address+path, map[string]string{"X-Consul-Token": c.management}, in, out)
}

// callJSON makes one HTTP request with JSON in and out; any status from 300 on is an error with the body's text.
func callJSON(ctx context.Context, method, url string, header map[string]string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var body bytes.Buffer
	if in != nil {
		err := json.NewEncoder(&body).Encode(in)
		if err != nil {
			return fmt.Errorf("cannot encode the body of %s %s: %w", method, url, err)
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, url, &body)
	if err != nil {
		return fmt.Errorf("cannot make the request %s %s: %w", method, url, err)
	}
	for name, value := range header {
		request.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= http.StatusMultipleChoices {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
		return fmt.Errorf("%s %s: %s: %s", method, url, response.Status, bytes.TrimSpace(text))
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(response.Body).Decode(out)
}

// newUUID makes a random UUID, version 4.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
