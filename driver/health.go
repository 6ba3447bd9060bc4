package driver

import (
	"fmt"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// The defaults of a health check are Docker's. The bounds keep a hostile image from having the host start programs all
// the time: each check is one, and it starts outside the task's own share of the processor.
const (
	defaultHealthInterval = 30 * time.Second
	defaultHealthTimeout  = 30 * time.Second
	defaultHealthRetries  = 3
	minHealthInterval     = 2 * time.Second
	minHealthTimeout      = time.Second
	maxHealthTimeout      = 10 * time.Minute
	maxHealthInterval     = 24 * time.Hour
	maxHealthRetries      = 100
	// healthStartInterval is between checks in the start period.
	healthStartInterval = 5 * time.Second
)

// healthCheck says how a task's health is looked at. It is kept in the task's record, for after a restart.
type healthCheck struct {
	Args     []string      `json:"args"`
	Interval time.Duration `json:"interval"`
	Timeout  time.Duration `json:"timeout"`
	Start    time.Duration `json:"start_period,omitempty"`
	Retries  int           `json:"retries"`
}

// healthOf is the job's check, or the image's, or the image's with the job's times; nil is none. What an image says that
// makes no sense is no check, and what a job says that makes no sense is an error.
func healthOf(job *JobHealth, image *v1.HealthConfig, shell []string) (*healthCheck, error) {
	if image == nil {
		image = &v1.HealthConfig{}
	}
	own, err := ownHealth(job)
	if err != nil || job.Disable {
		return nil, err
	}
	args := own.Args
	if len(job.Test) == 0 {
		args, _ = healthArgs(image.Test, shell)
	}
	if len(args) == 0 {
		return nil, nil
	}
	return &healthCheck{
		Args:     args,
		Interval: pick(own.Interval, image.Interval, defaultHealthInterval, minHealthInterval, maxHealthInterval),
		Timeout:  pick(own.Timeout, image.Timeout, defaultHealthTimeout, minHealthTimeout, maxHealthTimeout),
		Start:    pick(own.Start, image.StartPeriod, 0, 0, maxHealthInterval),
		Retries:  pick(own.Retries, image.Retries, defaultHealthRetries, 1, maxHealthRetries),
	}, nil
}

// ownHealth is what the job's block says, with zeros for what it leaves to the image.
func ownHealth(job *JobHealth) (healthCheck, error) {
	own := healthCheck{Retries: job.Retries}
	var err error
	own.Args, err = healthArgs(job.Test, nil)
	if err != nil {
		return own, fmt.Errorf("cannot use the healthchecks block: %w", err)
	}
	if job.Retries < 0 {
		return own, fmt.Errorf("cannot use the healthchecks block: retries is %d", job.Retries)
	}
	for _, d := range []struct {
		name, text string
		into       *time.Duration
	}{{"interval", job.Interval, &own.Interval}, {"timeout", job.Timeout, &own.Timeout}, {"start_period", job.StartPeriod, &own.Start}} {
		if d.text == "" {
			continue
		}
		*d.into, err = time.ParseDuration(d.text)
		if err != nil || *d.into <= 0 {
			return own, fmt.Errorf("cannot use the healthchecks block: %s %q must be a positive duration such as 30s", d.name, d.text)
		}
	}
	return own, nil
}

// healthArgs reads a test as images write it. No arguments are no check.
func healthArgs(test, shell []string) ([]string, error) {
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	switch {
	case len(test) == 0, test[0] == "NONE":
		return nil, nil
	case test[0] == "CMD" && len(test) > 1 && test[1] != "":
		return test[1:], nil
	case test[0] == "CMD-SHELL" && len(test) == 2:
		return append(append([]string{}, shell...), test[1]), nil
	}
	return nil, fmt.Errorf(`test %.80q must be ["CMD", program, arguments...], ["CMD-SHELL", command] or ["NONE"]`, strings.Join(test, " "))
}

// pick is the first choice that was made, within bounds.
func pick[N int | time.Duration](job, image, otherwise, lowest, highest N) N {
	for _, n := range []N{job, image} {
		if n > 0 {
			return min(max(n, lowest), highest)
		}
	}
	return otherwise
}
