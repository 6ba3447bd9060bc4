package record

import (
	"testing"

	"github.com/shoenig/test/must"
)

func TestLastMessage(t *testing.T) {
	cases := []struct{ name, given, want string }{
		{"empty", "", ""},
		{"runc", "time=\"t\" level=warning msg=\"first\"\ntime=\"t\" level=error msg=\"exec \\\"x\\\": not found\"\n", `exec "x": not found`},
		{"runc, a word", "time=\"t\" level=error msg=short\n", `time="t" level=error msg=short`},
		{"runsc", `{"msg":"first","level":"error"}{"msg":"open \"/x\"","level":"error","time":"t"}`, `open "/x"`},
		{"a plain line", "one\ntwo\n", "two"},
		{"cut off", `{"msg":"fir`, `{"msg":"fir`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { must.Eq(t, c.want, LastMessage(c.given)) })
	}
}
