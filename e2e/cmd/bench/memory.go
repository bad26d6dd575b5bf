package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"davit.dev/e2e/internal/crikit"
	"davit.dev/e2e/internal/daemon"
	"davit.dev/e2e/internal/leaks"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// commands of all processes, by pid.
func commands() map[int]string {
	found := map[int]string{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if comm, err := os.ReadFile(dir + "/comm"); err == nil {
			found[pid] = strings.TrimSpace(string(comm))
		}
	}
	return found
}

// memory measures the daemon idle, and again with many pods, and the processes that came with those.
func (b *bench) memory(network cri.NamespaceMode) error {
	pid, err := daemon.PeerPid(b.socket)
	if err != nil {
		return err
	}
	idle, err := leaks.PSS(pid)
	if err != nil {
		return err
	}
	before := commands()
	began := time.Now()
	pods, err := b.startResidents(network)
	took := time.Since(began)
	if err == nil {
		err = b.reportMemory(pid, idle, before, took, network)
	}
	for _, pod := range pods {
		if _, removeErr := b.runtime.RemovePodSandbox(context(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err == nil {
			err = removeErr
		}
	}
	return err
}

func (b *bench) startResidents(network cri.NamespaceMode) ([]string, error) {
	var pods []string
	for range b.resident {
		podConfig := crikit.Pod(crikit.Unique("resident"), b.logs, network)
		config := crikit.Container("main", b.image, "sleep", "100000")
		run, err := b.runtime.RunPodSandbox(context(), &cri.RunPodSandboxRequest{Config: podConfig})
		if err != nil {
			return pods, err
		}
		pods = append(pods, run.PodSandboxId)
		create, err := b.runtime.CreateContainer(context(), &cri.CreateContainerRequest{PodSandboxId: run.PodSandboxId, Config: config, SandboxConfig: podConfig})
		if err != nil {
			return pods, err
		}
		if _, err := b.runtime.StartContainer(context(), &cri.StartContainerRequest{ContainerId: create.ContainerId}); err != nil {
			return pods, err
		}
	}
	return pods, nil
}

func (b *bench) reportMemory(pid int, idle int64, before map[int]string, took time.Duration, network cri.NamespaceMode) error {
	busy, err := leaks.PSS(pid)
	if err != nil {
		return err
	}
	count, total := map[string]int{}, map[string]int64{}
	for pid, comm := range commands() {
		if before[pid] == "" && comm != "sleep" {
			if size, err := leaks.PSS(pid); err == nil && size > 0 {
				count[comm]++
				total[comm] += size
			}
		}
	}
	fmt.Printf("Memory, PSS in MB, %d pods on %s, started one after the other in %.2f s\n", b.resident, networkName(network), took.Seconds())
	fmt.Printf("  %-28s%9.2f\n", "daemon at the beginning", mega(b.fresh))
	fmt.Printf("  %-28s%9.2f\n", "daemon after those pods", mega(idle))
	fmt.Printf("  %-28s%9.2f\n", "daemon with the pods", mega(busy))
	var names []string
	for name := range count {
		if count[name] >= b.resident/2 { // anything else came by chance
			names = append(names, name)
		}
	}
	sort.Strings(names)
	var perPod int64
	for _, name := range names {
		perPod += total[name]
		fmt.Printf("  %-28s%9.3f  mean of %d\n", name, mega(total[name])/float64(count[name]), count[name])
	}
	fmt.Printf("  %-28s%9.3f\n", "a pod, all but its payload", mega(perPod)/float64(b.resident))
	return nil
}

func mega(bytes int64) float64 { return float64(bytes) / 1e6 }
