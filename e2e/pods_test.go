package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"sort"
	"strings"
	"testing"
	"time"

	"davit.dev/e2e/internal/crikit"
	"davit.dev/e2e/internal/daemon"
	"davit.dev/e2e/internal/slowdown"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestAPodOnTheHostNetworkRunsAContainerToItsEnd(t *testing.T) {
	s := begin(t, daemon.Options{})
	image := s.busybox()
	pod, podConfig := s.hostPod()
	config := crikit.Container("main", image, "sh", "-c", "echo out; echo err >&2; cat /etc/hostname; exit 7")
	before := time.Now().UnixNano()
	id := s.run(pod, podConfig, config)
	got := s.awaitExit(id)

	if got.ExitCode != 7 || got.Reason != "Error" {
		t.Errorf("exit code %d, reason %q", got.ExitCode, got.Reason)
	}
	if got.CreatedAt < before || got.StartedAt < got.CreatedAt || got.FinishedAt < got.StartedAt || got.FinishedAt > time.Now().UnixNano() {
		t.Errorf("times out of order: created %d, started %d, finished %d", got.CreatedAt, got.StartedAt, got.FinishedAt)
	}
	if got.ImageId != image || got.ImageRef != image {
		t.Errorf("image_id %q, image_ref %q, want %q", got.ImageId, got.ImageRef, image)
	}
	hostname, _ := os.Hostname()
	// Two streams keep their own order, not that between them.
	lines := strings.Split(s.log(podConfig, config), "\n")
	sort.Strings(lines)
	want := []string{"", "err", "out", hostname}
	sort.Strings(want)
	if strings.Join(lines, "\n") != strings.Join(want, "\n") {
		t.Errorf("log: %q", lines)
	}

	status, err := s.Runtime.PodSandboxStatus(s.ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: pod, Verbose: true})
	s.must(err, "pod status")
	if status.Status.State != cri.PodSandboxState_SANDBOX_READY || status.Status.GetNetwork().GetIp() != "" {
		t.Errorf("state %v, network %v", status.Status.State, status.Status.Network)
	}
	if status.Info["info"] == "" {
		t.Errorf("verbose status without info: %v", status.Info)
	}
	s.removeAllPods()
	s.nothingLeft("removing the pod")
}

func TestAPodGetsAddressesFromCNIAndGivesThemBack(t *testing.T) {
	s := begin(t, daemon.Options{CNI: true})
	image := s.busybox()
	podConfig := s.pod(cri.NamespaceMode_POD)
	pod := s.runPod(podConfig)
	config := crikit.Container("web", image, "sh", "-c", "mkdir /www && echo served > /www/index.html && exec httpd -f -p 80 -h /www")
	id := s.run(pod, podConfig, config)

	status, err := s.Runtime.PodSandboxStatus(s.ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	s.must(err, "pod status")
	network := status.Status.Network
	subnet := netip.MustParsePrefix(s.Network.Subnet)
	address, err := netip.ParseAddr(network.GetIp())
	if err != nil || !subnet.Contains(address) {
		t.Fatalf("pod address %q is not in %v", network.GetIp(), subnet)
	}
	if len(network.AdditionalIps) != 1 || !strings.HasPrefix(network.AdditionalIps[0].Ip, "fd00:") {
		t.Errorf("no second address of the other family: %v", network)
	}
	if answer := httpGet(t, network.Ip); !strings.HasSuffix(answer, "served\n") {
		t.Errorf("the pod answers %q", answer)
	}
	if links := s.exec(id, "ip", "-o", "link"); !strings.Contains(links, "eth0") || !strings.Contains(links, "lo: <LOOPBACK,UP") {
		t.Errorf("links in the pod:\n%s", links)
	}
	if hosts := s.exec(id, "cat", "/etc/hosts"); !strings.Contains(hosts, "localhost") {
		t.Errorf("/etc/hosts: %q", hosts)
	}
	if resolv := s.exec(id, "cat", "/etc/resolv.conf"); !strings.Contains(resolv, "nameserver 10.96.0.10") || !strings.Contains(resolv, "search svc.cluster.local") {
		t.Errorf("/etc/resolv.conf: %q", resolv)
	}
	if name := strings.TrimSpace(s.exec(id, "hostname")); name != podConfig.Hostname {
		t.Errorf("hostname %q", name)
	}

	_, err = s.Runtime.StopPodSandbox(s.ctx(), &cri.StopPodSandboxRequest{PodSandboxId: pod})
	s.must(err, "stop pod")
	if left := s.Daemon.Leftovers(); strings.Contains(strings.Join(left, "\n"), "leased address") {
		t.Errorf("a stopped pod still has its address:\n%s", strings.Join(left, "\n"))
	}
	s.removeAllPods()
	s.nothingLeft("removing the pod")
}

// httpGet asks port 80 of an address, and keeps asking while nobody listens yet.
func httpGet(t *testing.T, ip string) string {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(ip, "80"), 2*time.Second)
		if err != nil {
			if time.Now().After(deadline) {
				t.Fatalf("nobody listens on port 80 of %s: %v", ip, err)
			}
			continue
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET / HTTP/1.0\r\n\r\n")
		var b strings.Builder
		buffer := make([]byte, 4096)
		for n := 0; err == nil; n, err = conn.Read(buffer) {
			b.Write(buffer[:n])
		}
		return b.String()
	}
}

