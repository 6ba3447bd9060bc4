package state

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"pangaea/federation/pool"
)

// probe is a job ID that cannot be: it is only asked about.
const probe = ".access"

// CanRead asks Consul whether the token may read the jobs of a namespace. nil means yes, ErrPermission no, and
// ErrUnavailable that Consul could not be asked, which is a no as well.
func (s *Store) CanRead(ctx context.Context, token, namespace string) error {
	return s.can(ctx, accessRead, token, namespace)
}

// CanWrite asks Consul whether the token may run, change and stop jobs in a namespace. It changes nothing.
func (s *Store) CanWrite(ctx context.Context, token, namespace string) error {
	return s.can(ctx, accessWrite, token, namespace)
}

type accessKind string

const (
	accessRead  accessKind = "read"
	accessWrite accessKind = "write"
)

func (s *Store) can(ctx context.Context, kind accessKind, token, namespace string) error {
	key, err := jobKey(pool.KeyJobs, namespace, probe)
	if err != nil {
		return err
	}
	question := accessQuestion{kind: kind, token: sha256.Sum256([]byte(token)), namespace: namespace}
	answer, known := s.access.get(question)
	if known {
		return answer
	}
	err = s.ask(ctx, kind, userToken(token), key)
	err = s.translate(string(kind)+" jobs in namespace "+namespace, err)
	if err == nil || errors.Is(err, ErrPermission) {
		s.access.put(question, err) // other errors are not decisions
	}
	return err
}

// ask finds out by trying. For writes it is a check-and-set whose index can never match, which Consul's ACLs judge
// before anything else looks at it.
func (s *Store) ask(ctx context.Context, kind accessKind, token, key string) error {
	if kind == accessRead {
		_, _, err := s.client.KV().Get(key, write(ctx, token))
		return err
	}
	options := (&api.WriteOptions{Token: token}).WithContext(ctx)
	_, _, err := s.client.KV().DeleteCAS(&api.KVPair{Key: key, ModifyIndex: 1}, options)
	return err
}

// accessQuestion holds a token's digest so that a memory dump of the cache is not a list of secrets.
type accessQuestion struct {
	kind      accessKind
	token     [sha256.Size]byte
	namespace string
}

type accessAnswer struct {
	err   error
	until time.Time
}

// maxAnswers bounds the cache against a caller who invents tokens; when full it starts empty again.
const maxAnswers = 10_000

type accessCache struct {
	keep    time.Duration
	now     func() time.Time
	mu      sync.Mutex
	answers map[accessQuestion]accessAnswer
}

func newAccessCache(keep time.Duration, now func() time.Time) *accessCache {
	return &accessCache{keep: keep, now: now, answers: map[accessQuestion]accessAnswer{}}
}

func (c *accessCache) get(q accessQuestion) (error, bool) { //nolint:revive // the error is the value here
	c.mu.Lock()
	defer c.mu.Unlock()
	answer, ok := c.answers[q]
	if !ok || c.now().After(answer.until) {
		return nil, false
	}
	return answer.err, true
}

func (c *accessCache) put(q accessQuestion, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.answers) >= maxAnswers {
		clear(c.answers)
	}
	c.answers[q] = accessAnswer{err: err, until: c.now().Add(c.keep)}
}
