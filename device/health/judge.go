package health

import (
	"time"

	"pangaea/device/nvml"
)

// Limits are the owner's. The zero value is strict: no uncorrectable error, no strain at all, back after one clean round.
type Limits struct {
	RecoverAfter     int           // clean rounds before a sick GPU is offered again
	StrainAfter      time.Duration // how long heat or a power brake may last
	MaxUncorrectable uint64        // ECC errors since the last reset
}

// Verdict is what Nomad is told. Reason is empty for a healthy GPU.
type Verdict struct {
	Healthy bool
	Reason  string
}

// Judge remembers one GPU's past. The zero value with Limits set knows a GPU that has always been well.
type Judge struct {
	Limits Limits

	xids        map[uint64]xidFinding
	strainSince time.Time
	sick        bool
	reason      string
	clean       int
}

type xidFinding struct {
	class  class
	reason string
	at     time.Time
}

// Xid notes an event.
func (j *Judge) Xid(xid uint64, now time.Time) {
	class, what := classify(xid)
	if class == application {
		return
	}
	if j.xids == nil {
		j.xids = make(map[uint64]xidFinding)
	}
	j.xids[xid] = xidFinding{class: class, reason: xidReason(xid, what), at: now}
}

// Renewed forgets what only a reset cures: the driver was loaded anew.
func (j *Judge) Renewed() {
	clear(j.xids)
}

// Broken judges a round in which the GPU could not be examined, for a reason such as a call that hangs.
func (j *Judge) Broken(reason string) Verdict {
	j.clean = 0
	j.sick, j.reason = true, reason
	return Verdict{Reason: reason}
}

// Examine judges a round with readings, and with what the caller found besides.
func (j *Judge) Examine(v nvml.Vitals, now time.Time, more ...string) Verdict {
	found := examine(v, j.Limits.MaxUncorrectable)
	found = append(found, j.lasting(v, now)...)
	found = append(found, j.events(v, now)...)
	for _, finding := range more {
		if finding != "" {
			found = append(found, finding)
		}
	}
	if len(found) > 0 {
		return j.Broken(found[0])
	}
	if !j.sick {
		return Verdict{Healthy: true}
	}
	j.clean++
	if j.clean < j.Limits.RecoverAfter {
		return Verdict{Reason: "recovering from: " + j.reason}
	}
	j.sick, j.reason, j.clean = false, "", 0
	return Verdict{Healthy: true}
}

// lasting is strain that went on for too long. Once it did, it must be gone before it counts as gone.
func (j *Judge) lasting(v nvml.Vitals, now time.Time) []string {
	reason := strain(v)
	if reason == "" {
		j.strainSince = time.Time{}
		return nil
	}
	if j.strainSince.IsZero() {
		j.strainSince = now
	}
	if now.Sub(j.strainSince) < j.Limits.StrainAfter {
		return nil
	}
	return []string{reason}
}

// events are the Xids that still count; those that do not any more are forgotten.
func (j *Judge) events(v nvml.Vitals, now time.Time) []string {
	var worst *xidFinding
	for xid, f := range j.xids {
		if over(f, v, now) {
			delete(j.xids, xid)
			continue
		}
		if worst == nil || f.class > worst.class || f.class == worst.class && f.at.Before(worst.at) {
			worst = &f
		}
	}
	if worst == nil {
		return nil
	}
	return []string{worst.reason}
}

// over tells whether an Xid has been dealt with: by the driver's word if it gives one, else by time.
func over(f xidFinding, v nvml.Vitals, now time.Time) bool {
	age := now.Sub(f.at)
	switch f.class {
	case suspect:
		return age >= suspectFor
	case reset:
		// The driver needs a moment to make up its mind.
		const settled = 10 * time.Second
		return age >= resetFor || v.RecoveryAction.OK && v.RecoveryAction.Value == 0 && age >= settled
	}
	return false
}
