package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"davit.dev/e2e/internal/crikit"
	"davit.dev/e2e/internal/daemon"
	"davit.dev/e2e/internal/powercut"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// No call may take longer than this, however long a disk takes. (It is the test machine that takes long.)
const responsive = 8 * time.Second

// stall is for how long the disks of these tests do not answer: DAVIT_DISK_STALL seconds.
func stall() time.Duration {
	if seconds, err := strconv.Atoi(os.Getenv("DAVIT_DISK_STALL")); err == nil {
		return time.Duration(seconds) * time.Second
	}
	return 3 * time.Second
}

// A smallDisk is a file system of its own, that can be full or stop to answer.
type smallDisk struct {
	*testing.T
	point  string
	frozen bool
}

func newSmallDisk(t *testing.T, megabytes int64, point string) *smallDisk {
	t.Helper()
	image := scratch(t) + "/image"
	d := &smallDisk{T: t, point: point}
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, megabytes<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("/sbin/mkfs.ext4", "-q", "-F", "-m", "0", image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs: %v: %s", err, out)
	}
	device, err := powercut.Attach(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := powercut.Mount(device, point, "ext4"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.thaw()
		if err := syscall.Unmount(point, 0); err != nil {
			t.Errorf("unmount %s: %v", point, err)
			syscall.Unmount(point, syscall.MNT_DETACH)
		}
		powercut.Detach(device)
	})
	return d
}

func (d *smallDisk) ioctl(request uintptr, what string) {
	file, err := os.Open(d.point)
	if err != nil {
		d.Fatal(err)
	}
	defer file.Close()
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, file.Fd(), request, 0); errno != 0 {
		d.Errorf("%s %s: %v", what, d.point, errno)
	}
}

func (d *smallDisk) freeze() {
	d.ioctl(0xC0045877, "freeze") // FIFREEZE
	d.frozen = true
}

func (d *smallDisk) thaw() {
	if d.frozen {
		d.ioctl(0xC0045878, "thaw") // FITHAW
		d.frozen = false
	}
}

// fill takes the last byte.
func (d *smallDisk) fill() {
	d.Helper()
	file, err := os.OpenFile(d.point+"/filler", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		d.Fatal(err)
	}
	defer file.Close()
	for size := 1 << 20; size >= 512; {
		if _, err := file.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	file.Sync()
}

func (d *smallDisk) free() {
	if err := os.Remove(d.point + "/filler"); err != nil {
		d.Fatal(err)
	}
}

// A printer prints numbered lines as fast as it is read, until it is told to end.
type printer struct {
	s         *suite
	gate      string
	id        string
	podConfig *cri.PodSandboxConfig
	config    *cri.ContainerConfig
}

// startPrinter runs one; it pauses after each line if it is a slow one.
func (s *suite) startPrinter(pod string, podConfig *cri.PodSandboxConfig, image, name string, slow bool) *printer {
	s.Helper()
	p := &printer{s: s, gate: s.Dir + "/" + crikit.Unique("gate"), podConfig: podConfig}
	s.must(os.Mkdir(p.gate, 0o755), "make a gate")
	pause := ""
	if slow {
		pause = "usleep 20000; "
	}
	p.config = crikit.Container(name, image, "sh", "-c", "i=0; while [ ! -e /gate/end ]; do echo line $i; i=$((i+1)); "+pause+
		"if [ $((i%100)) = 0 ]; then echo $i > /gate/progress; fi; done; echo $i > /gate/count; exit 7")
	p.config.Mounts = []*cri.Mount{{ContainerPath: "/gate", HostPath: p.gate}}
	p.id = s.run(pod, podConfig, p.config)
	return p
}

func (p *printer) progress() int {
	text, _ := os.ReadFile(p.gate + "/progress")
	count, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return count
}

// awaitBlocked waits until it gets no further.
func (p *printer) awaitBlocked() int {
	p.s.Helper()
	before := -1
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(time.Second) {
		now := p.progress()
		if now == before && now > 0 {
			return now
		}
		before = now
	}
	p.s.Fatalf("the printer never blocks: %d lines", before)
	return 0
}

func (p *printer) awaitFurther(from int) {
	p.s.Helper()
	for deadline := time.Now().Add(30 * time.Second); p.progress() <= from; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.s.Fatalf("the printer does not get beyond %d lines", from)
		}
	}
}

func (p *printer) tellToEnd() {
	p.s.must(os.WriteFile(p.gate+"/end", nil, 0o644), "end the printer")
}

