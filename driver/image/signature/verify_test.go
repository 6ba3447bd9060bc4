package signature

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// digest is what the vectors are signatures of.
const digest = "sha256:4aa3054270f7a70b4528f2064ee90961788e1e1518703592ae4463de3b889dec"

// vector is what Sigstore's own libraries (sigstore v1.10.8, protobuf-specs v0.5.1, as cosign v3.1.3 uses them) made
// with one kind of key.
type vector struct{ Key, Payload, Signature, Bundle string }

func vectors(t testing.TB) map[string]vector {
	t.Helper()
	body, err := os.ReadFile("testdata/vectors.json")
	must.NoError(t, err)
	var all map[string]vector
	must.NoError(t, json.Unmarshal(body, &all))
	must.MapLen(t, 5, all)
	return all
}

func keys(t testing.TB, body string) Keys {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key.pub")
	must.NoError(t, os.WriteFile(path, []byte(body), 0o600))
	k, err := Load(path)
	must.NoError(t, err)
	return k
}

func TestVectors(t *testing.T) { verifies(t, vectors(t), digest) }

// What the cosign program itself made in a registry, as a tag beside the image and as a referrer of it.
func TestCosign(t *testing.T) {
	body, err := os.ReadFile("testdata/cosign.json")
	must.NoError(t, err)
	var made struct {
		Digest  string
		Vectors map[string]struct {
			vector
			PayloadType, BundleType string
		}
	}
	must.NoError(t, json.Unmarshal(body, &made))
	must.MapLen(t, 3, made.Vectors)
	all := map[string]vector{}
	for name, v := range made.Vectors {
		must.Eq(t, PayloadType, v.PayloadType)
		must.StrHasPrefix(t, BundleType, v.BundleType)
		all[name] = v.vector
	}
	verifies(t, all, made.Digest)
}

// verifies holds each vector to its own key and digest, and to no other.
func verifies(t *testing.T, all map[string]vector, digest string) {
	t.Helper()
	for name, v := range all {
		t.Run(name, func(t *testing.T) {
			own := keys(t, v.Key)
			id, err := own.Payload([]byte(v.Payload), v.Signature, digest)
			must.NoError(t, err)
			must.Eq(t, own[0].ID, id)
			id, err = own.Bundle([]byte(v.Bundle), digest)
			must.NoError(t, err)
			must.Eq(t, own[0].ID, id)
			for other, o := range all {
				if other == name {
					continue
				}
				_, err = keys(t, o.Key).Payload([]byte(v.Payload), v.Signature, digest)
				must.ErrorIs(t, err, errNotSigned)
				_, err = keys(t, o.Key).Bundle([]byte(v.Bundle), digest)
				must.ErrorIs(t, err, errNotSigned)
				// One of several keys is enough.
				_, err = keys(t, o.Key+v.Key).Payload([]byte(v.Payload), v.Signature, digest)
				must.NoError(t, err)
			}
			other := "sha256:" + strings.Repeat("0", 64)
			_, err = own.Payload([]byte(v.Payload), v.Signature, other)
			must.ErrorIs(t, err, errNotSigned)
			_, err = own.Bundle([]byte(v.Bundle), other)
			must.ErrorIs(t, err, errNotSigned)
			_, err = own.Payload([]byte(strings.Replace(v.Payload, digest, other, 1)), v.Signature, other)
			must.ErrorIs(t, err, errNotSigned)
			_, err = own.Payload([]byte(v.Payload), "A"+v.Signature, digest)
			must.ErrorIs(t, err, errNotSigned)
		})
	}
}

// own makes a key, and sign signs with it.
func own(t testing.TB) (*ecdsa.PrivateKey, Keys) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	must.NoError(t, err)
	return key, keys(t, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
}

func sign(t testing.TB, key *ecdsa.PrivateKey, message string) string {
	t.Helper()
	sum := sha256.Sum256([]byte(message))
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	must.NoError(t, err)
	return base64.StdEncoding.EncodeToString(sig)
}

// TestSignedButNotAsAnImage has the right key sign the wrong thing.
func TestSignedButNotAsAnImage(t *testing.T) {
	key, pub := own(t)
	good := fmt.Sprintf(`{"critical":{"identity":{},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"}}`, digest)
	for body, ok := range map[string]bool{
		good: true,
		strings.Replace(good, "image signature", "image attestation", 1): false,
		strings.Replace(good, "sha256:", "sha512:", 1):                   false,
		strings.Replace(good, `"type"`, `"kind"`, 1):                     false,
		// Which of the two counts differs between parsers.
		strings.Replace(good, `"image"`, `"image":{},"image"`, 1): false,
		good + good:         false,
		"not a document":    false,
		`{"critical":null}`: false,
	} {
		_, err := pub.Payload([]byte(body), sign(t, key, body), digest)
		must.Eq(t, ok, err == nil, must.Sprint(body))
	}
}

