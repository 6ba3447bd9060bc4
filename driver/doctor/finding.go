package doctor

import (
	"fmt"

	"pangaea/driver"
)

// Finding is one line of the report.
type Finding = driver.Finding

// What a finding's verdict can be.
const (
	verdictOK   = "ok"
	verdictWarn = "warn"
	verdictFail = "fail"
)

// area makes the findings of one heading.
type area string

func (a area) ok(name, seen string, args ...any) Finding {
	return Finding{Area: string(a), Name: name, Verdict: verdictOK, Seen: fmt.Sprintf(seen, args...)}
}

func (a area) warn(name, fix, seen string, args ...any) Finding {
	return Finding{Area: string(a), Name: name, Verdict: verdictWarn, Seen: fmt.Sprintf(seen, args...), Fix: fix}
}

func (a area) fail(name, fix, seen string, args ...any) Finding {
	return Finding{Area: string(a), Name: name, Verdict: verdictFail, Seen: fmt.Sprintf(seen, args...), Fix: fix}
}

// asRoot is the fix of what could not be looked at.
const asRoot = "run this as root"
