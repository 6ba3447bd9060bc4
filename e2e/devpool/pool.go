package devpool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sync/errgroup"

	"pangaea/e2e/nvmlsim"
	"pangaea/e2e/registry"
	"pangaea/federation/state"
)

// Countries is the pool of the demo: three members in three countries with GPUs of three models.
func Countries() []Member {
	return []Member{
		{Alias: "fr-par-1", Country: "FR", Continent: "EU", Region: "eu-west", Price: 2.10, Model: nvmlsim.H100SXM(), Count: 2},
		{Alias: "us-nyc-1", Country: "US", Continent: "NA", Region: "us-east", Price: 1.80, Model: nvmlsim.A100PCIe40GB(), Count: 2},
		{Alias: "jp-tyo-1", Country: "JP", Continent: "AS", Region: "ap-northeast", Price: 0.60, Model: nvmlsim.RTX4090(), Count: 2},
	}
}

// programs are the jobspecs' images, by the directory of their program.
var programs = []string{"hello-gpu", "inference", "training", "exit"}

// Config says where and with what to start a pool.
type Config struct {
	Root     string // of the source tree: the images' programs are built from it
	Dir      string // for everything that the pool writes
	Tools    Tools
	Members  []Member
	Progress io.Writer // one line per step
	Bench    bool      // log all that Nomad does, and let its exec driver work on this machine
}

// Pool is a running pool.
type Pool struct {
	Config
	Clusters      []*Cluster
	Registry      *registry.Registry
	UserToken     string
	GatewayConfig string // what the gateway was configured with

	dir     string
	lock    *os.File
	consul  *consul
	gateway *process
	cgroups map[string]bool // Nomad's cgroup parents that were there before us
}

// Address is the pool's front door, on Nomad's own port.
const Address = "http://127.0.0.1:4646"

// Start brings a pool up. When it fails, what it had started is stopped again.
func Start(ctx context.Context, config Config) (*Pool, error) {
	p := &Pool{Config: config, dir: config.Dir}
	err := p.prepare(ctx)
	if err != nil {
		return nil, err
	}
	err = p.start(ctx)
	if err != nil {
		return nil, errors.Join(err, p.Stop(context.WithoutCancel(ctx)))
	}
	return p, nil
}

