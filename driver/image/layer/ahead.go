package layer

import (
	"hash"
	"io"
	"sync"
)

const (
	aheadSize  = 512 << 10
	aheadDepth = 4
)

// ahead reads its source in a goroutine of its own, hashing as it goes, so that the network, the
// decompressor and the extraction overlap. Close, which waits for the goroutine, must be called.
type ahead struct {
	full  chan []byte
	free  chan []byte
	stop  chan struct{}
	done  chan struct{}
	once  sync.Once
	cur   []byte
	rest  []byte
	sum   hash.Hash
	n     int64
	err   error // written by the goroutine before it closes full
	limit int64
}

// newAhead starts to read r; it fails with ErrTooLarge in err once more than limit bytes came.
func newAhead(r io.Reader, sum hash.Hash, limit int64) *ahead {
	a := &ahead{
		full: make(chan []byte, aheadDepth), free: make(chan []byte, aheadDepth),
		stop: make(chan struct{}), done: make(chan struct{}), sum: sum, limit: limit,
	}
	for range aheadDepth {
		a.free <- nil
	}
	go a.run(r)
	return a
}

func (a *ahead) run(r io.Reader) {
	defer close(a.done)
	defer close(a.full)
	for {
		var buf []byte
		select {
		case buf = <-a.free:
		case <-a.stop:
			return
		}
		if buf == nil {
			buf = make([]byte, aheadSize)
		}
		n, err := fill(r, buf[:aheadSize])
		a.n += int64(n)
		if a.n > a.limit {
			a.err = ErrTooLarge
			return
		}
		_, _ = a.sum.Write(buf[:n])
		if n > 0 {
			a.full <- buf[:n] // never blocks: there are only aheadDepth buffers
		}
		if err != nil {
			a.err = err
			return
		}
	}
}

// fill is io.ReadFull without its io.ErrUnexpectedEOF, which must keep the source's own meaning: cut off.
func fill(r io.Reader, p []byte) (int, error) {
	n := 0
	for n < len(p) {
		m, err := r.Read(p[n:])
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Read gives what was read ahead, in order.
func (a *ahead) Read(p []byte) (int, error) {
	if len(a.rest) == 0 {
		if a.cur != nil {
			a.free <- a.cur[:aheadSize]
			a.cur = nil
		}
		buf, ok := <-a.full
		if !ok {
			if a.err == nil {
				return 0, io.ErrClosedPipe
			}
			return 0, a.err
		}
		a.cur, a.rest = buf, buf
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Close ends the goroutine and waits for it; whoever owns the source must make its Read return.
func (a *ahead) Close() {
	a.once.Do(func() { close(a.stop) })
	<-a.done
}