func TestTwoContainersOfAPodShareItsNetworkAndIPCButNotTheirProcesses(t *testing.T) {
	s := begin(t, daemon.Options{CNI: true})
	image := s.busybox()
	podConfig := s.pod(cri.NamespaceMode_POD)
	pod := s.runPod(podConfig)
	one := s.run(pod, podConfig, crikit.Container("one", image, "sleep", "1000"))
	two := s.run(pod, podConfig, crikit.Container("two", image, "sleep", "1000"))
	for _, namespace := range []string{"net", "ipc", "uts"} {
		a := s.exec(one, "readlink", "/proc/1/ns/"+namespace)
		b := s.exec(two, "readlink", "/proc/1/ns/"+namespace)
		host, _ := os.Readlink("/proc/self/ns/" + namespace)
		if a != b || strings.TrimSpace(a) == host {
			t.Errorf("%s namespaces: %q, %q, host %q", namespace, a, b, host)
		}
	}
	for _, namespace := range []string{"pid", "mnt", "cgroup"} {
		if a, b := s.exec(one, "readlink", "/proc/1/ns/"+namespace), s.exec(two, "readlink", "/proc/1/ns/"+namespace); a == b {
			t.Errorf("both have the same %s namespace", namespace)
		}
	}
	s.exec(one, "sh", "-c", "echo shared > /dev/shm/x")
	if text := s.exec(two, "cat", "/dev/shm/x"); text != "shared\n" {
		t.Errorf("/dev/shm is not shared: %q", text)
	}
}

func TestAPodThatSharesItsProcessNamespaceHasAnInitOfItsOwn(t *testing.T) {
	s := begin(t, daemon.Options{})
	image := s.busybox()
	podConfig := s.pod(cri.NamespaceMode_NODE)
	podConfig.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	pod := s.runPod(podConfig)
	shared := func(name string) string {
		config := crikit.Container(name, image, "sleep", "1000")
		config.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
		return s.run(pod, podConfig, config)
	}
	one, two := shared("one"), shared("two")
	if a, b := s.exec(one, "readlink", "/proc/self/ns/pid"), s.exec(two, "readlink", "/proc/self/ns/pid"); a != b {
		t.Errorf("process namespaces differ: %q, %q", a, b)
	}
	if list := s.exec(one, "ps"); strings.Count(list, "sleep 1000") != 2 {
		t.Errorf("one container does not see the other's process:\n%s", list)
	}
	if capabilities := s.exec(one, "grep", "CapEff", "/proc/1/status"); !strings.Contains(capabilities, "0000000000000000") {
		t.Errorf("the pod's init has capabilities: %q", capabilities)
	}
}

func TestWithoutACNIConfigurationTheNetworkIsNotReadyAndHostNetworkPodsStillRun(t *testing.T) {
	s := begin(t, daemon.Options{})
	status, err := s.Runtime.Status(s.ctx(), &cri.StatusRequest{Verbose: true})
	s.must(err, "status")
	conditions := map[string]*cri.RuntimeCondition{}
	for _, c := range status.Status.Conditions {
		conditions[c.Type] = c
	}
	if c := conditions["NetworkReady"]; c == nil || c.Status || c.Reason == "" || c.Message == "" {
		t.Errorf("NetworkReady: %v", c)
	}
	if c := conditions["RuntimeReady"]; c == nil || !c.Status {
		t.Errorf("RuntimeReady: %v", c)
	}
	_, err = s.Runtime.RunPodSandbox(s.ctx(), &cri.RunPodSandboxRequest{Config: s.pod(cri.NamespaceMode_POD)})
	if err == nil {
		t.Error("a pod with a network of its own runs without any configuration")
	}
	s.nothingLeft("a pod that could not be given a network")
	s.hostPod()

	n := &daemon.Network{Bridge: "dvtcfg", Subnet: "10.207.1.0/24"}
	s.must(n.WriteConfig(s.ConfDir), "write a CNI configuration")
	deadline := time.Now().Add(5 * time.Second)
	for ready := false; !ready; time.Sleep(10 * time.Millisecond) {
		status, err := s.Runtime.Status(s.ctx(), &cri.StatusRequest{})
		s.must(err, "status")
		for _, c := range status.Status.Conditions {
			ready = ready || c.Type == "NetworkReady" && c.Status
		}
		if time.Now().After(deadline) {
			t.Fatal("a configuration that appears is not noticed")
		}
	}
}

