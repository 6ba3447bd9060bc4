package driver

import (
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"

	"pangaea/driver/supervisor"
)

func TestForesight(t *testing.T) {
	foresightTime = time.Hour
	defer func() { foresightTime = time.Second }()
	d := New(hclog.NewNullLogger())
	ask := func() {
		_, err := d.TaskConfigSchema()
		must.NoError(t, err)
		_, err = d.Capabilities()
		must.NoError(t, err)
	}
	ask()
	must.Nil(t, d.foreseen, must.Sprint("there are no tools to prepare, and asking opens none"))

	d.tools = &tools{supervisor: supervisor.New(supervisor.Config{ShimPath: "/nonexistent", RuntimePath: "/nonexistent"})}
	ask()
	first := d.foreseen
	must.NotNil(t, first)
	must.True(t, first.Stop(), must.Sprint("it looks out"))
	ask()
	must.True(t, first != d.foreseen, must.Sprint("it looks out anew"))
	second := d.foreseen
	ask()
	must.True(t, second == d.foreseen, must.Sprint("one that looks out already is prolonged"))

	d.tools = nil
	d.Shutdown() // does not wait until the time is up
	must.True(t, second.Stop())
	d.tools = &tools{}
	ask() // starts nothing any more
	d.tools = nil
}
