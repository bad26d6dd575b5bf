package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"davit.dev/e2e/internal/crikit"
	"davit.dev/e2e/internal/daemon"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const firstHostID = 300000

func mappings(host, length uint32) []*cri.IDMapping {
	return []*cri.IDMapping{{ContainerId: 0, HostId: host, Length: length}}
}

func userNamespace(host, length uint32) *cri.UserNamespace {
	return &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: mappings(host, length), Gids: mappings(host, length)}
}

// needsUserNamespaces skips the test where Status says that pods cannot have them.
func needsUserNamespaces(s *suite) {
	s.Helper()
	response, err := s.Runtime.Status(s.ctx(), &cri.StatusRequest{})
	s.must(err, "status")
	for _, handler := range response.RuntimeHandlers {
		if !handler.Features.UserNamespaces {
			s.Skip("no overlay of idmapped layers on this kernel")
		}
	}
}

func (s *suite) usernsPod(network cri.NamespaceMode) (string, *cri.PodSandboxConfig) {
	s.Helper()
	config := s.pod(network)
	config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = userNamespace(firstHostID, 65536)
	return s.runPod(config), config
}

func owner(t *testing.T, path string) (uid, gid uint32) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	stat := info.Sys().(*syscall.Stat_t)
	return stat.Uid, stat.Gid
}

func TestRootOfAPodWithAUserNamespaceIsNobodyOnTheNode(t *testing.T) {
	s := begin(t, daemon.Options{CNI: true})
	needsUserNamespaces(s)
	image := s.busybox()
	pod, podConfig := s.usernsPod(cri.NamespaceMode_POD)
	volume := s.Dir + "/volume"
	s.must(os.Mkdir(volume, 0o755), "make a volume")
	s.must(os.WriteFile(volume+"/mine", []byte("text"), 0o600), "write a file")
	s.must(os.Chown(volume+"/mine", 1000, 1000), "chown")
	config := crikit.Container("mapped", image, "sleep", "1000")
	config.Mounts = []*cri.Mount{
		{ContainerPath: "/mapped", HostPath: volume, UidMappings: mappings(firstHostID, 65536), GidMappings: mappings(firstHostID, 65536)},
		{ContainerPath: "/plain", HostPath: volume},
	}
	id := s.run(pod, podConfig, config)
	if got := strings.Fields(s.exec(id, "cat", "/proc/self/uid_map")); strings.Join(got, " ") != "0 300000 65536" {
		t.Errorf("uid_map: %q", got)
	}
	// Files of the image, the pod's own and a mapped volume's belong to whom they always do; an
	// unmapped volume's belong to nobody.
	for path, want := range map[string]string{"/": "0:0", "/bin/busybox": "0:0", "/etc/hosts": "0:0", "/etc/hostname": "0:0",
		"/etc/resolv.conf": "0:0", "/dev/shm": "0:0", "/mapped/mine": "1000:1000", "/plain/mine": "65534:65534"} {
		if got := strings.TrimSpace(s.exec(id, "stat", "-c", "%u:%g", path)); got != want {
			t.Errorf("%s belongs to %s, want %s", path, got, want)
		}
	}
	// What it writes to the volume is root's there, and its own id's in the writable layer.
	s.exec(id, "sh", "-c", "echo x > /mapped/new && echo x > /new && chown 7:8 /new && echo x >> /etc/passwd && echo y > /dev/stdout")
	if uid, gid := owner(t, volume+"/new"); uid != 0 || gid != 0 {
		t.Errorf("a file written to a mapped volume belongs to %d:%d", uid, gid)
	}
	uppers, err := filepath.Glob(s.Dir + "/lib/containers/*/upper")
	if err != nil || len(uppers) != 1 {
		t.Fatalf("writable layers: %v %v", uppers, err)
	}
	for path, want := range map[string][2]uint32{"": {firstHostID, firstHostID}, "/new": {firstHostID + 7, firstHostID + 8}, "/etc/passwd": {firstHostID, firstHostID}} {
		if uid, gid := owner(t, uppers[0]+path); uid != want[0] || gid != want[1] {
			t.Errorf("upper%s belongs to %d:%d, want %v", path, uid, gid, want)
		}
	}
	// Root in there may do to its own namespaces what its capabilities allow, and nothing to the node's.
	admin := crikit.Container("admin", image, "sh", "-c", "ip link set lo down && ip link set lo up && ! mount -t tmpfs x /sys/kernel")
	admin.Linux.SecurityContext.Capabilities.AddCapabilities = []string{"NET_ADMIN"}
	if got := s.awaitExit(s.run(pod, podConfig, admin)); got.ExitCode != 0 {
		t.Errorf("with NET_ADMIN: %v, %s", got, s.log(podConfig, admin))
	}
	response, err := s.Runtime.ExecSync(s.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"cat", "/plain/mine"}})
	s.must(err, "exec")
	if response.ExitCode == 0 {
		t.Error("a file of uid 1000 that nobody else may read was read")
	}
	if got := s.status(id).Mounts[0].UidMappings; len(got) != 1 || got[0].HostId != firstHostID {
		t.Errorf("status shows mappings %v", got)
	}
	// The exec path after a restart reads what it needs from disk.
	s.must(s.Terminate(), "stop davitd")
	s.must(s.Daemon.Start(), "start davitd again")
	if got := strings.Fields(s.exec(id, "cat", "/proc/self/uid_map")); strings.Join(got, " ") != "0 300000 65536" {
		t.Errorf("uid_map of an exec after a restart: %q", got)
	}
	second := crikit.Container("second", image, "true")
	if got := s.awaitExit(s.run(pod, podConfig, second)); got.ExitCode != 0 {
		t.Errorf("a container made after a restart: %v", got)
	}
}

