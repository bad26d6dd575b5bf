package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"davit.dev/e2e/internal/crikit"
	"davit.dev/e2e/internal/daemon"
	"davit.dev/e2e/internal/ociimage"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestALineLongerThan16KiBIsWrittenInPartsThatSayTheyGoOn(t *testing.T) {
	s := begin(t, daemon.Options{})
	image := s.busybox()
	pod, podConfig := s.hostPod()
	config := crikit.Container("long", image, "sh", "-c", "head -c 40000 /dev/zero | tr '\\0' x; echo; printf 'no newline at the end'")
	s.awaitExit(s.run(pod, podConfig, config))
	data, err := os.ReadFile(crikit.LogFile(podConfig, config))
	s.must(err, "read the log")
	var tags []string
	for _, line := range strings.Split(strings.TrimSuffix(string(data), "\n"), "\n") {
		fields := strings.SplitN(line, " ", 4)
		if len(fields) != 4 {
			t.Fatalf("line %q", line)
		}
		if len(fields[3]) > 16384 {
			t.Errorf("a part of %d bytes", len(fields[3]))
		}
		tags = append(tags, fields[2])
	}
	if got := strings.Join(tags, ""); !strings.HasPrefix(got, "PPF") || len(got) != 4 {
		t.Errorf("tags %q", got)
	}
	text, err := unframe(string(data))
	if want := strings.Repeat("x", 40000) + "\nno newline at the end"; err != nil || strings.TrimSuffix(text, "\n") != want {
		t.Errorf("the log holds %d bytes, want %d: %v", len(text), len(want), err)
	}
}

func TestAnEnvironmentValueOfAnyBytesReachesThePayload(t *testing.T) {
	s := begin(t, daemon.Options{})
	image := s.busybox()
	pod, podConfig := s.hostPod()
	config := crikit.Container("env", image, "sleep", "1000")
	value := []byte{'a', 0xff, 0xfe, 0x80, '=', '\n', 'z'}
	config.Envs = append(config.Envs, &cri.KeyValue{Key: "BYTES", Value: value}, &cri.KeyValue{Key: "PATH", Value: []byte("/bin")})
	id := s.run(pod, podConfig, config)
	environment := "\x00" + s.exec(id, "cat", "/proc/1/environ")
	if !strings.Contains(environment, "\x00BYTES="+string(value)+"\x00") {
		t.Errorf("environment: %q", environment)
	}
	if !strings.Contains(environment, "\x00PATH=/bin\x00") || strings.Count(environment, "\x00PATH=") != 1 {
		t.Errorf("the image's PATH is not replaced: %q", environment)
	}
}

