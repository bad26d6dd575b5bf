package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"davit.dev/e2e/internal/crikit"
	"davit.dev/e2e/internal/leaks"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var recoveryRows = []string{"socket accepts", "first answer", "first list, complete", "all supervisors connected",
	"CPU time of davitd until then"}

// recovery kills davitd with many pods and measures, from the start of the next one, until it is there.
func recovery(args []string) error {
	flags := flag.NewFlagSet("bench recovery", flag.ExitOnError)
	pods := flags.Int("pods", 200, "pods, each with one container")
	rounds := flags.Int("rounds", 7, "kills")
	network := flags.String("network", "host", "host or cni")
	flags.Parse(args)
	mode := cri.NamespaceMode_NODE
	if *network == "cni" {
		mode = cri.NamespaceMode_POD
	}
	b := &bench{}
	var err error
	if b.logs, err = os.MkdirTemp("/tmp", "davit-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.logs)
	if err := b.connect(); err != nil {
		return err
	}
	defer b.daemon.Close()
	if err := b.pull(); err != nil {
		return err
	}
	if err := b.startMany(*pods, mode); err != nil {
		return err
	}
	t := table{}
	for range *rounds {
		if err := b.recover(t, *pods); err != nil {
			return err
		}
	}
	fmt.Printf("%-32s%9s%9s   ms after the start of davitd, %d pods on %s, %d times killed\n", "Recovery", "p50", "max", *pods, networkName(mode), *rounds)
	for _, row := range recoveryRows {
		fmt.Printf("  %-30s%9.1f%9.1f\n", row, t[row].percentile(50), t[row].percentile(100))
	}
	if memory, err := leaks.PSS(b.daemon.Pid()); err == nil {
		fmt.Printf("  %-30s%9.2f            MB PSS\n", "davitd afterwards", mega(memory))
	}
	return nil
}

// startMany starts the pods, some at a time.
func (b *bench) startMany(pods int, network cri.NamespaceMode) error {
	const atATime = 8
	var group sync.WaitGroup
	errors := make(chan error, pods)
	turns := make(chan struct{}, atATime)
	for i := range pods {
		group.Add(1)
		go func() {
			defer group.Done()
			turns <- struct{}{}
			defer func() { <-turns }()
			errors <- b.startOne(fmt.Sprintf("%s/%d", b.logs, i), network)
		}()
	}
	group.Wait()
	close(errors)
	for err := range errors {
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) startOne(logs string, network cri.NamespaceMode) error {
	podConfig := crikit.Pod(crikit.Unique("recovery"), logs, network)
	config := crikit.Container("main", b.image, "sleep", "100000")
	if err := crikit.MakeLogDirectories(podConfig, config); err != nil {
		return err
	}
	pod, err := b.runtime.RunPodSandbox(context(), &cri.RunPodSandboxRequest{Config: podConfig})
	if err != nil {
		return err
	}
	container, err := b.runtime.CreateContainer(context(), &cri.CreateContainerRequest{PodSandboxId: pod.PodSandboxId, Config: config, SandboxConfig: podConfig})
	if err != nil {
		return err
	}
	_, err = b.runtime.StartContainer(context(), &cri.StartContainerRequest{ContainerId: container.ContainerId})
	return err
}

// recover kills and restarts once.
func (b *bench) recover(t table, pods int) error {
	d := b.daemon
	if err := d.Kill(); err != nil {
		return err
	}
	// The socket file of the one before is still there; nobody listens.
	began := time.Now()
	var group sync.WaitGroup
	var accepted, connected time.Duration
	group.Add(2)
	go func() { defer group.Done(); accepted = awaitSocket(d.Socket, began) }()
	go func() { defer group.Done(); connected = awaitConnections(d.State, pods, began) }()
	if err := d.Start(); err != nil {
		return err
	}
	answered := time.Since(began)
	if err := b.listAll(pods); err != nil {
		return err
	}
	listed := time.Since(began)
	group.Wait()
	if accepted == 0 || connected == 0 {
		return fmt.Errorf("no recovery within a minute")
	}
	for i, took := range []time.Duration{accepted, answered, listed, connected, cpuTime(d.Pid())} {
		t[recoveryRows[i]] = append(t[recoveryRows[i]], took)
	}
	return nil
}

func (b *bench) listAll(pods int) error {
	ready, err := b.runtime.ListPodSandbox(context(), &cri.ListPodSandboxRequest{
		Filter: &cri.PodSandboxFilter{State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}}})
	if err != nil {
		return err
	}
	running, err := b.runtime.ListContainers(context(), &cri.ListContainersRequest{
		Filter: &cri.ContainerFilter{State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}}})
	if err != nil {
		return err
	}
	if len(ready.Items) != pods || len(running.Containers) != pods {
		return fmt.Errorf("the first lists have %d ready pods and %d running containers, not %d", len(ready.Items), len(running.Containers), pods)
	}
	return nil
}

// cpuTime of a process in user and kernel mode (proc(5), stat: fields 14 and 15, in hundredths).
func cpuTime(pid int) time.Duration {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(after)
	if len(fields) < 13 {
		return 0
	}
	var user, system int
	fmt.Sscan(fields[11], &user)
	fmt.Sscan(fields[12], &system)
	return time.Duration(user+system) * 10 * time.Millisecond
}

func awaitSocket(path string, began time.Time) time.Duration {
	for time.Since(began) < time.Minute {
		if conn, err := net.Dial("unix", path); err == nil {
			took := time.Since(began)
			conn.Close()
			return took
		}
		time.Sleep(time.Millisecond)
	}
	return 0
}

// awaitConnections waits until every supervisor has accepted a connection: in /proc/net/unix an
// accepted socket has its listener's path, and the state 03.
func awaitConnections(state string, pods int, began time.Time) time.Duration {
	for time.Since(began) < time.Minute {
		sockets, _ := os.ReadFile("/proc/net/unix")
		took := time.Since(began)
		connected := 0
		for _, line := range strings.Split(string(sockets), "\n") {
			fields := strings.Fields(line)
			if len(fields) == 8 && fields[5] == "03" && strings.HasPrefix(fields[7], state+"/pods/") {
				connected++
			}
		}
		if connected >= pods {
			return took
		}
		time.Sleep(2 * time.Millisecond)
	}
	return 0
}
