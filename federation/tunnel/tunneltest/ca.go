// Package tunneltest makes identities for tests of what speaks over a tunnel: a certificate authority in memory that
// signs the same SPIFFE names as Consul's.
package tunneltest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"pangaea/federation/tunnel"
)

// Patient are limits for tests that are not about silence, on a machine that may be busy with something else for minutes.
func Patient() tunnel.Limits {
	return tunnel.Limits{KeepAlive: time.Minute, WriteTimeout: 5 * time.Minute, Handshake: 5 * time.Minute}
}

// CA is an authority in memory.
type CA struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// NewCA makes an authority.
func NewCA(t *testing.T) *CA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	must.NoError(t, err)
	return &CA{t: t, key: key, cert: cert}
}

// Identity makes an identity for a service, as Consul would.
func (ca *CA) Identity(service string) Identity {
	return ca.Named(service, "spiffe://test.consul/ns/default/dc/dc1/svc/"+service, time.Hour)
}

// Named makes an identity with any URIs in its certificate, for tests of what must be refused.
func (ca *CA) Named(service, uri string, life time.Duration) Identity {
	ca.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must.NoError(ca.t, err)
	name, err := url.Parse(uri)
	must.NoError(ca.t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), URIs: []*url.URL{name},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(life),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	must.NoError(ca.t, err)
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	return Identity{Name: service, Leaf: &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, Trust: roots}
}

// Identity is a tunnel.Identity that never changes.
type Identity struct {
	Name  string
	Leaf  *tls.Certificate
	Trust *x509.CertPool
}

// Service implements tunnel.Identity.
func (i Identity) Service() string { return i.Name }

// Certificate implements tunnel.Identity.
func (i Identity) Certificate() (*tls.Certificate, error) { return i.Leaf, nil }

// Roots implements tunnel.Identity.
func (i Identity) Roots() (*x509.CertPool, error) { return i.Trust, nil }