func TestAUserNamespaceWorksWithTheNodesNetworkAPidNamespaceForAllAndAReadOnlyRoot(t *testing.T) {
	s := begin(t, daemon.Options{})
	needsUserNamespaces(s)
	image := s.busybox()
	pod, podConfig := s.usernsPod(cri.NamespaceMode_NODE)
	config := crikit.Container("host-network", image, "sleep", "1000")
	config.Linux = &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{ReadonlyRootfs: true,
		NamespaceOptions: podConfig.Linux.SecurityContext.NamespaceOptions}}
	id := s.run(pod, podConfig, config)
	if got := s.exec(id, "cat", "/proc/self/uid_map"); !strings.Contains(got, "300000") {
		t.Errorf("uid_map: %q", got)
	}
	node, err := os.Readlink("/proc/self/ns/net")
	s.must(err, "read the node's network namespace")
	if got := strings.TrimSpace(s.exec(id, "readlink", "/proc/self/ns/net")); got != node {
		t.Errorf("network namespace %s, want the node's, %s", got, node)
	}
	s.exec(id, "ls", "/sys/class/net")
	tty := crikit.Container("tty", image, "sh", "-c", "tty && stat -c %u $(tty)")
	tty.Tty = true
	s.awaitExit(s.run(pod, podConfig, tty))
	if got := strings.Fields(s.log(podConfig, tty)); len(got) != 2 || got[1] != "0" {
		t.Errorf("the terminal: %q", got)
	}
}

func TestUserNamespacesThatCannotBeAreRefused(t *testing.T) {
	s := begin(t, daemon.Options{})
	needsUserNamespaces(s)
	try := func(change func(*cri.NamespaceOption)) error {
		config := s.pod(cri.NamespaceMode_NODE)
		options := config.Linux.SecurityContext.NamespaceOptions
		options.UsernsOptions = userNamespace(firstHostID, 65536)
		change(options)
		_, err := s.Runtime.RunPodSandbox(s.ctx(), &cri.RunPodSandboxRequest{Config: config})
		return err
	}
	overlap := append(mappings(firstHostID, 65536), &cri.IDMapping{ContainerId: 10, HostId: firstHostID + 5, Length: 100})
	for name, change := range map[string]func(*cri.NamespaceOption){
		"overlap":  func(o *cri.NamespaceOption) { o.UsernsOptions.Uids, o.UsernsOptions.Gids = overlap, overlap },
		"unequal":  func(o *cri.NamespaceOption) { o.UsernsOptions.Gids = mappings(firstHostID+1, 65536) },
		"no root":  func(o *cri.NamespaceOption) { o.UsernsOptions.Uids[0].ContainerId = 1 },
		"empty":    func(o *cri.NamespaceOption) { o.UsernsOptions.Uids[0].Length = 0 },
		"too high": func(o *cri.NamespaceOption) { o.UsernsOptions.Uids[0].HostId = 4294967000 },
		"host ipc": func(o *cri.NamespaceOption) { o.Ipc = cri.NamespaceMode_NODE },
		"host pid": func(o *cri.NamespaceOption) { o.Pid = cri.NamespaceMode_NODE },
	} {
		t.Run(name, func(t *testing.T) { wantCode(t, try(change), codes.InvalidArgument, "ser") })
	}
	s.nothingLeft("refused pods")

	image := s.busybox()
	pod, podConfig := s.usernsPod(cri.NamespaceMode_NODE)
	config := crikit.Container("overlap", image, "true")
	config.Mounts = []*cri.Mount{{ContainerPath: "/v", HostPath: s.Dir, UidMappings: overlap, GidMappings: overlap}}
	_, err := s.tryCreate(pod, podConfig, config)
	wantCode(t, err, codes.InvalidArgument, "overlap", "/v")
	config.Mounts = []*cri.Mount{{ContainerPath: "/v", HostPath: "/proc", UidMappings: mappings(firstHostID, 65536), GidMappings: mappings(firstHostID, 65536)}}
	_, err = s.tryCreate(pod, podConfig, config)
	wantCode(t, err, codes.FailedPrecondition, "/proc", "id-map")
}
