package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/docker/cli/cli/config/types"
	"golang.org/x/sys/unix"
)

const (
	helperTimeout = 30 * time.Second
	maxHelperSays = 64 << 10
)

// helperEnv is all that a credential helper gets of the plugin's environment, which holds Nomad's own secrets.
func helperEnv() []string {
	var out []string
	for _, key := range []string{"PATH", "HOME", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"} {
		value, ok := os.LookupEnv(key)
		if ok {
			out = append(out, key+"="+value)
		}
	}
	return out
}

// askHelper runs docker-credential-<name>. Nothing that it prints reaches an error or a log, since what goes wrong
// there often quotes a secret.
func askHelper(ctx context.Context, name, server string) (types.AuthConfig, error) {
	if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != "" {
		return types.AuthConfig{}, errors.New("its name is not one of a program docker-credential-NAME")
	}
	said, err := runHelper(ctx, "docker-credential-"+name, server)
	if strings.HasPrefix(string(said), "credentials not found in native keychain") {
		return types.AuthConfig{}, nil
	}
	if err != nil {
		return types.AuthConfig{}, err
	}
	var answer struct{ Username, Secret string }
	err = json.Unmarshal(said, &answer)
	if err != nil {
		return types.AuthConfig{}, errors.New("what it printed is not JSON")
	}
	if answer.Username == "<token>" { // how the protocol spells an identity token
		return types.AuthConfig{IdentityToken: answer.Secret}, nil
	}
	return types.AuthConfig{Username: answer.Username, Password: answer.Secret}, nil
}

func runHelper(ctx context.Context, program, input string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	out := &bounded{left: maxHelperSays}
	cmd := exec.CommandContext(ctx, program, "get")
	cmd.Env, cmd.Stdin, cmd.Stdout = helperEnv(), strings.NewReader(input), out
	// A helper that is a script has children, which would hold the pipe open for ever.
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("it did not answer within %s: %w", helperTimeout, ctx.Err())
	case out.left < 0:
		return nil, fmt.Errorf("it printed more than %d bytes", maxHelperSays)
	}
	return out.buf.Bytes(), err
}

// bounded is a buffer that fails once it is full, which ends the program that fills it.
type bounded struct {
	buf  bytes.Buffer // not embedded: its ReadFrom would go past the limit
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	b.left -= len(p)
	if b.left < 0 {
		return 0, errors.New("too much")
	}
	return b.buf.Write(p)
}
