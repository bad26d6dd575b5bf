package leaks

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

// OfPods lists what pods can leave behind on the machine, sorted: processes, mounts, cgroups,
// network namespaces, addresses, links, directories. A daemon without pods has none.
func (n Node) OfPods() []string {
	var found []string
	for _, p := range n.Processes() {
		found = append(found, p.String())
	}
	for _, point := range n.Mounts() {
		if point != n.Root { // a test may have mounted a file system of its own there
			found = append(found, "mount "+point)
		}
	}
	for _, group := range n.Cgroups() {
		found = append(found, "cgroup "+group)
	}
	found = append(found, n.supervisorGroups()...)
	found = append(found, matches(map[string]string{
		"network namespace": n.NetnsDir + "/*", "pod directory": n.State + "/pods/*",
		"container directory": n.Root + "/containers/*", "attachment": n.Root + "/cni/*",
		"staged layer": n.Root + "/images/staging/*", "trash": n.Root + "/trash/*", "image trash": n.Root + "/images/trash/*",
	})...)
	if n.Bridge != "" {
		found = append(found, matches(map[string]string{
			"leased address": n.Leases + "/" + n.Bridge + "/[0-9f]*", "link": "/sys/class/net/" + n.Bridge + "/brif/*",
		})...)
	}
	sort.Strings(found)
	return found
}

// OfImages lists what images have on disk, sorted; the store's layer 0, which is empty, is always there.
func (n Node) OfImages() []string {
	found := matches(map[string]string{
		"layer": n.Root + "/images/layers/*", "layer index": n.Root + "/images/layer-index/*",
		"blob": n.Root + "/images/oci/blobs/*/*",
	})
	found = slices.DeleteFunc(found, func(object string) bool { return object == "layer "+n.Root+"/images/layers/0" })
	sort.Strings(found)
	return found
}

func matches(patterns map[string]string) []string {
	var found []string
	for what, pattern := range patterns {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			// Set aside for a person, and nobody's leak.
			if filepath.Base(path) != "set-aside" {
				found = append(found, what+" "+path)
			}
		}
	}
	return found
}

// Mounts of the host's mount namespace below the node's directories.
func (n Node) Mounts() []string {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	defer file.Close()
	var points []string
	for scanner := bufio.NewScanner(file); scanner.Scan(); {
		fields := strings.Fields(scanner.Text())
		if len(fields) > 4 && strings.HasPrefix(fields[4], n.Dir+"/") {
			points = append(points, fields[4])
		}
	}
	return points
}

// CgroupTops are the directories of the node's cgroup parent, one in each hierarchy.
func (n Node) CgroupTops() []string {
	tops, _ := filepath.Glob("/sys/fs/cgroup/*" + n.CgroupParent)
	return append(tops, "/sys/fs/cgroup"+n.CgroupParent)
}

// Cgroups of pods in every hierarchy, deepest first. The parent itself may stay.
func (n Node) Cgroups() []string {
	var groups []string
	for _, top := range n.CgroupTops() {
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

// supervisorGroups are beside davitd's own group, not beneath the parent. The patterns are looked up
// once for all pods: there are hundreds of groups, and of pods.
func (n Node) supervisorGroups() []string {
	var found []string
	for _, pattern := range []string{"/sys/fs/cgroup/davit-supervisors/*", "/sys/fs/cgroup/unified/davit-supervisors/*",
		"/sys/fs/cgroup/davit-pod-*", "/sys/fs/cgroup/*/davit-pod-*", "/sys/fs/cgroup/*/*/davit-pod-*", "/sys/fs/cgroup/unified/*/*/davit-pod-*"} {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			if slices.Contains(n.Pods, strings.TrimPrefix(filepath.Base(path), "davit-pod-")) {
				found = append(found, "supervisor's cgroup "+path)
			}
		}
	}
	return found
}
