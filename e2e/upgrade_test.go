package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"davit.dev/e2e/internal/crikit"
	"davit.dev/e2e/internal/daemon"
	"davit.dev/e2e/internal/leaks"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// How many upgrades: $DAVIT_UPGRADES, by `e2e/run upgrade N`; few among all the other tests.
func upgrades(t *testing.T) int {
	text := os.Getenv("DAVIT_UPGRADES")
	if text == "" {
		return 6
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("DAVIT_UPGRADES is %q", text)
	}
	return n
}

// supervisor is the process id of a pod's supervisor.
func (s *suite) supervisor(pod string) int {
	s.Helper()
	for _, p := range leaks.Processes() {
		if fields := strings.Fields(p.Cmdline); len(fields) > 1 && fields[0] == "davit-pod" && fields[1] == pod {
			return p.Pid
		}
	}
	s.Fatalf("pod %s has no supervisor", pod)
	return 0
}

// infoPid is the process id in the verbose answer about a container.
func (s *suite) infoPid(id string) int {
	s.Helper()
	response, err := s.Runtime.ContainerStatus(s.ctx(), &cri.ContainerStatusRequest{ContainerId: id, Verbose: true})
	s.must(err, "status of container "+id)
	var info struct{ Pid int }
	s.must(json.Unmarshal([]byte(response.Info["info"]), &info), "read the info")
	return info.Pid
}

