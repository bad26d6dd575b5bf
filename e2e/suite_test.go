package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"davit.dev/e2e/internal/crikit"
	"davit.dev/e2e/internal/daemon"
	"davit.dev/e2e/internal/fakeregistry"
	"davit.dev/e2e/internal/faultcalls"
	"davit.dev/e2e/internal/leaks"
	"davit.dev/e2e/internal/ociimage"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestMain(m *testing.M) {
	faultcalls.Launch() // as a wrapper of davitd
	if os.Getenv("DAVIT_DIST") == "" || os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "These tests need root and the built binaries: run them through e2e/run.")
		os.Exit(2)
	}
	os.Exit(m.Run())
}

// A suite is a daemon with a registry beside it, and what tests do with the two.
type suite struct {
	*testing.T
	*daemon.Daemon
	registry *fakeregistry.Registry
	before   leaks.Census   // of the idle daemon
	files    map[string]int // descriptors of a fresh pod's supervisor, by the pod's id
}

// begin starts a daemon without pods. At the end of the test all pods and images are removed, and
// nothing may be left.
func begin(t *testing.T, options daemon.Options) *suite {
	t.Helper()
	s := prepare(t, options)
	s.must(s.Daemon.Start(), "start davitd")
	s.before = s.Node().Take()
	return s
}

// prepare makes everything but starts nothing.
func prepare(t *testing.T, options daemon.Options) *suite {
	t.Helper()
	d, err := daemon.New(options)
	if err != nil {
		t.Fatal(err)
	}
	s := &suite{T: t, Daemon: d, registry: fakeregistry.Start(t), files: map[string]int{}}
	t.Cleanup(s.end)
	return s
}

func (s *suite) end() {
	if s.Running() {
		s.removeAllContainers()
		s.supervisorsHoldNothing()
		s.removeAllPods()
		s.removeAllImages()
		if left := s.before.AwaitNoMore(s.Node, 20*time.Second); len(left) > 0 {
			s.Errorf("left behind after all pods and images were removed:\n  %s", strings.Join(left, "\n  "))
		}
	}
	if s.Failed() {
		s.Logf("end of davitd's log:\n%s", s.LogTail())
	}
	if err := s.Close(); err != nil {
		s.Errorf("clean up: %v", err)
	}
}

func (s *suite) removeAllPods() {
	list, err := s.Runtime.ListPodSandbox(s.ctx(), &cri.ListPodSandboxRequest{})
	if err != nil {
		s.Errorf("list pods: %v", err)
		return
	}
	for _, pod := range list.Items {
		if _, err := s.Runtime.RemovePodSandbox(s.ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod.Id}); err != nil {
			s.Errorf("remove pod %s: %v", pod.Id, err)
		}
	}
}

func (s *suite) removeAllContainers() {
	list, err := s.Runtime.ListContainers(s.ctx(), &cri.ListContainersRequest{})
	if err != nil {
		s.Errorf("list containers: %v", err)
		return
	}
	for _, container := range list.Containers {
		if _, err := s.Runtime.RemoveContainer(s.ctx(), &cri.RemoveContainerRequest{ContainerId: container.Id}); err != nil {
			s.Errorf("remove container %s: %v", container.Id, err)
		}
	}
}

func (s *suite) removeAllImages() {
	list, err := s.Images.ListImages(s.ctx(), &cri.ListImagesRequest{})
	if err != nil {
		s.Errorf("list images: %v", err)
		return
	}
	for _, image := range list.Images {
		if _, err := s.Images.RemoveImage(s.ctx(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: image.Id}}); err != nil {
			s.Errorf("remove image %s: %v", image.Id, err)
		}
	}
}

// supervisorsHoldNothing fails the test if a supervisor whose containers are gone has more open files
// than it had before the first.
func (s *suite) supervisorsHoldNothing() {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var more []string
		for pod, pid := range s.Node().Supervisors() {
			if before, known := s.files[pod]; known && len(leaks.Descriptors(pid)) > before {
				more = append(more, fmt.Sprintf("pod %s: there were %d, and now: %s", pod, before, strings.Join(leaks.Descriptors(pid), ", ")))
			}
		}
		if len(more) == 0 {
			return
		}
		if time.Now().After(deadline) {
			s.Errorf("open files of supervisors without containers:\n  %s", strings.Join(more, "\n  "))
			return
		}
	}
}

// ctx is a context for one call: no call may take as long as this.
func (s *suite) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	s.T.Cleanup(cancel)
	return ctx
}

func (s *suite) must(err error, doing string) {
	s.Helper()
	if err != nil {
		s.Fatalf("%s: %v", doing, err)
	}
}

// nothingLeft fails the test unless the machine is as it was when davitd had just started.
func (s *suite) nothingLeft(after string) {
	s.Helper()
	if left := s.AwaitClean(5 * time.Second); len(left) > 0 {
		s.Errorf("left behind after %s:\n  %s", after, strings.Join(left, "\n  "))
	}
	if more := s.before.AwaitNoMoreFiles(s.Node, 5*time.Second); more != "" {
		s.Errorf("after %s: %s", after, more)
	}
}

var busyboxOnce = sync.OnceValues(func() (*ociimage.Document, error) {
	image, err := ociimage.Busybox()
	if err != nil {
		return nil, err
	}
	return image.Build()
})

