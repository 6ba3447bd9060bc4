package command

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"pangaea/device/control"
)

// chosen are the UUIDs that the names stand for, or control.All alone.
func (d *desk) chosen(s control.Status) ([]string, error) {
	if len(d.names) == 0 {
		return []string{control.All}, nil
	}
	var uuids []string
	for _, name := range d.names {
		if name == control.All {
			return []string{control.All}, nil
		}
		uuid, err := find(s.GPUs, name)
		if err != nil {
			return nil, err
		}
		uuids = append(uuids, uuid)
	}
	return uuids, nil
}

func find(gpus []control.GPU, name string) (string, error) {
	var found []string
	for _, g := range gpus {
		switch {
		case g.UUID == name, strings.EqualFold(g.BusID, name), g.Index >= 0 && strconv.Itoa(g.Index) == name:
			return g.UUID, nil
		case len(name) >= 4 && (strings.HasPrefix(g.UUID, name) || strings.HasPrefix(g.UUID, "GPU-"+name)):
			found = append(found, g.UUID)
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("cannot find a GPU %q: see pangaea gpu status", name)
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("cannot tell which GPU %q is: it could be %s", name, strings.Join(found, " or "))
}

// current reads the status. One that a plugin left behind still tells which GPUs there are; stale is then true.
func (d *desk) current() (s control.Status, stale bool, err error) {
	s, err = d.dir.Status(time.Now())
	if errors.Is(err, control.ErrStale) {
		return s, true, nil
	}
	return s, false, err
}

// asked is the status now, and which of its GPUs the command is about.
func (d *desk) asked() (s control.Status, uuids []string, stale bool, err error) {
	s, stale, err = d.current()
	if err != nil {
		return s, nil, stale, err
	}
	uuids, err = d.chosen(s)
	return s, uuids, stale, err
}

// of keeps the GPUs that were chosen.
func of(s control.Status, uuids []string) []control.GPU {
	var all []control.GPU
	for _, g := range s.GPUs {
		for _, uuid := range uuids {
			if uuid == control.All || uuid == g.UUID {
				all = append(all, g)
				break
			}
		}
	}
	return all
}
