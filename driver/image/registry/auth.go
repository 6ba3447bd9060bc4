package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/credentials"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// Credentials are a job's own; empty ones leave the choice to the operator's file. SoftFail does without any if that file
// or a helper fails, as public images can be had all the same.
type Credentials struct {
	Username, Password string
	SoftFail           bool
}

// String keeps the password out of any log.
func (c Credentials) String() string { return fmt.Sprintf("credentials of %q", c.Username) }

// GoString keeps it out of %#v, too.
func (c Credentials) GoString() string { return c.String() }

// authenticator picks the credentials for reg: the job's for the registry that its image names (own),
// else those of the operator's file, else none.
func (c *Client) authenticator(ctx context.Context, reg name.Registry, creds Credentials, own bool) (authn.Authenticator, error) {
	if own && creds.Username+creds.Password != "" {
		return authn.FromConfig(authn.AuthConfig{Username: creds.Username, Password: creds.Password}), nil
	}
	if c.opts.AuthFile == "" || ctx.Err() != nil {
		return authn.Anonymous, ctx.Err()
	}
	auth, err := fromFile(ctx, c.opts.AuthFile, reg)
	if err != nil && creds.SoftFail && ctx.Err() == nil {
		c.opts.Logger.Warn("pulling without credentials, as the job wants it", "registry", reg.RegistryStr(), "error", err)
		return authn.Anonymous, nil
	}
	return auth, err
}

// maxAuthFile is far above what a file of credentials needs.
const maxAuthFile = 1 << 20

// fromFile reads a Docker config file, which may name credential helpers. It is read for every pull, so
// that renewed credentials need no restart.
func fromFile(ctx context.Context, path string, reg name.Registry) (authn.Authenticator, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return authn.Anonymous, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the registry credentials file: %w", err)
	}
	defer func() { _ = f.Close() }()
	file, err := config.LoadFromReader(io.LimitReader(f, maxAuthFile))
	if err != nil {
		// The parser's own error might quote what it read.
		return nil, fmt.Errorf("cannot parse the registry credentials file %s: it is not a Docker config.json", path)
	}
	keys := []string{reg.RegistryStr()}
	if reg.RegistryStr() == name.DefaultRegistry {
		keys = append(keys, authn.DefaultAuthKey)
	}
	for _, key := range keys {
		ac, err := lookUp(ctx, file, key)
		if err != nil {
			return nil, fmt.Errorf("cannot get credentials for %s from its credential helper: %w", reg.RegistryStr(), err)
		}
		ac.ServerAddress = "" // always set, and would make every entry look used
		if ac != (types.AuthConfig{}) {
			return authn.FromConfig(authn.AuthConfig{
				Username: ac.Username, Password: ac.Password, Auth: ac.Auth,
				IdentityToken: ac.IdentityToken, RegistryToken: ac.RegistryToken,
			}), nil
		}
	}
	return authn.Anonymous, nil
}

// lookUp asks the registry's helper, if it has one, and then the file itself, as Docker does.
func lookUp(ctx context.Context, file *configfile.ConfigFile, key string) (types.AuthConfig, error) {
	helper, ok := file.CredentialHelpers[key]
	if !ok {
		helper = file.CredentialsStore
	}
	if helper != "" {
		ac, err := askHelper(ctx, helper, key)
		if err != nil || ac != (types.AuthConfig{}) {
			return ac, err
		}
	}
	return credentials.NewFileStore(file).Get(key)
}
