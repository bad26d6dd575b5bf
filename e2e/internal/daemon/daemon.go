// Package daemon starts davitd on directories of its own, kills and restarts it, speaks CRI with it,
// and tells what it has left behind on the machine.
package daemon

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"davit.dev/e2e/internal/crikit"
	"davit.dev/e2e/internal/leaks"
	"davit.dev/e2e/internal/slowdown"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Options of a daemon.
type Options struct {
	Mirrors    map[string]string // registry host -> base URL of its mirror
	CNI        bool              // a pod network; without, there is none
	ConfigHead string            // further top-level keys of the configuration
	ConfigTail string            // further tables
	Wrapper    []string          // command in front of davitd, such as strace
	Env        []string
	Dist       string // directory of the binaries; "": $DAVIT_DIST
	LogLevel   string // "": debug
}

// A Daemon with its directories, network and cgroup. Not safe for use by several goroutines, except
// for the clients.
type Daemon struct {
	Dir          string // everything of this daemon is below it
	Root         string
	State        string
	Socket       string
	LogFile      string
	CgroupParent string
	NetnsDir     string
	ConfDir      string // CNI configuration
	Network      *Network
	Flags        []string // further arguments of davitd

	Runtime cri.RuntimeServiceClient
	Images  cri.ImageServiceClient
	Conn    *grpc.ClientConn

	options Options
	command *exec.Cmd
	pid     int
	ended   chan error
	gone    bool // davitd has ended, whatever wraps it has perhaps not

	mu   sync.Mutex
	pods []string // every pod that was made through Runtime
}

var instances atomic.Int64

// New makes the directories and the configuration, without starting anything.
func New(options Options) (*Daemon, error) {
	if options.Dist == "" {
		options.Dist = os.Getenv("DAVIT_DIST")
	}
	if options.Dist == "" {
		return nil, fmt.Errorf("DAVIT_DIST is not set: run the tests through e2e/run")
	}
	if options.LogLevel == "" {
		options.LogLevel = "debug"
	}
	// Short, because each pod's directory, named by its id, holds a socket (107 bytes, man 7 unix).
	dir := crikit.Unique("/tmp/dvt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	var err error
	d := &Daemon{
		Dir: dir, Root: dir + "/lib", State: dir + "/run", Socket: dir + "/davit.sock", LogFile: dir + "/davitd.log",
		CgroupParent: fmt.Sprintf("/davit-e2e-%d-%d", os.Getpid(), instances.Add(1)),
		NetnsDir:     dir + "/netns", ConfDir: dir + "/cni", options: options,
	}
	for _, path := range []string{d.Root, d.State, d.NetnsDir, d.ConfDir} {
		if err := os.Mkdir(path, 0o755); err != nil {
			return nil, err
		}
	}
	if options.CNI {
		if d.Network, err = newNetwork(dir, d.ConfDir); err != nil {
			return nil, err
		}
	}
	return d, d.WriteConfig(options.Mirrors, options.ConfigHead, options.ConfigTail)
}

// ConfigFile is where the configuration is.
func (d *Daemon) ConfigFile() string { return d.Dir + "/config.toml" }

// WriteConfig writes the configuration that the next start reads.
func (d *Daemon) WriteConfig(mirrors map[string]string, head, tail string) error {
	return d.writeConfig(mirrors, head, "", tail)
}

// WriteConfigCNI is WriteConfig with further keys of the table [cni].
func (d *Daemon) WriteConfigCNI(keys string) error { return d.writeConfig(nil, "", keys, "") }

func (d *Daemon) writeConfig(mirrors map[string]string, head, cni, tail string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "root = %q\nstate = %q\nlisten = %q\nhelper_dir = %q\n", d.Root, d.State, d.Socket, d.options.Dist)
	fmt.Fprintf(&b, "cgroup_parent = %q\nnetns_dir = %q\nlog_level = %q\n%s\n", d.CgroupParent, d.NetnsDir, d.options.LogLevel, head)
	fmt.Fprintf(&b, "[cni]\nconf_dir = %q\n%s", d.ConfDir, cni)
	for host, mirror := range mirrors {
		fmt.Fprintf(&b, "[registries.%q]\nmirrors = [%q]\n", host, mirror)
	}
	return os.WriteFile(d.ConfigFile(), []byte(b.String()+tail), 0o644)
}

// Binary is the path of one of the built programs.
func (d *Daemon) Binary(name string) string { return filepath.Join(d.options.Dist, name) }

// Args are davitd's arguments.
func (d *Daemon) Args() []string {
	return append([]string{"--config", d.ConfigFile()}, d.Flags...)
}

// Start runs davitd and waits until it answers.
func (d *Daemon) Start() error {
	if err := d.Launch(); err != nil {
		return err
	}
	return d.awaitAnswer(slowdown.Of(20 * time.Second))
}

// Launch runs davitd and does not wait for it.
func (d *Daemon) Launch() error {
	log, err := os.OpenFile(d.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	argv := append(append([]string{}, d.options.Wrapper...), d.Binary("davitd"))
	argv = append(argv, d.Args()...)
	d.command = exec.Command(argv[0], argv[1:]...)
	d.command.Stdout, d.command.Stderr = log, log
	d.command.Env = append(os.Environ(), d.options.Env...)
	// In a process group of its own: a Ctrl-C at the test must not reach it before the clean-up does.
	d.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.command.Start(); err != nil {
		return err
	}
	d.ended, d.gone, d.pid = make(chan error, 1), false, 0
	go func(command *exec.Cmd, ended chan error) { ended <- command.Wait() }(d.command, d.ended)
	return d.connect()
}

func (d *Daemon) connect() error {
	if d.Conn != nil {
		return nil
	}
	conn, err := Dial("unix://"+d.Socket, grpc.WithUnaryInterceptor(d.rememberPods))
	if err != nil {
		return err
	}
	d.Conn = conn
	d.Runtime, d.Images = cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)
	return nil
}

