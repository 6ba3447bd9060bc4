package image

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"pangaea/driver/image/layer"
)

// Pull makes sure that the store has the image and describes it. Callers who want the same image share
// one pull; a caller whose context ends leaves the others theirs.
func (s *Store) Pull(ctx context.Context, req PullRequest) (*Image, error) {
	req.Ref = printable(req.Ref)
	r, err := s.parse(req.Ref)
	if err != nil {
		return nil, explain(req.Ref, err)
	}
	trust, err := r.trusted(req.Signatures)
	if err != nil {
		return nil, explain(req.Ref, err)
	}
	req.Policy, err = req.Policy.check(r)
	if err != nil {
		return nil, fmt.Errorf("cannot pull image %q: %w", req.Ref, err)
	}
	img, err := s.cached(r, req, trust)
	if err == nil {
		return img, nil
	}
	if req.Policy == PolicyNever && r.remote != nil {
		return nil, explain(req.Ref, err)
	}
	key := r.flightKey(req)
	leave, err := s.queues.enter(ctx, req.Tenant, key)
	if err != nil {
		return nil, explain(req.Ref, err)
	}
	defer leave()
	img, err = s.cached(r, req, trust) // by whoever came before
	if err == nil {
		return img, nil
	}
	t := s.tracker(key)
	defer t.subscribe(req.Progress)()
	img, _, err = s.images.do(ctx, key, func(ctx context.Context) (*Image, error) {
		defer s.dropTracker(key, t)
		return withRoom(ctx, s, func() (*Image, error) { return s.pull(ctx, r, req, trust, t) })
	})
	if err == nil && !trust.accepts(img.Signers) { // who began the pull may have gone by other rules
		return nil, explain(req.Ref, ErrUnsigned)
	}
	return img, explain(req.Ref, err)
}

// cached is the image as the store has it, if the request makes do with that.
func (s *Store) cached(r reference, req PullRequest, trust trust) (*Image, error) {
	if req.Policy == PolicyAlways && !r.digested() {
		return nil, ErrNotPresent
	}
	return s.lookup(r, trust)
}

// tracker finds the progress of a pull that may be under way already.
func (s *Store) tracker(key string) *tracker {
	s.trackMu.Lock()
	defer s.trackMu.Unlock()
	t, ok := s.trackers[key]
	if !ok {
		t = &tracker{}
		s.trackers[key] = t
	}
	return t
}

func (s *Store) dropTracker(key string, t *tracker) {
	s.trackMu.Lock()
	defer s.trackMu.Unlock()
	if s.trackers[key] == t {
		delete(s.trackers, key)
	}
}

// pull is one pull, on behalf of everybody who waits for it.
func (s *Store) pull(ctx context.Context, r reference, req PullRequest, trust trust, t *tracker) (*Image, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.opts.PullTimeout, errTimeout)
	defer cancel()
	p, err := s.openPlan(ctx, r, req, trust)
	if err != nil {
		return nil, withCause(ctx, err)
	}
	if p.close != nil {
		defer p.close()
	}
	p.ref = r.text
	img, err := s.lookupDigest(r.text, p.digest)
	if err == nil {
		img.Signers = p.sign(img.Signers)
		return img, s.record(r, img)
	}
	if len(p.layers) > maxLayers {
		return nil, fmt.Errorf("%w: it has %d layers, more than %d", ErrHostile, len(p.layers), maxLayers)
	}
	img = &Image{Ref: r.text, Digest: p.digest, Config: p.config.Config, Signers: p.sign(nil)}
	unpin := s.pin(p.layers)
	defer unpin()
	err = s.fetchLayers(ctx, p, t)
	if err != nil {
		return nil, withCause(ctx, err)
	}
	img.Layers = stack(p.layers)
	err = s.checkTree(img.Layers)
	if err != nil {
		return nil, err
	}
	img.Size = s.sizeOf(img.Layers)
	err = s.record(r, img)
	if err != nil {
		return nil, fmt.Errorf("cannot record the image: %w", err)
	}
	s.settleLater(img.Layers)
	s.log.Debug("pulled image", "image", r.text, "digest", img.Digest, "layers", len(img.Layers), "bytes", img.Size)
	return img, nil
}

// withCause prefers the reason why ctx ended over what it did to the work.
func withCause(ctx context.Context, err error) error {
	if ctx.Err() != nil && !layer.IsContent(err) {
		return context.Cause(ctx)
	}
	return err
}

// stack gives the diff IDs, bottom first. Overlayfs takes no directory twice; of a layer that repeats,
// the topmost occurrence alone gives the same tree.
func stack(layers []layerPlan) []string {
	var out []string
	for _, l := range slices.Backward(layers) {
		if !slices.Contains(out, l.want.DiffID) {
			out = append(out, l.want.DiffID)
		}
	}
	slices.Reverse(out)
	return out
}

// fetchLayers brings all missing layers, a few at a time: one layer alone keeps neither the network nor the
// processors busy.
func (s *Store) fetchLayers(ctx context.Context, p *plan, t *tracker) error {
	budget := layer.NewBudget(s.opts.MaxImageBytes, maxEntries)
	var missing []layerPlan
	var total, promised int64
	for _, l := range p.layers {
		same := func(m layerPlan) bool { return m.want.DiffID == l.want.DiffID }
		if s.whole(hexOf(l.want.DiffID)) || slices.ContainsFunc(missing, same) {
			continue
		}
		missing = append(missing, l)
		total += max(l.want.Size, 0)
		promised += max(l.want.Size, 0)
		if promised > s.opts.MaxImageBytes {
			return fmt.Errorf("%w: its layers alone have more than %d bytes", layer.ErrTooLarge, s.opts.MaxImageBytes)
		}
	}
	if total > s.freeBytes() {
		return &shortage{need: total}
	}
	t.update(true, func(pr *Progress) { pr.Ref, pr.Layers, pr.TotalBytes = p.ref, len(missing), total })
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelLayers)
	for _, l := range missing {
		group.Go(func() error {
			err := s.fetchLayer(ctx, l, p.place, budget, t)
			if err != nil {
				return err
			}
			t.update(true, func(pr *Progress) { pr.LayersDone++ })
			return nil
		})
	}
	return group.Wait()
}

// fetchLayer brings one layer, or waits for the pull that is bringing it from the same place. If that one fails or is
// given up, this pull tries by itself: its own image may be honest where the other's was not. Nobody waits for another
// place: a stranger's registry may say of any layer that it has it, and then take its time.
func (s *Store) fetchLayer(ctx context.Context, l layerPlan, place string, budget *layer.Budget, t *tracker) error {
	key := strings.Join([]string{l.want.DiffID, l.want.Digest, place}, "\x00")
	for {
		_, led, err := s.layers.do(ctx, key, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, s.install(ctx, l, budget, t)
		})
		if err == nil || led || ctx.Err() != nil || errors.Is(err, context.Canceled) && s.ctx.Err() != nil {
			return err
		}
	}
}
