package device

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/shoenig/test/must"

	"pangaea/device/control"
	"pangaea/device/health"
	"pangaea/device/holder"
	"pangaea/e2e/nvmlsim"
)

// Configuration is read as Nomad reads it, by the schema. Nothing in it is ever an error: what cannot be read has its
// default and a warning, or closes the offer.
func TestConfig(t *testing.T) {
	const sharingWrong = "not offered until the plugin's sharing block is right: "
	defaults := settings{
		enabled: true, control: control.Default, holders: holder.Default, ignored: map[string]bool{}, period: 1500 * time.Millisecond, hangAfter: 10 * time.Second,
		limits: health.Limits{RecoverAfter: 3, StrainAfter: time.Minute},
	}
	cases := []struct {
		name     string
		given    string
		want     func(s *settings)
		warnings int
	}{
		{"nothing", ``, func(*settings) {}, 0},
		{"as for HashiCorp's", `enabled = true, ignored_gpu_ids = ["GPU-1"], fingerprint_period = "1m"`, func(s *settings) {
			s.ignored["GPU-1"] = true
			s.period = time.Minute
		}, 0},
		{"all", `enabled = false
			library_path = "/x.so"
			hang_after = "3s"
			recover_after = 9
			strain_after = "2m"
			max_uncorrectable_ecc = 4
			control_dir = "/run/c"
			group_by = "numa"`, func(s *settings) {
			s.control = "/run/c"
			s.enabled, s.libraryPath, s.hangAfter, s.groupBy = false, "/x.so", 3*time.Second, "numa"
			s.limits = health.Limits{RecoverAfter: 9, StrainAfter: 2 * time.Minute, MaxUncorrectable: 4}
		}, 0},
		{"wrong", `fingerprint_period = "often", strain_after = "-1s", group_by = "colour", recover_after = -1`, func(*settings) {}, 3},
		{"shared", `allow_replicas = 4`, func(s *settings) { s.replicas = 4 }, 0},
		{"shared by too many", `allow_replicas = 49`, func(*settings) {}, 1},
		{"shared by less than none", `allow_replicas = -1`, func(*settings) {}, 1},
		{"shared by turns", `sharing { mode = "time-sliced" }`, func(*settings) {}, 0},
		{"shared as by default", `sharing {}`, func(*settings) {}, 0},
		{"shared by MPS", "allow_replicas = 2\nsharing {\n mode = \"mps\" \n}", func(s *settings) {
			s.replicas, s.mps = 2, &mpsClients{dir: "/tmp/nvidia-mps"}
		}, 0},
		{"shared by MPS elsewhere", "allow_replicas = 48\nsharing {\n mode = \"mps\" \n pipe_directory = \"/run/mps/\" \n mount = true \n}", func(s *settings) {
			s.replicas, s.mps = 48, &mpsClients{dir: "/run/mps", mount: true}
		}, 0},
		{"shared by MPS among nobody", `sharing { mode = "mps" }`, func(s *settings) {
			s.closed = sharingWrong + `mode "mps" needs allow_replicas of 2 to 48, how many tasks share each GPU`
		}, 0},
		{"shared by MPS with oneself", "allow_replicas = 1\nsharing {\n mode = \"mps\" \n}", func(s *settings) {
			s.replicas, s.closed = 1, sharingWrong+`mode "mps" needs allow_replicas of 2 to 48, how many tasks share each GPU`
		}, 0},
		{"shared by MPS among too many", "allow_replicas = 49\nsharing {\n mode = \"mps\" \n}", func(s *settings) {
			s.closed = sharingWrong + `mode "mps" needs allow_replicas of 2 to 48, how many tasks share each GPU`
		}, 1},
		{"shared by MPS somewhere", "allow_replicas = 2\nsharing {\n mode = \"mps\" \n pipe_directory = \"nvidia-mps\" \n}", func(s *settings) {
			s.replicas, s.closed = 2, sharingWrong+`pipe_directory "nvidia-mps" is no absolute path of a directory; MPS's own is /tmp/nvidia-mps`
		}, 0},
		{"shared by MPS everywhere", "allow_replicas = 2\nsharing {\n mode = \"mps\" \n pipe_directory = \"/tmp/..\" \n}", func(s *settings) {
			s.replicas, s.closed = 2, sharingWrong+`pipe_directory "/tmp/.." is no absolute path of a directory; MPS's own is /tmp/nvidia-mps`
		}, 0},
		{"shared by turns with a daemon", `sharing { pipe_directory = "/tmp/nvidia-mps" }`, func(s *settings) {
			s.closed = sharingWrong + `pipe_directory and mount are of mode "mps" alone`
		}, 0},
		{"shared by turns with a mount", "sharing {\n mode = \"time-sliced\" \n mount = true \n}", func(s *settings) {
			s.closed = sharingWrong + `pipe_directory and mount are of mode "mps" alone`
		}, 0},
		{"shared otherwise", `sharing { mode = "MPS" }`, func(s *settings) {
			s.closed = sharingWrong + `mode is "time-sliced" or "mps", not "MPS"`
		}, 0},
		{"holds elsewhere", `holds_dir = "/run/h"`, func(s *settings) { s.holders = "/run/h" }, 0},
		{"holds nowhere", `holds_dir = "h"`, func(*settings) {}, 1},
		{"too often", `fingerprint_period = "1us"`, func(s *settings) { s.period = 100 * time.Millisecond }, 1},
		{"metrics for this machine", `metrics_address = "127.0.0.1:9400"`, func(s *settings) { s.metrics = "127.0.0.1:9400" }, 0},
		{"metrics for this machine, v6", `metrics_address = "[::1]:9400"`, func(s *settings) { s.metrics = "[::1]:9400" }, 0},
		{"metrics by name", `metrics_address = "localhost:9400"`, func(s *settings) { s.metrics = "localhost:9400" }, 0},
		{"metrics for everybody", `metrics_address = ":9400"`, func(s *settings) { s.metrics = ":9400" }, 1},
		{"metrics for everybody, said", `metrics_address = "0.0.0.0:9400"`, func(s *settings) { s.metrics = "0.0.0.0:9400" }, 1},
		{"metrics nowhere", `metrics_address = "9400"`, func(*settings) {}, 1},
		{"owner", `owner { idle_after = "10m", processes = ["blender"], ignore_processes = true }`, func(s *settings) {
			s.owner.IdleAfter, s.owner.Names, s.owner.Ignore = 10*time.Minute, []string{"blender"}, true
		}, 0},
		{"owner evicts", `owner { evict = true, reclaim_file = "/run/r", nomad_address = "http://n", nomad_token_file = "/t" }`, func(s *settings) {
			s.evict, s.owner.ReclaimFile, s.nomad.Address, s.nomad.TokenFile = true, "/run/r", "http://n", "/t"
		}, 0},
		{"owner's hours wrong", `owner { hours = ["at night"] }`, func(s *settings) {
			s.closed = `not offered until the plugin's owner block is right: cannot read hours "at night": unknown day in "at"; write "Mon-Fri 18:00-08:00"`
		}, 0},
		{"owner's patience wrong", `owner { idle_after = "a while" }`, func(s *settings) {
			s.closed = `not offered until the plugin's owner block is right: idle_after "a while" is no duration`
		}, 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var config Config
			text := "config {\n" + strings.ReplaceAll(c.given, ", ", "\n") + "\n}"
			if strings.Contains(c.given, "owner {") {
				text = "config {\n owner {\n" + strings.ReplaceAll(strings.TrimSuffix(strings.TrimPrefix(c.given, "owner {"), "}"), ", ", "\n") + "\n}\n}"
			}
			hclutils.NewConfigParser(configSchema()).ParseHCL(t, text, &config)
			got := config.understand()
			must.Len(t, c.warnings, got.warnings)
			want := defaults
			want.ignored = map[string]bool{}
			c.want(&want)
			want.warnings = got.warnings
			must.Eq(t, comparable(want), comparable(got))
		})
	}
}

