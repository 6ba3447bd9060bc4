package state

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/hashicorp/consul/proto-public/pbconnectca"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// signer has Consul's authority sign certificates for keys that are made here.
//
// The agent's HTTP endpoint /v1/agent/connect/ca/leaf/ must not be used instead: it keeps what it made by service name
// alone (agent/leafcert, Consul 1.16 to 1.22) and gives it, private key included, to whoever asks next, whatever
// their token. Every member could have become the gateway. Signing is judged by the servers each time, and the key
// never leaves this process.
type signer struct {
	address string // host:port of Consul's gRPC API
	token   string
	creds   credentials.TransportCredentials
}

// newSigner derives the gRPC API's address from the HTTP API's unless it is given: Consul's own ports are 8500 and
// 8502, or 8501 and 8503 with TLS.
func newSigner(config Config, httpAddress, token string) (*signer, error) {
	scheme, rest, found := strings.Cut(httpAddress, "://")
	if !found {
		scheme, rest = "http", httpAddress
	}
	s := &signer{address: config.GRPCAddress, token: token, creds: insecure.NewCredentials()}
	if s.address == "" {
		host, port, err := net.SplitHostPort(rest)
		if err != nil {
			host, port = rest, "8500"
		}
		number, err := strconv.Atoi(port)
		if err != nil {
			return nil, fmt.Errorf("cannot use consul.address %q: its port is not a number", httpAddress)
		}
		s.address = net.JoinHostPort(host, strconv.Itoa(number+2))
	}
	if scheme != "https" {
		return s, nil
	}
	roots, err := x509.SystemCertPool()
	if config.CAFile != "" {
		var text []byte
		text, err = os.ReadFile(config.CAFile)
		roots = x509.NewCertPool()
		roots.AppendCertsFromPEM(text)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read consul.ca_file: %w", err)
	}
	s.creds = credentials.NewTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})
	return s, nil
}

// sign makes a key and has it certified as a service of a datacenter of a trust domain.
func (s *signer) sign(ctx context.Context, trustDomain, datacenter, service string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make a key: %w", err)
	}
	name := &url.URL{Scheme: "spiffe", Host: trustDomain, Path: "/ns/default/dc/" + datacenter + "/svc/" + service}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{name}}, key)
	if err != nil {
		return nil, fmt.Errorf("cannot make a certificate request: %w", err)
	}
	chain, err := s.call(ctx, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})))
	if err != nil {
		return nil, err
	}
	certificate := &tls.Certificate{PrivateKey: key}
	for block, rest := pem.Decode([]byte(chain)); block != nil; block, rest = pem.Decode(rest) {
		certificate.Certificate = append(certificate.Certificate, block.Bytes)
	}
	if len(certificate.Certificate) == 0 {
		return nil, errors.New("cannot use the certificate that Consul gave: it is empty")
	}
	certificate.Leaf, err = x509.ParseCertificate(certificate.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("cannot use the certificate that Consul gave: %w", err)
	}
	if !key.PublicKey.Equal(certificate.Leaf.PublicKey) {
		return nil, errors.New("cannot use the certificate that Consul gave: it is for another key")
	}
	return certificate, nil
}

// call opens a connection for one request: certificates are asked for once in a day or so.
func (s *signer) call(ctx context.Context, csr string) (string, error) {
	connection, err := grpc.NewClient("passthrough:///"+s.address, grpc.WithTransportCredentials(s.creds), grpc.WithNoProxy())
	if err != nil {
		return "", fmt.Errorf("cannot use consul.grpc_address %q: %w", s.address, err)
	}
	defer func() { _ = connection.Close() }()
	ctx = metadata.AppendToOutgoingContext(ctx, "x-consul-token", s.token)
	response, err := pbconnectca.NewConnectCAServiceClient(connection).Sign(ctx, &pbconnectca.SignRequest{Csr: csr})
	switch status.Code(err) {
	case codes.OK:
		return response.CertPem, nil
	case codes.PermissionDenied, codes.Unauthenticated:
		return "", fmt.Errorf("%w by Consul", ErrPermission)
	case codes.Unavailable, codes.DeadlineExceeded:
		return "", fmt.Errorf("%w's gRPC API at %s: %w: set ports { grpc = 8502 } on it, open it in addresses.grpc, or correct consul.grpc_address",
			ErrUnavailable, s.address, err)
	}
	return "", err
}