// finish lets it end and checks its log: every line it printed is there, or told to be missing where it
// would be. It returns how many are missing.
func (p *printer) finish() int {
	p.s.Helper()
	p.tellToEnd()
	if got := p.s.awaitExit(p.id); got.ExitCode != 7 {
		p.s.Errorf("the printer's exit code is %d", got.ExitCode)
	}
	text, err := os.ReadFile(p.gate + "/count")
	p.s.must(err, "read the count")
	count, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	var lines, missing int
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		lines, missing, err = countLines(p.s.log(p.podConfig, p.config))
		if (err == nil && lines+missing == count) || time.Now().After(deadline) {
			break
		}
	}
	if err != nil || lines+missing != count {
		p.s.Errorf("%d lines were printed; %d are in the log, and %d told to be missing: %v", count, lines, missing, err)
	}
	return missing
}

func countLines(text string) (lines, missing int, err error) {
	for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		var dropped, bytes int
		if n, _ := fmt.Sscanf(line, "[davit: %d lines (%d bytes) are missing here", &dropped, &bytes); n == 2 {
			missing += dropped
			continue
		}
		if line != fmt.Sprintf("line %d", lines+missing) {
			return lines, missing, fmt.Errorf("where line %d should be is %q", lines+missing, line)
		}
		lines++
	}
	return lines, missing, nil
}

// A logHealth is what the verbose status says of a container's log.
type logHealth struct {
	Error        string
	DroppedLines int
	DroppedBytes int
}

func (s *suite) logHealth(id string) logHealth {
	s.Helper()
	response, err := s.Runtime.ContainerStatus(s.ctx(), &cri.ContainerStatusRequest{ContainerId: id, Verbose: true})
	s.must(err, "verbose status")
	var info struct{ Log logHealth }
	s.must(json.Unmarshal([]byte(response.Info["info"]), &info), "read the verbose status")
	return info.Log
}

func (s *suite) awaitLogError(id, want string) {
	s.Helper()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(s.logHealth(id).Error, want) || (want == "" && s.logHealth(id).Error != ""); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.Fatalf("the verbose status says of the log: %q, want %q", s.logHealth(id).Error, want)
		}
	}
}

// awaitDroppedLines reports whether the verbose status comes to say that so many lines were dropped.
func (s *suite) awaitDroppedLines(id string, want int) bool {
	s.Helper()
	for deadline := time.Now().Add(20 * time.Second); s.logHealth(id).DroppedLines != want; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// quickly runs a call and complains if it takes long.
func (s *suite) quickly(doing string, call func(ctx context.Context) error) {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	began := time.Now()
	if err := call(ctx); err != nil {
		s.Errorf("%s: %v", doing, err)
	}
	if took := time.Since(began); took > responsive {
		s.Errorf("%s took %v", doing, took)
	}
}

// everythingElseWorks goes through what a kubelet does, on the container whose log hangs and on others.
func (s *suite) everythingElseWorks(image, stuck string) {
	s.Helper()
	s.quickly("list pods", func(ctx context.Context) error {
		_, err := s.Runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
		return err
	})
	s.quickly("status", func(ctx context.Context) error {
		_, err := s.Runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: stuck, Verbose: true})
		return err
	})
	s.quickly("exec beside a log that hangs", func(ctx context.Context) error {
		response, err := s.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: stuck, Cmd: []string{"echo", "here"}, Timeout: 20})
		if err == nil && string(response.Stdout) != "here\n" {
			err = fmt.Errorf("got %q", response.Stdout)
		}
		return err
	})
	s.quickly("a pod elsewhere", func(ctx context.Context) error {
		podConfig := s.pod(cri.NamespaceMode_NODE)
		pod, err := s.Runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: podConfig})
		if err != nil {
			return err
		}
		config := crikit.Container("other", image, "echo", "fine")
		id, err := s.tryCreate(pod.PodSandboxId, podConfig, config)
		if err != nil {
			return err
		}
		if _, err = s.Runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id}); err != nil {
			return err
		}
		s.awaitExit(id)
		if got := s.log(podConfig, config); got != "fine\n" {
			return fmt.Errorf("its log is %q", got)
		}
		_, err = s.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod.PodSandboxId})
		return err
	})
}

func logsConfig(when string) daemon.Options {
	return daemon.Options{ConfigTail: fmt.Sprintf("[logs]\nwhen_full = %q\nbuffer_kib = 256\n", when)}
}

