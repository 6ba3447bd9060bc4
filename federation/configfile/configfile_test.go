package configfile

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"
)

type config struct {
	Name  string `hcl:"name"`
	Count int    `hcl:"count,optional"`
}

func TestDecode(t *testing.T) {
	for _, c := range []struct {
		name, file, text string
		want             config
		errs             []string // in the error; none if there are none
	}{
		{"all is well", "a.hcl", "name = \"x\"\ncount = 2\n", config{"x", 2}, nil},
		{"another name", "a.conf", "name = \"x\"\n", config{"x", 0}, nil},
		{"JSON", "a.json", `{"name": "x"}`, config{"x", 0}, nil},
		{"a name that is not known", "a.hcl", "name = \"x\"\nlabel = \"y\"\n", config{}, []string{"a.hcl: line 2: Unsupported argument", `"label"`}},
		{"two mistakes", "a.hcl", "count = 1\nlabel = \"y\"\n", config{}, []string{`"label"`, `"name" is required`}},
		{"a wrong type", "a.hcl", "name = \"x\"\ncount = \"many\"\n", config{}, []string{"line 2", "number"}},
		{"no HCL", "a.hcl", "name = {", config{}, []string{"line 1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), c.file)
			must.NoError(t, os.WriteFile(path, []byte(c.text), 0o600))
			var got config
			err := Decode(path, &got)
			if c.errs == nil {
				must.NoError(t, err)
				must.Eq(t, c.want, got)
				return
			}
			for _, text := range append(c.errs, "cannot read the configuration: "+path) {
				must.ErrorContains(t, err, text)
			}
		})
	}
	err := Decode(filepath.Join(t.TempDir(), "none.hcl"), new(config))
	must.ErrorIs(t, err, os.ErrNotExist)
	must.StrNotContains(t, err.Error(), "<nil>")
}
