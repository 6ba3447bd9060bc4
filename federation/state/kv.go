package state

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/consul/api"
)

// maxOps is Consul's documented limit of operations in one transaction.
const maxOps = 64

func setOp(key string, value []byte, cas uint64) *api.KVTxnOp {
	if cas == AnyIndex {
		return &api.KVTxnOp{Verb: api.KVSet, Key: key, Value: value}
	}
	return &api.KVTxnOp{Verb: api.KVCAS, Key: key, Value: value, Index: cas}
}

func deleteOp(key string, cas uint64) *api.KVTxnOp {
	if cas == AnyIndex {
		return &api.KVTxnOp{Verb: api.KVDelete, Key: key}
	}
	return &api.KVTxnOp{Verb: api.KVDeleteCAS, Key: key, Index: cas}
}

// commit runs operations as one transaction, behind a fence if there is one, and returns the new index of each key, 0
// for a deleted one.
func (s *Store) commit(ctx context.Context, what, token string, fence *Fence, ops []*api.KVTxnOp) ([]uint64, error) {
	all := make(api.TxnOps, 0, len(ops)+1)
	if fence != nil {
		all = append(all, &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVCheckSession, Key: fence.Key, Session: fence.Session}})
	}
	for _, op := range ops {
		all = append(all, &api.TxnOp{KV: op})
	}
	if len(all) > maxOps {
		return nil, fmt.Errorf("cannot %s: %w: %d operations in one transaction, Consul takes %d", what, ErrTooLarge, len(all), maxOps)
	}
	ok, response, _, err := s.client.Txn().Txn(all, write(ctx, token))
	if err != nil {
		return nil, s.translate(what, err)
	}
	if !ok {
		return nil, txnError(what, response.Errors, fence != nil)
	}
	written := make(map[string]uint64, len(response.Results))
	for _, result := range response.Results {
		if result.KV != nil {
			written[result.KV.Key] = result.KV.ModifyIndex
		}
	}
	indexes := make([]uint64, len(ops))
	for i, op := range ops {
		if op.Verb != api.KVDelete && op.Verb != api.KVDeleteCAS {
			indexes[i] = written[op.Key]
		}
	}
	return indexes, nil
}

func get[T any](ctx context.Context, s *Store, key string) (Entry[T], error) {
	pair, _, err := s.client.KV().Get(key, read(ctx))
	if err != nil {
		return Entry[T]{}, s.translate("read "+key, err)
	}
	if pair == nil {
		return Entry[T]{}, fmt.Errorf("cannot read %s: %w", key, ErrNotFound)
	}
	return entryOf[T](pair)
}

// list reads every value below a prefix. With an index it waits until something changed past it. A value that cannot
// be decoded is logged and left out: one broken key must not hide the others.
func list[T any](ctx context.Context, s *Store, prefix string, index uint64) ([]Entry[T], uint64, error) {
	options := read(ctx)
	options.WaitIndex = index
	pairs, meta, err := s.client.KV().List(prefix, options)
	if err != nil {
		return nil, 0, s.translate("list "+prefix, err)
	}
	entries := make([]Entry[T], 0, len(pairs))
	for _, pair := range pairs {
		entry, err := entryOf[T](pair)
		if err != nil {
			s.logger.Error("leaving out a value that cannot be read", "key", pair.Key, "error", err)
			continue
		}
		entries = append(entries, entry)
	}
	return entries, meta.LastIndex, nil
}

// watch calls fn with everything below a prefix, now and after every change.
func watch[T any](ctx context.Context, s *Store, prefix string, fn func([]Entry[T])) error {
	var index uint64
	for {
		entries, next, err := list[T](ctx, s, prefix, index)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			s.logger.Warn("cannot watch Consul, trying again", "prefix", prefix, "error", err)
			index = 0 // what was missed meanwhile must be seen even if the index did not move
			pause(ctx, time.Second)
			continue
		case next < index: // Consul was restored from a snapshot: start over, as its documentation asks
			index = 0
			continue
		case index == 0 || next > index:
			fn(entries)
		}
		index = max(next, 1)
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