func (s *suite) podWithLogsOn(disk *smallDisk) (string, *cri.PodSandboxConfig) {
	s.Helper()
	podConfig := s.pod(cri.NamespaceMode_NODE)
	podConfig.LogDirectory = disk.point + "/" + podConfig.Metadata.Name
	return s.runPod(podConfig), podConfig
}

func TestALogOnADiskThatHangsHoldsUpNothingElse(t *testing.T) {
	for _, when := range []string{"block", "drop"} {
		t.Run(when, func(t *testing.T) {
			s := begin(t, logsConfig(when))
			image := s.busybox()
			disk := newSmallDisk(t, 256, t.TempDir())
			pod, podConfig := s.podWithLogsOn(disk)
			fast := s.startPrinter(pod, podConfig, image, "fast", false)
			neighbour := s.startPrinter(pod, podConfig, image, "neighbour", true)
			doomed, doomedConfig := s.podWithLogsOn(disk)
			victim := s.startPrinter(doomed, doomedConfig, image, "victim", false)
			elsewhere, elsewhereConfig := s.hostPod()
			other := s.startPrinter(elsewhere, elsewhereConfig, image, "other", true)
			fast.awaitFurther(0)
			victim.awaitFurther(0)

			disk.freeze()
			thawed := time.Now().Add(stall())
			s.awaitLogError(fast.id, "does not answer")
			s.everythingElseWorks(image, fast.id)
			if when == "block" {
				fast.awaitBlocked()
			} else {
				fast.awaitFurther(fast.progress() + 20000)
			}
			// The slow one has printed less than its buffer holds.
			neighbour.awaitFurther(neighbour.progress())
			before := size(crikit.LogFile(elsewhereConfig, other.config))
			s.quickly("stop a container whose log hangs", func(ctx context.Context) error {
				_, err := s.Runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: victim.id, Timeout: 0})
				return err
			})
			if got := s.status(victim.id); got.State != cri.ContainerState_CONTAINER_EXITED || got.ExitCode != 137 {
				t.Errorf("the stopped container is %v with exit code %d", got.State, got.ExitCode)
			}
			s.quickly("remove a container whose log hangs", func(ctx context.Context) error {
				_, err := s.Runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: victim.id})
				return err
			})
			s.quickly("remove a pod whose log hangs", func(ctx context.Context) error {
				_, err := s.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: doomed})
				return err
			})
			for time.Now().Before(thawed) {
				s.everythingElseWorks(image, fast.id)
				time.Sleep(time.Second)
			}
			if after := size(crikit.LogFile(elsewhereConfig, other.config)); after <= before {
				t.Error("a log on another disk has stopped")
			}
			disk.thaw()

			s.awaitLogError(fast.id, "")
			further := fast.progress()
			fast.awaitFurther(further)
			dropped := s.logHealth(fast.id).DroppedLines
			missing := fast.finish()
			if when == "block" && (missing != 0 || dropped != 0) {
				t.Errorf("%d lines are missing, %d counted", missing, dropped)
			}
			if when == "drop" && (missing == 0 || !s.awaitDroppedLines(fast.id, missing)) {
				t.Errorf("%d lines are missing, %d counted", missing, s.logHealth(fast.id).DroppedLines)
			}
			if missing := neighbour.finish() + other.finish(); missing != 0 {
				t.Errorf("%d lines of slow printers are missing", missing)
			}
			// The supervisor that was still on the disk has ended, too.
			s.removeAllPods()
			s.nothingLeft("a disk that hung")
		})
	}
}

