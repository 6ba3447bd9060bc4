package devpool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
)

// Allocation is an allocation of a pool job and the place where it runs.
type Allocation struct {
	*api.Allocation
	Member  string   // alias of the member
	Country string   // of its node
	GPUs    []string // model and UUID of each granted GPU
	HTTP    string   // host:port of the port labelled "http", if it has one
}

// Nomad runs the unmodified nomad CLI as the pool's user and returns what it printed.
func (p *Pool) Nomad(ctx context.Context, args ...string) (string, error) {
	output, err := p.NomadAs(ctx, p.UserToken, args...)
	if err != nil {
		return output, fmt.Errorf("cannot run nomad %s: %w\n%s", strings.Join(args, " "), err, output)
	}
	return output, nil
}

// API is a client of the gateway with the pool user's token.
func (p *Pool) API() (*api.Client, error) {
	return api.NewClient(&api.Config{Address: Address, SecretID: p.UserToken})
}

// AwaitJob waits until every allocation of a job has the wanted client status, and at least as many as the job asks
// for. It returns what it saw last, also when the time is up.
func (p *Pool) AwaitJob(ctx context.Context, job, status string, timeout time.Duration) ([]*Allocation, error) {
	client, err := p.API()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	var last error
	for {
		stubs, err := jobProgress(ctx, client, job, status)
		if err == nil {
			return p.Allocations(ctx, stubs)
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("job %s is not %s after %s: %w", job, status, timeout, last)
		case <-ticker.C:
		}
	}
}

// jobProgress lists the allocations of a job that have the wanted status, or says what is missing.
func jobProgress(ctx context.Context, client *api.Client, job, status string) ([]*api.AllocationListStub, error) {
	query := (&api.QueryOptions{}).WithContext(ctx)
	info, _, err := client.Jobs().Info(job, query)
	if err != nil {
		return nil, err
	}
	wanted := 0
	for _, group := range info.TaskGroups {
		wanted += *group.Count
	}
	stubs, _, err := client.Jobs().Allocations(job, false, query)
	if err != nil {
		return nil, err
	}
	var reached []*api.AllocationListStub
	var seen []string
	for _, stub := range stubs {
		seen = append(seen, stub.ID[:8]+" is "+stub.ClientStatus+lastEvent(stub))
		if stub.ClientStatus == status && stub.DesiredStatus == api.AllocDesiredStatusRun {
			reached = append(reached, stub)
		}
	}
	if len(reached) < wanted {
		return nil, fmt.Errorf("%d of %d allocations are %s: %s", len(reached), wanted, status, strings.Join(seen, ", "))
	}
	return reached, nil
}

// lastEvent is what a task of the allocation reported last.
func lastEvent(stub *api.AllocationListStub) string {
	for _, state := range stub.TaskStates {
		if len(state.Events) > 0 {
			return " (" + state.Events[len(state.Events)-1].DisplayMessage + ")"
		}
	}
	return ""
}

