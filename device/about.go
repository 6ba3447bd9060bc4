package device

import (
	"context"
	"errors"
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/device"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
	"golang.org/x/sys/unix"
)

const (
	// pluginName is what a client's configuration calls the plugin: plugin "pangaea-device" {}.
	pluginName    = "pangaea-device"
	pluginVersion = "v0.1.0"

	vendor     = "nvidia"
	deviceType = device.DeviceTypeGPU
)

// Serve speaks Nomad's plugin protocol until Nomad ends it, or ends itself.
func Serve() {
	go endWith(os.Getppid())
	plugins.ServeCtx(func(ctx context.Context, logger hclog.Logger) any { return New(ctx, logger) })
}

// endWith ends this process when the client that started it has ended. Nomad never takes up a device plugin of an earlier
// client: it has it end, and looks only once a second whether it has, before it restores its tasks.
func endWith(client int) {
	fd, err := unix.PidfdOpen(client, 0)
	if err != nil {
		return // Nomad will have to end it
	}
	for {
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if err == nil {
			os.Exit(0)
		}
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

func pluginInfo() *base.PluginInfoResponse {
	return &base.PluginInfoResponse{
		Type:              base.PluginTypeDevice,
		PluginApiVersions: []string{device.ApiVersion010},
		PluginVersion:     pluginVersion,
		Name:              pluginName,
	}
}

// configSchema is the plugin's configuration; Config explains each option.
func configSchema() *hclspec.Spec {
	return hclspec.NewObject(map[string]*hclspec.Spec{
		"enabled":               hclspec.NewDefault(hclspec.NewAttr("enabled", "bool", false), hclspec.NewLiteral("true")),
		"library_path":          hclspec.NewAttr("library_path", "string", false),
		"ignored_gpu_ids":       hclspec.NewAttr("ignored_gpu_ids", "list(string)", false),
		"fingerprint_period":    hclspec.NewAttr("fingerprint_period", "string", false),
		"hang_after":            hclspec.NewAttr("hang_after", "string", false),
		"recover_after":         hclspec.NewAttr("recover_after", "number", false),
		"strain_after":          hclspec.NewAttr("strain_after", "string", false),
		"max_uncorrectable_ecc": hclspec.NewAttr("max_uncorrectable_ecc", "number", false),
		"allow_replicas":        hclspec.NewAttr("allow_replicas", "number", false),
		"allow_residue":         hclspec.NewAttr("allow_residue", "bool", false),
		"sharing": hclspec.NewBlock("sharing", false, hclspec.NewObject(map[string]*hclspec.Spec{
			"mode":           hclspec.NewAttr("mode", "string", false),
			"pipe_directory": hclspec.NewAttr("pipe_directory", "string", false),
			"mount":          hclspec.NewAttr("mount", "bool", false),
		})),
		"group_by":        hclspec.NewAttr("group_by", "string", false),
		"control_dir":     hclspec.NewAttr("control_dir", "string", false),
		"holds_dir":       hclspec.NewAttr("holds_dir", "string", false),
		"metrics_address": hclspec.NewAttr("metrics_address", "string", false),
		"owner": hclspec.NewBlock("owner", false, hclspec.NewObject(map[string]*hclspec.Spec{
			"hours":            hclspec.NewAttr("hours", "list(string)", false),
			"idle_after":       hclspec.NewAttr("idle_after", "string", false),
			"processes":        hclspec.NewAttr("processes", "list(string)", false),
			"ignore_processes": hclspec.NewAttr("ignore_processes", "bool", false),
			"reclaim_file":     hclspec.NewAttr("reclaim_file", "string", false),
			"evict":            hclspec.NewAttr("evict", "bool", false),
			"nomad_address":    hclspec.NewAttr("nomad_address", "string", false),
			"nomad_token_file": hclspec.NewAttr("nomad_token_file", "string", false),
		})),
	})
}
