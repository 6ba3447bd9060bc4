package member

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// maxAnswer bounds an answer that must be held in memory to be rewritten.
const maxAnswer = 64 << 20

// scrubHeaders takes out of an answer what could carry a member's address.
func (a *Agent) scrubHeaders(response *http.Response) error {
	response.Header.Del("Location")
	response.Header.Del("Set-Cookie")
	return nil
}

// rewriteResponse turns an answer of Nomad's into the pool's words: its namespaces, no addresses, nothing of the
// owner's.
func (a *Agent) rewriteResponse(response *http.Response) error {
	_ = a.scrubHeaders(response)
	if response.StatusCode != http.StatusOK || !strings.HasPrefix(response.Header.Get("Content-Type"), "application/json") {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("cannot read Nomad's answer: %w", err)
	}
	_ = response.Body.Close()
	if len(body) > maxAnswer {
		return fmt.Errorf("cannot rewrite an answer of more than %d MiB", maxAnswer>>20)
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber() // indexes do not fit a float
	var value any
	err = decoder.Decode(&value)
	if err != nil {
		return fmt.Errorf("cannot read Nomad's answer: %w", err)
	}
	value, kept := a.words.rewrite(value)
	if !kept {
		return fmt.Errorf("an answer is not the pool's")
	}
	body, err = json.Marshal(value)
	if err != nil {
		return fmt.Errorf("cannot encode an answer: %w", err)
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	response.ContentLength = int64(len(body))
	response.Header.Set("Content-Length", strconv.Itoa(len(body)))
	return nil
}

// opaque are maps of the user's own keys, which mean nothing here.
var opaque = map[string]bool{"Meta": true, "Env": true, "Config": true, "Payload": true, "Items": true}

// rewrite translates a whole answer and tells whether it is for the pool to see: an object, or what is left of a list,
// of the pool's own namespaces or of none.
func (w words) rewrite(answer any) (any, bool) {
	list, isList := answer.([]any)
	if !isList {
		return answer, w.translate(answer, true)
	}
	kept := make([]any, 0, len(list))
	for _, item := range list {
		if w.translate(item, true) {
			kept = append(kept, item)
		}
	}
	return kept, true
}

// translate changes a value in place. top tells that a namespace in it is the object's own and decides about it;
// deeper ones may be something else's, such as a service's in Consul.
func (w words) translate(value any, top bool) bool {
	switch value := value.(type) {
	case []any:
		for _, item := range value {
			w.translate(item, false)
		}
	case map[string]any:
		if namespace, ok := value["Namespace"].(string); ok && namespace != "" {
			name, ours := w.toPool(namespace)
			if top && !ours {
				return false
			}
			if ours {
				value["Namespace"] = name
			}
		}
		scrubNode(value)
		for key, inner := range value {
			if !opaque[key] {
				w.translate(inner, false)
			}
		}
	}
	return true
}

// scrubNode takes out of a node, or of a node in a list, what tells where it can be reached. Other objects have none
// of these keys together.
func scrubNode(object map[string]any) {
	_, hasDrivers := object["Drivers"]
	_, hasClass := object["NodeClass"]
	if !hasDrivers || !hasClass {
		return
	}
	for _, key := range []string{"HTTPAddr", "Address", "SecretID"} {
		if _, ok := object[key]; ok {
			object[key] = ""
		}
	}
	for _, key := range []string{"Links", "HostNetworks", "CSIControllerPlugins", "CSINodePlugins"} {
		delete(object, key)
	}
	scrubAttributes(object["Attributes"])
	for _, key := range []string{"NodeResources", "Resources", "Reserved"} {
		scrubNetworks(object[key])
	}
	volumes, _ := object["HostVolumes"].(map[string]any)
	for _, volume := range volumes {
		if fields, ok := volume.(map[string]any); ok {
			fields["Path"] = ""
		}
	}
}

func scrubAttributes(value any) {
	attributes, _ := value.(map[string]any)
	for key, value := range attributes {
		text, _ := value.(string)
		if strings.HasPrefix(key, "unique.network.") || strings.HasPrefix(key, "unique.consul") || isAddress(text) {
			delete(attributes, key)
		}
	}
}

// scrubNetworks empties every network's address wherever it lies below a node's resources.
func scrubNetworks(value any) {
	resources, _ := value.(map[string]any)
	for _, name := range []string{"Networks", "NodeNetworks"} {
		networks, _ := resources[name].([]any)
		for _, network := range networks {
			fields, _ := network.(map[string]any)
			for _, key := range []string{"IP", "CIDR", "MacAddress", "Hostname", "Addresses"} {
				if _, ok := fields[key].(string); ok {
					fields[key] = ""
					continue
				}
				delete(fields, key)
			}
		}
	}
}
