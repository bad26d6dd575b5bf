package leaks

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func node(t *testing.T) Node {
	dir, err := os.MkdirTemp("/tmp", "lk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n := Node{Dir: dir, Root: dir + "/lib", State: dir + "/run", NetnsDir: dir + "/netns",
		CgroupParent: fmt.Sprintf("/davit-leaks-%d", os.Getpid()), Bridge: "none", Leases: dir + "/leases"}
	for _, path := range []string{n.Root + "/images/layers/0", n.Root + "/images/blobs", n.Root + "/containers", n.State + "/pods", n.NetnsDir, n.Leases + "/none"} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func sqlite(t *testing.T, n Node, statements string) {
	t.Helper()
	if out, err := exec.Command("sqlite3", n.Root+"/images/images.db", statements).CombinedOutput(); err != nil {
		t.Fatalf("sqlite3: %v\n%s", err, out)
	}
}

const tables = "CREATE TABLE images(a); CREATE TABLE names(a); CREATE TABLE manifests(a); CREATE TABLE layers(a); CREATE TABLE image_layers(a);"

func TestEachKindOfThingThatIsLeftIsNamed(t *testing.T) {
	n := node(t)
	sqlite(t, n, tables)
	before := n.Take()
	if more := before.More(n.Take()); len(more) > 0 {
		t.Fatalf("nothing was left, and yet: %q", more)
	}
	directories := []string{n.NetnsDir + "/davit-1", n.State + "/pods/1", n.Root + "/containers/1", n.Root + "/images/staging/1",
		n.Root + "/trash/1", n.Root + "/images/layers/7", n.Leases + "/none/10.0.0.1"}
	for _, path := range directories {
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mount := n.NetnsDir + "/davit-1"
	if err := syscall.Mount(mount, mount, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer syscall.Unmount(mount, syscall.MNT_DETACH)
	hierarchies, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	group := filepath.Dir(append(hierarchies, "/sys/fs/cgroup/cgroup.procs")[0]) + n.CgroupParent + "/pod"
	if err := os.MkdirAll(group, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(filepath.Dir(group))
	defer os.Remove(group)
	sleeper := exec.Command("sleep", "1000")
	sleeper.Env = append(os.Environ(), "WHOSE="+n.State)
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	defer sleeper.Wait()
	defer sleeper.Process.Kill()
	sqlite(t, n, "INSERT INTO layers VALUES(1); INSERT INTO layers VALUES(2)")

	more := strings.Join(before.More(n.Take()), "\n")
	for _, want := range append(directories, "mount "+mount, "cgroup "+group, fmt.Sprintf("process %d", sleeper.Process.Pid),
		"2 rows of the table layers") {
		if !strings.Contains(more, want) {
			t.Errorf("%s is not named in:\n%s", want, more)
		}
	}
}

func TestFilesAndMemoryOfTheDaemonAreComparedWithWhatTheyWere(t *testing.T) {
	before := Census{files: []string{"socket", "/dev/null"}, memory: 10 << 20}
	after := Census{files: []string{"socket", "socket", "pipe", "pipe", "/dev/null"}, memory: 11 << 20}
	if more := before.More(after); len(more) != 1 || !strings.Contains(more[0], "2 more pipe") {
		t.Errorf("got %q", more)
	}
	if more := before.More(Census{files: before.files, memory: 100 << 20}); len(more) != 1 || !strings.Contains(more[0], "memory") {
		t.Errorf("got %q", more)
	}
}

func TestADatabaseThatCannotBeReadIsSaid(t *testing.T) {
	n := node(t)
	if err := os.WriteFile(n.Root+"/images/images.db", []byte("this is no database"), 0o644); err != nil {
		t.Fatal(err)
	}
	if more := (Census{}).More(n.Take()); len(more) != 1 || !strings.Contains(more[0], "cannot be read") {
		t.Errorf("got %q", more)
	}
}
