package nvmlsim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Majors of NVIDIA's device nodes. The real nvidia-uvm takes a free one when it is loaded.
const (
	nvidiaMajor = 195
	uvmMajor    = 511
	ctlMinor    = 255
)

// MakeDriverRoot makes a host's NVIDIA driver installation below dir for the state's GPUs: dir/dev, dir/usr/bin/nvidia-smi and
// dir/usr/lib/x86_64-linux-gnu. Its libraries follow the state file at live wherever they can see that file's directory, and
// elsewhere show the GPUs of s that have a node in /dev. Only root can make device nodes; remove dir to undo it.
// It returns the path of the root's libnvidia-ml.so.1.
func MakeDriverRoot(ctx context.Context, dir, live string, s State) (string, error) {
	version := s.DriverVersion
	if version == "" {
		version = "570.86.15"
	}
	libs := filepath.Join(dir, "usr", "lib", "x86_64-linux-gnu")
	for _, d := range []string{libs, filepath.Join(dir, "usr", "bin"), filepath.Join(dir, "dev"), filepath.Join(dir, "proc", "driver", "nvidia")} {
		err := os.MkdirAll(d, 0o755)
		if err != nil {
			return "", fmt.Errorf("cannot make the driver root: %w", err)
		}
	}
	build := filepath.Join(dir, ".build")
	defer os.RemoveAll(build)
	lib, err := Build(ctx, build)
	if err != nil {
		return "", err
	}
	err = carry(lib, filepath.Join(libs, "libnvidia-ml.so."+version), live, s)
	if err != nil {
		return "", err
	}
	err = buildOthers(ctx, build, dir, libs, version)
	if err != nil {
		return "", err
	}
	err = linkAll(libs, version)
	if err != nil {
		return "", err
	}
	return filepath.Join(libs, "libnvidia-ml.so.1"), makeNodes(filepath.Join(dir, "dev"), s)
}

// carry copies the library with the state at its end, which ELF permits.
func carry(lib, to, live string, s State) error {
	code, err := os.ReadFile(lib)
	if err != nil {
		return fmt.Errorf("cannot read the built library: %w", err)
	}
	text := s.Text()
	if live != "" {
		text = append([]byte("live "+live+"\n"), text...)
	}
	code = append(code, text...)
	code = fmt.Appendf(code, "NVMLSIM-TRAILER %020d\n", len(text))
	err = os.WriteFile(to, code, 0o755) //nolint:gosec // the directory is the one that the caller wants a driver root in
	if err != nil {
		return fmt.Errorf("cannot write the driver's library: %w", err)
	}
	return nil
}

// libraries are what a CUDA container is handed besides NVML; they are empty but for libcuda.
func libraries() []string {
	return []string{"libcuda", "libnvidia-ptxjitcompiler", "libnvidia-nvvm", "libcudadebugger", "libnvidia-opencl", "libnvidia-gpucomp"}
}

func buildOthers(ctx context.Context, build, dir, libs, version string) error {
	empty := filepath.Join(build, "csrc", "empty.c")
	err := os.WriteFile(empty, []byte("int nvmlsim_empty(void) { return 0; }\n"), 0o644)
	if err != nil {
		return fmt.Errorf("cannot write a source: %w", err)
	}
	for _, name := range libraries() {
		src := empty
		if name == "libcuda" {
			src = filepath.Join(build, "csrc", "cuda.c")
		}
		err = gcc(ctx, "-O1", "-fPIC", "-shared", "-Wl,-soname,"+soname(name), "-o", filepath.Join(libs, name+".so."+version), src, "-ldl")
		if err != nil {
			return err
		}
	}
	return gcc(ctx, "-O1", "-o", filepath.Join(dir, "usr", "bin", "nvidia-smi"), filepath.Join(build, "csrc", "smi.c"), "-ldl")
}

func soname(name string) string {
	if name == "libnvidia-nvvm" {
		return name + ".so.4"
	}
	return name + ".so.1"
}

func linkAll(libs, version string) error {
	for _, name := range append(libraries(), "libnvidia-ml") {
		for _, link := range []string{soname(name), name + ".so"} {
			err := os.Symlink(name+".so."+version, filepath.Join(libs, link))
			if err != nil && !errors.Is(err, os.ErrExist) {
				return fmt.Errorf("cannot link a library: %w", err)
			}
		}
	}
	return nil
}

// makeNodes makes the device nodes. They need no driver to exist: opening one fails with ENXIO.
func makeNodes(dev string, s State) error {
	nodes := map[string]uint64{
		"nvidiactl":        unix.Mkdev(nvidiaMajor, ctlMinor),
		"nvidia-uvm":       unix.Mkdev(uvmMajor, 0),
		"nvidia-uvm-tools": unix.Mkdev(uvmMajor, 1),
	}
	for _, g := range s.GPUs {
		nodes[fmt.Sprintf("nvidia%d", g.Minor)] = unix.Mkdev(nvidiaMajor, uint32(g.Minor))
	}
	for name, number := range nodes {
		path := filepath.Join(dev, name)
		err := unix.Mknod(path, unix.S_IFCHR|0o666, int(number))
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("cannot make device node %s (root is needed): %w", name, err)
		}
		err = os.Chmod(path, 0o666) //nolint:gosec // as the NVIDIA driver makes them; the devices cgroup is what guards them
		if err != nil {
			return fmt.Errorf("cannot open device node %s to all: %w", name, err)
		}
	}
	return nil
}
