package gpu

import (
	"fmt"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

// What a jobspec asks of a GPU is understood by Nomad's own scheduler, units included, and what a GPU has not is refused.
func TestRootConstraints(t *testing.T) {
	sick(t, nil)
	cases := []struct {
		attribute, operator, value string
		fits                       bool
	}{
		{"memory", ">=", "20 GiB", true},
		{"memory", ">=", "79 GiB", true},
		{"memory", ">=", "80 GiB", false},
		{"memory", ">=", "81559 MiB", true},
		{"memory", ">", "81559 MiB", false},
		{"memory_usable", ">=", "81000 MiB", false},
		{"power", ">=", "0.7 kW", true},
		{"power", ">", "700 W", false},
		{"bar1", ">=", "128 GiB", true},
		{"cores_clock", ">=", "1.9 GHz", true},
		{"memory_clock", ">=", "3 GHz", false},
		{"pci_bandwidth", ">=", "60 GB/s", true},
		{"pci_bandwidth", ">=", "64 GB/s", false},
		{"display_state", "=", "Disabled", true},
		{"persistence_mode", "=", "Enabled", true},
		{"persistence_mode", "=", "Disabled", false},
		{"driver_version", "version", ">= 535.104", true},
		{"driver_version", "version", ">= 1000", false},
		// These are numbers, so that 10.0 is more than 9.0: words would be compared letter by letter.
		{"compute_capability", ">=", "8.9", true},
		{"compute_capability", ">=", "9.0", true},
		{"compute_capability", ">=", "10.0", false},
		{"cuda_version", ">=", "12.4", true},
		{"cuda_version", ">=", "13.0", false},
		{"architecture", "=", "hopper", true},
		{"ecc", "=", "true", true},
		{"mig", "=", "true", false},
		{"nvlink_peers", ">=", "18", true},
		{"pci_generation", ">=", "5", true},
		{"mig_profile", "is_set", "", false},
		{"numa_node", "is_set", "", true},
	}
	for _, c := range cases {
		block := fmt.Sprintf("device \"nvidia/gpu\" {\nconstraint {\nattribute = \"${device.attr.%s}\"\noperator = %q\n", c.attribute, c.operator)
		if c.value != "" {
			block += fmt.Sprintf("value = %q\n", c.value)
		}
		must.Eq(t, c.fits, fits(t, block+"}\n}"), must.Sprint(c.attribute, c.operator, c.value))
	}
	for id, want := range map[string]bool{
		"gpu": true, "nvidia/gpu": true, "nvidia/gpu/NVIDIA H100 80GB HBM3": true, "nvidia/gpu/NVIDIA L4": false, "amd/gpu": false,
	} {
		must.Eq(t, want, fits(t, fmt.Sprintf("device %q {}", id)), must.Sprint(id))
	}
}

// fits asks Nomad's scheduler whether it would place a task that wants a device.
func fits(t *testing.T, device string) bool {
	t.Helper()
	job, err := shared.API().Jobs().ParseHCL(asking(`"list"`, "", device), true)
	must.NoError(t, err, must.Sprint(device))
	plan, _, err := shared.API().Jobs().Plan(job, false, (&api.WriteOptions{}).WithContext(t.Context()))
	must.NoError(t, err, must.Sprint(device))
	return len(plan.FailedTGAllocs) == 0
}
