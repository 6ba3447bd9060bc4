package device

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// difference is one thing that nomad-device-nvidia, NVIDIA's Kubernetes plugin or dcgm-exporter do, or do wrong; what ours does instead; and
// what shows it, by directory and test. What only hardware could show is in unseen.
type difference struct {
	theirs, ours string
	tests        []string
	unseen       string
}

func differences() []difference {
	return []difference{
		{
			theirs: "nine attributes with units; power, clocks as they are at the moment; 0 and 1 for states; wrong PCIe bandwidths",
			ours:   "the same names and units, of limits; words for states; bandwidth of each generation; and two dozen more",
			tests: []string{
				"device TestAttributesOfProducts", "device TestAttributesMeetConstraints", "device TestBandwidth", "e2e/gpu TestRootConstraints",
			},
			unseen: "that a product's real library says what its data sheet does",
		},
		{
			theirs: "memory that is not supported ends the fingerprint, or is the machine's",
			ours:   "absent when it is not told; the machine's, and said so, where the GPU has none of its own",
			tests:  []string{"device TestAttributesOfProducts", "device TestMemoryThatIsNotTold", "device TestNonsenseMemoryIsLeftOut"},
		},
		{
			theirs: "the first GPU's attributes stand for its whole group, and are not sent again",
			ours:   "the least of the group's, sent at each change",
			tests:  []string{"device TestAttributesChange", "device TestPluginOverGRPC"},
		},
		{
			theirs: "bus IDs in capitals, padded with zero bytes, which no placement matches",
			ours:   "as sysfs writes them",
			tests:  []string{"device/nvml TestBusIDsAsSysfsWritesThem"},
		},
		{
			theirs: "MIG instances without statistics, with attributes of their GPU",
			ours:   "each with its own memory, BAR1, activity and task; they follow their GPU's health",
			tests: []string{
				"device TestMIGInstancesFollowTheirGPU", "device TestMIGInstancesTellTheirOwn", "device TestActivityOfMIGInstances", "e2e/gpu TestRootPartsAndPairs",
				"driver TestRootMIG",
			},
			unseen: "that a real driver lists the device nodes of an instance as NVIDIA documents it",
		},
		{
			theirs: "always healthy, or unhealthy for ever",
			ours:   "two ways, with the reason; Xids by NVIDIA's catalogue, ECC, remapped rows, heat",
			tests: []string{
				"device/health TestExamineTellsEachSickness", "device/health TestXidClasses", "device/health TestXidEnds", "device/health TestHysteresis",
				"device/health TestStrainCountsOnlyWhenItLasts", "device TestXidTakesItsGPUOut", "e2e/gpu TestRootHealth",
			},
			unseen: "Xids of a real driver",
		},
		{
			theirs: "one bad GPU ends the stream, and Nomad drops all until its agent restarts",
			ours:   "that one is unhealthy with its reason, and comes back",
			tests: []string{
				"device TestOneOfEightFallsOffTheBus", "device TestEveryErrorOnEveryCall", "device TestEveryErrorOfTheLibrary", "device TestEveryErrorOnMIGCalls",
				"device TestEveryCallHangs", "device TestValuesThatAreNone", "e2e/gpu TestRootHealth",
			},
		},
		{
			theirs: "statistics: ten of Nomad's names, or dcgm-exporter's default list",
			ours:   "both, as far as NVML can tell",
			tests: []string{
				"device TestStatistics", "device TestDCGMRows", "device TestDCGMDefaults", "device TestLastXid", "device TestNVLinkBandwidth",
				"device TestNoActivityBeforeHopper", "device TestEveryErrorOnStatistics",
			},
			unseen: "that the numbers are those of dcgm-exporter on the same GPU",
		},
		{
			theirs: "statistics reach Nomad alone, or Prometheus without the job",
			ours:   "both, with namespace, job, allocation and task",
			tests:  []string{"device TestMetricsTellTheTask", "device TestMetricsOfShares", "device/metrics TestMetricsAreWellFormed"},
		},
		{
			theirs: "reservations that two device blocks or a template overwrite",
			ours:   "a variable of its own for each device; unknown, doubled and sick ones are refused",
			tests:  []string{"device TestReserve", "driver/gpu TestGrants", "e2e/gpu TestRootGrant", "e2e/gpu TestRootGrantOutlivesAgent", "driver TestRootGPUCgroup"},
		},
		{
			theirs: "three options, or twenty flags",
			ours:   "theirs, and more; a mistake is told and never stops the agent",
			tests:  []string{"device TestConfig", "device TestIgnoredGPUsAreNotThere", "device TestMisreadOwnerBlockOffersNothing", "device TestDisabledPlugin"},
		},
		{
			theirs: "no sharing, or by turns and by MPS among strangers",
			ours: "by turns, within a namespace; for other drivers by MPS with bounds that its server holds, unhealthy without its daemon or in a compute mode past it; " +
				"never two shares in one task",
			tests: []string{
				"device TestOwnerMustAllowReplicas", "device TestReplicasFollowTheirGPU", "device TestConfig", "driver TestRootSharedGPU", "driver TestRootTwoShares",
				"device TestSharesFollowTheMPSDaemon", "device TestMPSDaemonThatMisbehaves", "device TestGPUsThatMPSDoesNotBound", "device TestNamesAreThoseOfTurns",
				"device TestReserveSharesByMPS", "device/mps TestTell", "driver TestRootMPS", "e2e/gpu TestRootShares", "e2e/gpu TestRootSharesByMPS",
			},
			unseen: "MPS: its program, and that its server holds the bounds",
		},
		{
			theirs: "the bus ID, or an allocator's choice among all GPUs",
			ours:   "an ask stays within a NUMA node or NVLink clique, under names that never change",
			tests:  []string{"device TestGroupBy", "device TestCliquesWithoutFabric", "device TestPlacesAreStable", "device TestNamesAreStable", "e2e/gpu TestRootPartsAndPairs"},
			unseen: "that a fabric of real switches names its cliques so",
		},
		{
			theirs: "GPUs are listed anew at each period, or after a restart",
			ours:   "at each period, whatever order the driver lists them in; one that goes stays listed with the reason",
			tests:  []string{"device TestCountThatChanges", "device TestGroupOutlastsTheName", "device TestLostFromTheStart"},
		},
		{
			theirs: "no library at the start ends the plugin until the agent restarts",
			ours:   "the driver may be missing, late, unloaded or upgraded",
			tests: []string{
				"device TestDriverComesAndGoes", "device TestPluginWithoutLibrary", "device TestStatsStreamOutlastsTheDriver", "device/nvml TestNoLibrary",
				"device/nvml TestMissingSymbolsAreAbsent",
			},
			unseen: "the upgrade of a real driver",
		},
		{
			theirs: "nothing of tasks, processes, idle GPUs or what a task leaves behind",
			ours:   "whose each GPU is, whether its owner uses it, and quarantine until it is clean",
			tests: []string{
				"device TestStatusTellsEverything", "device TestOwnerFirst", "device TestOwnerIsNoticed", "device TestWhatTenantsLeave",
				"device TestUncleanGPUIsQuarantined", "device TestReserveWaitsForCleanGPUs", "e2e/gpu TestRootReclaim", "e2e/gpu TestRootOwnerIsNoticed",
			},
			unseen: "how soon a real driver gives memory back",
		},
	}
}

// Each difference is shown by tests that are there.
func TestDifferencesAreShown(t *testing.T) {
	for _, r := range differences() {
		must.SliceNotEmpty(t, r.tests, must.Sprint(r.ours))
		for _, test := range r.tests {
			dir, name, _ := strings.Cut(test, " ")
			must.True(t, has(t, filepath.Join("..", dir), name), must.Sprintf("%s: there is no %s in %s", r.theirs, name, dir))
		}
	}
}

// has tells whether a directory's tests have one of a name.
func has(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	must.NoError(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		must.NoError(t, err)
		if strings.Contains(string(text), "\nfunc "+name+"(t *testing.T) {") {
			return true
		}
	}
	return false
}
