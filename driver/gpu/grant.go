package gpu

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// grantPrefix starts the key by which the device plugin names one granted GPU or MIG instance. Each device has a key
// of its own because Nomad merges the environments of several device blocks, and would keep only the last
// NVIDIA_VISIBLE_DEVICES.
const grantPrefix = "PANGAEA_GPU_"

// shareMark parts, in Nomad's ID of a device, a UUID from the number of a share of it.
const shareMark = "::"

// mpsKey is what the device plugin sets, besides, for a share by CUDA's multi-process service.
const mpsKey = "CUDA_MPS_PIPE_DIRECTORY"

// Grant is one device that a task was given.
type Grant struct {
	// ID is what Nomad calls it: the UUID, or for a share of it GPU-...::0.
	ID string
	// UUID is that of the GPU or MIG instance.
	UUID string
}

// Whole says that the task was promised the device for itself.
func (g Grant) Whole() bool { return g.ID == g.UUID }

// Grants lists the devices that a task was granted, from its DeviceEnv, by UUID. The device plugin is asked once for each
// device block of a task, so that only here two shares of one GPU in two blocks are seen together. Shares by MPS are refused.
func Grants(deviceEnv map[string]string) ([]Grant, error) {
	valid := regexp.MustCompile(`^(GPU|MIG)-[0-9A-Za-z][0-9A-Za-z-]{0,126}$`)
	share := regexp.MustCompile(`^__([0-9]{1,4})$`)
	var grants []Grant
	for key, uuid := range deviceEnv {
		rest, ok := strings.CutPrefix(key, grantPrefix)
		if !ok {
			continue
		}
		rest, ok = strings.CutPrefix(rest, strings.ReplaceAll(uuid, "-", "_"))
		number := share.FindStringSubmatch(rest)
		if !ok || !valid.MatchString(uuid) || rest != "" && number == nil {
			return nil, fmt.Errorf("cannot read the grant %s=%q: it is not as the device plugin writes it; update both plugins to the same version", key, uuid)
		}
		g := Grant{ID: uuid, UUID: uuid}
		if number != nil {
			g.ID += shareMark + number[1]
		}
		if slices.ContainsFunc(grants, func(other Grant) bool { return other.UUID == uuid }) {
			return nil, fmt.Errorf("cannot give the task two shares of one GPU, %s: ask for one share, in one device block", uuid)
		}
		grants = append(grants, g)
	}
	if len(grants) > 0 && deviceEnv[mpsKey] != "" {
		return nil, errors.New("cannot run on a GPU that is shared by MPS: its server serves one user ID at a time, and each task of this driver has user IDs of its own. " +
			"Ask for a time-sliced share, a MIG device, or a whole GPU, in which the task may run an MPS control daemon of its own; or use another driver")
	}
	slices.SortFunc(grants, func(a, b Grant) int { return strings.Compare(a.UUID, b.UUID) })
	return grants, nil
}

// UUIDs are those of the devices granted.
func UUIDs(grants []Grant) []string {
	var uuids []string
	for _, g := range grants {
		uuids = append(uuids, g.UUID)
	}
	return uuids
}
