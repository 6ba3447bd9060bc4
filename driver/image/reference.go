package image

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"pangaea/driver/image/registry"
)

// reference is a parsed image reference: at a registry, or a path on this host.
type reference struct {
	text   string
	remote name.Reference // nil for a local one
	scheme string         // of a local one
	file   string
	tag    string
}

// The schemes of local references.
const (
	schemeLayout  = "oci"
	schemeArchive = "oci-archive"
	schemeDocker  = "docker-archive"
)

func (s *Store) parse(text string) (reference, error) {
	for _, scheme := range []string{schemeLayout, schemeArchive, schemeDocker} {
		rest, ok := strings.CutPrefix(text, scheme+":")
		if !ok {
			continue
		}
		file, tag, _ := strings.Cut(rest, ":")
		if file == "" || strings.ContainsRune(rest, 0) {
			return reference{}, fmt.Errorf("%w: no path in it", errBadRef)
		}
		return reference{text: text, scheme: scheme, file: filepath.Clean(file), tag: tag}, nil
	}
	named, err := s.client.Parse(text)
	if err != nil {
		return reference{}, fmt.Errorf("%w: %w", errBadRef, err)
	}
	// A server may take a/../b for b, which is not what the operator's globs have judged.
	repo := "/" + named.Context().RepositoryStr()
	if path.Clean(repo) != repo {
		return reference{}, fmt.Errorf("%w: %s is no clean path", errBadRef, repo)
	}
	r := reference{text: text, remote: named}
	return r, s.allowed(r)
}

// allowed applies the operator's globs.
func (s *Store) allowed(r reference) error {
	if len(s.opts.AllowedRegistries) == 0 || slices.ContainsFunc(s.opts.AllowedRegistries, r.covered) {
		return nil
	}
	_, full := r.subject()
	return fmt.Errorf("%w: the driver's allowed_registries do not cover %s", ErrNotAllowed, full)
}

// subject is what globs are about: the registry, and its repository or the whole path on this host.
func (r reference) subject() (host, full string) {
	if r.remote == nil {
		return "", r.scheme + ":" + r.file
	}
	host = r.remote.Context().RegistryStr()
	return host, host + "/" + r.remote.Context().RepositoryStr()
}

// covered tells whether a glob of the operator's matches. One without a slash is about the registry alone, and a
// final "/**" takes everything below.
func (r reference) covered(glob string) bool {
	host, full := r.subject()
	first, rest, whole := strings.Cut(glob, "/")
	glob = registry.Canonical(first)
	subject := host
	if whole {
		glob, subject = glob+"/"+rest, full
	}
	ok, err := path.Match(glob, subject)
	prefix, deep := strings.CutSuffix(glob, "/**")
	return err == nil && ok || deep && strings.HasPrefix(full, prefix+"/")
}

// named gives the registries that the operator allowed by name. A glob names nobody: "*" must not open the host's
// own network to every job.
func named(globs []string) []string {
	var out []string
	for _, glob := range globs {
		host, _, _ := strings.Cut(glob, "/")
		if !strings.ContainsAny(host, `*?[\\`) {
			out = append(out, host)
		}
	}
	return out
}

// digested tells whether the reference itself fixes the content.
func (r reference) digested() bool {
	if r.remote == nil {
		return false
	}
	_, ok := r.remote.(name.Digest)
	return ok
}

// latest tells whether the reference is of the tag that moves by its name.
func (r reference) latest() bool {
	return r.remote != nil && !r.digested() && r.remote.Identifier() == name.DefaultTag
}

// key names the file that records what the reference last meant.
func (r reference) key() string {
	sum := sha256.Sum256([]byte(r.remote.Name()))
	return hex.EncodeToString(sum[:])
}

// flightKey keeps pulls apart that must not share a result: other credentials may see another answer.
func (r reference) flightKey(req PullRequest) string {
	sum := sha256.Sum256([]byte(req.Username + "\x00" + req.Password + "\x00" + strconv.FormatBool(req.SoftFail)))
	if r.remote != nil {
		return strings.Join([]string{r.remote.Name(), hex.EncodeToString(sum[:]), string(req.Policy)}, "\x00")
	}
	return strings.Join([]string{r.text, req.Dir}, "\x00")
}

// localRoot opens the directory that a local reference is read beneath: the job's own for a relative
// path, else the one of the operator's that holds it.
func (s *Store) localRoot(r reference, dir string) (*os.Root, string, error) {
	if !filepath.IsAbs(r.file) {
		if dir == "" {
			return nil, "", fmt.Errorf("%w: a relative path needs a task directory", ErrNotAllowed)
		}
		root, err := os.OpenRoot(dir)
		return root, r.file, err
	}
	for _, local := range append([]string{dir}, s.opts.LocalDirs...) {
		if local == "" {
			continue
		}
		rel, err := filepath.Rel(local, r.file)
		if err == nil && filepath.IsLocal(rel) {
			root, err := os.OpenRoot(local)
			return root, rel, err
		}
	}
	return nil, "", fmt.Errorf("%w: %s lies in none of the driver's image directories", ErrNotAllowed, printable(r.file))
}
