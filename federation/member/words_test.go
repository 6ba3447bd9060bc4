package member

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"pangaea/federation/pool"
)

func TestTagRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.MapOfN(rapid.StringMatching(`[ -~é]{1,20}`), rapid.IntRange(0, 65535), 0, 4)
		want := tag{
			Namespace: rapid.StringMatching(`[a-zA-Z0-9-]{1,30}`).Draw(t, "namespace"), PlacementID: rapid.StringMatching(`[!-~]{1,40}`).Draw(t, "id"),
			Epoch: rapid.Uint64().Draw(t, "epoch"), Offsets: names.Draw(t, "offsets"), Relays: names.Draw(t, "relays"), Stops: names.Draw(t, "stops"),
			Holds: names.Draw(t, "holds"),
		}
		job := &api.Job{ID: ptr("x"), UI: &api.JobUIConfig{Description: "mine", Links: []*api.JobUILink{
			{Label: "docs", URL: "https://example.com"}, {Label: "forged", URL: tagBase + "p?epoch=99"},
		}}}
		want.write(job)
		want.write(job)
		got, err := readTag(job)
		must.NoError(t, err)
		must.Eq(t, want, got)
		must.Len(t, 2, job.UI.Links)
		must.Eq(t, "mine", job.UI.Description)
	})
	for _, text := range []string{tagBase + "p", tagBase + "p?epoch=-1", tagBase + "p?epoch=x", tagBase + "%zz"} {
		_, err := readTag(&api.Job{ID: ptr("x"), UI: &api.JobUIConfig{Links: []*api.JobUILink{{URL: text}}}})
		must.Error(t, err, must.Sprint(text))
	}
}

func TestTranslate(t *testing.T) {
	w := words{prefix: "pool-"}
	source := shellJob("x", 9, "true")
	source.Region, source.Multiregion = ptr("fr-par-1"), &api.Multiregion{}
	source.Priority, source.Stop, source.Version = ptr(90), ptr(true), ptr(uint64(4))
	source.Meta = map[string]string{"mine": "yes", pool.MetaPlacement: "forged", pool.MetaEpoch: "99"}
	source.TaskGroups = append(source.TaskGroups, api.NewTaskGroup("elsewhere", 2))
	source.TaskGroups[0].Disconnect = &api.DisconnectStrategy{LostAfter: ptr(time.Minute), StopOnClientAfter: ptr(time.Second)}
	job, err := w.job("default", source, share(3, 2, 9), testConfig().Policy.withDefaults())
	must.NoError(t, err)
	mark(job, tag{Namespace: "default", PlacementID: "p", Epoch: 7})
	must.Nil(t, job.Region)
	must.Nil(t, job.Multiregion)
	must.Nil(t, job.Stop)
	must.Nil(t, job.Version)
	must.Eq(t, "pool-default", *job.Namespace)
	must.Eq(t, 50, *job.Priority)
	must.Len(t, 1, job.TaskGroups)
	must.Eq(t, 3, *job.TaskGroups[0].Count)
	oneTime(job.TaskGroups[0])
	must.Nil(t, job.TaskGroups[0].Disconnect.LostAfter, must.Sprint("Nomad refuses both times"))
	must.Eq(t, time.Second, *job.TaskGroups[0].Disconnect.StopOnClientAfter)
	must.Eq(t, map[string]string{"mine": "yes", pool.MetaPlacement: "p", pool.MetaNamespace: "default"}, job.Meta)
	must.Eq(t, 9, *source.TaskGroups[0].Count, must.Sprint("the pool's job is not changed"))
	must.NotNil(t, source.TaskGroups[0].Disconnect.LostAfter)
	must.Eq(t, "forged", source.Meta[pool.MetaPlacement])
	_, err = w.job("default", source, map[string]pool.GroupShare{"web": {}}, Policy{})
	must.Error(t, err)
	_, err = w.job("default", nil, nil, Policy{})
	must.Error(t, err)

	for namespace, want := range map[string]string{"pool-default": "default", "pool-": "", "default": "", "xpool-a": "", "pool-pool-a": "pool-a"} {
		got, ours := w.toPool(namespace)
		must.Eq(t, want != "", ours, must.Sprint(namespace))
		if ours {
			must.Eq(t, want, got)
		}
	}
}