func TestAContainerIsListedByEveryFilterAndByThePrefixOfItsID(t *testing.T) {
	s := begin(t, daemon.Options{})
	image := s.busybox()
	pod, podConfig := s.hostPod()
	config := crikit.Container("listed", image, "sleep", "1000")
	config.Labels["colour"] = "green"
	config.Annotations = map[string]string{"note": "kept"}
	id := s.create(pod, podConfig, config)
	for name, filter := range map[string]*cri.ContainerFilter{
		"none": nil, "id": {Id: id}, "prefix": {Id: id[:12]}, "pod": {PodSandboxId: pod},
		"state":  {State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_CREATED}},
		"labels": {LabelSelector: map[string]string{"colour": "green"}},
	} {
		list, err := s.Runtime.ListContainers(s.ctx(), &cri.ListContainersRequest{Filter: filter})
		s.must(err, "list")
		if len(list.Containers) != 1 || list.Containers[0].Id != id || list.Containers[0].Annotations["note"] != "kept" {
			t.Errorf("filter %s: %v", name, list.Containers)
		}
	}
	for name, filter := range map[string]*cri.ContainerFilter{
		"other id": {Id: strings.Repeat("0", 64)}, "other label": {Id: id, LabelSelector: map[string]string{"colour": "red"}},
		"other state": {Id: id, State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}},
	} {
		list, err := s.Runtime.ListContainers(s.ctx(), &cri.ListContainersRequest{Filter: filter})
		s.must(err, "list")
		if len(list.Containers) != 0 {
			t.Errorf("filter %s: %v", name, list.Containers)
		}
	}
	if got := s.status(id[:10]); got.Id != id {
		t.Errorf("status by prefix: %q", got.Id)
	}
}

func TestStopSendsTheStopSignalAndKillsWhenTheTimeIsUp(t *testing.T) {
	s := begin(t, daemon.Options{})
	image := s.busybox()
	pod, podConfig := s.hostPod()
	polite := s.run(pod, podConfig, crikit.Container("polite", image, "sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.01; done"))
	stubborn := s.run(pod, podConfig, crikit.Container("stubborn", image, "sh", "-c", "trap '' TERM; while :; do sleep 0.01; done"))
	// A trap is set once the shell has run: the first command it executes comes after.
	for _, id := range []string{polite, stubborn} {
		for strings.Contains(s.exec(id, "grep", "SigBlk\\|SigIgn\\|SigCgt", "/proc/1/status"), "SigCgt:\t0000000000000000") && id == polite {
			time.Sleep(5 * time.Millisecond)
		}
	}
	_, err := s.Runtime.StopContainer(s.ctx(), &cri.StopContainerRequest{ContainerId: polite, Timeout: 30})
	s.must(err, "stop")
	if got := s.status(polite); got.State != cri.ContainerState_CONTAINER_EXITED || got.ExitCode != 3 {
		t.Errorf("polite container: %v, exit code %d", got.State, got.ExitCode)
	}
	_, err = s.Runtime.StopContainer(s.ctx(), &cri.StopContainerRequest{ContainerId: stubborn, Timeout: 1})
	s.must(err, "stop")
	if got := s.status(stubborn); got.State != cri.ContainerState_CONTAINER_EXITED || got.ExitCode != 137 {
		t.Errorf("stubborn container: %v, exit code %d", got.State, got.ExitCode)
	}
	_, err = s.Runtime.StopContainer(s.ctx(), &cri.StopContainerRequest{ContainerId: stubborn, Timeout: 1})
	s.must(err, "stop again")
}

