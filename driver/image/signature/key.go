package signature

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

const (
	maxKeyFile = 64 << 10
	minRSA     = 2048
)

// Key is a public key that images may be signed with.
type Key struct {
	// ID is the SHA-256 of the key in its standard encoding, in hexadecimal.
	ID     string
	public crypto.PublicKey
}

// Load reads a file with one or more public keys, as "cosign generate-key-pair" writes it.
func Load(path string) ([]Key, error) {
	body, err := readKeyFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read public key: %w", err)
	}
	keys, err := parseKeys(body)
	if err != nil {
		return nil, fmt.Errorf("cannot use public key %s: %w", path, err)
	}
	return keys, nil
}

func readKeyFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO would block for ever
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxKeyFile {
		return nil, fmt.Errorf("%s is no regular file of at most %d bytes", path, maxKeyFile)
	}
	return io.ReadAll(io.LimitReader(f, maxKeyFile))
}

func parseKeys(body []byte) ([]Key, error) {
	var keys []Key
	for {
		block, rest := pem.Decode(body)
		if block == nil {
			break
		}
		body = rest
		if block.Type != "PUBLIC KEY" {
			return nil, fmt.Errorf("it holds a %.40q, not a PUBLIC KEY", block.Type)
		}
		public, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		err = strong(public)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(block.Bytes)
		keys = append(keys, Key{ID: hex.EncodeToString(sum[:]), public: public})
	}
	if len(keys) == 0 {
		return nil, errors.New("it holds no PEM block of the type PUBLIC KEY")
	}
	return keys, nil
}

func strong(public crypto.PublicKey) error {
	switch k := public.(type) {
	case *ecdsa.PublicKey: // P-224 is the only smaller one that the parser knows
		if k.Curve.Params().BitSize < 256 {
			return errors.New("its curve is too small, use P-256 or above")
		}
	case ed25519.PublicKey:
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSA {
			return fmt.Errorf("it has %d bits, use at least %d", k.N.BitLen(), minRSA)
		}
	default:
		return fmt.Errorf("it is of type %T, use ECDSA, Ed25519 or RSA", public)
	}
	return nil
}

// verify tells whether sig is the key's signature of message.
func (k Key) verify(message, sig []byte) bool {
	sum := sha256.Sum256(message)
	switch public := k.public.(type) {
	case *ecdsa.PublicKey:
		// Signers agree on SHA-256 for P-256; with larger curves older ones use it, too, newer ones a larger hash.
		long384, long512 := sha512.Sum384(message), sha512.Sum512(message)
		larger := map[int][]byte{384: long384[:], 521: long512[:]}[public.Curve.Params().BitSize]
		return ecdsa.VerifyASN1(public, sum[:], sig) || larger != nil && ecdsa.VerifyASN1(public, larger, sig)
	case ed25519.PublicKey:
		// Cosign signs a payload by its hash (Ed25519ph) and a bundle whole.
		long := sha512.Sum512(message)
		return ed25519.Verify(public, message, sig) || ed25519.VerifyWithOptions(public, long[:], sig, &ed25519.Options{Hash: crypto.SHA512}) == nil
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(public, crypto.SHA256, sum[:], sig) == nil
	}
	return false
}
