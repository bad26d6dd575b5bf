package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"davit.dev/e2e/internal/crikit"
	"davit.dev/e2e/internal/daemon"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// crictl runs a command of the real crictl, which must succeed, and returns its output.
func (s *suite) crictl(args ...string) string {
	s.Helper()
	out, err := s.tryCrictl(args...)
	s.must(err, "crictl "+strings.Join(args, " ")+"\n"+out)
	return out
}

func (s *suite) tryCrictl(args ...string) (string, error) {
	program := os.Getenv("DAVIT_CRICTL")
	if program == "" {
		s.Fatal("DAVIT_CRICTL is not set: run the tests through e2e/run")
	}
	global := []string{"--config", s.Dir + "/crictl.yaml", "--runtime-endpoint", "unix://" + s.Socket, "--image-endpoint", "unix://" + s.Socket}
	out, err := exec.Command(program, append(global, args...)...).CombinedOutput()
	return string(out), err
}

// writeJSON writes a message as the file that crictl reads. It reads field names of the contract.
func (s *suite) writeJSON(name string, message proto.Message) string {
	s.Helper()
	data, err := protojson.MarshalOptions{UseProtoNames: true, UseEnumNumbers: true}.Marshal(message)
	s.must(err, "write "+name)
	// crictl reads numbers where protojson writes 64-bit ones as strings, and text where it writes bytes.
	var tree any
	s.must(json.Unmarshal(data, &tree), "write "+name)
	data, err = json.Marshal(numbers(tree))
	s.must(err, "write "+name)
	path := s.Dir + "/" + name
	s.must(os.WriteFile(path, data, 0o644), "write "+name)
	return path
}

func numbers(tree any) any {
	switch value := tree.(type) {
	case map[string]any:
		for key, child := range value {
			if text, ok := child.(string); ok && (strings.HasSuffix(key, "_bytes") || strings.HasPrefix(key, "cpu_") || key == "oom_score_adj") {
				value[key] = json.Number(text)
			} else {
				value[key] = numbers(child)
			}
		}
	case []any:
		for i, child := range value {
			value[i] = numbers(child)
		}
	}
	return tree
}

func TestTheRealCrictlDoesItsCommands(t *testing.T) {
	s := begin(t, daemon.Options{CNI: true})
	s.must(os.WriteFile(s.Dir+"/crictl.yaml", []byte("timeout: 10\n"), 0o644), "configure crictl")
	document, err := busyboxOnce()
	s.must(err, "build the busybox image")
	reference := s.registry.Add("library/busybox", "latest", document)
	has := func(out string, words ...string) {
		t.Helper()
		for _, word := range words {
			if !strings.Contains(out, word) {
				t.Errorf("no %q in %q", word, out)
			}
		}
	}
	last := func(out string) string {
		lines := strings.Split(strings.TrimSpace(out), "\n")
		return lines[len(lines)-1]
	}

	has(s.crictl("version"), "RuntimeName:  davit", "RuntimeApiVersion:  v1")
	has(s.crictl("info"), "RuntimeReady", "NetworkReady")
	has(s.crictl("runtime-config"), "cgroup")
	has(s.crictl("pull", reference), "Image is up to date for")
	has(s.crictl("images"), s.registry.Host()+"/library/busybox", "latest")
	has(s.crictl("inspecti", reference), document.ConfigID, `"repoTags"`, `"info"`)
	has(s.crictl("imagefsinfo"), "mountpoint", "usedBytes")

	podConfig := s.pod(cri.NamespaceMode_POD)
	config := crikit.Container("main", reference, "sh", "-c", "echo hello from the container; exec sleep 1000")
	config.Envs = nil
	podFile, file := s.writeJSON("pod.json", podConfig), s.writeJSON("container.json", config)
	pod := last(s.crictl("runp", podFile))
	has(s.crictl("pods"), pod[:12], "Ready", podConfig.Metadata.Name)
	has(s.crictl("inspectp", pod[:8]), pod, "SANDBOX_READY", `"ip"`, `"info"`, `"pid"`)
	id := last(s.crictl("create", pod, file, podFile))
	has(s.crictl("ps", "-a"), id[:12], "Created")
	s.crictl("start", id)
	has(s.crictl("ps"), id[:12], "Running", "main")
	inspect := s.crictl("inspect", id[:8])
	has(inspect, "CONTAINER_RUNNING", `"runtimeSpec"`, `"sandboxID"`, `"pid"`)
	var parsed struct {
		Info struct {
			Pid         int
			SandboxID   string
			RuntimeSpec map[string]any
		}
	}
	s.must(json.Unmarshal([]byte(inspect), &parsed), "read the output of inspect")
	if parsed.Info.Pid == 0 || parsed.Info.SandboxID != pod || parsed.Info.RuntimeSpec["process"] == nil {
		t.Errorf("info: %+v", parsed.Info)
	}
	if out := s.crictl("exec", "-s", id, "echo", "from", "exec"); !strings.HasPrefix(out, "from exec\n") {
		t.Errorf("exec -s: %q", out)
	}
	if out, err := s.tryCrictl("exec", "-s", id, "sh", "-c", "exit 3"); err == nil {
		t.Errorf("exec -s of a command that fails succeeds: %q", out)
	}
	has(s.crictl("logs", id), "hello from the container")
	s.crictl("update", "--memory", "67108864", id)
	if limit := s.status(id).GetResources().GetLinux().GetMemoryLimitInBytes(); limit != 67108864 {
		t.Errorf("the memory limit is %d", limit)
	}
	s.crictl("stop", "--timeout", "0", id)
	has(s.crictl("ps", "-a"), id[:12], "Exited")
	s.crictl("rm", id)
	s.crictl("stopp", pod)
	has(s.crictl("pods"), pod[:12], "NotReady")
	s.crictl("rmp", pod)
	if out := s.crictl("pods", "-q"); strings.TrimSpace(out) != "" {
		t.Errorf("pods after rmp: %q", out)
	}

	again := s.pod(cri.NamespaceMode_POD)
	id = last(s.crictl("run", "--no-pull", file, s.writeJSON("again.json", again)))
	has(s.crictl("ps"), id[:12], "Running")
	s.crictl("rm", "-f", id)
	s.crictl("rmp", "-f", "--all")
	s.crictl("rmi", reference)
	if out := s.crictl("images", "-q"); strings.TrimSpace(out) != "" {
		t.Errorf("images after rmi: %q", out)
	}
	s.nothingLeft("everything that crictl did")
}
