package signature

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"pangaea/driver/image/strict"
)

// Where signatures are kept and how they say what they are.
const (
	// PayloadType is the media type of a simple signing payload.
	PayloadType = "application/vnd.dev.cosign.simplesigning.v1+json"
	// Annotation holds the signature of a payload.
	Annotation = "dev.cosignproject.cosign/signature"
	// BundleType begins the media type of a bundle, whose version follows.
	BundleType = "application/vnd.dev.sigstore.bundle"

	payloadKind   = "cosign container image signature"
	statementType = "application/vnd.in-toto+json"
	statementKind = "https://in-toto.io/Statement/v1"
	predicate     = "https://sigstore.dev/cosign/sign/v1"
)

// Keys are the keys of which one must have signed.
type Keys []Key

// errNotSigned is all that a failure says: why exactly is known to whoever made the signature.
var errNotSigned = errors.New("no signature of this image by one of the keys")

// signer finds the key whose signature of message sig is.
func (k Keys) signer(message, sig []byte) (string, error) {
	for _, key := range k {
		if key.verify(message, sig) {
			return key.ID, nil
		}
	}
	return "", errNotSigned
}

// Payload checks a simple signing payload and its signature, and gives the ID of the key that signed.
func (k Keys) Payload(body []byte, sig, digest string) (string, error) {
	raw, err := base64.StdEncoding.DecodeString(sig)
	if err != nil {
		return "", errNotSigned
	}
	id, err := k.signer(body, raw)
	if err != nil {
		return "", err
	}
	var p struct {
		Critical struct {
			Type  string `json:"type"`
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			} `json:"image"`
		} `json:"critical"`
	}
	err = strict.Decode(body, &p)
	if err != nil || p.Critical.Type != payloadKind || p.Critical.Image.Digest != digest {
		return "", errNotSigned
	}
	return id, nil
}

// Bundle checks a Sigstore bundle, and gives the ID of the key that signed.
func (k Keys) Bundle(body []byte, digest string) (string, error) {
	var b struct {
		Envelope struct {
			Payload     []byte `json:"payload"`
			PayloadType string `json:"payloadType"`
			Signatures  []struct {
				Sig []byte `json:"sig"`
			} `json:"signatures"`
		} `json:"dsseEnvelope"`
	}
	err := strict.Decode(body, &b)
	if err != nil || b.Envelope.PayloadType != statementType || len(b.Envelope.Signatures) != 1 {
		return "", errNotSigned
	}
	// The envelope signs the type along with the payload, so that nothing else that the key signed passes for it.
	message := fmt.Sprintf("DSSEv1 %d %s %d %s", len(b.Envelope.PayloadType), b.Envelope.PayloadType, len(b.Envelope.Payload), b.Envelope.Payload)
	id, err := k.signer([]byte(message), b.Envelope.Signatures[0].Sig)
	if err != nil {
		return "", err
	}
	err = checkStatement(b.Envelope.Payload, digest)
	if err != nil {
		return "", err
	}
	return id, nil
}

func checkStatement(body []byte, digest string) error {
	var s struct {
		Type          string `json:"_type"`
		PredicateType string `json:"predicateType"`
		Subject       []struct {
			Digest map[string]string `json:"digest"`
		} `json:"subject"`
	}
	err := strict.Decode(body, &s)
	if err != nil || s.Type != statementKind || s.PredicateType != predicate {
		return errNotSigned
	}
	algorithm, sum, _ := strings.Cut(digest, ":")
	for _, subject := range s.Subject {
		if sum != "" && subject.Digest[algorithm] == sum {
			return nil
		}
	}
	return errNotSigned
}
