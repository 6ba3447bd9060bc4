package driver

import (
	"fmt"
	"io"
	"os"
	"regexp"

	"golang.org/x/sys/unix"
)

// maxProfile bounds a seccomp profile; Docker's default has 15 KB.
const maxProfile = 1 << 20

// seccompProfile reads a profile that the job names from the operator's directory; "" is the default one. A name is no
// path, and a link in the directory would be one.
func (s *settings) seccompProfile(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	if !regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`).MatchString(name) {
		return "", fmt.Errorf("cannot use seccomp_profile %q: name one of the operator's profiles, without .json", name)
	}
	root, err := os.OpenRoot(s.AllowSeccompProfiles)
	if err != nil {
		return "", fmt.Errorf("cannot use seccomp_profile: %w", err)
	}
	defer func() { _ = root.Close() }()
	f, err := root.OpenFile(name+".json", os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", fmt.Errorf("cannot use seccomp_profile %q: %w", name, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxProfile))
	if err != nil {
		return "", fmt.Errorf("cannot read seccomp_profile %q: %w", name, err)
	}
	if len(text) == 0 {
		return "", fmt.Errorf("cannot use seccomp_profile %q: the operator's file is empty", name)
	}
	return string(text), nil
}
