package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"davit.dev/e2e/internal/crikit"
	"davit.dev/e2e/internal/daemon"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// reboot does to a node what a power cut does, short of the disk: no process, no mount, no network
// namespace, no cgroup and nothing of /run is left.
func (s *suite) reboot() {
	s.Helper()
	s.must(s.Kill(), "kill davitd")
	for deadline := time.Now().Add(10 * time.Second); len(s.Node().Processes()) > 0; time.Sleep(5 * time.Millisecond) {
		for _, p := range s.Node().Processes() {
			syscall.Kill(p.Pid, syscall.SIGKILL)
		}
		if time.Now().After(deadline) {
			s.Fatalf("processes that cannot be killed: %v", s.Node().Processes())
		}
	}
	for _, point := range s.Node().Mounts() {
		s.must(syscall.Unmount(point, syscall.MNT_DETACH), "unmount "+point)
	}
	for _, group := range s.Node().Cgroups() {
		s.must(removeGroup(group), "remove cgroup")
	}
	for _, object := range s.Leftovers() {
		if group, ok := strings.CutPrefix(object, "supervisor's cgroup "); ok {
			s.must(removeGroup(group), "remove cgroup")
		}
	}
	s.must(os.RemoveAll(s.State), "wipe the state directory")
	names, _ := filepath.Glob(s.NetnsDir + "/*")
	for _, name := range names {
		s.must(os.Remove(name), "wipe the namespaces' directory")
	}
	if s.Network != nil {
		s.Network.Delete()
	}
}

// removeGroup waits for the last process to have left it.
func removeGroup(group string) error {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		err := os.Remove(group)
		if err == nil || os.IsNotExist(err) || time.Now().After(deadline) {
			return err
		}
	}
}

// recordPlugin has the CNI plugin note its command, its namespace and its configuration in a file.
func (s *suite) recordPlugin() string {
	plugins, calls := s.Dir+"/plugins", s.Dir+"/calls"
	s.must(os.Mkdir(plugins, 0o755), "make a plugin directory")
	script := fmt.Sprintf("#!/bin/sh\ninput=$(cat)\nprintf '%%s netns=[%%s] %%s\\n' $CNI_COMMAND \"$CNI_NETNS\" \"$input\" >> %s\nprintf %%s \"$input\" | /usr/lib/cni/bridge\n", calls)
	s.must(os.WriteFile(plugins+"/bridge", []byte(script), 0o755), "write a plugin")
	s.must(s.WriteConfigCNI(fmt.Sprintf("bin_dirs = [%q, \"/usr/lib/cni\"]\n", plugins)), "configure")
	return calls
}

func TestAfterARebootTheNodeStartsCleanAndNothingOfBeforeIsLeft(t *testing.T) {
	s := prepare(t, daemon.Options{CNI: true})
	calls := s.recordPlugin()
	s.must(s.Start(), "start davitd")
	s.before = s.Node().Take()
	image := s.busybox()
	var configs []*cri.PodSandboxConfig
	for _, network := range []cri.NamespaceMode{cri.NamespaceMode_POD, cri.NamespaceMode_NODE, cri.NamespaceMode_POD} {
		podConfig := s.pod(network)
		configs = append(configs, podConfig)
		pod := s.runPod(podConfig)
		id := s.run(pod, podConfig, crikit.Container("main", image, "sleep", "1000"))
		s.exec(id, "sh", "-c", "echo data > /written")
		s.create(pod, podConfig, crikit.Container("created", image, "sleep", "1000"))
	}
	left := strings.Join(s.Leftovers(), "\n")
	for _, kind := range []string{"leased address", "attachment", "container directory"} {
		if !strings.Contains(left, kind) {
			t.Fatalf("the pods have no %s: this test would show nothing:\n%s", kind, left)
		}
	}
	s.reboot()
	// The administrator has changed the network meanwhile; what is owed is owed to the old one.
	old, err := os.ReadFile(s.ConfDir + "/10-davit.conflist")
	s.must(err, "read the network's configuration")
	changed := strings.ReplaceAll(string(old), `"name": "`+s.Network.Bridge+`"`, `"name": "another"`)
	s.must(os.WriteFile(s.ConfDir+"/10-davit.conflist", []byte(changed), 0o644), "change the network's configuration")
	s.must(os.Remove(calls), "forget the calls so far")
	s.must(s.Start(), "start davitd after the reboot")

	pods, err := s.Runtime.ListPodSandbox(s.ctx(), &cri.ListPodSandboxRequest{})
	s.must(err, "list pods")
	containers, err := s.Runtime.ListContainers(s.ctx(), &cri.ListContainersRequest{})
	s.must(err, "list containers")
	if len(pods.Items) != 0 || len(containers.Containers) != 0 {
		t.Errorf("pods and containers of before the reboot: %v, %v", pods.Items, containers.Containers)
	}
	if left := s.AwaitClean(10 * time.Second); len(left) > 0 {
		t.Errorf("left from before the reboot:\n  %s", strings.Join(left, "\n  "))
	}
	s.checkOwedDels(calls)

	// The kubelet makes its pods again, from images that are still there, and under the names of before.
	for _, podConfig := range configs {
		pod := s.runPod(podConfig)
		id := s.run(pod, podConfig, crikit.Container("main", image, "sleep", "1000"))
		if out := s.exec(id, "sh", "-c", "cat /written 2>/dev/null; echo fresh"); out != "fresh\n" {
			t.Errorf("what a container of before the reboot wrote is there: %q", out)
		}
	}
}

// checkOwedDels wants one DEL for each of the two pods with a network, with the configuration that they
// were added with, and without a namespace, since there is none any more.
func (s *suite) checkOwedDels(calls string) {
	s.Helper()
	data, err := os.ReadFile(calls)
	s.must(err, "read the plugin's calls")
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	dels := slices.DeleteFunc(lines, func(line string) bool { return !strings.HasPrefix(line, "DEL ") })
	if len(dels) != 2 {
		s.Errorf("%d calls of DEL, not 2:\n%s", len(dels), data)
	}
	for _, call := range dels {
		if !strings.Contains(call, fmt.Sprintf("%q", s.Network.Bridge)) || strings.Contains(call, `"another"`) {
			s.Errorf("not with the configuration of before: %s", call)
		}
		if !strings.HasPrefix(call, "DEL netns=[] ") {
			s.Errorf("with a namespace that is gone: %s", call)
		}
	}
}
