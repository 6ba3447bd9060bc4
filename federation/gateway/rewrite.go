package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// fields is a JSON object of which only some members are looked at: all others pass through as they are.
type fields map[string]json.RawMessage

// text returns a member that is a string, "" otherwise.
func (f fields) text(name string) string {
	var out string
	if json.Unmarshal(f[name], &out) != nil {
		return ""
	}
	return out
}

func (f fields) setText(name, value string) {
	data, err := json.Marshal(value)
	if err == nil { // cannot fail for a string
		f[name] = data
	}
}

// rewriteBody changes the object, or each object of the list, that a member answered with, before a user sees it.
func rewriteBody(change func(fields)) func(*http.Response) error {
	return func(response *http.Response) error {
		if response.StatusCode != http.StatusOK || !strings.HasPrefix(response.Header.Get("Content-Type"), "application/json") {
			return nil
		}
		data, err := io.ReadAll(io.LimitReader(response.Body, maxReply+1))
		_ = response.Body.Close()
		if err != nil {
			return fmt.Errorf("cannot read the answer: %w", err)
		}
		if len(data) > maxReply {
			return fmt.Errorf("the answer is larger than %d MiB", maxReply>>20)
		}
		data, err = changeJSON(data, change)
		if err != nil {
			return err
		}
		response.Body = io.NopCloser(bytes.NewReader(data))
		response.ContentLength = int64(len(data))
		response.Header.Set("Content-Length", strconv.Itoa(len(data)))
		return nil
	}
}

func changeJSON(data []byte, change func(fields)) ([]byte, error) {
	var value any
	var list []fields
	var one fields
	var err error
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("[")) {
		err, value = json.Unmarshal(data, &list), &list
	} else {
		err, value = json.Unmarshal(data, &one), &one
		list = []fields{one}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot understand the answer: %w", err)
	}
	for _, object := range list {
		if object != nil {
			change(object)
		}
	}
	out, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the answer: %w", err)
	}
	return out, nil
}