func TestBundleButNotOfAnImage(t *testing.T) {
	key, pub := own(t)
	good := fmt.Sprintf(`{"_type":%q,"subject":[{"digest":{"sha256":%q}}],"predicateType":%q}`, statementKind, digest[7:], predicate)
	bundle := func(statement, kind string) string {
		pae := fmt.Sprintf("DSSEv1 %d %s %d %s", len(kind), kind, len(statement), statement)
		return fmt.Sprintf(`{"dsseEnvelope":{"payload":%q,"payloadType":%q,"signatures":[{"sig":%q}]}}`,
			base64.StdEncoding.EncodeToString([]byte(statement)), kind, sign(t, key, pae))
	}
	plain := fmt.Sprintf(`{"dsseEnvelope":{"payload":%q,"payloadType":%q,"signatures":[{"sig":%q}]}}`,
		base64.StdEncoding.EncodeToString([]byte(good)), statementType, sign(t, key, good))
	for _, tc := range []struct {
		name, body string
		ok         bool
	}{
		{"good", bundle(good, statementType), true},
		{"an attestation", bundle(strings.Replace(good, predicate, "https://spdx.dev/Document", 1), statementType), false},
		{"another payload type", bundle(good, "text/plain"), false},
		{"another statement type", bundle(strings.Replace(good, "Statement/v1", "Statement/v9", 1), statementType), false},
		{"another subject", bundle(strings.Replace(good, "4aa", "4ab", 1), statementType), false},
		{"no subject", bundle(strings.Replace(good, `"subject"`, `"object"`, 1), statementType), false},
		{"signed without its envelope", plain, false},
		{"no signature", strings.Replace(bundle(good, statementType), `"signatures"`, `"signature"`, 1), false},
		{"a signature of a file", `{"messageSignature":{"signature":"AAAA"}}`, false},
		{"nothing", `{}`, false},
	} {
		_, err := pub.Bundle([]byte(tc.body), digest)
		must.Eq(t, tc.ok, err == nil, must.Sprint(tc.name))
	}
	_, err := pub.Bundle([]byte(bundle(good, statementType)), "")
	must.ErrorIs(t, err, errNotSigned)
}

func TestLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	write := func(name, body string) string {
		path := filepath.Join(dir, name)
		must.NoError(t, os.WriteFile(path, []byte(body), 0o600))
		return path
	}
	small, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	must.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(small.Public())
	must.NoError(t, err)
	fifo := filepath.Join(dir, "fifo")
	must.NoError(t, unix.Mkfifo(fifo, 0o600))
	good := vectors(t)["p256"].Key
	for _, tc := range []struct{ path, words string }{
		{filepath.Join(dir, "missing"), "no such file"},
		{dir, "no regular file"},
		{fifo, "no regular file"},
		{write("empty", ""), "no PEM block"},
		{write("text", "hello"), "no PEM block"},
		{write("private", "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n"), "not a PUBLIC KEY"},
		{write("garbage", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"), "cannot use public key"},
		{write("small", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))), "too small"},
		{write("half", good+"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"), "cannot use public key"},
		{write("huge", strings.Repeat("x", maxKeyFile+1)), "at most"},
	} {
		_, err := Load(tc.path)
		must.ErrorContains(t, err, tc.words, must.Sprint(tc.path))
	}
}

// FuzzSignature parses arbitrary payloads and bundles that the key did sign, so that what is behind the signature is
// reached: never a panic, and never another digest than the one that is in them.
func FuzzSignature(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add([]byte(v.Payload), v.Signature, []byte(v.Bundle))
	}
	f.Add([]byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[null]}`), "", []byte(`{"dsseEnvelope":{"signatures":[{}]}}`))
	// Ed25519 signs fast and alike: what the fuzzer has found it finds again.
	private := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	must.NoError(f, err)
	pub := keys(f, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	f.Fuzz(func(t *testing.T, payload []byte, sig string, bundle []byte) {
		_, err := pub.Payload(payload, sig, digest)
		must.Error(t, err)
		_, err = pub.Payload(payload, base64.StdEncoding.EncodeToString(ed25519.Sign(private, payload)), digest)
		must.True(t, err != nil || strings.Contains(string(payload), "docker-manifest-digest") || strings.Contains(string(payload), `\u`))
		_, err = pub.Bundle(bundle, digest)
		must.Error(t, err)
		_ = checkStatement(payload, digest)
	})
}
