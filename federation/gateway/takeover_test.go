package gateway

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"pangaea/federation/state"
	"pangaea/federation/state/statetest"
)

// gatewayProcess names the configuration of a gateway that this test's program is to run.
const gatewayProcess = "PANGAEA_TEST_GATEWAY"

// startProcess runs a gateway in a process of its own.
func startProcess(t *testing.T, file string) (*exec.Cmd, *syncBuffer) {
	t.Helper()
	program, err := os.Executable()
	must.NoError(t, err)
	log := &syncBuffer{}
	command := exec.Command(program)
	command.Env = append(os.Environ(), gatewayProcess+"="+file)
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must.NoError(t, command.Start())
	t.Cleanup(func() {
		if command.ProcessState == nil {
			_ = command.Process.Kill()
			_ = command.Wait()
		}
		if t.Failed() {
			t.Logf("killed gateway:\n%s", log.String())
		}
	})
	return command, log
}

// lag measures, until its result is asked for, how much time passed in which neither this process nor Consul did anything.
func lag(t *testing.T, consul *statetest.Consul) func() time.Duration {
	t.Helper()
	const step, prompt = 10 * time.Millisecond, 30 * time.Millisecond
	status := consul.Client(consul.Token).Status()
	ended, result := make(chan struct{}), make(chan time.Duration)
	go func() {
		var lost time.Duration
		for {
			select {
			case <-ended:
				result <- lost
				return
			default:
			}
			begun := time.Now()
			time.Sleep(step)
			_, _ = status.Leader()
			lost += max(0, time.Since(begun)-prompt)
		}
	}()
	return func() time.Duration {
		close(ended)
		return <-result
	}
}

// TestKilledLeader kills a leading gateway so that it cannot resign: another one, at other addresses, leads once Consul
// has ended the dead one's session, which is within twice the session's TTL, and has all jobs.
func TestKilledLeader(t *testing.T) {
	const ttl = 3 * time.Second
	consul := statetest.Start(t)
	tokenFile := filepath.Join(t.TempDir(), "token")
	must.NoError(t, os.WriteFile(tokenFile, []byte(consul.TokenFor("gateway", state.PolicyGateway())), 0o600))
	rules, err := state.PolicyUser("default")
	must.NoError(t, err)
	user := consul.TokenFor("user", rules)
	ports := statetest.FreePorts(t, 4)
	process, log := startProcess(t, configFile(t, consul, tokenFile, ports[:2], ttl))
	awaitLog(t, &realGateway{log: log}, "leading the pool")
	config, err := LoadConfig(configFile(t, consul, tokenFile, ports[2:], ttl))
	must.NoError(t, err)
	second := startReal(t, config, ports[2:])
	awaitLog(t, second, "gateway is up")
	output, _ := realCLI(t, second.http, user, "job", "run", "-detach", writeSpec(t))
	must.StrContains(t, output, "Job registration successful")
	must.StrNotContains(t, second.log.String(), "leading the pool")

	must.NoError(t, process.Process.Signal(syscall.SIGKILL))
	_ = process.Wait()
	begun, lagged := time.Now(), lag(t, consul)
	awaitLog(t, second, "leading the pool: jobs=1")
	took := time.Since(begun)
	lost := lagged()
	t.Logf("another gateway leads %s after the leader was killed, %s of which the machine had no time for us", took.Round(time.Millisecond), lost.Round(time.Millisecond))
	must.Less(t, 2*ttl+time.Second, took-lost) // a second for Consul's own timer and the lock's delay
	output, status := realCLI(t, second.http, user, "job", "status", "web")
	must.Eq(t, 0, status, must.Sprint(output))
	must.StrContains(t, output, "pending")
}