func TestExecSyncTellsStreamsAndExitCodeAndKillsWhatIsTooSlow(t *testing.T) {
	s := begin(t, daemon.Options{})
	image := s.busybox()
	pod, podConfig := s.hostPod()
	id := s.run(pod, podConfig, crikit.Container("main", image, "sleep", "1000"))
	response, err := s.Runtime.ExecSync(s.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "echo a; echo b >&2; exit 5"}})
	s.must(err, "exec")
	if string(response.Stdout) != "a\n" || string(response.Stderr) != "b\n" || response.ExitCode != 5 {
		t.Errorf("answer: %v", response)
	}
	_, err = s.Runtime.ExecSync(s.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "sleep 4321 & sleep 4321"}, Timeout: 1})
	wantCode(t, err, codes.DeadlineExceeded)
	if list := s.exec(id, "ps"); strings.Contains(list, "4321") {
		t.Errorf("processes of the command that was too slow live on:\n%s", list)
	}
	began := time.Now()
	response, err = s.Runtime.ExecSync(s.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "sleep 60 & echo done"}, Timeout: 30})
	s.must(err, "exec with a descendant that keeps the pipe open")
	if string(response.Stdout) != "done\n" || time.Since(began) > slowdown.Of(5*time.Second) {
		t.Errorf("answer %q after %v", response.Stdout, time.Since(began))
	}
	response, err = s.Runtime.ExecSync(s.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "yes | head -c 30000000"}})
	s.must(err, "exec with more output than a message holds")
	if response.ExitCode != 0 || len(response.Stdout) < 1<<20 {
		t.Errorf("exit code %d, %d bytes", response.ExitCode, len(response.Stdout))
	}
}

func TestALogThatIsRotatedGoesOnInTheNewFileWithoutAGap(t *testing.T) {
	s := begin(t, daemon.Options{})
	image := s.busybox()
	pod, podConfig := s.hostPod()
	config := crikit.Container("counter", image, "sh", "-c", "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done")
	id := s.run(pod, podConfig, config)
	path := crikit.LogFile(podConfig, config)
	for n := 0; ; n++ {
		s.must(os.Rename(path, fmt.Sprintf("%s.%d", path, n)), "rotate")
		if _, err := s.Runtime.ReopenContainerLog(s.ctx(), &cri.ReopenContainerLogRequest{ContainerId: id}); err != nil {
			s.awaitExit(id) // nothing but its end is a reason
			if _, err := os.Stat(path); err == nil {
				t.Error("a reopen that failed has made a file")
			}
			s.must(os.Rename(fmt.Sprintf("%s.%d", path, n), path), "undo the rotation")
			checkCounted(t, path, n, 20000)
			return
		}
	}
}

// checkCounted reads rotated logs, oldest first, then the newest, and wants "line 0" to "line n-1".
func checkCounted(t *testing.T, path string, rotated, lines int) {
	t.Helper()
	var all strings.Builder
	for n := 0; n <= rotated; n++ {
		name := fmt.Sprintf("%s.%d", path, n)
		if n == rotated {
			name = path
		}
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(data)
	}
	text, err := unframe(all.String())
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(got) != lines {
		t.Errorf("%d lines, want %d", len(got), lines)
	}
	for i, line := range got {
		if line != fmt.Sprintf("line %d", i) {
			t.Fatalf("line %d is %q", i, line)
		}
	}
}

func TestLimitsAreChangedTogetherAndShowInTheStatus(t *testing.T) {
	s := begin(t, daemon.Options{})
	image := s.busybox()
	pod, podConfig := s.hostPod()
	id := s.run(pod, podConfig, crikit.Container("main", image, "sleep", "1000"))
	_, err := s.Runtime.UpdateContainerResources(s.ctx(), &cri.UpdateContainerResourcesRequest{ContainerId: id,
		Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuShares: 512, CpuQuota: 50000, CpuPeriod: 100000}})
	s.must(err, "update")
	got := s.status(id).GetResources().GetLinux()
	if got.GetMemoryLimitInBytes() != 64<<20 || got.GetCpuShares() != 512 || got.GetCpuQuota() != 50000 {
		t.Errorf("status shows %v", got)
	}
	_, err = s.Runtime.UpdateContainerResources(s.ctx(), &cri.UpdateContainerResourcesRequest{ContainerId: id,
		Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 96 << 20, CpusetCpus: "4000-4001"}})
	if err == nil {
		t.Error("a cpuset of no CPU is accepted")
	}
	if now := s.status(id).GetResources().GetLinux().GetMemoryLimitInBytes(); now != 64<<20 {
		t.Errorf("an update that failed has changed the memory limit to %d", now)
	}
}

func TestAContainerThatUsesTooMuchMemoryIsOOMKilled(t *testing.T) {
	s := begin(t, daemon.Options{})
	image := s.busybox()
	pod, podConfig := s.hostPod()
	config := crikit.Container("hungry", image, "dd", "if=/dev/zero", "of=/dev/null", "bs=64M")
	config.Linux.Resources.MemoryLimitInBytes = 15 << 20
	config.Linux.Resources.MemorySwapLimitInBytes = 15 << 20
	got := s.awaitExit(s.run(pod, podConfig, config))
	if got.Reason != "OOMKilled" || got.ExitCode != 137 {
		t.Errorf("reason %q, exit code %d", got.Reason, got.ExitCode)
	}
}
