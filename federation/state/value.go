package state

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/hashicorp/consul/api"
)

const (
	// MaxValue is the largest value that is written, after compression. Consul takes 512 KiB a value, but also 512
	// KiB a transaction, which carries its values in base64 (4 bytes for 3) beside keys and verbs.
	MaxValue = 380 << 10
	// compressFrom keeps small values readable with "consul kv get".
	compressFrom = 4 << 10
	// maxPlain stops a value that was made to explode when it is read.
	maxPlain = 64 << 20
)

// encode renders a value for Consul. what names it in the error of one that is too large.
func encode(what string, value any) ([]byte, error) {
	plain, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("cannot encode %s: %w", what, err)
	}
	if len(plain) < compressFrom {
		return plain, nil
	}
	var packed bytes.Buffer
	writer := gzip.NewWriter(&packed)
	_, err = writer.Write(plain)
	if err != nil {
		return nil, fmt.Errorf("cannot compress %s: %w", what, err)
	}
	err = writer.Close()
	if err != nil {
		return nil, fmt.Errorf("cannot compress %s: %w", what, err)
	}
	if packed.Len() > MaxValue {
		return nil, fmt.Errorf("%s is %w: %d KiB of JSON, %d KiB compressed, and the pool keeps at most %d KiB, "+
			"what fits Consul's limit of 512 KiB: move large templates and inline files into the image of the tasks", what, ErrTooLarge,
			len(plain)>>10, packed.Len()>>10, MaxValue>>10)
	}
	return packed.Bytes(), nil
}

// decode reads a value that encode wrote; gzip's first two bytes cannot begin JSON.
func decode(data []byte, value any) error {
	if len(data) > 2 && data[0] == 0x1f && data[1] == 0x8b {
		reader, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return err
		}
		data, err = io.ReadAll(io.LimitReader(reader, maxPlain))
		if err != nil {
			return err
		}
	}
	return json.Unmarshal(data, value)
}

// ValidNamespace reports whether a name can be a namespace, by Nomad's own rule.
func ValidNamespace(name string) bool {
	allowed := func(r rune) bool {
		return r == '-' || (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z') || (r >= '0' && r <= '9')
	}
	return name != "" && len(name) <= 128 && !strings.ContainsFunc(name, func(r rune) bool { return !allowed(r) })
}

// jobKey builds the key of something about a job. The escaped ID stays one path segment, so that no ID can reach into
// another namespace's keys.
func jobKey(root, namespace, jobID string) (string, error) {
	if !ValidNamespace(namespace) {
		return "", fmt.Errorf("%w: namespace %q: use letters, digits and dashes", ErrInvalid, namespace)
	}
	// Nomad refuses spaces. Consul decodes a key once more and refuses two dots in a row, but only where it reads.
	if jobID == "" || len(jobID) > 512 || jobID == "." || strings.Contains(jobID, "..") || strings.ContainsAny(jobID, " \x00") {
		return "", fmt.Errorf("%w: job ID %q: use 1 to 512 characters, no space and no two dots in a row", ErrInvalid, jobID)
	}
	return root + namespace + "/" + url.PathEscape(jobID), nil
}

// namespacePrefix is the prefix of a namespace's keys, or of all when the namespace is empty or "*".
func namespacePrefix(root, namespace string) (string, error) {
	if namespace == "" || namespace == "*" {
		return root, nil
	}
	if !ValidNamespace(namespace) {
		return "", fmt.Errorf("%w: namespace %q: use letters, digits and dashes", ErrInvalid, namespace)
	}
	return root + namespace + "/", nil
}

// Entry is a value with what Consul knows about it.
type Entry[T any] struct {
	Value       T
	Key         string
	Index       uint64 // Consul's ModifyIndex: give it back to change the value only if nobody else did
	CreateIndex uint64
}

func entryOf[T any](pair *api.KVPair) (Entry[T], error) {
	entry := Entry[T]{Key: pair.Key, Index: pair.ModifyIndex, CreateIndex: pair.CreateIndex}
	err := decode(pair.Value, &entry.Value)
	if err != nil {
		return entry, fmt.Errorf("cannot decode %s: %w", pair.Key, err)
	}
	return entry, nil
}
