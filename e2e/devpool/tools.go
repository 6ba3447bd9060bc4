package devpool

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Tools are the programs that a pool is made of.
type Tools struct {
	Bin    string // directory that holds pangaea, pangaea-shim and pangaea-runtime
	Nomad  string
	Consul string
}

// FindTools looks for Pangaea's programs in bin, and for nomad and consul there or else on PATH.
func FindTools(bin string) (Tools, error) {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return Tools{}, fmt.Errorf("cannot find the programs: %w", err)
	}
	var missing []error
	for _, name := range []string{"pangaea", "pangaea-shim", "pangaea-runtime"} {
		_, err := os.Stat(filepath.Join(bin, name))
		missing = append(missing, err)
	}
	find := func(name string) string {
		path, err := exec.LookPath(filepath.Join(bin, name))
		if err != nil {
			path, err = exec.LookPath(name)
		}
		missing = append(missing, err)
		return path
	}
	tools := Tools{Bin: bin, Nomad: find("nomad"), Consul: find("consul")}
	err = errors.Join(missing...)
	if err != nil {
		return tools, fmt.Errorf("cannot find the programs: %w; run make build tools", err)
	}
	return tools, nil
}
