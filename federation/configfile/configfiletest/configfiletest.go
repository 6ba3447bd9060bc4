// Package configfiletest tests commands that read a configuration file.
package configfiletest

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// UsageNamesEveryKey fails the test if a key of a configuration is not in the command's help.
func UsageNamesEveryKey(t *testing.T, usage string, config reflect.Type) {
	t.Helper()
	if config.Kind() == reflect.Pointer {
		config = config.Elem()
	}
	if config.Kind() != reflect.Struct {
		return
	}
	for i := range config.NumField() {
		key, _, _ := strings.Cut(config.Field(i).Tag.Get("hcl"), ",")
		if key != "" {
			must.RegexMatch(t, regexp.MustCompile(`(?m)^ +`+key+` +[={]`), usage)
			UsageNamesEveryKey(t, usage, config.Field(i).Type)
		}
	}
}

// Command fails the test if a command's exit status, or where it tells what, is not as all of Pangaea's are. needed is
// what every configuration of the command has.
func Command(t *testing.T, name, needed string, command func(args []string, stdout, stderr io.Writer) int) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		must.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	for _, c := range []struct {
		name     string
		args     []string
		status   int
		out, err string
	}{
		{"help", []string{"-h"}, 0, "Usage: pangaea " + name, ""},
		{"an argument", []string{"x"}, 2, "", `no argument "x"`},
		{"an option that there is not", []string{"-nope"}, 2, "", "-nope"},
		{"an option without its value", []string{"-config"}, 2, "", "needs an argument"},
		{"no such file", []string{"-config", filepath.Join(dir, "none.hcl")}, 1, "", "no such file"},
		{"a key that there is not", []string{"-config", write("key.hcl", needed+"nope = 1")}, 1, "", "line"},
		{"a value that cannot be", []string{"-config", write("level.hcl", needed+"log_level = \"loud\"")}, 1, "", "use trace, debug"},
		{"a check", []string{"-check", "-config", write("good.hcl", needed)}, 0, "good.hcl can be used", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, err bytes.Buffer
			must.Eq(t, c.status, command(c.args, &out, &err))
			must.StrContains(t, out.String(), c.out)
			must.StrContains(t, err.String(), c.err)
			must.Eq(t, c.status == 0, err.Len() == 0)
			must.StrNotContains(t, err.String(), "<nil>")
		})
	}
}