// Allocations looks up where allocations run.
func (p *Pool) Allocations(ctx context.Context, stubs []*api.AllocationListStub) ([]*Allocation, error) {
	client, err := p.API()
	if err != nil {
		return nil, err
	}
	var all []*Allocation
	for _, stub := range stubs {
		query := (&api.QueryOptions{Namespace: stub.Namespace}).WithContext(ctx)
		info, _, err := client.Allocations().Info(stub.ID, query)
		if err != nil {
			return nil, fmt.Errorf("cannot read allocation %s: %w", stub.ID, err)
		}
		node, _, err := client.Nodes().Info(stub.NodeID, query)
		if err != nil {
			return nil, fmt.Errorf("cannot read node %s: %w", stub.NodeID, err)
		}
		all = append(all, p.describe(info, node))
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all, nil
}

func (p *Pool) describe(info *api.Allocation, node *api.Node) *Allocation {
	a := &Allocation{Allocation: info, Member: node.Meta["pool.member"], Country: node.Meta["pool.country"]}
	if info.AllocatedResources == nil {
		return a
	}
	for _, task := range info.AllocatedResources.Tasks {
		for _, device := range task.Devices {
			a.GPUs = append(a.GPUs, device.Name+" "+strings.Join(device.DeviceIDs, " "))
		}
	}
	for _, port := range info.AllocatedResources.Shared.Ports {
		if port.Label == "http" {
			// The gateway hides members' addresses; this machine is the members' own, so it knows them.
			a.HTTP = fmt.Sprintf("%s:%d", p.cluster(a.Member).Address, port.Value)
		}
	}
	return a
}

// cluster is the member with this alias; an unknown one has no address.
func (p *Pool) cluster(alias string) *Cluster {
	for _, cluster := range p.Clusters {
		if cluster.Alias == alias {
			return cluster
		}
	}
	return &Cluster{}
}

// Ask posts a text to a service's allocation and returns the answer, waiting until the service listens.
func (p *Pool) Ask(ctx context.Context, allocation *Allocation, path, text string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		answer, err := post(ctx, "http://"+allocation.HTTP+path, text)
		if err == nil {
			return answer, nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("the service does not answer: %w", err)
		case <-ticker.C:
		}
	}
}

func post(ctx context.Context, url, text string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewBufferString(text))
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, answer)
	}
	return string(answer), err
}

// WriteEnv writes a file for users to source and returns its path. It holds the user's token, so only root reads it.
func (p *Pool) WriteEnv() (string, error) {
	var script bytes.Buffer
	fmt.Fprintf(&script, "export PATH=%q:\"$PATH\"\n", p.Tools.Bin)
	for _, variable := range p.Env() {
		name, value, _ := strings.Cut(variable, "=")
		fmt.Fprintf(&script, "export %s=%q\n", name, value)
	}
	path := filepath.Join(p.dir, "env")
	err := os.WriteFile(path, script.Bytes(), 0o600)
	if err != nil {
		return "", fmt.Errorf("cannot write the environment file: %w", err)
	}
	return path, nil
}

// NomadAs runs the nomad CLI with another token than the pool user's.
func (p *Pool) NomadAs(ctx context.Context, token string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, p.Tools.Nomad, args...)
	cmd.Dir = p.Root
	cmd.Env = append(environment(), "NOMAD_ADDR="+Address, "NOMAD_TOKEN="+token)
	output, err := cmd.CombinedOutput()
	return string(output), err
}

// RunUntil runs pangaea with arguments until it has printed something that matches, and for a while more, ends it and
// returns what it printed. It fails if the program ends by itself or prints nothing of the kind.
func (p *Pool) RunUntil(ctx context.Context, printed *regexp.Regexp, more time.Duration, args ...string) (string, error) {
	file, err := os.CreateTemp(p.dir, "output-")
	if err != nil {
		return "", fmt.Errorf("cannot keep a program's output: %w", err)
	}
	defer func() { _ = errors.Join(file.Close(), os.Remove(file.Name())) }()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(p.Tools.Bin, "pangaea"), args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = environment(), file, file
	err = cmd.Start()
	if err != nil {
		return "", fmt.Errorf("cannot run pangaea %s: %w", strings.Join(args, " "), err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err = cmd.Wait()
	}()
	text := func() string {
		all, _ := os.ReadFile(file.Name())
		return string(all)
	}
	for {
		wait := 50 * time.Millisecond
		done := printed.MatchString(text())
		if done {
			wait = more
		}
		select {
		case <-ended:
			return text(), errors.Join(fmt.Errorf("pangaea %s ended", strings.Join(args, " ")), err, ctx.Err())
		case <-time.After(wait):
		}
		if done {
			cancel()
			<-ended
			return text(), nil
		}
	}
}

// RunToEnd runs pangaea with arguments that must make it fail, and returns what it printed.
func (p *Pool) RunToEnd(ctx context.Context, timeout time.Duration, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(p.Tools.Bin, "pangaea"), args...)
	cmd.Env = environment()
	output, err := cmd.CombinedOutput()
	return string(output), errors.Join(err, ctx.Err())
}