func TestALogOnAFullDiskGoesOnWhenThereIsRoomAgain(t *testing.T) {
	for _, when := range []string{"block", "drop"} {
		t.Run(when, func(t *testing.T) {
			s := begin(t, logsConfig(when))
			image := s.busybox()
			disk := newSmallDisk(t, 256, t.TempDir())
			pod, podConfig := s.podWithLogsOn(disk)
			fast := s.startPrinter(pod, podConfig, image, "fast", false)
			doomed, doomedConfig := s.podWithLogsOn(disk)
			victim := s.startPrinter(doomed, doomedConfig, image, "victim", false)
			fast.awaitFurther(0)
			disk.fill()
			s.awaitLogError(fast.id, "No space left")
			s.everythingElseWorks(image, fast.id)
			if when == "block" {
				fast.awaitBlocked()
			} else {
				fast.awaitFurther(fast.progress() + 20000)
			}
			s.quickly("stop a container whose log is full", func(ctx context.Context) error {
				_, err := s.Runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: victim.id, Timeout: 0})
				return err
			})
			s.quickly("remove a pod whose log is full", func(ctx context.Context) error {
				_, err := s.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: doomed})
				return err
			})
			// A restarted daemon knows of it, too.
			s.must(s.Kill(), "kill davitd")
			s.must(s.Start(), "start davitd again")
			s.awaitLogError(fast.id, "No space left")
			disk.free()
			s.awaitLogError(fast.id, "")
			fast.awaitFurther(fast.progress())
			missing := fast.finish()
			if when == "block" && missing != 0 {
				t.Errorf("%d lines are missing", missing)
			}
			if when == "drop" && (missing == 0 || !s.awaitDroppedLines(fast.id, missing)) {
				t.Errorf("%d lines are missing, %d counted", missing, s.logHealth(fast.id).DroppedLines)
			}
		})
	}
}

// Everything that a node has is on one disk, and that is full: pods can be stopped and removed, and
// images, too, which is what makes room again; and davitd starts.
func TestOnAFullDiskEverythingCanBeRemoved(t *testing.T) {
	s := prepare(t, daemon.Options{})
	disk := newSmallDisk(t, 192, s.Dir)
	for _, path := range []string{s.Root, s.State, s.NetnsDir, s.ConfDir} {
		s.must(os.MkdirAll(path, 0o755), "make "+path)
	}
	s.must(s.WriteConfig(nil, "", ""), "configure")
	// Before the disk is unmounted.
	t.Cleanup(func() { s.must(s.Terminate(), "stop davitd") })
	s.must(s.Start(), "start davitd")
	image := s.busybox()
	second := s.pull(s.registry.Add("second", "latest", small(t, "second")))
	var pods, containers []string
	for range 3 {
		pod, podConfig := s.hostPod()
		pods = append(pods, pod)
		containers = append(containers, s.run(pod, podConfig, crikit.Container("running", image, "sh", "-c", "dd if=/dev/zero of=/data bs=64k count=32; while echo more; do usleep 1000; done")))
		ended := s.run(pod, podConfig, crikit.Container("ended", image, "true"))
		s.awaitExit(ended)
		containers = append(containers, ended)
	}
	disk.fill()
	// What needs room says so, and leaves nothing.
	_, err := s.tryPull(s.registry.Add("third", "latest", small(t, "third")), nil)
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a pull onto a full disk: %v", err)
	}
	s.must(s.Kill(), "kill davitd")
	s.must(s.Start(), "start davitd on a full disk")
	s.quickly("remove an image", func(ctx context.Context) error {
		_, err := s.Images.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: second}})
		return err
	})
	disk.fill() // what that has given back
	for _, id := range containers[:2] {
		s.quickly("stop a container", func(ctx context.Context) error {
			_, err := s.Runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: 0})
			return err
		})
		s.quickly("remove a container", func(ctx context.Context) error {
			_, err := s.Runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: id})
			return err
		})
	}
	disk.fill()
	for _, pod := range pods {
		s.quickly("stop a pod", func(ctx context.Context) error {
			_, err := s.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod})
			return err
		})
	}
	disk.fill()
	s.must(s.Kill(), "kill davitd")
	s.must(s.Start(), "start davitd on a full disk with stopped pods")
	list, err := s.Runtime.ListPodSandbox(s.ctx(), &cri.ListPodSandboxRequest{})
	s.must(err, "list")
	for _, pod := range list.Items {
		if pod.State != cri.PodSandboxState_SANDBOX_NOTREADY {
			t.Errorf("a stopped pod is %v after a restart", pod.State)
		}
	}
	for _, pod := range pods {
		s.quickly("remove a pod", func(ctx context.Context) error {
			_, err := s.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod})
			return err
		})
	}
	disk.fill()
	s.quickly("remove the last image", func(ctx context.Context) error {
		_, err := s.Images.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: image}})
		return err
	})
	s.nothingLeft("removals on a full disk")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		left, _ := filepath.Glob(s.Root + "/images/layers/[1-9]*")
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("layers of no image are still there: %v", left)
		}
	}
	// And everything works as before, as soon as there is room.
	disk.free()
	pod, podConfig := s.hostPod()
	id := s.run(pod, podConfig, crikit.Container("again", s.busybox(), "echo", "hello"))
	s.awaitExit(id)
	s.removeAllPods()
	s.removeAllImages()
}
