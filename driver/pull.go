package driver

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/hashicorp/nomad/nomad/structs"

	"pangaea/driver/image"
)

const (
	// quietPull is how long a pull takes before the user is told about it: a cached image needs no event.
	quietPull = 200 * time.Millisecond
	// progressEvery keeps a long pull from pushing other events out of the allocation's last ten.
	progressEvery = 15 * time.Second
)

// pull gets the image, tells the user how it goes, and completes the plan with what the image says.
func (s *startup) pull() error {
	rules, err := s.conf.signatureRules()
	if err != nil {
		return structs.NewRecoverableError(fmt.Errorf("cannot check the image's signature: %w", err), true)
	}
	timeout, err := pullTimeout(&s.job)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	began := time.Now()
	s.image, err = s.images.Pull(ctx, image.PullRequest{
		Ref: s.job.Image, Username: s.job.Auth.Username, Password: s.job.Auth.Password, SoftFail: s.job.AuthSoftFail,
		Policy: image.Policy(s.job.PullPolicy), Dir: s.cfg.TaskDir().Dir, Progress: s.progress(),
		Signatures: rules, Tenant: s.cfg.Namespace,
	})
	if err != nil && ctx.Err() != nil && s.ctx.Err() == nil {
		return structs.NewRecoverableError(fmt.Errorf("the pull of image %q took longer than the job's image_pull_timeout of %s; what it has loaded is kept for the next", s.job.Image, timeout), true)
	}
	if err != nil {
		return err
	}
	took := time.Since(began).Round(time.Millisecond)
	if took > quietPull || !strings.Contains(s.job.Image, "@") { // what a tag means now is worth knowing later
		s.event(fmt.Sprintf("Image %s is %s", s.image.Ref, s.image.Digest), map[string]string{
			"image": s.image.Ref, "digest": s.image.Digest, "took": took.String(), "signed_by": strings.Join(s.image.Signers, ","),
		})
	}
	c := s.image.Config
	s.facts = imageFacts{Entrypoint: c.Entrypoint, Cmd: c.Cmd, Env: c.Env, WorkingDir: c.WorkingDir, User: c.User, Stop: c.StopSignal}
	s.plan, err = plan(s.cfg, &s.job, s.facts, s.conf, &s.host)
	return err
}

// pullTimeout is how long the job lets its pull take. The operator's pull_timeout bounds it, whoever else waits.
func pullTimeout(job *JobConfig) (time.Duration, error) {
	if job.PullTimeout == "" {
		return math.MaxInt64, nil
	}
	d, err := time.ParseDuration(job.PullTimeout)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("cannot use image_pull_timeout %q: write a positive duration such as 10m", job.PullTimeout)
	}
	return d, nil
}

// progress returns a function that turns a pull's progress into task events, few enough to be read.
func (s *startup) progress() func(image.Progress) {
	began, last := time.Now(), time.Time{}
	return func(p image.Progress) {
		if time.Since(began) < quietPull || time.Since(last) < progressEvery {
			return
		}
		last = time.Now()
		s.event(fmt.Sprintf("Pulling image: %s of %s, %d of %d layers",
			humanize.IBytes(uint64(max(0, p.Bytes))), humanize.IBytes(uint64(max(0, p.TotalBytes))), p.LayersDone, p.Layers),
			map[string]string{"image": s.job.Image})
	}
}

func (s *startup) event(message string, annotations map[string]string) {
	s.d.event(s.cfg, message, annotations)
}

// collectImages lets unused images go, until the plugin ends.
func (d *Driver) collectImages(store *image.Store, s *settings) {
	if s.GC.Disabled {
		return
	}
	ticker := time.NewTicker(s.gcInterval)
	defer ticker.Stop()
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-ticker.C:
		}
		result, err := store.GC(d.ctx, image.GCPolicy{
			MaxAge: s.gcMaxAge, HighWatermark: float64(s.GC.HighWatermark) / 100, LowWatermark: float64(s.GC.LowWatermark) / 100,
		})
		switch {
		case err != nil && d.ctx.Err() == nil:
			d.log.Warn("cannot collect unused images", "error", err)
		case result.Images > 0:
			d.log.Info("collected unused images", "images", result.Images, "layers", result.Layers, "bytes", result.Bytes)
		}
	}
}