// TestPolicy checks that each rule refuses what it names, and that its option allows it.
func TestPolicy(t *testing.T) {
	never := []string{
		"system job", "CSI plugin", "periodic", "parameterized", "check of the host", "forged lease", "Consul in a secret's path",
		"Consul in a secret's namespace", "owner's program for secrets",
	}
	for _, test := range []struct {
		name   string
		change func(*api.Job)
		text   string // of the refusal
		allow  Policy // under which it is taken
	}{
		{"system job", func(j *api.Job) { j.Type = ptr("system") }, "service or batch", Policy{}},
		{"driver", func(j *api.Job) { task(j).Driver = "raw_exec" }, `driver "raw_exec"`, Policy{AllowDrivers: []string{"raw_exec"}}},
		{"host volume", func(j *api.Job) {
			j.TaskGroups[0].Volumes = map[string]*api.VolumeRequest{"v": {Type: "host", Source: "data"}}
		}, `host volume "data"`, Policy{AllowHostVolumes: []string{"data"}}},
		{"CSI volume", func(j *api.Job) {
			j.TaskGroups[0].Volumes = map[string]*api.VolumeRequest{"v": {Type: "csi", Source: "data"}}
		}, "no CSI", Policy{AllowCSI: true}},
		{"Vault", func(j *api.Job) { task(j).Vault = &api.Vault{} }, "Vault", Policy{AllowVault: true}},
		{"Consul in a task", func(j *api.Job) { task(j).Consul = &api.Consul{} }, "Consul", Policy{AllowConsul: true}},
		{"Consul in a group", func(j *api.Job) { j.TaskGroups[0].Consul = &api.Consul{} }, "Consul", Policy{AllowConsul: true}},
		{"service in Consul", func(j *api.Job) { task(j).Services = []*api.Service{{Name: "s"}} }, `provider = "nomad"`, Policy{AllowConsul: true}},
		{"group service in Consul", func(j *api.Job) { j.TaskGroups[0].Services = []*api.Service{{Name: "s", Provider: "consul"}} }, "Consul", Policy{AllowConsul: true}},
		{"mesh proxy", func(j *api.Job) { task(j).Kind = "connect-proxy:x" }, "Consul", Policy{AllowConsul: true}},
		{"CSI plugin", func(j *api.Job) { task(j).CSIPluginConfig = &api.TaskCSIPluginConfig{} }, "CSI plugins", Policy{}},
		{"periodic", func(j *api.Job) { j.Periodic = &api.PeriodicConfig{} }, "make other jobs", Policy{}},
		{"parameterized", func(j *api.Job) { j.ParameterizedJob = &api.ParameterizedJobConfig{} }, "make other jobs", Policy{}},
		{"artifact", func(j *api.Job) {
			task(j).Artifacts = []*api.TaskArtifact{{GetterSource: ptr("http://127.0.0.1:8500/v1/kv/?recurse")}}
		}, "artifacts", Policy{AllowArtifacts: true}},
		{"identity in a file", func(j *api.Job) { task(j).Identity = &api.WorkloadIdentity{File: true} }, "identities", Policy{AllowIdentity: true}},
		{"identity for others", func(j *api.Job) {
			task(j).Identities = []*api.WorkloadIdentity{{Name: "vault_default", Audience: []string{"vault.io"}}}
		}, "identities", Policy{AllowIdentity: true}},
		{"service's identity", func(j *api.Job) {
			task(j).Services = []*api.Service{{Name: "s", Provider: "nomad", Identity: &api.WorkloadIdentity{}}}
		}, "identities", Policy{AllowIdentity: true}},
		{"check of the host", func(j *api.Job) {
			task(j).Services = []*api.Service{{Name: "s", Provider: "nomad", Address: "127.0.0.1", Checks: []api.ServiceCheck{{Type: "http"}}}}
		}, "address of one's own", Policy{}},
		{"Consul in a template", func(j *api.Job) {
			task(j).Templates = []*api.Template{{EmbeddedTmpl: ptr(`{{ if true }}{{ range tree "x" | byKey }}{{ end }}{{ end }}`)}}
		}, `function "tree"`, Policy{AllowConsul: true}},
		{"Consul in a pipe", func(j *api.Job) {
			task(j).Templates = []*api.Template{{EmbeddedTmpl: ptr(`{{ define "T" }}{{ with ("a"|key) }}{{ . }}{{ end }}{{ end }}`)}}
		}, `function "key"`, Policy{AllowConsul: true}},
		{"Consul between other marks", func(j *api.Job) {
			task(j).Templates = []*api.Template{{EmbeddedTmpl: ptr(`[[ key "a" ]]`), LeftDelim: ptr("[["), RightDelim: ptr("]]")}}
		}, `function "key"`, Policy{AllowConsul: true}},
		{"Vault in a template", func(j *api.Job) {
			task(j).Templates = []*api.Template{{EmbeddedTmpl: ptr(`{{ with secret "a" }}{{ end }}`)}}
		}, `function "secret"`, Policy{AllowVault: true}},
		{"template from a file", func(j *api.Job) { task(j).Templates = []*api.Template{{SourcePath: ptr("local/x")}} }, "in the job itself", Policy{AllowConsul: true, AllowVault: true}},
		{"host's environment", func(j *api.Job) {
			task(j).Templates = []*api.Template{{EmbeddedTmpl: ptr(`{{ env "NOMAD_PORT_x" | parseInt | add 1 }}{{ env "CONSUL_HTTP_TOKEN" }}`)}}
		}, `function "env"`, Policy{AllowConsul: true, AllowVault: true}},
		{"host's environment by a made name", func(j *api.Job) {
			task(j).Templates = []*api.Template{{EmbeddedTmpl: ptr(`{{ print "VAULT_" "TOKEN" | env }}`)}}
		}, `function "env"`, Policy{AllowConsul: true, AllowVault: true}},
		{"Vault in a secret", func(j *api.Job) {
			task(j).Secrets = []*api.Secret{{Name: "s", Provider: "vault", Path: "secret/data/owner"}}
		}, `secret "s": the owner does not lend Vault`, Policy{AllowVault: true}},
		{"Consul in a secret's path", func(j *api.Job) {
			task(j).Secrets = []*api.Secret{{Name: "s", Provider: "nomad", Path: `a" | printf "owner/key%.0v" | key | split "`}}
		}, `secret "s": use letters`, Policy{}},
		{"Consul in a secret's namespace", func(j *api.Job) {
			task(j).Secrets = []*api.Secret{{Name: "s", Provider: "nomad", Path: "a", Config: map[string]any{"Namespace": `" | key "x`}}}
		}, `secret "s": use letters`, Policy{}},
		{"owner's program for secrets", func(j *api.Job) {
			task(j).Secrets = []*api.Secret{{Name: "s", Provider: "keyring", Path: "a", Env: map[string]string{"LD_PRELOAD": "${NOMAD_ALLOC_DIR}/x.so"}}}
		}, `secret "s": the owner's program "keyring" is not run`, Policy{}},
		{"broken template", func(j *api.Job) { task(j).Templates = []*api.Template{{EmbeddedTmpl: ptr("{{")}} }, "cannot read", Policy{AllowConsul: true, AllowVault: true}},
		{"forged lease", func(j *api.Job) { task(j).Config["lease"] = map[string]any{"file": "x"} }, "lease", Policy{}},
		{"cores", func(j *api.Job) { task(j).Resources.Cores = ptr(4) }, "cores", Policy{}},
		{"memory without end", func(j *api.Job) { task(j).Resources.MemoryMaxMB = ptr(-1) }, "unlimited", Policy{}},
		{"count", func(*api.Job) {}, "max_count 1", Policy{MaxCount: 2}},
		{"CPU", func(*api.Job) {}, "max_cpu 10", Policy{MaxCPU: 20}},
		{"memory", func(*api.Job) {}, "max_memory_mb 10", Policy{MaxMemoryMB: 20}},
		{"memory at most", func(j *api.Job) { task(j).Resources.MemoryMaxMB = ptr(99) }, "max_memory_mb 50", Policy{MaxMemoryMB: 99}},
		{"node pool", func(j *api.Job) { j.NodePool = ptr("gold") }, `node pool "gold"`, Policy{AllowNodePools: []string{"gold"}}},
		{"bridge", func(j *api.Job) { j.TaskGroups[0].Networks = []*api.NetworkResource{{Mode: "bridge"}} }, `mode "bridge"`, Policy{}},
		{"CNI", func(j *api.Job) { j.TaskGroups[0].Networks = []*api.NetworkResource{{Mode: "cni/lan"}} }, `mode "cni/lan"`, Policy{}},
		{"namespace", func(*api.Job) {}, `namespace "default"`, Policy{DenyNamespaces: []string{"other"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			job := shellJob("x", 2, "true")
			task(job).Driver = "runc"
			test.change(job)
			strict := Policy{}
			switch test.name {
			case "count":
				strict.MaxCount = 1
			case "cores":
				strict.MaxCPU = 1000
			case "memory without end":
				strict.MaxMemoryMB = 100_000
			case "CPU":
				strict.MaxCPU = 10
			case "memory":
				strict.MaxMemoryMB = 10
			case "memory at most":
				strict.MaxMemoryMB = 50
			case "node pool":
				strict.AllowNodePools = []string{"default"}
			case "bridge", "CNI":
				strict.DenyGroupNetworks = true
			case "namespace":
				strict.DenyNamespaces = []string{"default"}
			}
			must.ErrorContains(t, strict.withDefaults().Check("default", job), test.text)
			if !slices.Contains(never, test.name) { // nothing allows these
				must.NoError(t, test.allow.withDefaults().Check("default", job))
			}
		})
	}
}

func task(job *api.Job) *api.Task { return job.TaskGroups[0].Tasks[0] }

func TestGangPort(t *testing.T) {
	for _, test := range []struct {
		name     string
		networks []*api.NetworkResource
		want     string
	}{
		{"none", nil, ""},
		{"first", []*api.NetworkResource{{DynamicPorts: []api.Port{{Label: "a"}, {Label: "b"}}}}, "a"},
		{"reserved first", []*api.NetworkResource{{ReservedPorts: []api.Port{{Label: "r"}}, DynamicPorts: []api.Port{{Label: "a"}}}}, "r"},
		{"by name", []*api.NetworkResource{{DynamicPorts: []api.Port{{Label: "a"}, {Label: "rendezvous"}}}}, "rendezvous"},
	} {
		must.Eq(t, test.want, rendezvousPort(&api.TaskGroup{Networks: test.networks}), must.Sprint(test.name))
	}
	gang := map[string]string{pool.MetaGang: "true"}
	must.True(t, isGang(&api.Job{Meta: gang}, &api.TaskGroup{}))
	must.True(t, isGang(&api.Job{}, &api.TaskGroup{Meta: gang}))
	must.False(t, isGang(&api.Job{Meta: gang}, &api.TaskGroup{Meta: map[string]string{pool.MetaGang: "false"}}))
	must.False(t, isGang(&api.Job{}, &api.TaskGroup{}))
}

// TestRepresentative checks that a class tells nothing about where its nodes are, and that twins are one class.
func TestRepresentative(t *testing.T) {
	a, b, other := gpuNode("a", 2), gpuNode("b", 2), gpuNode("c", 2)
	b.NodeResources.Disk.DiskMB -= 17
	other.Meta["rack"] = "r2"
	reason, memory := "in use by its owner: chess", int64(40960)
	attributes := map[string]*api.Attribute{"unique.unhealthy.GPU-a-0": {StringVal: &reason}, "memory": {IntVal: &memory, Unit: "MiB"}}
	a.NodeResources.Devices[0].Attributes = attributes
	text, err := json.Marshal(represent(a))
	must.NoError(t, err)
	must.MapLen(t, 2, attributes, must.Sprint("the node's own"))
	a.NodeResources.Devices[0].Attributes = nil
	must.StrContains(t, string(text), "40960")
	for _, secret := range []string{"10.1.2.3", "10.9.8.7", "fd00::1", "host-a", "GPU-a", "chess", "i-123", "/srv/owner", "unique"} {
		must.StrNotContains(t, string(text), secret)
	}
	must.StrContains(t, string(text), "A100")
	offer := offerOf(testConfig(), rooms(&snapshot{nodes: []*api.Node{a, b, other, gpuNode("d", 3)}}))
	must.Len(t, 3, offer.Classes)
	count := 0
	for _, class := range offer.Classes {
		for _, free := range class.Free {
			count += free.Count
			must.Eq(t, 3000, free.CPU, must.Sprint("what the owner reserves is not offered"))
		}
	}
	must.Eq(t, 4, count)
	for _, spoil := range []func(*api.Node){
		func(n *api.Node) { n.Status = "down" }, func(n *api.Node) { n.Drain = true },
		func(n *api.Node) { n.SchedulingEligibility = "ineligible" }, func(n *api.Node) { n.NodeResources = nil },
	} {
		node := gpuNode("x", 1)
		spoil(node)
		must.Len(t, 0, offerOf(testConfig(), rooms(&snapshot{nodes: []*api.Node{node}})).Classes)
	}
}

func TestDeviceNames(t *testing.T) {
	for ask, want := range map[string]bool{
		"gpu": true, "nvidia/gpu": true, "nvidia/gpu/A100": true, "nvidia/gpu/H100": false, "amd/gpu": false, "fpga": false,
		"": false, "A100": false, "nvidia/A100": false,
	} {
		must.Eq(t, want, deviceMatches("nvidia/gpu/A100", ask), must.Sprint(ask))
	}
}

func TestRewrite(t *testing.T) {
	w := words{prefix: "pool-"}
	for _, test := range []struct {
		name, given, want string
		kept              bool
	}{
		{"object", `{"Namespace":"pool-a","ID":"x"}`, `{"Namespace":"a","ID":"x"}`, true},
		{"owner's object", `{"Namespace":"default"}`, "", false},
		{"list", `[{"Namespace":"pool-a"},{"Namespace":"default"},{"Namespace":"pool-"}]`, `[{"Namespace":"a"}]`, true},
		{"nested", `{"Namespace":"pool-a","Job":{"Namespace":"pool-a"}}`, `{"Namespace":"a","Job":{"Namespace":"a"}}`, true},
		{"a service's own", `{"Namespace":"pool-a","Services":[{"Namespace":"default"}]}`, `{"Namespace":"a","Services":[{"Namespace":"default"}]}`, true},
		{"user's keys", `{"Namespace":"pool-a","Meta":{"Namespace":"pool-x"}}`, `{"Namespace":"a","Meta":{"Namespace":"pool-x"}}`, true},
		{"big index", `{"Index":18446744073709551615}`, `{"Index":18446744073709551615}`, true},
		{
			"node", `{"NodeClass":"","Drivers":{},"HTTPAddr":"10.1.1.1:4646","Address":"10.1.1.1","Links":{"a":"b"},` +
				`"HostVolumes":{"v":{"Path":"/p"}},"Attributes":{"unique.network.ip-address":"10.1.1.1","a":"10.1.1.1:1","b":"c"},` +
				`"NodeResources":{"Networks":[{"IP":"10.1.1.1","Mode":"host"}],"NodeNetworks":[{"Addresses":[{"Address":"10.1.1.1"}]}]}}`,
			`{"NodeClass":"","Drivers":{},"HTTPAddr":"","Address":"","HostVolumes":{"v":{"Path":""}},"Attributes":{"b":"c"},` +
				`"NodeResources":{"Networks":[{"IP":"","Mode":"host"}],"NodeNetworks":[{}]}}`, true,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, kept := rewriteText(t, w, test.given)
			must.Eq(t, test.kept, kept)
			if kept {
				must.EqJSON(t, test.want, got)
			}
		})
	}
}