// busybox pulls the busybox image and returns its id.
func (s *suite) busybox() string {
	s.Helper()
	document, err := busyboxOnce()
	s.must(err, "build the busybox image")
	return s.pull(s.registry.Add("library/busybox", "latest", document))
}

func (s *suite) pull(reference string) string {
	s.Helper()
	id, err := s.tryPull(reference, nil)
	s.must(err, "pull "+reference)
	return id
}

func (s *suite) tryPull(reference string, auth *cri.AuthConfig) (string, error) {
	response, err := s.Images.PullImage(s.ctx(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: reference}, Auth: auth})
	if err != nil {
		return "", err
	}
	return response.ImageRef, nil
}

// pod describes a pod without running it.
func (s *suite) pod(network cri.NamespaceMode) *cri.PodSandboxConfig {
	return crikit.Pod(crikit.Unique("pod"), s.Dir+"/logs/"+crikit.Unique("pod"), network)
}

func (s *suite) runPod(config *cri.PodSandboxConfig) string {
	s.Helper()
	response, err := s.Runtime.RunPodSandbox(s.ctx(), &cri.RunPodSandboxRequest{Config: config})
	s.must(err, "run pod "+config.Metadata.Name)
	if pid := s.Node().Supervisors()[response.PodSandboxId]; pid != 0 {
		s.files[response.PodSandboxId] = len(leaks.Descriptors(pid))
	}
	return response.PodSandboxId
}

func (s *suite) hostPod() (string, *cri.PodSandboxConfig) {
	s.Helper()
	config := s.pod(cri.NamespaceMode_NODE)
	return s.runPod(config), config
}

func (s *suite) tryCreate(pod string, podConfig *cri.PodSandboxConfig, config *cri.ContainerConfig) (string, error) {
	if err := crikit.MakeLogDirectories(podConfig, config); err != nil {
		return "", err
	}
	response, err := s.Runtime.CreateContainer(s.ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: config, SandboxConfig: podConfig})
	if err != nil {
		return "", err
	}
	return response.ContainerId, nil
}

func (s *suite) create(pod string, podConfig *cri.PodSandboxConfig, config *cri.ContainerConfig) string {
	s.Helper()
	id, err := s.tryCreate(pod, podConfig, config)
	s.must(err, "create container "+config.Metadata.Name)
	return id
}

func (s *suite) start(id string) {
	s.Helper()
	_, err := s.Runtime.StartContainer(s.ctx(), &cri.StartContainerRequest{ContainerId: id})
	s.must(err, "start container "+id)
}

// run creates and starts a container.
func (s *suite) run(pod string, podConfig *cri.PodSandboxConfig, config *cri.ContainerConfig) string {
	s.Helper()
	id := s.create(pod, podConfig, config)
	s.start(id)
	return id
}

func (s *suite) status(id string) *cri.ContainerStatus {
	s.Helper()
	response, err := s.Runtime.ContainerStatus(s.ctx(), &cri.ContainerStatusRequest{ContainerId: id})
	s.must(err, "status of container "+id)
	return response.Status
}

// awaitExit waits for the end of a container.
func (s *suite) awaitExit(id string) *cri.ContainerStatus {
	s.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		got := s.status(id)
		if got.State == cri.ContainerState_CONTAINER_EXITED {
			return got
		}
		if time.Now().After(deadline) {
			s.Fatalf("container %s is still %v", id, got.State)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// exec runs a command to its end and returns what it wrote to stdout. It must succeed.
func (s *suite) exec(id string, command ...string) string {
	s.Helper()
	response, err := s.Runtime.ExecSync(s.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: 20})
	s.must(err, fmt.Sprintf("exec %q", command))
	if response.ExitCode != 0 {
		s.Fatalf("exec %q: exit code %d, stderr %q", command, response.ExitCode, response.Stderr)
	}
	return string(response.Stdout)
}

// log is the text of a container's log, without the CRI's framing.
func (s *suite) log(podConfig *cri.PodSandboxConfig, config *cri.ContainerConfig) string {
	s.Helper()
	data, err := os.ReadFile(crikit.LogFile(podConfig, config))
	s.must(err, "read the log")
	text, err := unframe(string(data))
	s.must(err, "read the log")
	return text
}

// unframe takes the time, stream and tag from every line of a CRI log (P: the line goes on).
func unframe(log string) (string, error) {
	var b strings.Builder
	for _, line := range strings.SplitAfter(log, "\n") {
		if line == "" {
			continue
		}
		fields := strings.SplitN(line, " ", 4)
		if len(fields) != 4 || (fields[2] != "F" && fields[2] != "P") || (fields[1] != "stdout" && fields[1] != "stderr") {
			return "", fmt.Errorf("not a line of a CRI log: %q", line)
		}
		if _, err := time.Parse(time.RFC3339Nano, fields[0]); err != nil {
			return "", fmt.Errorf("not a line of a CRI log: %q: %v", line, err)
		}
		if fields[2] == "P" {
			fields[3] = strings.TrimSuffix(fields[3], "\n")
		}
		b.WriteString(fields[3])
	}
	return b.String(), nil
}

// wantCode fails the test unless err has the gRPC code, and its message holds every one of `words`.
func wantCode(t testing.TB, err error, code codes.Code, words ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("got code %v, want %v: %v", status.Code(err), code, err)
		return
	}
	for _, word := range words {
		if !strings.Contains(status.Convert(err).Message(), word) {
			t.Errorf("the message does not say %q: %v", word, err)
		}
	}
}