// Dial connects to any CRI endpoint with the limits that the kubelet has.
func Dial(endpoint string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	return grpc.NewClient(endpoint, append(options,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond},
			MinConnectTimeout: time.Second}))...)
}

// rememberPods notes the ids of the pods that are made: their supervisors' cgroups bear them.
func (d *Daemon) rememberPods(ctx context.Context, method string, request, reply any,
	conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	err := invoke(ctx, method, request, reply, conn, options...)
	if response, ok := reply.(*cri.RunPodSandboxResponse); ok && err == nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.pods = append(d.pods, response.PodSandboxId)
	}
	return err
}

// awaitAnswer calls Version until there is an answer. Until the socket exists there is nothing to
// call: that, and the end of the process, are what is watched.
func (d *Daemon) awaitAnswer(limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for time.Now().Before(deadline) {
		select {
		case err := <-d.ended:
			d.ended <- err
			return fmt.Errorf("davitd ended at its start: %v\n%s", err, d.LogTail())
		default:
		}
		if _, err := os.Stat(d.Socket); err != nil {
			time.Sleep(2 * time.Millisecond)
			continue
		}
		d.Conn.ResetConnectBackoff()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err := d.Runtime.Version(ctx, &cri.VersionRequest{})
		cancel()
		if err == nil {
			d.pid, err = d.findPid()
			return err
		}
		time.Sleep(2 * time.Millisecond)
	}
	return fmt.Errorf("davitd does not answer within %v\n%s", limit, d.LogTail())
}

// findPid is the process of davitd itself, behind whatever wraps it.
func (d *Daemon) findPid() (int, error) {
	if len(d.options.Wrapper) == 0 {
		return d.command.Process.Pid, nil
	}
	// A wrapper may become davitd itself, or stay in front of it.
	for _, p := range leaks.Processes() {
		if p.Exe == d.Binary("davitd") && strings.Contains(p.Cmdline, d.ConfigFile()) {
			return p.Pid, nil
		}
	}
	return 0, fmt.Errorf("no davitd found behind %v", d.options.Wrapper)
}

// Pid of davitd.
func (d *Daemon) Pid() int { return d.pid }

// Running tells whether davitd lives.
func (d *Daemon) Running() bool {
	if d.ended == nil || d.gone {
		return false
	}
	select {
	case err := <-d.ended:
		d.ended <- err
		return false
	default:
		return true
	}
}

// Kill ends davitd with SIGKILL, as a crash does.
func (d *Daemon) Kill() error { return d.signalAndWait(syscall.SIGKILL, 10*time.Second) }

// Terminate asks davitd to stop, as systemd does. Pods go on.
func (d *Daemon) Terminate() error {
	return d.signalAndWait(syscall.SIGTERM, slowdown.Of(20*time.Second))
}

func (d *Daemon) signalAndWait(signal syscall.Signal, limit time.Duration) error {
	if !d.Running() {
		return nil
	}
	pid := d.pid
	if pid == 0 {
		pid = d.command.Process.Pid
	}
	if err := syscall.Kill(pid, signal); err != nil && err != syscall.ESRCH {
		return err
	}
	// Whatever wraps davitd may follow its children for longer than davitd lives.
	if pid != d.command.Process.Pid {
		err := d.awaitGone(pid, limit)
		d.gone = err == nil
		return err
	}
	select {
	case err := <-d.ended:
		d.ended <- err
		return nil
	case <-time.After(limit):
		return fmt.Errorf("davitd has not ended %v after %v\n%s", limit, signal, d.LogTail())
	}
}

func (d *Daemon) awaitGone(pid int, limit time.Duration) error {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err != nil ||
			strings.Contains(string(status), "State:\tZ") {
			return nil
		}
	}
	return fmt.Errorf("davitd (pid %d) has not ended within %v", pid, limit)
}

// LogTail is the end of davitd's log, for messages of failed tests.
func (d *Daemon) LogTail() string {
	data, err := os.ReadFile(d.LogFile)
	if err != nil {
		return err.Error()
	}
	if len(data) > 6000 {
		data = data[len(data)-6000:]
	}
	return string(data)
}

// Close removes all pods, stops davitd, and deletes what it and New made. What a broken daemon has
// left running is killed by process id.
func (d *Daemon) Close() error {
	var failures []string
	note := func(err error) {
		if err != nil {
			failures = append(failures, err.Error())
		}
	}
	if d.Running() {
		note(d.removePods())
		note(d.Terminate())
	}
	if d.Conn != nil {
		d.Conn.Close()
	}
	d.killLeftovers()
	if d.command != nil && d.command.Process != nil && d.Running() {
		d.command.Process.Kill()
	}
	d.unmountLeftovers()
	d.removeCgroups()
	if d.Network != nil {
		d.Network.Delete()
	}
	if os.Getenv("DAVIT_E2E_KEEP") == "" {
		note(os.RemoveAll(d.Dir))
	}
	if len(failures) > 0 {
		return fmt.Errorf("%s", strings.Join(failures, "; "))
	}
	return nil
}

func (d *Daemon) removePods() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	list, err := d.Runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	for _, pod := range list.Items {
		if _, err := d.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod.Id}); err != nil {
			return fmt.Errorf("remove pod %s: %w", pod.Id, err)
		}
	}
	return nil
}
