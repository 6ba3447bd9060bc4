package strict

import (
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

func TestDecode(t *testing.T) {
	for _, tc := range []struct{ body, words string }{
		{`{"a":1,"b":{"a":[1,{"a":2}]}}`, ""},
		{`[]`, ""},
		{`{"a":1,"a":2}`, `"a" appears twice`},
		{`{"x":[{"y":{"b":1,"b":1}}]}`, `"b" appears twice`},
		{`{"a":1}{"a":2}`, "behind the document"},
		{`{"a":1} x`, "behind the document"},
		{`{"a"`, "EOF"},
		{``, "EOF"},
		{`{1:2}`, "invalid character"},
		{strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000), "deep"},
	} {
		var v any
		err := Decode([]byte(tc.body), &v)
		if tc.words == "" {
			must.NoError(t, err)
			continue
		}
		must.ErrorContains(t, err, tc.words)
	}
}
