package gateway

import (
	"reflect"
	"testing"

	"pangaea/federation/configfile/configfiletest"
)

// Whoever writes a configuration finds each of its keys in the help.
func TestUsageNamesEveryKey(t *testing.T) {
	configfiletest.UsageNamesEveryKey(t, usage, reflect.TypeFor[Config]())
}

func TestCommand(t *testing.T) {
	configfiletest.Command(t, "gateway", "", Command)
}
