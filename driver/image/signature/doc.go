// Package signature verifies that an image was signed with one of the operator's own keys.
//
// It reads what Sigstore's cosign writes when it signs with a key pair, in both of its formats: the "simple
// signing" payload beside a raw signature, which version 2 keeps under a tag, and the bundle with a DSSE envelope
// around an in-toto statement, which version 3 attaches as a referrer. Certificates, transparency logs and time
// stamps are not looked at: the keys are local and work without any service.
//
// A signature is checked before what it signs is parsed. What it signs must be of the kind that signs an image, so
// that an attestation by the same key is no signature, and must name the image's digest. The name of the
// repository in it is not compared, as cosign does not either: it tells where the image was when it was signed.
package signature