// prepare takes the lock, clears what an earlier run left, and makes the directories.
func (p *Pool) prepare(ctx context.Context) error {
	err := os.MkdirAll(p.dir, 0o711)
	if err != nil {
		return fmt.Errorf("cannot make the pool's directory: %w", err)
	}
	// A sandbox's root user is nobody outside its user namespace: to reach its files it must get through.
	err = os.Chmod(p.dir, 0o711) //nolint:gosec // names below it are not secret, and what is has modes of its own
	if err != nil {
		return fmt.Errorf("cannot open the pool's directory for sandboxes: %w", err)
	}
	p.lock, err = os.OpenFile("/run/pangaea-devpool.lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("cannot open the pool's lock: %w; run this as root", err)
	}
	err = syscall.Flock(int(p.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err != nil {
		return fmt.Errorf("another pool runs on this machine (%w): stop its make dev or make demo first", err)
	}
	err = p.takeOver(ctx)
	if err != nil {
		return fmt.Errorf("cannot clear what an earlier run left: %w", err)
	}
	p.cgroups = nomadCgroups()
	for _, dir := range []string{"logs", "pids", "tokens"} {
		err = os.MkdirAll(filepath.Join(p.dir, dir), 0o700)
		if err != nil {
			return fmt.Errorf("cannot make the pool's directory: %w", err)
		}
	}
	return nil
}

// takeOver clears what earlier pools left: the last one, wherever it was, by the note in the lock, and ours. Then it
// leaves such a note itself.
func (p *Pool) takeOver(ctx context.Context) error {
	last, err := io.ReadAll(io.LimitReader(p.lock, 4096))
	if err != nil {
		return fmt.Errorf("cannot read the lock: %w", err)
	}
	if filepath.IsAbs(string(last)) && string(last) != p.dir {
		err = removeLeftovers(ctx, string(last))
	}
	err = errors.Join(err, removeLeftovers(ctx, p.dir), p.lock.Truncate(0))
	if err != nil {
		return err
	}
	_, err = p.lock.WriteAt([]byte(p.dir), 0)
	return err
}

// start starts the parts, each after those that it needs.
func (p *Pool) start(ctx context.Context) error {
	steps := []struct {
		name string
		run  func(context.Context) error
	}{
		{"network: one namespace per member, cut off from one another", p.startNetwork},
		{"registry on " + BridgeAddress + ":5000 with the jobs' images", p.startRegistry},
		{"Consul: one server, ACLs on, its own certificate authority", p.startConsul},
		{"Nomad clusters", p.startClusters},
		{"gateway on " + Address, p.startGateway},
		{"member agents", p.startAgents},
	}
	for _, step := range steps {
		p.say("==> %s", step.name)
		err := step.run(ctx)
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *Pool) say(format string, args ...any) {
	fmt.Fprintf(p.Progress, format+"\n", args...)
}

func (p *Pool) startNetwork(ctx context.Context) error {
	err := makeBridge(ctx)
	if err != nil {
		return err
	}
	for i, member := range p.Members {
		err = makeNamespace(ctx, member.Alias, i)
		if err != nil {
			return err
		}
		p.Clusters = append(p.Clusters, &Cluster{
			Member: member, Address: memberAddress(i), index: i, pool: p, dir: filepath.Join(p.dir, member.Alias),
		})
	}
	return nil
}

func (p *Pool) startRegistry(ctx context.Context) error {
	var err error
	p.Registry, err = registry.Start(BridgeAddress + ":5000")
	if err != nil {
		return err
	}
	for _, program := range programs {
		image, err := registry.Program(ctx, p.Root, "e2e/images/"+program)
		if err != nil {
			return err
		}
		digest, err := p.Registry.Push(ctx, program+":1", image)
		if err != nil {
			return err
		}
		p.say("    %s:1 %s", program, digest)
	}
	return nil
}

func (p *Pool) startConsul(ctx context.Context) error {
	var err error
	p.consul, err = startConsul(ctx, p.dir, p.Tools.Consul)
	if err != nil {
		return err
	}
	p.UserToken, err = p.consul.userToken(ctx, "default")
	return err
}

func (p *Pool) startClusters(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, cluster := range p.Clusters {
		group.Go(func() error {
			err := cluster.start(ctx)
			if err == nil {
				p.say("    %s (%s): %s", cluster.Alias, cluster.Country, cluster.hardware())
			}
			return err
		})
	}
	return group.Wait()
}

// start starts the cluster's own Nomad for the first time.
func (c *Cluster) start(ctx context.Context) error {
	for _, step := range []func(context.Context) error{c.configure, c.startServer, c.bootstrap, c.startClient, c.awaitNode} {
		err := step(ctx)
		if err != nil {
			return fmt.Errorf("cannot start %s: %w", c.Alias, err)
		}
	}
	return nil
}

func (p *Pool) startAgents(ctx context.Context) error {
	for _, cluster := range p.Clusters {
		err := cluster.StartAgent(ctx)
		if err != nil {
			return err
		}
	}
	return p.AwaitMembers(ctx)
}

func (p *Pool) memberToken(ctx context.Context, alias string) (string, error) {
	rules, err := state.PolicyMember(alias)
	if err != nil {
		return "", err
	}
	return p.consul.tokenFor(ctx, "pangaea-member-"+alias, rules)
}

// Env lists the variables that a user of the pool sets, as NAME=VALUE.
func (p *Pool) Env() []string {
	return []string{
		"NOMAD_ADDR=" + Address,
		"NOMAD_TOKEN=" + p.UserToken,
		"CONSUL_HTTP_ADDR=http://127.0.0.1:8500",
		"CONSUL_HTTP_TOKEN=" + p.UserToken,
	}
}
