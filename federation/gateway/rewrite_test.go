package gateway

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

func TestRewriteBody(t *testing.T) {
	shout := rewriteBody(func(f fields) { f.setText("Name", strings.ToUpper(f.text("Name"))) })
	for _, one := range []struct {
		name, kind, body, want, err string
		status                      int
	}{
		{name: "an object", body: `{"Name":"a","Index":18446744073709551615,"Inner":{"Name":"b"}}`, want: `{"Index":18446744073709551615,"Inner":{"Name":"b"},"Name":"A"}`},
		{name: "a list", body: ` [{"Name":"a"},null,{"Name":"b"}]`, want: `[{"Name":"A"},null,{"Name":"B"}]`},
		{name: "nothing", body: `null`, want: `null`},
		{name: "not JSON by name", kind: "text/plain", body: `{"Name":"a"}`, want: `{"Name":"a"}`},
		{name: "an error", status: 404, body: `{"Name":"a"}`, want: `{"Name":"a"}`},
		{name: "not JSON", body: `{"Name"`, err: "cannot understand the answer"},
		{name: "not objects", body: `["a"]`, err: "cannot understand the answer"},
		{name: "too large", body: `"` + strings.Repeat("a", maxReply) + `"`, err: "larger than 32 MiB"},
	} {
		t.Run(one.name, func(t *testing.T) {
			response := &http.Response{StatusCode: max(one.status, 200), Header: http.Header{}, Body: io.NopCloser(bytes.NewReader([]byte(one.body)))}
			response.Header.Set("Content-Type", or(one.kind, "application/json"))
			err := shout(response)
			if one.err != "" {
				must.ErrorContains(t, err, one.err)
				return
			}
			must.NoError(t, err)
			text, err := io.ReadAll(response.Body)
			must.NoError(t, err)
			must.Eq(t, one.want, string(text))
		})
	}
}
