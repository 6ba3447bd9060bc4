package main

import (
	"bytes"
	"testing"

	"github.com/shoenig/test/must"
)

func TestPick(t *testing.T) {
	for _, c := range []struct {
		name string
		argv []string
		role string
		args []string
	}{
		{"a plugin by its link's name", []string{"/opt/nomad/plugins/pangaea-driver"}, "driver", []string{}},
		{"another, with arguments", []string{"pangaea-device", "x"}, "device", []string{"x"}},
		{"a command", []string{"/usr/bin/pangaea", "member", "-config", "f"}, "member", []string{"-config", "f"}},
		{"nothing", []string{"pangaea"}, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			role, args := pick(c.argv)
			must.Eq(t, c.role, role)
			must.Eq(t, c.args, args)
		})
	}
}

func TestRun(t *testing.T) {
	for _, c := range []struct {
		role   string
		args   []string
		status int
		out    string
		err    string
	}{
		{"version", nil, 0, "Pangaea dev", ""},
		{"-h", nil, 0, "Usage: pangaea", ""},
		{"gpu", nil, 2, "", "Usage: pangaea gpu"},
		{"doctor", []string{"x"}, 2, "", `no argument "x"`},
		{"", nil, 2, "", "Usage: pangaea"},
		{"help", []string{"doctor"}, 0, "Usage: pangaea doctor", ""},
		{"drvier", nil, 2, "", `no command "drvier"`},
	} {
		t.Run("pangaea "+c.role, func(t *testing.T) {
			var out, err bytes.Buffer
			must.Eq(t, c.status, run(c.role, c.args, &out, &err))
			must.StrContains(t, out.String(), c.out)
			must.StrContains(t, err.String(), c.err)
		})
	}
}
