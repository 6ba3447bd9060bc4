// Package strict parses JSON documents that strangers wrote.
package strict

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxDepth is far above what manifests and configs need.
const maxDepth = 32

// Decode parses a document that a stranger wrote. A key that appears twice in one object is refused: which
// of the two counts differs between parsers, so that what one tool checked another would not run.
func Decode(body []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	err := checkValue(d, 0)
	if err != nil {
		return err
	}
	_, err = d.Token()
	if !errors.Is(err, io.EOF) {
		return errors.New("data behind the document")
	}
	return json.Unmarshal(body, v)
}

func checkValue(d *json.Decoder, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("nested more than %d deep", maxDepth)
	}
	t, err := d.Token()
	if err != nil {
		return err
	}
	switch t {
	case json.Delim('{'):
		err = checkObject(d, depth)
	case json.Delim('['):
		for d.More() && err == nil {
			err = checkValue(d, depth+1)
		}
	default:
		return nil
	}
	if err != nil {
		return err
	}
	_, err = d.Token() // the closing bracket
	return err
}

func checkObject(d *json.Decoder, depth int) error {
	seen := map[string]bool{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		name, _ := key.(string) // the decoder lets nothing else stand here
		if seen[name] {
			return fmt.Errorf("the key %.80q appears twice", name)
		}
		seen[name] = true
		err = checkValue(d, depth+1)
		if err != nil {
			return err
		}
	}
	return nil
}
