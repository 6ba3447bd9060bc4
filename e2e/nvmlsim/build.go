package nvmlsim

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

//go:embed csrc
var sources embed.FS

// Build compiles the library into dir and returns its path, dir/libnvidia-ml.so.1. It needs gcc and, for NVML's header,
// the go-nvml module.
func Build(ctx context.Context, dir string) (string, error) {
	err := extract(dir)
	if err != nil {
		return "", err
	}
	include, err := headerDir(ctx)
	if err != nil {
		return "", err
	}
	err = writeStubs(filepath.Join(include, "nvml.h"), filepath.Join(dir, "csrc", "stubs.c"))
	if err != nil {
		return "", err
	}
	lib := filepath.Join(dir, "libnvidia-ml.so.1")
	src := filepath.Join(dir, "csrc")
	args := []string{"-O1", "-fPIC", "-shared", "-Wl,-soname,libnvidia-ml.so.1", "-I" + include, "-o", lib + ".new"}
	for _, name := range []string{"state.c", "readings.c", "calls.c", "fields.c", "gpm.c", "events.c", "stubs.c"} {
		args = append(args, filepath.Join(src, name))
	}
	err = gcc(ctx, append(args, "-ldl", "-lpthread")...)
	if err != nil {
		return "", err
	}
	return lib, os.Rename(lib+".new", lib)
}

func extract(dir string) error {
	err := os.MkdirAll(filepath.Join(dir, "csrc"), 0o755)
	if err != nil {
		return fmt.Errorf("cannot make the build directory: %w", err)
	}
	entries, err := sources.ReadDir("csrc")
	if err != nil {
		return fmt.Errorf("internal error: no sources: %w", err)
	}
	for _, e := range entries {
		text, err := sources.ReadFile("csrc/" + e.Name())
		if err != nil {
			return fmt.Errorf("internal error: no source %s: %w", e.Name(), err)
		}
		err = os.WriteFile(filepath.Join(dir, "csrc", e.Name()), text, 0o644)
		if err != nil {
			return fmt.Errorf("cannot write a source: %w", err)
		}
	}
	return nil
}

func gcc(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "gcc", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot compile the NVML simulator (is gcc installed?): %w\n%s", err, out)
	}
	return nil
}

// headerDir is where nvml.h lies: go-nvml carries NVIDIA's own.
func headerDir(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/NVIDIA/go-nvml")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("cannot find the go-nvml module: %w: %s", err, stderr.String())
	}
	return filepath.Join(strings.TrimSpace(string(out)), "pkg", "nvml"), nil
}

// writeStubs makes every function of the header exist and answer NOT_SUPPORTED. They are weak, so that the ones that
// the simulator does implement win. A missing symbol would not be an error to its caller but the end of the process:
// go-nvml binds lazily.
func writeStubs(header, out string) error {
	text, err := os.ReadFile(header)
	if err != nil {
		return fmt.Errorf("cannot read NVML's header: %w", err)
	}
	var names []string
	for _, m := range regexp.MustCompile(`nvmlReturn_t DECLDIR (nvml\w+)\(`).FindAllStringSubmatch(string(text), -1) {
		names = append(names, m[1])
	}
	slices.Sort(names)
	var b bytes.Buffer
	b.WriteString("#include \"sim.h\"\nstatic int stub(const char *fn, void *d) {\n  struct sim_section *s;\n" +
		"  int c = sim_enter(fn, d, &s);\n  if (c == SIM_INVALID) c = sim_enter(fn, NULL, &s);\n" +
		"  if (c != SIM_OK) return c;\n  sim_leave();\n  return SIM_NOT_SUPPORTED;\n}\n")
	for _, name := range slices.Compact(names) {
		fmt.Fprintf(&b, "__attribute__((weak)) int %s(void *d) { return stub(%q, d); }\n", name, name)
	}
	err = os.WriteFile(out, b.Bytes(), 0o644)
	if err != nil {
		return fmt.Errorf("cannot write stubs: %w", err)
	}
	return nil
}
