package gpu

import (
	"fmt"
	"regexp"
	"sort"
	"strings"
)

// grantPrefix starts the key by which the device plugin names one granted GPU or MIG instance. Each device has a key
// of its own because Nomad merges the environments of several device blocks, and would keep only the last
// NVIDIA_VISIBLE_DEVICES.
const grantPrefix = "PANGAEA_GPU_"

// Grants lists the UUIDs of the devices that a task was granted, from its DeviceEnv.
func Grants(deviceEnv map[string]string) ([]string, error) {
	valid := regexp.MustCompile(`^(GPU|MIG)-[0-9A-Za-z][0-9A-Za-z-]{0,126}$`)
	var uuids []string
	for key, uuid := range deviceEnv {
		rest, ok := strings.CutPrefix(key, grantPrefix)
		if !ok {
			continue
		}
		if !valid.MatchString(uuid) || rest != strings.ReplaceAll(uuid, "-", "_") {
			return nil, fmt.Errorf("cannot read the grant %s=%q: it is not as the device plugin writes it; update both plugins to the same version", key, uuid)
		}
		uuids = append(uuids, uuid)
	}
	sort.Strings(uuids)
	return uuids, nil
}
