package gateway

import (
	"context"
	"io"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"pangaea/federation/pool"
	"pangaea/federation/tunnel"
)

// dial asks the gateway for a worker, as a member's relay does.
func (m *fakeMember) dial(job, group string, index string) (tunnel.Stream, error) {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	return m.tunnel().OpenStream(ctx, pool.PathRelay, url.Values{
		pool.DialNamespace: {"default"}, pool.DialJob: {job}, pool.DialGroup: {group}, pool.DialIndex: {index}, pool.DialPort: {"rendezvous"},
	})
}

func TestRelay(t *testing.T) {
	p := newPool(t, france(), japan(), &fakeMember{alias: "us-nyc-1", place: pool.Place{Country: "US"}, price: 9, gpus: 4})
	gang := testJob("train", "batch", 6)
	p.run(gang)
	must.Eq(t, map[string]int{"fr-par-1": 4, "jp-tyo-1": 2}, p.live("train"))
	jp := p.members["jp-tyo-1"]
	for index, want := range map[int]string{0: "fr-par-1", 3: "fr-par-1", 4: "jp-tyo-1", 5: "jp-tyo-1"} {
		stream, err := jp.dial("train", "g", strconv.Itoa(index))
		must.NoError(t, err)
		_, err = io.WriteString(stream, "hello")
		must.NoError(t, err)
		must.NoError(t, stream.CloseWrite()) // the far side answers only after it has seen the end
		text, err := io.ReadAll(stream)
		must.NoError(t, err)
		must.Eq(t, want+"["+strconv.Itoa(index)+"] got hello", string(text))
		must.NoError(t, stream.Close())
	}
	for _, one := range []struct {
		name, from, job, group, index, want string
	}{
		{"a member without a part in the job", "us-nyc-1", "train", "g", "0", "403: cannot relay: this member runs no part"},
		{"a job that does not exist", "jp-tyo-1", "none", "g", "0", "403: cannot relay: this member runs no part"},
		{"an index beyond the group", "jp-tyo-1", "train", "g", "6", "404: cannot relay: no member runs allocation 6"},
		{"another group", "jp-tyo-1", "train", "h", "0", "404"},
		{"no index", "jp-tyo-1", "train", "g", "x", "400"},
		{"a negative index", "jp-tyo-1", "train", "g", "-1", "400"},
	} {
		t.Run(one.name, func(t *testing.T) {
			_, err := p.members[one.from].dial(one.job, one.group, one.index)
			must.ErrorContains(t, err, one.want)
		})
	}
	p.gateway.settings.relayIdle = 50 * time.Millisecond
	silent, err := jp.dial("train", "g", "0")
	must.NoError(t, err)
	must.NoError(t, silent.SetReadDeadline(time.Now().Add(soon)))
	_, err = silent.Read(make([]byte, 1))
	must.ErrorIs(t, err, io.EOF, must.Sprint("a silent relay ends"))
	must.NoError(t, silent.Close())
	p.members["fr-par-1"].disconnect()
	_, err = jp.dial("train", "g", "0")
	must.ErrorContains(t, err, "member fr-par-1 is not connected")
}
