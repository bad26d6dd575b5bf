// Package leaks counts what a davitd and its pods hold of the machine, so that a test can tell what
// is left when everything has been removed. It counts only what belongs to one davitd, by its
// directories, its cgroup, its network and its pods' ids: other daemons run beside it.
package leaks

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A Node is one davitd and where its things are.
type Node struct {
	Dir          string // all of its directories are below it
	Root         string
	State        string
	NetnsDir     string
	CgroupParent string   // beneath the mount point of each hierarchy
	Bridge       string   // "": no pod network
	Leases       string   // host-local's directory of the network
	Pods         []string // ids of all pods that it has ever had: their supervisors' cgroups bear them
	Daemon       int      // process id of davitd; 0: it does not run
	Ignored      []int    // processes that are nobody's: a wrapper of davitd
}

// A Process that can be looked at: kernel threads and zombies cannot.
type Process struct {
	Pid     int
	Exe     string
	Cmdline string
	cgroups string
	environ string
}

func (p Process) String() string { return fmt.Sprintf("process %d: %s (%s)", p.Pid, p.Cmdline, p.Exe) }

// Processes of this machine, without the caller's own.
func Processes() []Process {
	var all []Process
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		exe, err := os.Readlink(dir + "/exe")
		if err != nil || pid == os.Getpid() {
			continue
		}
		cmdline, _ := os.ReadFile(dir + "/cmdline")
		cgroups, _ := os.ReadFile(dir + "/cgroup")
		environ, _ := os.ReadFile(dir + "/environ")
		all = append(all, Process{pid, exe, strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " ")),
			string(cgroups), string(environ)})
	}
	return all
}

// Processes that belong to the node's pods: in its cgroups, or started on its directories.
func (n Node) Processes() []Process {
	var ours []Process
	for _, p := range Processes() {
		if (n.Daemon != 0 && p.Pid == n.Daemon) || slices.Contains(n.Ignored, p.Pid) {
			continue
		}
		if strings.Contains(p.cgroups, n.CgroupParent+"/") || strings.Contains(p.Cmdline, n.Dir+"/") ||
			strings.Contains(p.environ, n.Dir+"/run") || n.holdsOurFiles(p) {
			ours = append(ours, p)
		}
	}
	return ours
}

// holdsOurFiles finds programs of ours that do not name their directory in their arguments. To look at
// the files of every process of a busy machine would take seconds.
func (n Node) holdsOurFiles(p Process) bool {
	if !strings.HasPrefix(p.Cmdline, "davit-pod ") && !strings.Contains(p.Exe, "davit") {
		return false
	}
	for _, target := range Descriptors(p.Pid) {
		if strings.HasPrefix(target, n.Dir+"/") {
			return true
		}
	}
	return false
}

// Supervisors by the id of their pod.
func (n Node) Supervisors() map[string]int {
	found := map[string]int{}
	for _, p := range Processes() {
		// One that was upgraded has further arguments.
		if fields := strings.Fields(p.Cmdline); len(fields) > 1 && fields[0] == "davit-pod" && n.holdsOurFiles(p) {
			found[fields[1]] = p.Pid
		}
	}
	return found
}

// Descriptors are the targets of a process's open files; what has a number of its own, such as a
// socket, is told without it, so that two lists can be compared.
func Descriptors(pid int) []string {
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	var targets []string
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil {
			continue
		}
		if kind, _, ok := strings.Cut(target, ":["); ok {
			target = kind
		}
		targets = append(targets, target)
	}
	slices.Sort(targets)
	return targets
}

// MoreDescriptors tells what the second list has more of: "2 more socket, 1 more /a/file".
func MoreDescriptors(before, after []string) string {
	count := map[string]int{}
	for _, target := range before {
		count[target]--
	}
	for _, target := range after {
		count[target]++
	}
	var more []string
	for target, n := range count {
		if n > 0 {
			more = append(more, fmt.Sprintf("%d more %s", n, target))
		}
	}
	slices.Sort(more)
	return strings.Join(more, ", ")
}
