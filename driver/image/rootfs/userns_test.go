package rootfs

import "testing"

func BenchmarkRootUserns(b *testing.B) {
	for b.Loop() {
		f, err := Userns(Range{UID: 1879048192, GID: 1879048192, Count: 65536})
		if err != nil {
			b.Fatal(err)
		}
		_ = f.Close()
	}
}
