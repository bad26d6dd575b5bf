package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"davit.dev/e2e/internal/daemon"
	"davit.dev/e2e/internal/leaks"
	"google.golang.org/grpc/codes"
)

// setOpenFiles sets the soft limit of a process's descriptors, and returns the one before.
func (b *faultBench) setOpenFiles(pid int, soft uint64) uint64 {
	var before syscall.Rlimit
	wanted := syscall.Rlimit{}
	get := func(set *syscall.Rlimit) {
		_, _, errno := syscall.Syscall6(syscall.SYS_PRLIMIT64, uintptr(pid), syscall.RLIMIT_NOFILE,
			uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(&before)), 0, 0)
		if errno != 0 {
			b.Fatalf("prlimit of process %d: %v", pid, errno)
		}
	}
	get(nil)
	wanted.Cur, wanted.Max = min(soft, before.Max), before.Max
	get(&wanted)
	return before.Cur
}

// limitWithFree is the limit that leaves a process `free` descriptors.
func limitWithFree(pid, free int) uint64 {
	used := map[int]bool{}
	links, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	for _, link := range links {
		number, _ := strconv.Atoi(link.Name())
		used[number] = true
	}
	limit := 0
	for left := free; left > 0 || used[limit]; limit++ {
		if !used[limit] {
			left--
		}
	}
	return uint64(limit)
}

// escalate tries an attempt with more and more of something, from nothing on, until it has passed
// three times.
func (b *faultBench) escalate(s scenario, most int, make func(amount int) fault) {
	passes, faults := 0, 0
	stride := 1
	if !allFaults() {
		stride = 4
	}
	for amount := 0; passes < 3; amount += stride {
		if amount > 2*most {
			b.Errorf("%s: still fails with %d", s.name, most)
			return
		}
		f := make(amount)
		failed := false
		disarm := f.disarm
		f.disarm = func() bool { disarm(); return true }
		f.mayPass = true
		counted := scenario{s.name, func(b *faultBench) attempt {
			a := s.attempt(b)
			act := a.act
			if a.retry == nil {
				a.retry = act
			}
			a.act = func() error { err := act(); failed = err != nil; return err }
			return a
		}}
		b.try(counted, f)
		if failed {
			passes = 0
			faults++
		} else {
			passes++
		}
	}
	if faults == 0 {
		b.Errorf("%s: the shortage was not felt at all", s.name)
	}
}

func TestFaultsByTooFewDescriptorsAreReportedAndLeaveNothing(t *testing.T) {
	b := beginFaults(t, daemon.Options{})
	short := []codes.Code{codes.ResourceExhausted}
	for _, test := range []struct {
		operation, program string
		pid                int
		codes              []codes.Code
	}{
		{"run pod", "davitd", b.Pid(), short},
		{"create container", "davitd", b.Pid(), short},
		// A request whose descriptors it cannot take ends the connection.
		{"create container", "davit-pod", b.supervisor(), append(short, codes.Unavailable)},
		{"pull image", "davitd", b.Pid(), short},
	} {
		b.escalate(scenarios[test.operation], 200, func(free int) fault {
			var before uint64
			return fault{operation: test.operation, step: test.program, kind: fmt.Sprintf("%d descriptors free", free),
				codes:  test.codes,
				arm:    func() { before = b.setOpenFiles(test.pid, limitWithFree(test.pid, free)) },
				disarm: func() bool { b.setOpenFiles(test.pid, before); return true },
			}
		})
	}
}

// supervisor is the process of the pod that containers are made in.
func (b *faultBench) supervisor() int {
	for _, p := range leaks.Processes() {
		if p.Cmdline == "davit-pod "+b.pod {
			return p.Pid
		}
	}
	b.Fatalf("pod %s has no supervisor", b.pod)
	return 0
}

// tinyDisk mounts a file system of a size over one of the daemon's directories.
func tinyDisk(t *testing.T, d *daemon.Daemon, path, options string) {
	t.Helper()
	if err := syscall.Mount("davit-faults", path, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(path, syscall.MNT_DETACH) })
}

// fill takes what a file system has, but for some pages.
func (b *faultBench) fill(directory string, pagesLeft int) func() {
	var st syscall.Statfs_t
	b.must(syscall.Statfs(directory, &st), "look at the disk")
	path := directory + "/.filler"
	file, err := os.Create(path)
	b.must(err, "fill the disk")
	defer file.Close()
	page := make([]byte, st.Bsize)
	for left := int(st.Bavail) - pagesLeft; left > 0; left-- {
		if _, err := file.Write(page); err != nil {
			break
		}
	}
	return func() { os.Remove(path) }
}

