package daemon

import (
	"os"
	"slices"
	"syscall"
	"time"

	"davit.dev/e2e/internal/leaks"
)

// Node is what the leak counter has to know of this daemon as it is now.
func (d *Daemon) Node() leaks.Node {
	node := leaks.Node{Dir: d.Dir, Root: d.Root, State: d.State, NetnsDir: d.NetnsDir, CgroupParent: d.CgroupParent}
	if d.Network != nil {
		node.Bridge, node.Leases = d.Network.Bridge, d.Network.leases
	}
	d.mu.Lock()
	node.Pods = slices.Clone(d.pods)
	d.mu.Unlock()
	if d.Running() {
		node.Daemon = d.pid
	}
	if d.command != nil && d.command.Process != nil {
		node.Ignored = []int{d.command.Process.Pid}
	}
	return node
}

// Leftovers lists what pods have left behind on the machine, sorted. An idle daemon without pods has
// none.
func (d *Daemon) Leftovers() []string { return d.Node().OfPods() }

// AwaitClean returns what is still left after the grace that removal in the background has.
func (d *Daemon) AwaitClean(limit time.Duration) []string {
	deadline := time.Now().Add(limit)
	for {
		left := d.Leftovers()
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// OpenFiles counts the descriptors of davitd.
func (d *Daemon) OpenFiles() int { return len(leaks.Descriptors(d.pid)) }

func (d *Daemon) killLeftovers() {
	for round := 0; round < 50; round++ {
		left := d.Node().Processes()
		if len(left) == 0 {
			return
		}
		for _, p := range left {
			syscall.Kill(p.Pid, syscall.SIGKILL)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (d *Daemon) unmountLeftovers() {
	points := d.Node().Mounts()
	for i := len(points) - 1; i >= 0; i-- {
		syscall.Unmount(points[i], syscall.MNT_DETACH)
	}
}

func (d *Daemon) removeCgroups() {
	node := d.Node()
	for _, group := range append(node.Cgroups(), node.CgroupTops()...) {
		os.Remove(group)
	}
}
