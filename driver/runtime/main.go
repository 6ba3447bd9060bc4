package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"syscall"

	_ "github.com/opencontainers/cgroups/devices" // Without it libcontainer can't enforce device rules.
	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // The C half of a sandbox's init.
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"pangaea/driver/signals"
)

// version is set by the linker.
var version = "dev"

// init is libcontainer's: it starts this program again inside the new namespaces, and its own code must run
// before anything else does.
func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		// The supervisor has none of its helpers use huge pages; the program that this process becomes may.
		_ = unix.Prctl(unix.PR_SET_THP_DISABLE, 0, 0, 0, 0)
		runtime.GOMAXPROCS(1)
		runtime.LockOSThread()
		libcontainer.Init()
	}
}

// options are the command line; which of them matter depends on the verb.
type options struct {
	root, log               string
	bundle, pidFile, cpuset string
	userns                  string
	process, consoleSocket  string
	control                 int
	tty, force              bool
}

// Exit codes of a failed exec follow the shells' habit.
const (
	exitFailed     = 1
	exitUsage      = 2
	exitCannotExec = 126
	exitNotFound   = 127
)

func main() {
	// What an exec runs inherits this; what create runs gets the same from libcontainer.
	syscall.Umask(0o022)
	signals.Heed()
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "pangaea-runtime:", err)
		// Standard error may be the sandbox's; the shim reads the log.
		if logrus.StandardLogger().Out != os.Stderr {
			logrus.Error(brief(err))
		}
	}
	os.Exit(code)
}

const (
	// maxLog is from where on the log begins anew. There is one for all of a task's execs, and a health check that fails
	// is one every few seconds.
	maxLog = 1 << 20
	// maxMessage bounds one message: it may name a program, and a tenant may name that as he likes.
	maxMessage = 4096
)

func brief(err error) string {
	text := err.Error()
	return strings.ToValidUTF8(text[:min(len(text), maxMessage)], "?")
}

func run(args []string) (int, error) {
	var opts options
	global := newFlags("pangaea-runtime", &opts)
	err := global.Parse(args)
	if err != nil {
		return exitUsage, err
	}
	if global.NArg() == 0 {
		return exitUsage, errors.New("say what to do: create, start, exec, kill, delete, state or version")
	}
	err = logTo(opts.log)
	if err != nil {
		return exitFailed, err
	}
	verb, rest := global.Arg(0), global.Args()[1:]
	if verb == "wait" {
		return wait()
	}
	flags := newFlags(verb, &opts)
	err = flags.Parse(rest)
	if err != nil {
		return exitUsage, err
	}
	return dispatch(verb, flags.Args(), opts)
}

func newFlags(name string, opts *options) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.StringVar(&opts.root, "root", opts.root, "`directory` of the sandboxes' states")
	flags.StringVar(&opts.log, "log", opts.log, "`file` for log messages")
	flags.StringVar(&opts.bundle, "bundle", "", "OCI bundle's `directory`")
	flags.StringVar(&opts.pidFile, "pid-file", "", "`file` that gets the init's pid")
	flags.StringVar(&opts.cpuset, "cpuset", "", "cgroup v1 cpuset `directory` to run in")
	flags.StringVar(&opts.userns, "userns", "", "user namespace `file` with the sandbox's own mapping, for its id-mapped binds")
	flags.StringVar(&opts.process, "process", "", "OCI process `file` to run")
	flags.StringVar(&opts.consoleSocket, "console-socket", "", "unix `socket` that gets the terminal")
	flags.IntVar(&opts.control, "control", -1, "`descriptor` that says the pid and gets the word go")
	flags.BoolVar(&opts.tty, "tty", false, "give the process a terminal")
	flags.BoolVar(&opts.force, "force", false, "kill what still runs")
	return flags
}

// dispatch runs one verb. Each takes the sandbox's id first, as OCI runtimes do.
func dispatch(verb string, args []string, opts options) (int, error) {
	if verb == "version" {
		fmt.Println("pangaea-runtime", version, "libcontainer", libcontainerVersion())
		return 0, nil
	}
	if opts.root == "" || len(args) == 0 {
		return exitUsage, fmt.Errorf("%s needs --root and the sandbox's id", verb)
	}
	id := args[0]
	verbs := map[string]func() (int, error){
		"create": func() (int, error) { return failed(create(id, opts)) },
		"start":  func() (int, error) { return failed(start(id, opts)) },
		"exec":   func() (int, error) { return execIn(id, opts) },
		"kill":   func() (int, error) { return failed(kill(id, args[1:], opts)) },
		"delete": func() (int, error) { return failed(remove(id, opts)) },
		"state":  func() (int, error) { return failed(state(id, opts)) },
	}
	do, found := verbs[verb]
	if !found {
		return exitUsage, fmt.Errorf("%q is not one of create, start, exec, kill, delete, state, version", verb)
	}
	return do()
}

func failed(err error) (int, error) {
	if err != nil {
		return exitFailed, err
	}
	return 0, nil
}

// logTo sends libcontainer's messages to a file: standard error is the sandbox's.
func logTo(path string) error {
	logrus.SetLevel(logrus.WarnLevel)
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("cannot open the runtime's log: %w", err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil && size > maxLog {
		err = f.Truncate(0)
	}
	if err != nil {
		return fmt.Errorf("cannot begin the runtime's log anew: %w", err)
	}
	logrus.SetOutput(f)
	return nil
}
