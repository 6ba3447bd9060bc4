package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// poll takes statistics as Nomad does, and tells how many rounds of all GPUs have come.
func (p *process) poll(ctx context.Context, every time.Duration) (count func() int64, err error) {
	stream, err := p.Stats(ctx, every)
	if err != nil {
		return nil, err
	}
	var came atomic.Int64
	first := make(chan error, 1)
	go func() {
		for answer := range stream { // until the plugin is killed
			err := answer.Error
			if err == nil && (len(answer.Groups) == 0 || len(answer.Groups[0].InstanceStats) == 0) {
				err = fmt.Errorf("they are empty")
			}
			if err == nil {
				came.Add(1)
			}
			select {
			case first <- err:
			default:
			}
		}
	}()
	select {
	case err = <-first:
	case <-time.After(patience):
		err = fmt.Errorf("none within %s", patience)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot take statistics: %w", err)
	}
	return came.Load, nil
}
