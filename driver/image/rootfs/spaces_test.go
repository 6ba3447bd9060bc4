package rootfs

import (
	"os"
	"testing"

	"github.com/shoenig/test/must"
)

func TestRootSpaces(t *testing.T) {
	same := func(a, b *os.File) bool {
		first, err := a.Stat()
		must.NoError(t, err)
		second, err := b.Stat()
		must.NoError(t, err)
		return os.SameFile(first, second)
	}
	open := func(s *Spaces, r Range) *os.File {
		f, err := s.Open(r)
		must.NoError(t, err)
		t.Cleanup(func() { must.NoError(t, f.Close()) })
		return f
	}
	other := ids()
	other.UID += other.Count
	var s Spaces
	first := open(&s, ids())
	must.True(t, same(first, open(&s, ids())))
	must.False(t, same(first, open(&s, other)), must.Sprint("another range is another namespace"))
	must.MapLen(t, 2, s.kept)
	s.Close()
	must.MapEmpty(t, s.kept)
	must.False(t, same(first, open(&s, ids())), must.Sprint("it was forgotten"))

	_, err := s.Open(Range{UID: 1})
	must.ErrorContains(t, err, "incomplete id range")
	must.MapLen(t, 1, s.kept)
	for n := range uint32(maxSpaces) {
		s.kept[Range{UID: n}] = nil
	}
	open(&s, other)
	must.MapNotContainsKey(t, s.kept, other)
	must.False(t, same(open(nil, other), open(nil, other)))
	for n := range uint32(maxSpaces) {
		delete(s.kept, Range{UID: n})
	}
	s.Close()
}
