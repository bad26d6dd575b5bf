// Command bench measures a CRI runtime from outside, over its socket. tools/bench builds and runs it.
//
//	bench pods [--network host,cni] [--endpoint SOCKET] [--gap 200ms] [--floor PROGRAM] ...
//	bench recovery [--pods 200] [--rounds 7] [--network host]
//
// Without --endpoint it starts a davitd of its own from $DAVIT_DIST.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"davit.dev/e2e/internal/daemon"
	"davit.dev/e2e/internal/fakeregistry"
	"davit.dev/e2e/internal/leaks"
	"davit.dev/e2e/internal/ociimage"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// settings of a run, from the command line.
type settings struct {
	endpoint string
	image    string
	networks []cri.NamespaceMode
	pods     int
	warmUp   int
	execs    int
	resident int
	gap      time.Duration
	floor    string
	socket   string // path of the endpoint
}

// A bench is a runtime under measurement.
type bench struct {
	settings
	runtime cri.RuntimeServiceClient
	images  cri.ImageServiceClient
	daemon  *daemon.Daemon // nil with --endpoint
	logs    string
	fresh   int64 // PSS of the daemon before anything was asked of it
}

func main() {
	commands := map[string]func([]string) error{"pods": run, "recovery": recovery}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: bench pods|recovery [OPTION...]")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse(args []string) (settings, error) {
	var s settings
	flags := flag.NewFlagSet("bench pods", flag.ExitOnError)
	flags.StringVar(&s.endpoint, "endpoint", "", "socket of a CRI runtime that runs already, such as unix:///run/containerd/containerd.sock")
	flags.StringVar(&s.image, "image", "", "image that has sleep and true; default: busybox, from a registry of the bench's own on loopback")
	networks := flags.String("network", "host,cni", "host, cni or both")
	flags.IntVar(&s.pods, "pods", 40, "pods to measure, one after the other")
	flags.IntVar(&s.warmUp, "warm-up", 5, "pods before those")
	flags.IntVar(&s.execs, "execs", 300, "ExecSync calls to measure, back to back; 0: none")
	flags.IntVar(&s.resident, "resident", 50, "pods to run at a time while memory is measured; 0: no memory")
	flags.DurationVar(&s.gap, "gap", 0, "idle time before every call, as between a kubelet's")
	flags.StringVar(&s.floor, "floor", "", "program that does only the system calls that a pod cannot do without")
	flags.Parse(args)
	for _, name := range strings.Split(*networks, ",") {
		switch name {
		case "host":
			s.networks = append(s.networks, cri.NamespaceMode_NODE)
		case "cni":
			s.networks = append(s.networks, cri.NamespaceMode_POD)
		default:
			return s, fmt.Errorf("--network: %q is neither host nor cni", name)
		}
	}
	if s.endpoint != "" && !strings.HasPrefix(s.endpoint, "unix://") {
		s.endpoint = "unix://" + s.endpoint
	}
	return s, nil
}

func run(args []string) error {
	s, err := parse(args)
	if err != nil {
		return err
	}
	b := &bench{settings: s}
	if b.logs, err = os.MkdirTemp("/tmp", "davit-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.logs)
	if err := b.connect(); err != nil {
		return err
	}
	if b.daemon != nil {
		defer b.daemon.Close()
	}
	if err := b.pull(); err != nil {
		return err
	}
	if b.floor != "" {
		out, err := exec.Command(b.floor, fmt.Sprint(b.pods)).CombinedOutput()
		fmt.Printf("The floor, in the same minute: system calls that a pod cannot do without\n%s\n", out)
		if err != nil {
			return fmt.Errorf("%s: %w", b.floor, err)
		}
	}
	for _, network := range b.networks {
		if err := b.latencies(network); err != nil {
			return err
		}
	}
	if b.resident > 0 {
		return b.memory(b.networks[0])
	}
	return nil
}

func (b *bench) connect() error {
	var conn *grpc.ClientConn
	if b.endpoint != "" {
		var err error
		if conn, err = daemon.Dial(b.endpoint); err != nil {
			return err
		}
		b.socket = strings.TrimPrefix(b.endpoint, "unix://")
	} else {
		// What users run logs at level info: so does what is measured.
		d, err := daemon.New(daemon.Options{CNI: true, LogLevel: "info"})
		if err != nil {
			return err
		}
		b.daemon = d
		if err := d.Start(); err != nil {
			d.Close()
			return err
		}
		conn, b.socket = d.Conn, d.Socket
	}
	b.runtime, b.images = cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)
	version, err := b.runtime.Version(context(), &cri.VersionRequest{})
	if err != nil {
		return err
	}
	fmt.Printf("%s %s\n\n", version.RuntimeName, version.RuntimeVersion)
	pid, err := daemon.PeerPid(b.socket)
	if err != nil {
		return err
	}
	b.fresh, err = leaks.PSS(pid)
	return err
}

// pull makes sure that the image is there, and leaves its id in b.image.
func (b *bench) pull() error {
	if b.image == "" {
		busybox, err := ociimage.Busybox()
		if err != nil {
			return err
		}
		document, err := busybox.Build()
		if err != nil {
			return err
		}
		registry := fakeregistry.New(false)
		defer registry.Close()
		b.image = registry.Add("library/busybox", "latest", document)
	}
	response, err := b.images.PullImage(context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: b.image}})
	if err != nil {
		return fmt.Errorf("pull %s: %w", b.image, err)
	}
	b.image = response.ImageRef
	return nil
}
