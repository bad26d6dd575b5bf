package e2e

import (
	"os"
	"regexp"
	"sort"
	"strings"
	"testing"

	"davit.dev/e2e/internal/crikit"
	"davit.dev/e2e/internal/daemon"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// programs that a trace shows to have been executed, by the first argument and the path.
var execution = regexp.MustCompile(`execve(?:at)?\((?:\d+, )?"([^"]*)", \["([^"]*)"`)

func TestATracedPodStartExecutesNothingButOurProgramsTheNetworkPluginsAndThePayload(t *testing.T) {
	trace := t.TempDir() + "/trace"
	s := begin(t, daemon.Options{CNI: true, Wrapper: []string{
		"strace", "-f", "-qq", "--seccomp-bpf", "-s", "200", "-e", "trace=execve,execveat", "-e", "signal=none", "-o", trace}})
	image := s.busybox()
	offset := size(trace)
	podConfig := s.pod(cri.NamespaceMode_POD)
	pod := s.runPod(podConfig)
	id := s.run(pod, podConfig, crikit.Container("payload", image, "/bin/sleep", "1000"))
	s.exec(id, "/bin/true")
	_, err := s.Runtime.StopContainer(s.ctx(), &cri.StopContainerRequest{ContainerId: id})
	s.must(err, "stop")
	s.removeAllPods()
	s.must(s.Terminate(), "stop davitd")

	data, err := os.ReadFile(trace)
	s.must(err, "read the trace")
	seen := map[string]int{}
	for _, line := range strings.Split(string(data[offset:]), "\n") {
		match := execution.FindStringSubmatch(line)
		if match == nil || strings.Contains(line, " = -1 ") {
			continue
		}
		name := match[1]
		if name == "" { // from a memfd
			name = match[2]
		}
		seen[name]++
	}
	allowed := regexp.MustCompile(`^(.*/)?davit-(pod|init)$|^/usr/lib/cni/(bridge|host-local)$|^/bin/(sleep|true)$`)
	var names []string
	for name, count := range seen {
		names = append(names, name)
		if !allowed.MatchString(name) {
			t.Errorf("%s was executed %d times", name, count)
		}
	}
	sort.Strings(names)
	all := strings.Join(names, " ")
	for _, expected := range []string{"davit-pod", "/usr/lib/cni/bridge", "/bin/sleep", "/bin/true"} {
		if !strings.Contains(all, expected) {
			t.Errorf("the trace shows no %s: it shows %s", expected, all)
		}
	}
}
