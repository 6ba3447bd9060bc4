package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"math/rand/v2"
)

const (
	steps        = 200
	samples      = 512 // per worker
	learningRate = 0.2
)

// truth is the line that the data follows; training must find it again.
var truth = [3]float64{1.5, -2, 0.5}

type sample struct {
	x [3]float64
	y float64
}

type model struct {
	weights [3]float64
}

// reducer adds up vectors over all workers.
type reducer interface {
	sum(step int, mine [4]float64) ([4]float64, error)
}

// shard makes the part of the data that one worker holds; every worker holds another.
func shard(rank, size int) []sample {
	random := rand.New(rand.NewPCG(uint64(rank), uint64(size))) //nolint:gosec // the data must be the same in every run
	data := make([]sample, samples)
	for i := range data {
		x := [3]float64{random.Float64()*2 - 1, random.Float64()*2 - 1, 1}
		data[i] = sample{x: x, y: truth[0]*x[0] + truth[1]*x[1] + truth[2]*x[2]}
	}
	return data
}

// train runs gradient descent on the mean of all workers' gradients.
func train(all reducer, data []sample) (model, error) {
	var m model
	for step := range steps {
		gradient := m.gradient(data)
		total, err := all.sum(step, [4]float64{gradient[0], gradient[1], gradient[2], float64(len(data))})
		if err != nil {
			return m, err
		}
		for i := range m.weights {
			m.weights[i] -= learningRate * total[i] / total[3]
		}
	}
	return m, nil
}

// gradient is the sum over the data of the squared error's gradient.
func (m model) gradient(data []sample) [3]float64 {
	var g [3]float64
	for _, s := range data {
		off := m.weights[0]*s.x[0] + m.weights[1]*s.x[1] + m.weights[2]*s.x[2] - s.y
		for i := range g {
			g[i] += 2 * off * s.x[i]
		}
	}
	return g
}

// checksum names the exact bits of the weights.
func (m model) checksum() string {
	hash := sha256.New()
	for _, weight := range m.weights {
		_ = binary.Write(hash, binary.LittleEndian, math.Float64bits(weight))
	}
	return hex.EncodeToString(hash.Sum(nil)[:8])
}
