package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"davit.dev/e2e/internal/crikit"
	"davit.dev/e2e/internal/daemon"
	"davit.dev/e2e/internal/slowdown"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestAContainerThatRunsThroughAKillOfDavitdKeepsItsLogWholeAndItsExitCodeTrue(t *testing.T) {
	s := begin(t, daemon.Options{})
	image := s.busybox()
	pod, podConfig := s.hostPod()
	// It writes on until it is told to end, by a file: whatever the daemon does meanwhile.
	gate := s.Dir + "/gate"
	s.must(os.Mkdir(gate, 0o755), "make the gate")
	config := crikit.Container("writer", image, "sh", "-c",
		"i=0; while [ ! -e /gate/end ]; do echo line $i; i=$((i+1)); done; echo line $i; echo $((i+1)) > /gate/count; exit 42")
	config.Mounts = []*cri.Mount{{ContainerPath: "/gate", HostPath: gate}}
	id := s.run(pod, podConfig, config)
	log := crikit.LogFile(podConfig, config)
	for range 3 {
		before := size(log)
		s.must(s.Kill(), "kill davitd")
		awaitGrowth(t, log, before)
		s.must(s.Start(), "start davitd again")
		if got := s.status(id); got.State != cri.ContainerState_CONTAINER_RUNNING {
			t.Fatalf("after a restart the container is %v", got.State)
		}
		if out := s.exec(id, "echo", "exec works"); out != "exec works\n" {
			t.Errorf("exec after a restart: %q", out)
		}
	}
	// The end comes while no daemon runs.
	s.must(s.Kill(), "kill davitd")
	s.must(os.WriteFile(gate+"/end", nil, 0o644), "let it end")
	awaitFile(t, gate+"/count")
	ended := time.Now().UnixNano()
	time.Sleep(50 * time.Millisecond) // the exit comes right after; nobody is there to tell of it
	s.must(s.Start(), "start davitd again")
	got := s.awaitExit(id)
	if got.ExitCode != 42 || got.Reason != "Error" {
		t.Errorf("exit code %d, reason %q", got.ExitCode, got.Reason)
	}
	if got.FinishedAt < ended-int64(time.Second) || got.FinishedAt > ended+int64(time.Second) {
		t.Errorf("finished at %d, which is %v from the true end", got.FinishedAt, time.Duration(got.FinishedAt-ended))
	}
	count, err := os.ReadFile(gate + "/count")
	s.must(err, "read the count")
	var lines int
	fmt.Sscan(string(count), &lines)
	checkCounted(t, log, 0, lines)
	s.removeAllPods()
	s.nothingLeft("a pod that ran through restarts")
}

func size(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

func awaitGrowth(t *testing.T, path string, from int64) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); size(path) < from+4096; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s does not grow while no daemon runs", path)
		}
	}
}

func awaitFile(t *testing.T, path string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); size(path) == 0; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s does not appear", path)
		}
	}
}

func TestFromItsFirstAnswerOnARestartedDaemonListsEverything(t *testing.T) {
	s := begin(t, daemon.Options{CNI: true})
	image := s.busybox()
	const pods = 10
	want := map[string]cri.ContainerState{}
	var ids []string
	for i := range pods {
		network := cri.NamespaceMode_NODE
		if i%2 == 0 {
			network = cri.NamespaceMode_POD
		}
		podConfig := s.pod(network)
		pod := s.runPod(podConfig)
		ids = append(ids, pod)
		want[s.create(pod, podConfig, crikit.Container("created", image, "sleep", "1000"))] = cri.ContainerState_CONTAINER_CREATED
		want[s.run(pod, podConfig, crikit.Container("running", image, "sleep", "1000"))] = cri.ContainerState_CONTAINER_RUNNING
		ended := s.run(pod, podConfig, crikit.Container("ended", image, "false"))
		s.awaitExit(ended)
		want[ended] = cri.ContainerState_CONTAINER_EXITED
	}
	addresses := s.addresses()
	for _, how := range []func() error{s.Kill, s.Terminate} {
		s.must(how(), "end davitd")
		// Calls wait for the socket: the very first answer counts.
		answers := make(chan error, 1)
		go func() { answers <- s.firstList(pods, want) }()
		s.must(s.Start(), "start davitd again")
		if err := <-answers; err != nil {
			t.Error(err)
		}
		if again := s.addresses(); again != addresses {
			t.Errorf("addresses were %s, are %s", addresses, again)
		}
	}
	for id, state := range want {
		if state == cri.ContainerState_CONTAINER_CREATED {
			s.start(id)
			if got := s.status(id); got.State != cri.ContainerState_CONTAINER_RUNNING {
				t.Errorf("a container created before the restart is %v after its start", got.State)
			}
		}
	}
	s.removeAllPods()
	s.nothingLeft("pods that outlived their daemon")
}

// firstList lists as soon as there is an answer, and compares.
func (s *suite) firstList(pods int, want map[string]cri.ContainerState) error {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		s.Conn.ResetConnectBackoff()
		list, err := s.Runtime.ListPodSandbox(s.ctx(), &cri.ListPodSandboxRequest{})
		if err != nil {
			continue
		}
		containers, err := s.Runtime.ListContainers(s.ctx(), &cri.ListContainersRequest{})
		if err != nil {
			return err
		}
		if len(list.Items) != pods || len(containers.Containers) != len(want) {
			return fmt.Errorf("the first answer lists %d pods and %d containers, not %d and %d", len(list.Items), len(containers.Containers), pods, len(want))
		}
		for _, pod := range list.Items {
			if pod.State != cri.PodSandboxState_SANDBOX_READY {
				return fmt.Errorf("pod %s is %v", pod.Id, pod.State)
			}
		}
		for _, c := range containers.Containers {
			if want[c.Id] != c.State {
				return fmt.Errorf("container %s is %v, not %v", c.Id, c.State, want[c.Id])
			}
		}
		return nil
	}
	return fmt.Errorf("no answer")
}

// addresses of all pods, for comparison.
func (s *suite) addresses() string {
	s.Helper()
	list, err := s.Runtime.ListPodSandbox(s.ctx(), &cri.ListPodSandboxRequest{})
	s.must(err, "list")
	found := map[string]string{}
	for _, pod := range list.Items {
		status, err := s.Runtime.PodSandboxStatus(s.ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: pod.Id})
		s.must(err, "status")
		found[pod.Metadata.Name] = status.Status.GetNetwork().GetIp()
	}
	return strings.TrimPrefix(fmt.Sprint(found), "map") // maps are printed in the order of their keys
}

func TestAKilledDaemonsHalfDonePullIsGoneAfterTheNextStart(t *testing.T) {
	s := begin(t, daemon.Options{})
	document := small(t, "half")
	held := make(chan struct{})
	release := s.holdLayers(document.ConfigID, held)
	defer release()
	reference := s.registry.Add("half", "latest", document)
	go s.tryPull(reference, nil)
	<-held
	s.must(s.Kill(), "kill davitd")
	release()
	s.must(s.Start(), "start davitd again")
	if image := s.imageStatus(reference); image != nil {
		t.Errorf("half an image is there: %v", image)
	}
	s.noImageData("a killed pull")
	s.pull(reference)
}

func TestTheDaemonStartsFastOnAnEmptyState(t *testing.T) {
	s := prepare(t, daemon.Options{})
	began := time.Now()
	s.must(s.Start(), "start davitd")
	// The aim is 100 ms on an idle machine; this is a machine that runs tests.
	if took := time.Since(began); took > slowdown.Of(2*time.Second) {
		t.Errorf("davitd took %v to answer", took)
	}
}
