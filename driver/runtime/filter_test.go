//go:build seccomp

package main

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/shoenig/test/must"
)

func TestTrim(t *testing.T) {
	native := specs.Arch("SCMP_ARCH_NATIVE")
	tests := []struct {
		name  string
		arch  []specs.Arch
		names [][]string
		want  [][]string
	}{
		{"names of other machines go", nil, [][]string{{"read", "socketcall", "nonsense", "openat"}}, [][]string{{"read", "openat"}}},
		{"with one architecture too", []specs.Arch{native}, [][]string{{"s390_pci_mmio_read", "write"}}, [][]string{{"write"}}},
		{"a rule without names goes", nil, [][]string{{"socketcall"}, {"close"}}, [][]string{{"close"}}},
		{"what is for more machines stays", []specs.Arch{native, specs.ArchX86}, [][]string{{"socketcall"}}, [][]string{{"socketcall"}}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			filter := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: tc.arch}
			for _, names := range tc.names {
				filter.Syscalls = append(filter.Syscalls, specs.LinuxSyscall{Names: names, Action: specs.ActAllow})
			}
			trim(filter)
			var got [][]string
			for _, rule := range filter.Syscalls {
				must.Eq(t, specs.ActAllow, rule.Action)
				got = append(got, rule.Names)
			}
			must.Eq(t, tc.want, got)
			must.Eq(t, specs.ActErrno, filter.DefaultAction)
		})
	}
	trim(nil)
}
