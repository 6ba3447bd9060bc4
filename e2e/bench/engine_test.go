package bench

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

func TestFindPeer(t *testing.T) {
	t.Setenv("PATH", "")
	bin := t.TempDir()
	must.Eq(t, "", findPeer(bin, "dockerd"))
	path := filepath.Join(bin, "peers/usr/sbin/dockerd")
	must.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	must.NoError(t, os.WriteFile(path, nil, 0o700))
	must.Eq(t, path, findPeer(bin, "dockerd"))
}

func TestReadReport(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		body   string
		want   string
	}{
		{"a pull", 200, `{"status":"Pulling"}{"status":"Done"}`, ""},
		{"a pull that fails later", 200, `{"status":"Pulling"}{"error":"no such host"}`, "no such host"},
		{"a deletion", 200, `[{"Untagged":"a"}]`, ""},
		{"a refusal", 404, `{"message":"no such image"}`, "no such image"},
		{"an answer that is cut off", 200, `{"status":"Pull`, "unexpected EOF"},
	} {
		err := readReport(&http.Response{StatusCode: c.status, Status: "told", Body: io.NopCloser(strings.NewReader(c.body))})
		if c.want == "" {
			must.NoError(t, err, must.Sprint(c.name))
			continue
		}
		must.ErrorContains(t, err, c.want, must.Sprint(c.name))
	}
}
