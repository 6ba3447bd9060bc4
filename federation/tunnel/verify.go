package tunnel

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
)

// Names of the services whose certificates may speak on a tunnel.
const (
	ServiceGateway      = "pangaea-gateway"
	serviceMemberPrefix = "pangaea-member-"
)

// alpn keeps a certificate's holder from being steered to another protocol that trusts the same authority.
const alpn = "pangaea/1"

// ErrPeer is what a peer with the wrong certificate gets; it wraps the cause.
var ErrPeer = errors.New("peer refused")

// MemberService returns the service name of the member with the given alias.
func MemberService(alias string) string { return serviceMemberPrefix + alias }

// ValidAlias reports whether an alias can stand in a service name, which is a DNS label, and in a jobspec's region.
func ValidAlias(alias string) bool {
	inside := func(r rune) bool { return r == '-' || (r >= 'a' && r <= 'z') || (r >= '0' && r <= '9') }
	return alias != "" && len(alias) <= 40 && alias[0] != '-' && alias[len(alias)-1] != '-' &&
		!strings.ContainsFunc(alias, func(r rune) bool { return !inside(r) })
}

// AcceptMembers is the PeerFunc of a gateway: any member may come, and its name is the alias in its certificate.
func AcceptMembers(service string) (string, error) {
	alias, found := strings.CutPrefix(service, serviceMemberPrefix)
	if !found || !ValidAlias(alias) {
		return "", fmt.Errorf("certificate is for service %q, want %q followed by a member's alias", service, serviceMemberPrefix)
	}
	return alias, nil
}

// AcceptGateway is the PeerFunc of a member: only gateways are listened to.
func AcceptGateway(service string) (string, error) {
	if service != ServiceGateway {
		return "", fmt.Errorf("certificate is for service %q, want %q", service, ServiceGateway)
	}
	return service, nil
}

// tlsConfig builds either side's configuration. Go's own verification is replaced, not skipped: it would check host
// names, which SPIFFE certificates do not carry, and would fix the roots when the configuration is made.
func (c Config) tlsConfig(usage x509.ExtKeyUsage) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{alpn},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true, // a resumed session would outlive a withdrawn certificate
		InsecureSkipVerify:     true, //nolint:gosec // VerifyConnection below verifies chain, usage and name
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.Identity.Certificate()
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return c.Identity.Certificate()
		},
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := c.verify(state, usage)
			return err
		},
	}
}

// verify returns the peer's name if its certificate chains to the roots and its SPIFFE name is welcome.
func (c Config) verify(state tls.ConnectionState, usage x509.ExtKeyUsage) (string, error) {
	if state.NegotiatedProtocol != alpn {
		return "", fmt.Errorf("%w: it does not speak %q", ErrPeer, alpn)
	}
	if len(state.PeerCertificates) == 0 {
		return "", fmt.Errorf("%w: it sent no certificate", ErrPeer)
	}
	roots, err := c.Identity.Roots()
	if err != nil {
		return "", fmt.Errorf("cannot verify the peer's certificate: %w", err)
	}
	leaf := state.PeerCertificates[0]
	intermediates := x509.NewCertPool()
	for _, cert := range state.PeerCertificates[1:] {
		intermediates.AddCert(cert)
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{usage}})
	if err != nil {
		return "", fmt.Errorf("%w: its certificate is not from this pool's authority: %w", ErrPeer, err)
	}
	service, err := serviceName(leaf)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrPeer, err)
	}
	name, err := c.Peer(service)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrPeer, err)
	}
	return name, nil
}

// serviceName reads the service out of spiffe://<trust domain>/ns/default/dc/<datacenter>/svc/<service>. The same
// authority signs certificates of Consul agents, mesh gateways and servers: their paths are others and are refused.
func serviceName(leaf *x509.Certificate) (string, error) {
	if len(leaf.URIs) != 1 {
		return "", fmt.Errorf("certificate carries %d URIs, want one SPIFFE name", len(leaf.URIs))
	}
	uri := leaf.URIs[0]
	refusal := fmt.Errorf("certificate's name %q is not a service of the pool", uri)
	if uri.Scheme != "spiffe" || uri.Host == "" || uri.RawQuery != "" || uri.Fragment != "" {
		return "", refusal
	}
	rest, found := strings.CutPrefix(uri.Path, "/ns/default/dc/")
	parts := strings.Split(rest, "/")
	if !found || len(parts) != 3 || parts[0] == "" || parts[1] != "svc" || parts[2] == "" {
		return "", refusal
	}
	return parts[2], nil
}
