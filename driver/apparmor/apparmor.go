package apparmor

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Where the kernel tells of AppArmor.
const (
	enabledFile  = "/sys/module/apparmor/parameters/enabled"
	profilesFile = "/sys/kernel/security/apparmor/profiles"
)

// ErrNoParser says that profiles can't be loaded on this host.
var ErrNoParser = errors.New("apparmor_parser is not installed: apt install apparmor")

// parserTime bounds a run of the parser, which takes some 50 ms.
const parserTime = 20 * time.Second

// Host is a machine's AppArmor.
type Host struct {
	// Root is where the machine's files are, "/" but in tests.
	Root string
}

func (h Host) path(name string) string { return filepath.Join(h.Root, name) }

// Enabled tells whether the kernel confines by profiles.
func (h Host) Enabled() bool {
	text, err := os.ReadFile(h.path(enabledFile))
	return err == nil && strings.HasPrefix(string(text), "Y")
}

// Loaded tells whether a profile is loaded and enforced: one in complain mode only notes what it would deny.
func (h Host) Loaded(profile string) (bool, error) {
	f, err := os.Open(h.path(profilesFile))
	if err != nil {
		return false, fmt.Errorf("cannot read AppArmor's profiles (mount -t securityfs securityfs /sys/kernel/security): %w", err)
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// A profile's name may hold spaces: "my profile (enforce)".
		name, mode, ok := cutMode(lines.Text())
		if ok && name == profile && (mode == "enforce" || mode == "kill") {
			return true, nil
		}
	}
	return false, lines.Err()
}

func cutMode(line string) (name, mode string, ok bool) {
	i := strings.LastIndex(line, " (")
	if i < 0 || !strings.HasSuffix(line, ")") {
		return "", "", false
	}
	return line[:i], line[i+2 : len(line)-1], true
}

// Load loads the driver's own profile, in the place of an earlier one. Tasks that run are under the new one at once.
func (h Host) Load(ctx context.Context) error {
	parser, err := h.parser()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, parserTime)
	defer cancel()
	var said bytes.Buffer
	// Without its cache, which is on the host's disk and may be another version's.
	cmd := exec.CommandContext(ctx, parser, "--replace", "--skip-cache")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(h.profile()), &said, &said
	err = cmd.Run()
	if err != nil {
		return fmt.Errorf("cannot load AppArmor's profile %s: %w: %.500s", OwnProfile, err, strings.TrimSpace(said.String()))
	}
	return nil
}

// CanLoad tells what keeps this host from loading profiles, such as a container around it that hides securityfs.
func (h Host) CanLoad() error {
	_, err := h.parser()
	if err == nil {
		_, err = h.Loaded(OwnProfile)
	}
	return err
}

// parser is where apparmor_parser lies; Nomad's unit may have a PATH without it.
func (h Host) parser() (string, error) {
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		name := h.path(filepath.Join(dir, "apparmor_parser"))
		info, err := os.Stat(name)
		if err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return name, nil
		}
	}
	return "", ErrNoParser
}

// profile is the text for this host's parser.
func (h Host) profile() string {
	_, err := os.Stat(h.path(abiFile))
	if err != nil {
		return rules
	}
	return abi + rules
}