func TestCommandAndArgumentsReplaceThoseOfTheImageAsKubernetesSays(t *testing.T) {
	s := begin(t, daemon.Options{})
	entries, err := ociimage.BusyboxEntries()
	s.must(err, "make the busybox image")
	image := s.pull(s.registry.Add("entrypoint", "latest", build(t, ociimage.Image{
		Layers: []ociimage.Layer{{Entries: entries, Compression: ociimage.Gzip}},
		Config: ociimage.Config{Entrypoint: []string{"echo", "entrypoint"}, Cmd: []string{"cmd"}, WorkingDir: "/var/made"}})))
	pod, podConfig := s.hostPod()
	for name, test := range map[string]struct {
		command, args []string
		want          string
	}{
		"neither": {nil, nil, "entrypoint cmd"}, "args": {nil, []string{"args"}, "entrypoint args"},
		"command": {[]string{"echo", "command"}, nil, "command"}, "both": {[]string{"echo", "command"}, []string{"args"}, "command args"},
		"directory": {[]string{"pwd"}, nil, "/var/made"},
	} {
		config := crikit.Container(name, image, test.command...)
		config.Args = test.args
		s.awaitExit(s.run(pod, podConfig, config))
		if got := strings.TrimSpace(s.log(podConfig, config)); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func TestMountsAreReadOnlyRecursivelyAndPropagateAsAsked(t *testing.T) {
	s := begin(t, daemon.Options{})
	image := s.busybox()
	host := s.Dir + "/volume"
	s.must(os.MkdirAll(host+"/sub", 0o755), "make a volume")
	s.must(exec.Command("mount", "--bind", host, host).Run(), "mount")
	s.must(exec.Command("mount", "--make-shared", host).Run(), "share")
	s.must(exec.Command("mount", "-t", "tmpfs", "davit-e2e", host+"/sub").Run(), "mount below")
	podConfig := s.pod(cri.NamespaceMode_NODE)
	config := crikit.Container("mounts", image, "sleep", "1000")
	crikit.Privileged(podConfig, config)
	link := s.Dir + "/link"
	s.must(os.Symlink(host, link), "make a symbolic link")
	config.Mounts = []*cri.Mount{
		{ContainerPath: "/rw", HostPath: link, SelinuxRelabel: true},
		{ContainerPath: "/ro", HostPath: host, Readonly: true},
		{ContainerPath: "/rro", HostPath: host, Readonly: true, RecursiveReadOnly: true},
		{ContainerPath: "/slave", HostPath: host, Propagation: cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
		{ContainerPath: "/shared", HostPath: host, Propagation: cri.MountPropagation_PROPAGATION_BIDIRECTIONAL},
	}
	pod := s.runPod(podConfig)
	id := s.run(pod, podConfig, config)
	for path, writable := range map[string]bool{"/rw/a": true, "/ro/a": false, "/ro/sub/a": true, "/rro/a": false, "/rro/sub/a": false, "/slave/a": true} {
		response, err := s.Runtime.ExecSync(s.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"touch", path}})
		s.must(err, "exec")
		if (response.ExitCode == 0) != writable {
			t.Errorf("touch %s: exit code %d, %s", path, response.ExitCode, response.Stderr)
		}
		if !writable && !bytes.Contains(response.Stderr, []byte("Read-only file system")) {
			t.Errorf("touch %s: %s", path, response.Stderr)
		}
	}
	s.must(os.Mkdir(host+"/late", 0o755), "make a directory")
	s.must(exec.Command("mount", "-t", "tmpfs", "davit-late", host+"/late").Run(), "mount late")
	for path, want := range map[string]bool{"/rw/late": false, "/slave/late": true, "/shared/late": true} {
		if got := strings.Contains(s.exec(id, "cat", "/proc/self/mountinfo"), " "+path+" "); got != want {
			t.Errorf("a mount made later shows at %s: %v, want %v", path, got, want)
		}
	}
	s.exec(id, "sh", "-c", "mkdir /shared/inner && mount -t tmpfs davit-inner /shared/inner")
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	s.must(err, "read mountinfo")
	if !strings.Contains(string(mountinfo), " "+host+"/inner ") {
		t.Error("a mount made in the container does not show on the host")
	}
	if mounts := s.status(id).Mounts; len(mounts) != len(config.Mounts) {
		t.Errorf("status shows %v", mounts)
	}
	s.removeAllPods()
	for _, below := range []string{"/inner", "/late", "/sub", ""} {
		if out, err := exec.Command("umount", host+below).CombinedOutput(); err != nil {
			t.Errorf("a volume cannot be unmounted after the pod is gone: %s", out)
		}
	}
	s.nothingLeft("a container with volumes")
}

func TestRecursiveReadOnlyThatCannotBeIsRefused(t *testing.T) {
	s := begin(t, daemon.Options{})
	image := s.busybox()
	pod, podConfig := s.hostPod()
	for _, propagation := range []cri.MountPropagation{cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER, cri.MountPropagation_PROPAGATION_BIDIRECTIONAL} {
		config := crikit.Container("rro", image, "true")
		config.Mounts = []*cri.Mount{{ContainerPath: "/m", HostPath: "/tmp", Readonly: true, RecursiveReadOnly: true, Propagation: propagation}}
		_, err := s.tryCreate(pod, podConfig, config)
		wantCode(t, err, codes.InvalidArgument)
	}
}

func TestThePayloadIsConfinedAsAsked(t *testing.T) {
	s := begin(t, daemon.Options{})
	image := s.busybox()
	field := func(id, name string) string {
		t.Helper()
		for _, line := range strings.Split(s.exec(id, "cat", "/proc/1/status"), "\n") {
			if value, ok := strings.CutPrefix(line, name+":"); ok {
				return strings.TrimSpace(value)
			}
		}
		return ""
	}
	pod, podConfig := s.hostPod()
	usual := crikit.Container("usual", image, "sleep", "1000")
	usual.Linux.SecurityContext.NoNewPrivs = true
	id := s.run(pod, podConfig, usual)
	if got := field(id, "Seccomp"); got != "2" {
		t.Errorf("seccomp mode %s", got)
	}
	if got := field(id, "NoNewPrivs"); got != "1" {
		t.Errorf("no new privileges: %s", got)
	}
	if got := field(id, "CapBnd"); got != "00000000a80425fb" {
		t.Errorf("capabilities %s", got)
	}
	if response, err := s.Runtime.ExecSync(s.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "head -c 1 /proc/kcore; echo 1 > /proc/sys/kernel/panic"}}); err != nil || response.ExitCode == 0 || len(response.Stdout) > 0 {
		t.Errorf("masked and read-only paths: %v, %v", response, err)
	}
	security := func(name string, f func(*cri.LinuxContainerSecurityContext)) string {
		config := crikit.Container(name, image, "sleep", "1000")
		f(config.Linux.SecurityContext)
		return s.run(pod, podConfig, config)
	}
	id = security("dropped", func(c *cri.LinuxContainerSecurityContext) { c.Capabilities.DropCapabilities = []string{"ALL"} })
	if got := field(id, "CapBnd"); got != "0000000000000000" {
		t.Errorf("all dropped: %s", got)
	}
	id = security("added", func(c *cri.LinuxContainerSecurityContext) { c.Capabilities.AddCapabilities = []string{"NET_ADMIN"} })
	if got := field(id, "CapEff"); got != "00000000a80435fb" {
		t.Errorf("NET_ADMIN added: %s", got)
	}
	id = security("unconfined", func(c *cri.LinuxContainerSecurityContext) {
		c.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
	})
	if got := field(id, "Seccomp"); got != "0" {
		t.Errorf("unconfined: seccomp mode %s", got)
	}
	id = security("readonly", func(c *cri.LinuxContainerSecurityContext) { c.ReadonlyRootfs = true })
	if response, err := s.Runtime.ExecSync(s.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"touch", "/x"}}); err != nil || response.ExitCode == 0 {
		t.Errorf("a read-only root is written to: %v, %v", response, err)
	}
	id = security("user", func(c *cri.LinuxContainerSecurityContext) {
		c.RunAsUser, c.RunAsGroup, c.SupplementalGroups = &cri.Int64Value{Value: 1000}, &cri.Int64Value{Value: 2000}, []int64{3000, 4000}
	})
	if got := strings.TrimSpace(s.exec(id, "sh", "-c", "echo $(id -u) $(id -g) $(id -G)")); got != "1000 2000 2000 3000 4000" {
		t.Errorf("ids %q", got)
	}
	if user := s.status(id).GetUser().GetLinux(); user.GetUid() != 1000 || user.GetGid() != 2000 || len(user.GetSupplementalGroups()) < 2 {
		t.Errorf("status shows user %v", user)
	}
	id = security("name", func(c *cri.LinuxContainerSecurityContext) { c.RunAsUsername = "www-data" })
	if got := strings.TrimSpace(s.exec(id, "id", "-un")); got != "www-data" {
		t.Errorf("user name %q", got)
	}
}

func TestAPrivilegedContainerHasWhatTheDaemonHas(t *testing.T) {
	s := begin(t, daemon.Options{})
	image := s.busybox()
	podConfig := s.pod(cri.NamespaceMode_NODE)
	config := crikit.Container("privileged", image, "sleep", "1000")
	crikit.Privileged(podConfig, config)
	pod := s.runPod(podConfig)
	id := s.run(pod, podConfig, config)
	own, err := os.ReadFile("/proc/self/status")
	s.must(err, "read the test's capabilities")
	_, after, _ := strings.Cut(string(own), "CapEff:")
	want := strings.Fields(after)[0]
	if got := s.exec(id, "grep", "CapEff", "/proc/1/status"); !strings.Contains(got, want) {
		t.Errorf("capabilities %q, want %s", got, want)
	}
	s.exec(id, "sh", "-c", "test -c /dev/kmsg && mount -t tmpfs none /mnt 2>/dev/null || mkdir /mnt && mount -t tmpfs none /mnt")
}
