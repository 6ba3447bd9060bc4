package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// All stands for every GPU of the machine, those that are plugged in later included.
const All = "all"

// Reclaim is an owner's word that he wants a GPU for himself.
type Reclaim struct {
	By    string    `json:"by"`
	Since time.Time `json:"since"`
	Note  string    `json:"note,omitempty"`
	Keep  bool      `json:"keep,omitempty"` // let the tasks on it end by themselves; else they are stopped
}

// Reason is what Nomad's users are told. It stays the same for as long as the reclaim does.
func (r Reclaim) Reason() string {
	var b strings.Builder
	b.WriteString("reclaimed by its owner")
	if r.By != "" {
		b.WriteString(" (" + r.By + ")")
	}
	if !r.Since.IsZero() {
		b.WriteString(" since " + r.Since.UTC().Format("2006-01-02 15:04:05 MST"))
	}
	if r.Note != "" {
		b.WriteString(": " + r.Note)
	}
	return b.String()
}

// ErrAllReclaimed is one GPU that cannot be released because all are reclaimed.
var ErrAllReclaimed = errors.New("all GPUs are reclaimed; release all of them first")

var gpuName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,79}$`)

// Reclaim takes a GPU, by its UUID, or All.
func (d Dir) Reclaim(gpu string, r Reclaim) error {
	path, err := d.reclaimFile(gpu)
	if err != nil {
		return err
	}
	err = d.prepare()
	if err != nil {
		return err
	}
	return write(path, r)
}

// Release gives a GPU back to the pool, or all that are reclaimed. It tells whether there was anything to release.
func (d Dir) Release(gpu string) (bool, error) {
	path, err := d.reclaimFile(gpu)
	if err != nil {
		return false, err
	}
	all, err := d.Reclaims()
	if err != nil {
		return false, err
	}
	_, everything := all[All]
	if gpu != All {
		if everything {
			return false, ErrAllReclaimed
		}
		err = os.Remove(path)
		if errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		return err == nil, err
	}
	for name := range all {
		err = errors.Join(err, os.Remove(filepath.Join(d.reclaims(), name+".json")))
	}
	return len(all) > 0 && err == nil, err
}

// Reclaims are all that are in force, by UUID or All. One that cannot be read is in force; on an error all GPUs are the
// owner's.
func (d Dir) Reclaims() (map[string]Reclaim, error) {
	err := d.safe()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(d.reclaims())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the owner's reclaims: %w", err)
	}
	all := make(map[string]Reclaim)
	for _, e := range entries {
		name, isReclaim := strings.CutSuffix(e.Name(), ".json")
		if !isReclaim {
			continue
		}
		var r Reclaim
		text, err := os.ReadFile(filepath.Join(d.reclaims(), e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // released just now
		}
		if err != nil || json.Unmarshal(text, &r) != nil {
			r = Reclaim{Note: "its file cannot be read"}
		}
		all[name] = r
	}
	return all, nil
}

func (d Dir) reclaimFile(gpu string) (string, error) {
	if !gpuName.MatchString(gpu) {
		return "", fmt.Errorf("cannot take %q for a GPU: give its UUID, or %q", gpu, All)
	}
	return filepath.Join(d.reclaims(), gpu+".json"), nil
}