// awaitUpgrades waits until each supervisor executes the davit-pod of a directory.
func (s *suite) awaitUpgrades(supervisors []int, dist string) {
	s.Helper()
	program, err := os.ReadFile(dist + "/davit-pod")
	s.must(err, "read davit-pod")
	deadline := time.Now().Add(30 * time.Second)
	for _, pid := range supervisors {
		for {
			running, err := os.ReadFile(fmt.Sprintf("/proc/%d/exe", pid))
			if err == nil && bytes.Equal(running, program) {
				break
			}
			if time.Now().After(deadline) {
				s.Fatalf("supervisor %d was not upgraded", pid)
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
}

// A container that counts at full rate until it is told to end by a file.
type writer struct {
	id, pod, log, gate string
	pid, supervisor    int
}

func (s *suite) startWriter(image string, network cri.NamespaceMode, pid cri.NamespaceMode) writer {
	s.Helper()
	podConfig := s.pod(network)
	podConfig.Linux.SecurityContext.NamespaceOptions.Pid = pid
	w := writer{pod: s.runPod(podConfig), gate: s.Dir + "/" + crikit.Unique("gate")}
	s.must(os.Mkdir(w.gate, 0o755), "make the gate")
	// Every hundredth line is written in two halves.
	config := crikit.Container("writer", image, "sh", "-c",
		"i=0; while [ ! -e /gate/end ]; do echo line $i; i=$((i+1)); "+
			"if [ $((i % 100)) = 0 ]; then echo -n 'li'; echo ne $i; i=$((i+1)); fi; done; "+
			"echo line $i; echo $((i+1)) > /gate/count; exit 42")
	config.Mounts = []*cri.Mount{{ContainerPath: "/gate", HostPath: w.gate}}
	config.Linux.SecurityContext.NamespaceOptions.Pid = pid
	w.id = s.run(w.pod, podConfig, config)
	w.log = crikit.LogFile(podConfig, config)
	w.pid, w.supervisor = s.infoPid(w.id), s.supervisor(w.pod)
	awaitGrowth(s.T, w.log, 0)
	return w
}

func (s *suite) endWriter(w writer) {
	s.Helper()
	s.must(os.WriteFile(w.gate+"/end", nil, 0o644), "let it end")
	got := s.awaitExit(w.id)
	if got.ExitCode != 42 {
		s.Errorf("exit code %d, reason %q", got.ExitCode, got.Reason)
	}
	count, err := os.ReadFile(w.gate + "/count")
	s.must(err, "read the count")
	lines, err := strconv.Atoi(strings.TrimSpace(string(count)))
	s.must(err, "read the count")
	checkCounted(s.T, w.log, 0, lines)
	s.Logf("%d lines through all upgrades", lines)
}

// A container that ends by itself, at a moment of its own choice.
type brief struct {
	id    string
	code  int32
	ended string // it writes the time of its end there
}

func (s *suite) startBrief(w writer, podConfig *cri.PodSandboxConfig, image string, n int) brief {
	s.Helper()
	b := brief{code: int32(1 + n%100), ended: fmt.Sprintf("%s/ended-%d", w.gate, n)}
	config := crikit.Container(fmt.Sprintf("brief-%d", n), image, "sh", "-c",
		fmt.Sprintf("sleep 0.%03d; echo done; touch /gate/ended-%d; exit %d", rand.Intn(900), n, b.code))
	config.Mounts = []*cri.Mount{{ContainerPath: "/gate", HostPath: w.gate}}
	b.id = s.run(w.pod, podConfig, config)
	return b
}

func (s *suite) checkBrief(b brief) {
	s.Helper()
	got := s.awaitExit(b.id)
	if got.ExitCode != b.code {
		s.Errorf("a container that ended amid an upgrade has exit code %d, not %d (%s)", got.ExitCode, b.code, got.Reason)
	}
	info, err := os.Stat(b.ended)
	s.must(err, "look when it ended")
	if off := time.Unix(0, got.FinishedAt).Sub(info.ModTime()); off < -50*time.Millisecond || off > 2*time.Second {
		s.Errorf("it is said to have ended %v after its true end", off)
	}
	_, err = s.Runtime.RemoveContainer(s.ctx(), &cri.RemoveContainerRequest{ContainerId: b.id})
	s.must(err, "remove it")
}

func TestUpgradesOfRunningPodsLoseNothing(t *testing.T) {
	s := begin(t, daemon.Options{CNI: true})
	image := s.busybox()
	dists := []string{s.Binary(""), s.Dir + "/other"}
	other, err := daemon.OtherVersion(dists[0], dists[1])
	s.must(err, "make programs of another version")

	writers := []writer{
		s.startWriter(image, cri.NamespaceMode_NODE, cri.NamespaceMode_CONTAINER),
		s.startWriter(image, cri.NamespaceMode_POD, cri.NamespaceMode_POD),
	}
	briefPod := s.pod(cri.NamespaceMode_NODE)
	home := writer{pod: s.runPod(briefPod), gate: s.Dir + "/briefs"}
	s.must(os.Mkdir(home.gate, 0o755), "make the gate")
	home.supervisor = s.supervisor(home.pod)
	supervisors := []int{writers[0].supervisor, writers[1].supervisor, home.supervisor}
	var descriptors [2][]string

	briefs := 0
	for round := 1; round <= upgrades(t); round++ {
		dist := dists[round%2]
		// A new daemon works with the old supervisors, until it is told to upgrade them.
		s.must(s.Kill(), "kill davitd")
		s.must(s.Use(dist, "upgrade_supervisors = false"), "configure")
		s.must(s.Start(), "start the other davitd")
		if now, err := s.Runtime.Version(s.ctx(), &cri.VersionRequest{}); err != nil || (now.RuntimeVersion == other) != (round%2 == 1) {
			t.Fatalf("the other davitd has version %v (%v)", now, err)
		}
		if out := s.exec(writers[0].id, "echo", "works"); out != "works\n" {
			t.Errorf("exec under a supervisor of another version: %q", out)
		}
		var ending []brief
		for range 4 {
			briefs++
			ending = append(ending, s.startBrief(home, briefPod, image, briefs))
		}
		type result struct {
			response *cri.ExecSyncResponse
			err      error
		}
		execs := make(chan result)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		for _, w := range writers {
			go func() {
				response, err := s.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: w.id, Timeout: 30,
					Cmd: []string{"sh", "-c", "echo begin; while [ ! -e /gate/enough ]; do echo .; [ -e /gate/exec ] || touch /gate/exec; done; echo end; exit 7"}})
				execs <- result{response, err}
			}()
		}
		for _, w := range writers {
			awaitExists(t, w.gate+"/exec")
		}
		s.must(s.Use(dist, "upgrade_supervisors = true"), "configure")
		s.must(s.Reload(), "make davitd read its configuration again")
		cut := round%3 == 0
		if cut {
			// It dies amid them; the execs of that daemon die with it.
			time.Sleep(time.Duration(rand.Intn(40)) * time.Millisecond)
			s.must(s.Kill(), "kill davitd")
			s.must(s.Start(), "start davitd again")
		}
		s.awaitUpgrades(supervisors, dist)
		for _, w := range writers {
			s.must(os.WriteFile(w.gate+"/enough", nil, 0o644), "let the exec end")
		}
		for range writers {
			got := <-execs
			if cut {
				continue
			}
			s.must(got.err, "exec through an upgrade")
			out := string(got.response.Stdout)
			if got.response.ExitCode != 7 || !strings.HasPrefix(out, "begin\n.\n") || !strings.HasSuffix(out, ".\nend\n") ||
				strings.Trim(strings.TrimSuffix(strings.TrimPrefix(out, "begin\n"), "end\n"), ".\n") != "" {
				t.Errorf("exec through an upgrade: exit code %d, %d bytes", got.response.ExitCode, len(out))
			}
		}
		cancel()
		for _, w := range writers {
			os.Remove(w.gate + "/exec")
			os.Remove(w.gate + "/enough")
		}
		for _, b := range ending {
			s.checkBrief(b)
		}
		for i, w := range writers {
			if pid := s.supervisor(w.pod); pid != w.supervisor {
				t.Fatalf("the supervisor is process %d, it was %d", pid, w.supervisor)
			}
			if pid := s.infoPid(w.id); pid != w.pid {
				t.Fatalf("the container is process %d, it was %d", pid, w.pid)
			}
			awaitGrowth(t, w.log, size(w.log))
			if now := s.steadyDescriptors(w.supervisor, descriptors[i]); descriptors[i] == nil {
				descriptors[i] = now
			} else if len(now) > len(descriptors[i]) {
				t.Fatalf("descriptors of the supervisor leak: %s; they were %s", strings.Join(now, " "), strings.Join(descriptors[i], " "))
			}
		}
	}
	for _, w := range writers {
		s.endWriter(w)
	}
	s.removeAllPods()
	s.nothingLeft("pods that went through upgrades")
}

// steadyDescriptors waits a little for descriptors that are closed in the background.
func (s *suite) steadyDescriptors(pid int, before []string) []string {
	deadline := time.Now().Add(3 * time.Second)
	for {
		now := leaks.Descriptors(pid)
		if before == nil || len(now) <= len(before) || time.Now().After(deadline) {
			return now
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func awaitExists(t *testing.T, path string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not appear", path)
		}
	}
}