func TestConfigFile(t *testing.T) {
	good := `
alias = "fr-par-1"
country = "FR"
continent = "EU"
price = 1.5
gateways = ["gateway.example:4649"]
consul { token_file = "/t" }
nomad { address = "http://127.0.0.1:4646" }
policy { max_count = 3 }
relay { bind_addr = "10.0.0.1" }
`
	path := filepath.Join(t.TempDir(), "member.hcl")
	must.NoError(t, os.WriteFile(path, []byte(good), 0o600))
	config, err := Load(path)
	must.NoError(t, err)
	must.Eq(t, "pool-", config.NamespacePrefix)
	must.Eq(t, []string{"runc"}, config.Policy.AllowDrivers)
	must.Eq(t, 3, config.Policy.MaxCount)
	for text, change := range map[string]func(*Config){
		"alias": func(c *Config) { c.Alias = "A b" }, "country": func(c *Config) { c.Country = "France" },
		"continent": func(c *Config) { c.Continent = "XX" }, "price": func(c *Config) { c.Price = -1 },
		"at least one": func(c *Config) { c.Gateways = nil }, "not host:port": func(c *Config) { c.Gateways = []string{"x"} },
		"namespace_prefix": func(c *Config) { c.NamespacePrefix = "a/" },
		"range of ports":   func(c *Config) { c.Relay = &RelayConfig{PortMin: 2, PortMax: 1} },
	} {
		bad := config
		change(&bad)
		must.ErrorContains(t, bad.Validate(), text)
	}
	must.NoError(t, os.WriteFile(path, []byte(good+"unknown = 1\n"), 0o600))
	_, err = Load(path)
	must.ErrorContains(t, err, "unknown")
}
