package supervisor

import (
	"bytes"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// Another OCI runtime is driven by the plain OCI command line only; ours has that too and stands in for one here.
func TestRootOCIRuntime(t *testing.T) {
	ownOnly(t, "it brings its own")
	b := newBench(t)
	b.sup = New(Config{ShimPath: built.shim, RuntimePath: built.runtime, RuntimeKind: KindOCI, RuntimeArgs: []string{"--log", "/dev/null"}})
	must.Eq(t, 17, b.run(b.launch("/bin/sh", "-c", "exit 17")).Code)

	l := b.launch("/bin/sh", "-c", "trap 'exit 3' TERM; echo up; while true; do sleep 0.05; done")
	out := b.newFIFO("out").read(t)
	l.Stdout = out.path
	task := b.start(l)
	eventually(t, "it is up", func() bool { return out.String() == "up\n" })
	var inside bytes.Buffer
	code, err := task.Exec(t.Context(), ExecRequest{Args: []string{"sh", "-c", "echo in; exit 4"}, Stdout: &inside})
	must.NoError(t, err)
	must.Eq(t, 4, code)
	must.Eq(t, "in\n", inside.String())
	must.NoError(t, unix.Kill(b.state(l).ShimPid, unix.SIGKILL))
	must.NoError(t, task.Stop(t.Context(), unix.SIGTERM, patience))
	b.witnessed(3, b.wait(task))

	_, err = b.sup.Start(t.Context(), b.launch("/bin/nosuch"))
	must.ErrorContains(t, err, "the runtime failed")
	must.ErrorContains(t, err, "no such file or directory")
}

func TestRootProgramsMissing(t *testing.T) {
	ownOnly(t, "it brings its own")
	b := newBench(t)
	b.sup = New(Config{ShimPath: "/nonexistent/shim", RuntimePath: built.runtime})
	_, err := b.sup.Start(t.Context(), b.launch("/bin/true"))
	must.ErrorContains(t, err, "cannot start the shim")
	b.sup = New(Config{ShimPath: built.shim, RuntimePath: "/nonexistent/runtime"})
	_, err = b.sup.Start(t.Context(), b.launch("/bin/true"))
	must.ErrorContains(t, err, "cannot run /nonexistent/runtime")
}
