package daemon

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type process struct {
	pid     int
	exe     string
	cmdline string
	cgroups string
	environ string
}

// processes of this machine that can be looked at, without kernel threads and zombies.
func processes() []process {
	var all []process
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
		all = append(all, process{pid, exe, strings.ReplaceAll(string(cmdline), "\x00", " "), string(cgroups), string(environ)})
	}
	return all
}

// ours are the processes that belong to this daemon's pods: in its cgroups, or started on its
// directories.
func (d *Daemon) ours() []process {
	var ours []process
	for _, p := range processes() {
		if p.pid == d.pid && d.Running() {
			continue
		}
		if d.command != nil && d.command.Process != nil && p.pid == d.command.Process.Pid {
			continue
		}
		if strings.Contains(p.cgroups, d.CgroupParent+"/") || strings.Contains(p.cmdline, d.Dir+"/") ||
			strings.Contains(p.environ, d.Dir+"/run") || d.holdsOurFiles(p.pid) {
			ours = append(ours, p)
		}
	}
	return ours
}

// holdsOurFiles finds supervisors, which need not name their directory in their arguments.
func (d *Daemon) holdsOurFiles(pid int) bool {
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, d.State+"/") {
			return true
		}
	}
	return false
}

// Leftovers lists what pods can leave behind on the machine, sorted: processes, mounts, cgroups,
// network namespaces, addresses, links, directories. An idle daemon without pods has none.
func (d *Daemon) Leftovers() []string {
	var found []string
	for _, p := range d.ours() {
		found = append(found, fmt.Sprintf("process %d: %s (%s)", p.pid, p.cmdline, p.exe))
	}
	for _, point := range d.mounts() {
		if point == d.Root {
			continue
		}
		found = append(found, "mount "+point)
	}
	for _, group := range d.cgroups() {
		found = append(found, "cgroup "+group)
	}
	found = append(found, d.supervisorGroups()...)
	for what, pattern := range map[string]string{
		"network namespace": d.NetnsDir + "/*", "pod directory": d.State + "/pods/*",
		"container directory": d.Root + "/containers/*", "attachment": d.Root + "/cni/*",
		"staged layer": d.Root + "/images/staging/*", "trash": d.Root + "/trash/*",
	} {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			found = append(found, what+" "+path)
		}
	}
	if d.Network != nil {
		found = append(found, d.Network.leftovers()...)
	}
	sort.Strings(found)
	return found
}

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
func (d *Daemon) OpenFiles() int {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.pid))
	return len(entries)
}

// mounts of the host's mount namespace below this daemon's directories. A test may have mounted
// something on the root directory itself.
func (d *Daemon) mounts() []string {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	defer file.Close()
	var points []string
	for scanner := bufio.NewScanner(file); scanner.Scan(); {
		fields := strings.Fields(scanner.Text())
		if len(fields) > 4 && strings.HasPrefix(fields[4], d.Dir+"/") {
			points = append(points, fields[4])
		}
	}
	return points
}

// cgroups of pods in every hierarchy, deepest first. The parent itself may stay.
func (d *Daemon) cgroups() []string {
	var groups []string
	tops, _ := filepath.Glob("/sys/fs/cgroup/*" + d.CgroupParent)
	for _, top := range append(tops, "/sys/fs/cgroup"+d.CgroupParent) {
		filepath.WalkDir(top, func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() && path != top {
				groups = append(groups, path)
			}
			return nil
		})
	}
	sort.Sort(sort.Reverse(sort.StringSlice(groups)))
	return groups
}

// supervisorGroups are the groups of supervisors of pods that this daemon has had: they are beside
// davitd's own, not beneath the parent.
func (d *Daemon) supervisorGroups() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var found []string
	for _, id := range d.pods {
		for _, pattern := range []string{"/sys/fs/cgroup/davit-supervisors/", "/sys/fs/cgroup/*/davit-supervisors/",
			"/sys/fs/cgroup/*/davit-pod-", "/sys/fs/cgroup/*/*/davit-pod-", "/sys/fs/cgroup/*/*/*/davit-pod-"} {
			if paths, _ := filepath.Glob(pattern + id); len(paths) > 0 {
				found = append(found, "supervisor's cgroup "+paths[0])
			}
		}
	}
	return found
}

func (d *Daemon) killLeftovers() {
	for round := 0; round < 50; round++ {
		left := d.ours()
		if len(left) == 0 {
			return
		}
		for _, p := range left {
			syscall.Kill(p.pid, syscall.SIGKILL)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (d *Daemon) unmountLeftovers() {
	points := d.mounts()
	for i := len(points) - 1; i >= 0; i-- {
		syscall.Unmount(points[i], syscall.MNT_DETACH)
	}
}

func (d *Daemon) removeCgroups() {
	groups := d.cgroups()
	tops, _ := filepath.Glob("/sys/fs/cgroup/*" + d.CgroupParent)
	for _, group := range append(append(groups, tops...), "/sys/fs/cgroup"+d.CgroupParent) {
		os.Remove(group)
	}
}
