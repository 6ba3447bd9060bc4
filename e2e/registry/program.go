package registry

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// directories are those that every image of ours has.
var directories = []string{"dev/", "etc/", "proc/", "sys/", "tmp/", "usr/", "usr/bin/"}

// Program builds the Go program in directory dir, below the module at root, into an image that runs it.
func Program(ctx context.Context, root, dir string) (v1.Image, error) {
	scratch, err := os.MkdirTemp("", "pangaea-image-")
	if err != nil {
		return nil, fmt.Errorf("cannot build %s: %w", dir, err)
	}
	defer os.RemoveAll(scratch)
	binary := filepath.Join(scratch, filepath.Base(dir))
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "./"+dir)
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	output, err := build.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("cannot build %s: %w\n%s", dir, err, output)
	}
	return FromBinary(binary)
}

// FromBinary makes an image with one static program, which it runs.
func FromBinary(binary string) (v1.Image, error) {
	content, err := os.ReadFile(binary)
	if err != nil {
		return nil, fmt.Errorf("cannot make an image: %w", err)
	}
	program := "usr/bin/" + filepath.Base(binary)
	archive, err := archiveOf(map[string][]byte{program: content})
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(archive)), nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot make a layer of %s: %w", binary, err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, fmt.Errorf("cannot add a layer of %s: %w", binary, err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("cannot read the config of an image of %s: %w", binary, err)
	}
	config = config.DeepCopy()
	config.Architecture, config.OS = runtime.GOARCH, "linux"
	config.Config = v1.Config{Entrypoint: []string{"/" + program}, Env: []string{"PATH=/usr/bin"}}
	return mutate.ConfigFile(image, config)
}

// archiveOf makes a tar file of the usual directories and the given executables.
func archiveOf(files map[string][]byte) ([]byte, error) {
	var buffer bytes.Buffer
	archive := tar.NewWriter(&buffer)
	for _, dir := range directories {
		mode := int64(0o755)
		if dir == "tmp/" {
			mode = 0o1777
		}
		err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: mode})
		if err != nil {
			return nil, fmt.Errorf("cannot archive %s: %w", dir, err)
		}
	}
	for path, content := range files {
		err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path, Mode: 0o755, Size: int64(len(content))})
		if err != nil {
			return nil, fmt.Errorf("cannot archive %s: %w", path, err)
		}
		_, err = archive.Write(content)
		if err != nil {
			return nil, fmt.Errorf("cannot archive %s: %w", path, err)
		}
	}
	err := archive.Close()
	if err != nil {
		return nil, fmt.Errorf("cannot archive a layer: %w", err)
	}
	return buffer.Bytes(), nil
}
