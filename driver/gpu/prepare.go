package gpu

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
)

// programs are the driver's programs that tasks get. The persistence and MPS daemons serve more than one tenant, so
// they are not among them.
func programs() []string { return []string{"nvidia-smi", "nvidia-debugdump"} }

// shortLinks are libraries that programs also open by a name without a version.
func shortLinks() []string {
	return []string{"libcuda", "libnvidia-ml", "libnvcuvid", "libnvidia-encode", "libnvidia-opticalflow"}
}

// prepare makes the directory of the driver's files that tasks mount, unless it exists, and returns its path.
func prepare(conf Config, files []string) (string, error) {
	libraries, bins := sortFiles(files)
	if len(libraries) == 0 {
		return "", fmt.Errorf("cannot find the NVIDIA driver's libraries below %s: is the driver installed?", conf.Root)
	}
	name, err := dirName(slices.Concat(libraries, bins))
	if err != nil {
		return "", err
	}
	final := filepath.Join(conf.Dir, name)
	_, err = os.Stat(final)
	if err == nil {
		return final, nil
	}
	err = os.MkdirAll(conf.Dir, 0o700)
	if err != nil {
		return "", fmt.Errorf("cannot make a directory for the NVIDIA driver's files: %w", err)
	}
	temp, err := os.MkdirTemp(conf.Dir, ".making-")
	if err != nil {
		return "", fmt.Errorf("cannot make a directory for the NVIDIA driver's files: %w", err)
	}
	defer os.RemoveAll(temp)
	err = fill(temp, libraries, bins)
	if err != nil {
		return "", err
	}
	err = os.Rename(temp, final)
	if err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("cannot finish the directory of the NVIDIA driver's files: %w", err)
	}
	return final, nil
}

// sortFiles keeps the 64-bit libraries and the allowed programs.
func sortFiles(files []string) (libraries, bins []string) {
	for _, f := range files {
		base := filepath.Base(f)
		switch {
		case slices.Contains(programs(), base):
			bins = append(bins, f)
		case strings.Contains(base, ".so") && !strings.Contains(f, "/vdpau/"):
			libraries = append(libraries, f)
		}
	}
	sort.Strings(libraries)
	sort.Strings(bins)
	return slices.Compact(libraries), slices.Compact(bins)
}

// dirName is the driver's version and a digest of what the files are, so that a changed file makes a new directory
// and running tasks keep theirs.
func dirName(files []string) (string, error) {
	sum := sha256.New()
	version := "unknown"
	number := regexp.MustCompile(`^libcuda\.so\.([0-9]+(\.[0-9]+)+)$`)
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			return "", fmt.Errorf("cannot read the NVIDIA driver's file: %w", err)
		}
		fmt.Fprintf(sum, "%s %d %d\n", f, info.Size(), info.ModTime().UnixNano())
		if m := number.FindStringSubmatch(filepath.Base(f)); m != nil {
			version = m[1]
		}
	}
	return version + "_" + hex.EncodeToString(sum.Sum(nil))[:12], nil
}

func fill(dir string, libraries, bins []string) error {
	for _, d := range []string{dir, filepath.Join(dir, "lib64"), filepath.Join(dir, "bin")} {
		err := os.MkdirAll(d, 0o755)
		if err != nil {
			return fmt.Errorf("cannot make %s: %w", d, err)
		}
		// MkdirTemp's own mode, and a umask, would shut tasks out.
		err = os.Chmod(d, 0o755) //nolint:gosec // tasks read it, and its parent is the driver's alone
		if err != nil {
			return fmt.Errorf("cannot open %s to tasks: %w", d, err)
		}
	}
	err := os.Symlink("lib64", filepath.Join(dir, "lib"))
	if err != nil {
		return fmt.Errorf("cannot link the driver's libraries: %w", err)
	}
	for _, f := range bins {
		err := place(f, filepath.Join(dir, "bin", filepath.Base(f)))
		if err != nil {
			return err
		}
	}
	for _, f := range libraries {
		err := placeLibrary(f, filepath.Join(dir, "lib64"))
		if err != nil {
			return err
		}
	}
	return nil
}

// placeLibrary puts a library in dir under its own name, its soname and, for some, its short name.
func placeLibrary(file, dir string) error {
	soname, ok := sonameOf(file)
	if !ok {
		return nil
	}
	base := filepath.Base(file)
	err := place(file, filepath.Join(dir, base))
	if err != nil {
		return err
	}
	links := []string{soname}
	stem, _, _ := strings.Cut(base, ".so")
	if slices.Contains(shortLinks(), stem) {
		links = append(links, stem+".so")
	}
	for _, l := range links {
		if l == base || l == "" || filepath.Base(l) != l {
			continue
		}
		err := os.Symlink(base, filepath.Join(dir, l))
		if err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("cannot link the driver's library %s: %w", base, err)
		}
	}
	return nil
}

// sonameOf reads the name that programs load a library by; ok is false for what is not a 64-bit library.
func sonameOf(file string) (soname string, ok bool) {
	f, err := elf.Open(file)
	if err != nil {
		return "", false
	}
	defer func() { _ = f.Close() }()
	if f.Class != elf.ELFCLASS64 {
		return "", false
	}
	names, err := f.DynString(elf.DT_SONAME)
	if err != nil || len(names) == 0 {
		return "", true
	}
	return names[0], true
}

// place links a file, or copies it if it lies on another file system. A link costs nothing, and keeps the running
// driver version's file when a package upgrade replaces it. Tasks can't write it: it is root's and mounted read-only.
func place(from, to string) error {
	real, err := filepath.EvalSymlinks(from)
	if err != nil {
		return fmt.Errorf("cannot find the NVIDIA driver's file: %w", err)
	}
	err = os.Link(real, to)
	if err == nil || errors.Is(err, os.ErrExist) {
		return nil
	}
	in, err := os.Open(real)
	if err != nil {
		return fmt.Errorf("cannot read the NVIDIA driver's file: %w", err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755) //nolint:gosec // a library that tasks load
	if err != nil {
		return fmt.Errorf("cannot copy the NVIDIA driver's file: %w", err)
	}
	_, err = io.Copy(out, in)
	err = errors.Join(err, out.Close())
	if err != nil {
		return fmt.Errorf("cannot copy the NVIDIA driver's file %s: %w", real, err)
	}
	return nil
}
