package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/device"
)

// patience ends a run that would never end.
const patience = time.Minute

// process is a running plugin, spoken to as Nomad does.
type process struct {
	device.DevicePlugin
	client *plugin.Client
	pid    int
	began  time.Time
}

// start runs a plugin with the simulator as its NVML.
func (b *bench) start(s side, config map[string]any) (*process, error) {
	cmd := exec.Command(s.program)
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+filepath.Dir(b.library))
	p := &process{began: time.Now(), client: plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  base.Handshake,
		Plugins:          map[string]plugin.Plugin{base.PluginTypeBase: &base.PluginBase{}, base.PluginTypeDevice: &device.PluginDevice{}},
		Cmd:              cmd,
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		Logger:           hclog.NewNullLogger(),
	})}
	err := p.dispense(config)
	if err != nil {
		p.client.Kill()
		return nil, fmt.Errorf("cannot start %s: %w", s.name, err)
	}
	p.pid = cmd.Process.Pid
	return p, nil
}

func (p *process) dispense(config map[string]any) error {
	rpc, err := p.client.Client()
	if err != nil {
		return err
	}
	raw, err := rpc.Dispense(base.PluginTypeDevice)
	if err != nil {
		return err
	}
	var ok bool
	p.DevicePlugin, ok = raw.(device.DevicePlugin)
	if !ok {
		return fmt.Errorf("internal error: a %T is no device plugin", raw)
	}
	var packed []byte
	err = base.MsgPackEncode(&packed, config)
	if err != nil {
		return err
	}
	return p.SetConfig(&base.Config{PluginConfig: packed})
}

// offered waits until all GPUs are, and drains what comes later.
func (p *process) offered(ctx context.Context, count int) error {
	stream, err := p.Fingerprint(ctx)
	if err != nil {
		return err
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case answer, ok := <-stream:
			if !ok || answer.Error != nil {
				return fmt.Errorf("the stream ended or failed: %+v", answer)
			}
			total := 0
			for _, group := range answer.Devices {
				total += len(group.Devices)
			}
			if total == count {
				go func() {
					for range stream { // until the plugin is killed
					}
				}()
				return nil
			}
		case <-timer.C:
			return fmt.Errorf("no %d GPUs within %s", count, patience)
		}
	}
}

// cpu is the time that the process has used so far, by the kernel's scheduler, which counts nanoseconds.
func (p *process) cpu() (time.Duration, error) {
	var total time.Duration
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.pid))
	if err != nil || len(threads) == 0 {
		return 0, fmt.Errorf("cannot read the CPU time of process %d", p.pid)
	}
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if err != nil {
			continue // the thread has ended; Go keeps nearly all of its threads
		}
		first, _, _ := strings.Cut(string(text), " ")
		ns, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("cannot understand %s: %w", thread, err)
		}
		total += time.Duration(ns)
	}
	return total, nil
}

// memory is the process's resident and proportional set size in MiB.
func (p *process) memory() (rss, pss float64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.pid))
	if err != nil {
		return 0, 0, fmt.Errorf("cannot read the memory of process %d: %w", p.pid, err)
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		kib, _ := strconv.ParseFloat(fields[1], 64)
		switch fields[0] {
		case "Rss:":
			rss = kib / 1024
		case "Pss:":
			pss = kib / 1024
		}
	}
	return rss, pss, nil
}
