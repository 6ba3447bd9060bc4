// Package configfile reads the configuration files of gateways and member agents: HCL, whatever they are called. Keys
// that are not known are errors.
package configfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsimple"
)

// Decode reads a file into a struct with hcl tags. Its error tells of all mistakes, each with its line.
func Decode(path string, into any) error {
	source, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("cannot read the configuration: %w", err)
	}
	name := path
	if ext := filepath.Ext(path); ext != ".hcl" && ext != ".json" {
		name += ".hcl" // hclsimple goes by the name
	}
	err = hclsimple.Decode(name, source, nil, into)
	var mistakes hcl.Diagnostics
	if !errors.As(err, &mistakes) {
		return err
	}
	all := make([]error, len(mistakes))
	for i, m := range mistakes {
		all[i] = fmt.Errorf("cannot read the configuration: %s: %s", path, describe(m))
	}
	return errors.Join(all...)
}

func describe(m *hcl.Diagnostic) string {
	text := m.Summary + ": " + m.Detail
	if m.Subject == nil {
		return text
	}
	return fmt.Sprintf("line %d: %s", m.Subject.Start.Line, text)
}
