package tunnel_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"pangaea/federation/tunnel"
)

// TestEndlessHeader checks that a peer that answers the opening of a stream with a header without end is given up.
func TestEndlessHeader(t *testing.T) {
	gateway, member, err := tunnel.Pipe("fr-par-1", tunnel.Config{})
	must.NoError(t, err)
	sent := make(chan int, 1)
	served := make(chan error, 1)
	go func() {
		served <- member.Serve(t.Context(), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			raw, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer raw.Close()
			_, _ = io.WriteString(raw, "HTTP/1.1 101 Switching Protocols\r\n")
			count := 0
			for err == nil && count < 64<<20 {
				var n int
				n, err = io.WriteString(raw, "X: "+strings.Repeat("a", 1<<10)+"\r\n")
				count += n
			}
			sent <- count
		}))
	}()
	_, err = gateway.OpenStream(t.Context(), "/stream", nil)
	must.Error(t, err)
	must.NoError(t, gateway.Close())
	must.Less(t, 4<<20, <-sent)
	must.NoError(t, member.Close())
	<-served
}