func TestFaultsByAFullStateDirectoryAreReportedAndLeaveNothing(t *testing.T) {
	b := faultsOnDisks(t, "size=4m", "")
	for _, name := range []string{"run pod", "create container"} {
		b.onFullDisk(name, b.State, "state directory", 100, 1)
	}
	// What ends something needs no room.
	for _, name := range []string{"stop container", "remove container", "stop pod", "remove pod", "remove image"} {
		b.endsOnFullDisk(name, b.State, "state directory")
	}
}

func TestFaultsByAFullRootDirectoryAreReportedAndLeaveNothing(t *testing.T) {
	b := faultsOnDisks(t, "", "size=64m")
	b.onFullDisk("pull image", b.Root, "root directory", 100, 31)
	// A writable layer is directories, which take no block here; and what ends something needs no room.
	for _, name := range []string{"create container", "stop container", "remove container", "stop pod", "remove pod"} {
		b.endsOnFullDisk(name, b.Root, "root directory")
	}
}

// faultsOnDisks begins with small disks for the state and root directories ("": none of its own).
func faultsOnDisks(t *testing.T, state, root string) *faultBench {
	t.Helper()
	b := &faultBench{suite: prepare(t, daemon.Options{})}
	if state != "" {
		tinyDisk(t, b.Daemon, b.State, state)
	}
	if root != "" {
		tinyDisk(t, b.Daemon, b.Root, root)
	}
	b.start()
	return b
}

func (b *faultBench) onFullDisk(name, directory, what string, most, stride int) {
	b.escalate(scenarios[name], most, func(amount int) fault {
		pages := amount * stride
		free := func() {}
		return fault{operation: name, step: what, kind: fmt.Sprintf("%d pages free", pages),
			codes:  []codes.Code{codes.ResourceExhausted},
			arm:    func() { free = b.fill(directory, pages) },
			disarm: func() bool { free(); return true },
		}
	})
}

func (b *faultBench) endsOnFullDisk(name, directory, what string) {
	free := func() {}
	s := scenarios[name]
	b.try(scenario{s.name, func(b *faultBench) attempt {
		a := s.attempt(b)
		act := a.act
		a.act = func() error {
			if err := act(); err != nil {
				b.Errorf("%s with a full %s: %v", name, what, err)
			}
			return nil
		}
		return a
	}}, fault{operation: name, step: what, kind: "full", mayPass: true,
		arm: func() { free = b.fill(directory, 0) }, disarm: func() bool { free(); return true }})
}

// groupOf is a cgroup of this daemon that has a file.
func (b *faultBench) groupOf(group, file string) string {
	for _, pattern := range []string{"/sys/fs/cgroup/*" + group, "/sys/fs/cgroup" + group} {
		paths, _ := filepath.Glob(pattern + "/" + file)
		if len(paths) > 0 {
			return filepath.Dir(paths[0])
		}
	}
	return ""
}

// setLimit writes a limit. Version 1 of cgroups refuses one below what is charged and cannot be reclaimed now:
// what is charged is the limit then.
func setLimit(file, value string) error {
	for i := 0; ; i++ {
		err := os.WriteFile(file, []byte(value), 0)
		if i == 10 || !errors.Is(err, syscall.EBUSY) {
			return err
		}
		usage, err := os.ReadFile(filepath.Dir(file) + "/memory.usage_in_bytes")
		if err != nil {
			return err
		}
		value = strings.TrimSpace(string(usage))
	}
}

func TestFaultsByLimitsOfACgroupAreReportedAndLeaveNothing(t *testing.T) {
	b := beginFaults(t, daemon.Options{})
	parent := b.CgroupParent
	for _, test := range []struct {
		operation, group, file string
		values                 []string
		codes                  []codes.Code
	}{
		{"create container", parent + "/" + b.pod, "pids.max", []string{"0", "1", "2"}, nil},
		{"create container", parent + "/" + b.pod, "cgroup.max.descendants", []string{"0"}, nil},
		{"run pod", parent, "cgroup.max.descendants", []string{"0"}, nil},
		{"run pod", parent, "cgroup.max.depth", []string{"0"}, nil},
		{"create container", parent + "/" + b.pod, "memory.max", []string{"0", "65536"}, nil},
		{"create container", parent + "/" + b.pod, "memory.limit_in_bytes", []string{"65536"}, nil},
	} {
		for _, value := range test.values {
			directory := b.groupOf(test.group, test.file)
			if directory == "" {
				continue // of the other version of cgroups
			}
			file := directory + "/" + test.file
			old, err := os.ReadFile(file)
			b.must(err, "read a limit")
			b.try(scenarios[test.operation], fault{
				operation: test.operation, step: "cgroup", kind: test.file + " " + value, codes: test.codes, mayPass: true,
				arm: func() { b.must(setLimit(file, value), "set a limit") },
				disarm: func() bool {
					b.must(os.WriteFile(file, []byte(strings.TrimSpace(string(old))), 0), "lift a limit")
					return true
				},
			})
		}
	}
}