// comparable leaves out what has no equality worth testing here.
func comparable(s settings) map[string]any {
	return map[string]any{
		"enabled": s.enabled, "path": s.libraryPath, "ignored": s.ignored, "period": s.period, "hang": s.hangAfter,
		"group": s.groupBy, "replicas": s.replicas, "mps": s.mps, "metrics": s.metrics, "limits": s.limits, "idle": s.owner.IdleAfter, "names": s.owner.Names, "ignore": s.owner.Ignore, "closed": s.closed, "evict": s.evict, "reclaim": s.owner.ReclaimFile, "control": s.control, "holders": s.holders, "nomad": s.nomad,
	}
}

func TestMisreadOwnerBlockOffersNothing(t *testing.T) {
	r := newRig(t, nvmlsim.Host("closed", nvmlsim.L4(), 1), func(s *settings) { s.closed = "not offered until it is right" })
	must.Eq(t, map[string]string{r.state.GPUs[0].UUID: "not offered until it is right"}, r.round().health())
}

func TestIgnoredGPUsAreNotThere(t *testing.T) {
	s := nvmlsim.Host("ignored", nvmlsim.L4(), 3)
	r := newRig(t, s, func(set *settings) { set.ignored = map[string]bool{s.GPUs[1].UUID: true} })
	want := allWell(s)
	delete(want, s.GPUs[1].UUID)
	must.Eq(t, want, r.round().health())
}
