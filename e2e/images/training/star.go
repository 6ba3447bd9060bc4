package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// message is what the workers exchange: a vector to add up, or a checksum to compare.
type message struct {
	Rank     int
	Step     int
	Values   [4]float64
	Checksum string
}

// star is the workers' network: everybody talks to rank 0, which adds up and answers.
type star struct {
	world world
	peers []*link // on rank 0: by rank, without rank 0; elsewhere: rank 0 alone
}

// link is one connection between two workers.
type link struct {
	conn net.Conn
	in   *json.Decoder
	out  *json.Encoder
}

func newLink(conn net.Conn) *link {
	return &link{conn: conn, in: json.NewDecoder(conn), out: json.NewEncoder(conn)}
}

// join connects the worker with the others, waiting for those that have not started yet.
func join(ctx context.Context, w world) (*star, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	if w.rank == 0 {
		return gather(ctx, w)
	}
	return reach(ctx, w)
}

// gather waits on rank 0 until every other rank has said hello.
func gather(ctx context.Context, w world) (*star, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", w.listen)
	if err != nil {
		return nil, fmt.Errorf("cannot listen for the other workers: %w", err)
	}
	defer listener.Close()
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	all := &star{world: w, peers: make([]*link, w.size)}
	for missing := w.size - 1; missing > 0; {
		conn, err := listener.Accept()
		if err != nil {
			return nil, fmt.Errorf("still waiting for %d workers: %w", missing, errors.Join(ctx.Err(), err))
		}
		if all.admit(conn) {
			missing--
		}
	}
	all.peers = all.peers[1:]
	return all, nil
}

// admit takes a connection's hello and tells whether it filled an empty place.
func (s *star) admit(conn net.Conn) bool {
	peer := newLink(conn)
	var hello message
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	err := peer.in.Decode(&hello)
	if err != nil || hello.Rank < 1 || hello.Rank >= len(s.peers) {
		_ = conn.Close()
		return false
	}
	_ = conn.SetReadDeadline(time.Time{})
	fmt.Printf("rank %d joined from %s\n", hello.Rank, conn.RemoteAddr())
	isNew := s.peers[hello.Rank] == nil
	s.peers[hello.Rank] = peer
	return peer.out.Encode(hello) == nil && isNew
}

// reach dials rank 0 until it echoes the hello: a relay on the way may accept before rank 0 listens.
func reach(ctx context.Context, w world) (*star, error) {
	var last error
	for ctx.Err() == nil {
		conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", w.master)
		if err == nil {
			peer := newLink(conn)
			err = peer.greet(w.rank)
			if err == nil {
				return &star{world: w, peers: []*link{peer}}, nil
			}
			_ = conn.Close()
		}
		last = err
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
	return nil, fmt.Errorf("cannot reach rank 0 at %s: %w", w.master, last)
}

// greet says hello to rank 0 and waits for the echo.
func (l *link) greet(rank int) error {
	err := l.out.Encode(message{Rank: rank})
	if err != nil {
		return err
	}
	var echo message
	return l.in.Decode(&echo)
}

// sum adds up the workers' vectors and gives everybody the same total.
func (s *star) sum(step int, mine [4]float64) ([4]float64, error) {
	total, err := s.exchange(message{Rank: s.world.rank, Step: step, Values: mine}, func(sum *message, next message) error {
		if next.Step != step {
			return fmt.Errorf("rank %d is at step %d, not %d", next.Rank, next.Step, step)
		}
		for i := range sum.Values {
			sum.Values[i] += next.Values[i]
		}
		return nil
	})
	return total.Values, err
}

// agree checks that every worker ended with the same weights and returns how many there are.
func (s *star) agree(checksum string) (int, error) {
	verdict, err := s.exchange(message{Rank: s.world.rank, Checksum: checksum}, func(_ *message, next message) error {
		if next.Checksum != checksum {
			return fmt.Errorf("rank %d ended with checksum %s, not %s", next.Rank, next.Checksum, checksum)
		}
		return nil
	})
	if err == nil && verdict.Checksum != checksum {
		err = fmt.Errorf("rank 0 ended with checksum %s, not %s", verdict.Checksum, checksum)
	}
	return s.world.size, err
}

// exchange folds every worker's message on rank 0, in the order of ranks so that rounding is the same in every run,
// and hands all of them the result.
func (s *star) exchange(mine message, fold func(*message, message) error) (message, error) {
	if s.world.rank != 0 {
		err := s.peers[0].out.Encode(mine)
		if err != nil {
			return mine, fmt.Errorf("cannot send to rank 0: %w", err)
		}
		var result message
		err = s.peers[0].in.Decode(&result)
		if err != nil {
			return mine, fmt.Errorf("cannot hear from rank 0: %w", err)
		}
		return result, nil
	}
	result := mine
	for _, peer := range s.peers {
		var next message
		err := peer.in.Decode(&next)
		if err != nil {
			return mine, fmt.Errorf("cannot hear from a worker: %w", err)
		}
		err = fold(&result, next)
		if err != nil {
			return mine, err
		}
	}
	for _, peer := range s.peers {
		err := peer.out.Encode(result)
		if err != nil {
			return mine, fmt.Errorf("cannot answer a worker: %w", err)
		}
	}
	return result, nil
}

func (s *star) close() {
	for _, peer := range s.peers {
		_ = peer.conn.Close()
	}
}
