package gpu

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/NVIDIA/nvidia-container-toolkit/pkg/nvcdi"
	"github.com/hashicorp/go-hclog"
)

// toolkit is NVIDIA's generator of device descriptions. Its hooks, environment and mounts of other kinds are dropped.
type toolkit struct {
	lib  nvcdi.Interface
	root string
}

func newToolkit(conf Config) (generator, error) {
	lib, err := nvcdi.New(
		nvcdi.WithMode(nvcdi.ModeNvml),
		nvcdi.WithDriverRoot(conf.Root),
		nvcdi.WithDevRoot(conf.Root),
		nvcdi.WithLogger(toolkitLogger{conf.Logger}),
		nvcdi.WithDisabledHooks(nvcdi.AllHooks),
		nvcdi.WithFeatureFlags(nvcdi.FeatureDisableNvsandboxUtils, nvcdi.FeatureDisableIPCDiscoverer, nvcdi.FeatureNoAdditionalGIDsForDeviceNodes),
	)
	if err != nil {
		return nil, fmt.Errorf("cannot set up NVIDIA's generator: %w", err)
	}
	return &toolkit{lib: lib, root: conf.Root}, nil
}

func (t *toolkit) common() (nodes, files []string, err error) {
	edits, err := t.lib.GetCommonEdits()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list the driver's files: %w", err)
	}
	for _, n := range edits.DeviceNodes {
		nodes = append(nodes, n.Path)
	}
	for _, m := range edits.Mounts {
		file := m.HostPath
		if !strings.HasPrefix(file, t.root) {
			file = filepath.Join(t.root, file)
		}
		files = append(files, file)
	}
	return nodes, files, nil
}

func (t *toolkit) device(uuid string) ([]string, error) {
	specs, err := t.lib.GetDeviceSpecsByID(uuid)
	if err != nil {
		return nil, fmt.Errorf("cannot describe the device: %w", err)
	}
	var nodes []string
	for _, s := range specs {
		for _, n := range s.ContainerEdits.DeviceNodes {
			nodes = append(nodes, n.Path)
		}
	}
	return nodes, nil
}

// toolkitLogger passes the generator's formatted messages on at the levels that suit a driver's log.
type toolkitLogger struct{ log hclog.Logger }

func (l toolkitLogger) Debugf(format string, args ...any) { l.trace(format, args) }
func (l toolkitLogger) Tracef(format string, args ...any) { l.trace(format, args) }
func (l toolkitLogger) Infof(format string, args ...any)  { l.trace(format, args) }
func (l toolkitLogger) Info(args ...any)                  { l.trace("%s", []any{fmt.Sprint(args...)}) }

func (l toolkitLogger) Warning(args ...any)                 { l.trace("%s", []any{fmt.Sprint(args...)}) }
func (l toolkitLogger) Warningf(format string, args ...any) { l.trace(format, args) }
func (l toolkitLogger) Errorf(format string, args ...any) {
	l.log.Warn("NVIDIA's generator failed", "message", fmt.Sprintf(format, args...))
}

func (l toolkitLogger) trace(format string, args []any) {
	l.log.Trace("NVIDIA's generator", "message", fmt.Sprintf(format, args...))
}
