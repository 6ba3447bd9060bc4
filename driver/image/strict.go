package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxJSONDepth is far above what manifests and configs need.
const maxJSONDepth = 32

// decode parses a document that a stranger wrote. A key that appears twice in one object is refused: which
// of the two counts differs between parsers, so that what one tool checked another would not run.
func decode(body []byte, v any) error {
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
	if depth > maxJSONDepth {
		return fmt.Errorf("nested more than %d deep", maxJSONDepth)
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
