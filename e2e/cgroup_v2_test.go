package e2e

import (
	"os"
	"strings"
	"testing"
	"time"

	"davit.dev/e2e/internal/crikit"
	"davit.dev/e2e/internal/daemon"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The kubelet asks for memory.oom.group=1 on cgroup v2: one process that runs out of memory takes its
// whole container along, and the container's end says why. Without it only that process ends.
func TestAContainersGroupIsKilledAsOneWhenItAsksForThat(t *testing.T) {
	controllers, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if !strings.Contains(string(controllers), "memory") {
		t.Skip("no memory controller on cgroup v2 in this kernel")
	}
	s := begin(t, daemon.Options{})
	image := s.busybox()
	pod, podConfig := s.hostPod()
	for _, group := range []bool{true, false} {
		name := map[bool]string{true: "group", false: "single"}[group]
		// The shell itself needs little: what is killed first is its child.
		config := crikit.Container(name, image, "sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M; echo it ended with $?; sleep 1000")
		config.Linux.Resources.MemoryLimitInBytes = 20 << 20
		config.Linux.Resources.MemorySwapLimitInBytes = 20 << 20
		if group {
			config.Linux.Resources.Unified = map[string]string{"memory.oom.group": "1"}
		}
		id := s.run(pod, podConfig, config)
		if group {
			if got := s.awaitExit(id); got.Reason != "OOMKilled" || got.ExitCode != 137 {
				t.Errorf("killed as one: reason %q, exit code %d", got.Reason, got.ExitCode)
			}
			continue
		}
		for deadline := time.Now().Add(60 * time.Second); !strings.Contains(s.log(podConfig, config), "it ended"); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the child of a container without memory.oom.group is not killed")
			}
		}
		if got := s.log(podConfig, config); !strings.HasSuffix(got, "it ended with 137\n") {
			t.Errorf("log %q", got)
		}
		if got := s.status(id); got.State != cri.ContainerState_CONTAINER_RUNNING {
			t.Errorf("the container is %v (%s) although only its child ran out of memory", got.State, got.Reason)
		}
	}
}
