package mps

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Bounds are what each client may use.
type Bounds struct {
	Percent int               // of a GPU's threads, 1 to 100
	MiB     map[string]uint64 // of memory, by the GPU's UUID
}

// Limit is an amount of memory as MPS reads it.
func Limit(mib uint64) string { return strconv.FormatUint(mib, 10) + "M" }

// Tell makes the bounds the daemon's defaults, and those of servers that run already for their clients to come. Failures of
// one GPU are by its UUID; the error is of all. It takes no longer than the context lets it, and restFor.
func (d Daemon) Tell(ctx context.Context, b Bounds) (failures map[string]error, err error) {
	percent := strconv.Itoa(b.Percent)
	_, err = d.ask(ctx, "set_default_active_thread_percentage "+percent)
	if err != nil {
		return nil, err
	}
	err = d.expect(ctx, "get_default_active_thread_percentage", b.Percent)
	if err != nil {
		return nil, err
	}
	servers, err := d.servers(ctx)
	if err != nil {
		return nil, err
	}
	for _, server := range servers {
		_, err = d.ask(ctx, "set_active_thread_percentage "+server+" "+percent)
		if err != nil {
			return nil, err
		}
	}
	failures = make(map[string]error)
	for _, uuid := range slices.Sorted(maps.Keys(b.MiB)) {
		err = d.limit(ctx, servers, uuid, b.MiB[uuid])
		if err != nil {
			failures[uuid] = err
		}
	}
	return failures, nil
}

// limit bounds the memory of one GPU.
func (d Daemon) limit(ctx context.Context, servers []string, uuid string, mib uint64) error {
	_, err := d.ask(ctx, "set_default_device_pinned_mem_limit "+uuid+" "+Limit(mib))
	for _, server := range servers {
		if err == nil {
			_, err = d.ask(ctx, "set_device_pinned_mem_limit "+server+" "+uuid+" "+Limit(mib))
		}
	}
	return err
}

// servers are those that the daemon has started, by process number.
func (d Daemon) servers(ctx context.Context) ([]string, error) {
	const command = "get_server_list"
	answer, err := d.ask(ctx, command)
	if err != nil {
		return nil, err
	}
	servers := strings.Fields(answer)
	for _, s := range servers {
		_, err = strconv.ParseUint(s, 10, 31)
		if err != nil {
			return nil, fmt.Errorf("the MPS control daemon answers %s with %s, which is no list of processes: restart it", command, quote(answer))
		}
	}
	return servers, nil
}

// expect asks for a number, which the daemon may dress: 25, 25.0.
func (d Daemon) expect(ctx context.Context, command string, want int) error {
	answer, err := d.ask(ctx, command)
	if err != nil {
		return err
	}
	numbers := regexp.MustCompile(`[0-9]+(\.[0-9]+)?`).FindAllString(answer, -1)
	if len(numbers) > 0 {
		got, err := strconv.ParseFloat(numbers[len(numbers)-1], 64)
		if err == nil && math.Abs(got-float64(want)) < 1 {
			return nil
		}
	}
	return fmt.Errorf("the MPS control daemon answers %s with %s, not with the %d that it was told: restart it", command, quote(answer), want)
}

// restFor is how long a command's output is waited for after its end, for the sake of what it has started and left behind.
const restFor = 10 * time.Second

// ask runs one command.
func (d Daemon) ask(ctx context.Context, command string) (string, error) {
	path, err := exec.LookPath(Program)
	if err != nil {
		return "", fmt.Errorf("cannot find %s, which comes with NVIDIA's driver: install it, or put its directory on the PATH of Nomad's client", Program)
	}
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = []string{"CUDA_MPS_PIPE_DIRECTORY=" + d.Dir, "PATH=" + os.Getenv("PATH")}
	cmd.Stdin = strings.NewReader(command + "\n")
	cmd.WaitDelay = restFor
	out := &bounded{room: 4096}
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("the MPS control daemon does not answer %s: restart it (echo quit | %s, then %s -d)", verb(command), Program, Program)
	case errors.Is(err, exec.ErrWaitDelay):
		return out.text.String(), nil
	case err != nil:
		return "", fmt.Errorf("cannot tell the MPS control daemon %q: %w: %s", command, err, quote(out.text.String()))
	}
	return out.text.String(), nil
}

func verb(command string) string {
	v, _, _ := strings.Cut(command, " ")
	return v
}

// bounded keeps the beginning of what a program says.
type bounded struct {
	text strings.Builder
	room int
}

func (b *bounded) Write(p []byte) (int, error) {
	b.text.Write(p[:min(len(p), b.room-b.text.Len())])
	return len(p), nil
}

// quote is the beginning of an answer, fit for terminals.
func quote(answer string) string {
	const most = 80
	clean := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.TrimSpace(answer))
	if len(clean) > most {
		clean = strings.ToValidUTF8(clean[:most], "") + "..."
	}
	return strconv.Quote(clean)
}
