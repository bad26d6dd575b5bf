package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"davit.dev/e2e/internal/crikit"
	"davit.dev/e2e/internal/daemon"
	"davit.dev/e2e/internal/fakeregistry"
	"davit.dev/e2e/internal/ociimage"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func contextOf(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func formatInt(n int64) string { return strconv.FormatInt(n, 10) }

func TestPodRequestsThatMakeNoSenseAreRefusedAndLeaveNothing(t *testing.T) {
	s := begin(t, daemon.Options{})
	good := func() *cri.PodSandboxConfig { return s.pod(cri.NamespaceMode_NODE) }
	noMetadata, noName, badSysctl, unknownSysctl := good(), good(), good(), good()
	noMetadata.Metadata = nil
	noName.Metadata.Name = ""
	badSysctl.Linux.Sysctls = map[string]string{"vm.overcommit_memory": "1"}
	unknownSysctl.Linux.Sysctls = map[string]string{"net.ipv4.no_such_thing": "1"}
	for name, test := range map[string]struct {
		request *cri.RunPodSandboxRequest
		code    codes.Code
	}{
		"no configuration":                      {&cri.RunPodSandboxRequest{}, codes.InvalidArgument},
		"no metadata":                           {&cri.RunPodSandboxRequest{Config: noMetadata}, codes.InvalidArgument},
		"no name":                               {&cri.RunPodSandboxRequest{Config: noName}, codes.InvalidArgument},
		"a sysctl of the whole machine":         {&cri.RunPodSandboxRequest{Config: badSysctl}, codes.InvalidArgument},
		"a network sysctl on the host network":  {&cri.RunPodSandboxRequest{Config: unknownSysctl}, codes.InvalidArgument},
		"a runtime handler that does not exist": {&cri.RunPodSandboxRequest{Config: good(), RuntimeHandler: "nonsense"}, codes.InvalidArgument},
	} {
		_, err := s.Runtime.RunPodSandbox(s.ctx(), test.request)
		if got := status.Code(err); got != test.code {
			t.Errorf("%s: code %v, want %v: %v", name, got, test.code, err)
		}
		if err != nil && len(status.Convert(err).Message()) < 10 {
			t.Errorf("%s: the message says nothing: %v", name, err)
		}
	}
	s.nothingLeft("pods that were refused")
}

func TestANameIsTakenOnceAndFreeAgainAfterRemoval(t *testing.T) {
	s := begin(t, daemon.Options{})
	image := s.busybox()
	pod, podConfig := s.hostPod()
	_, err := s.Runtime.RunPodSandbox(s.ctx(), &cri.RunPodSandboxRequest{Config: podConfig})
	wantCode(t, err, codes.AlreadyExists, podConfig.Metadata.Name)
	config := crikit.Container("twice", image, "sleep", "1000")
	id := s.create(pod, podConfig, config)
	_, err = s.tryCreate(pod, podConfig, config)
	wantCode(t, err, codes.AlreadyExists, "twice")
	_, err = s.Runtime.RemoveContainer(s.ctx(), &cri.RemoveContainerRequest{ContainerId: id})
	s.must(err, "remove")
	s.create(pod, podConfig, config)
	s.removeAllPods()
	s.runPod(podConfig)
}

func TestUnknownIDsAreNotFoundInStatusAndSuccessInStopAndRemove(t *testing.T) {
	s := begin(t, daemon.Options{})
	for _, id := range []string{strings.Repeat("0", 64), "3ff4e2a4-9f0c-4d2b-8f61-6c1a6f4c6c0e", "no such"} {
		_, err := s.Runtime.PodSandboxStatus(s.ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: id})
		wantCode(t, err, codes.NotFound)
		_, err = s.Runtime.ContainerStatus(s.ctx(), &cri.ContainerStatusRequest{ContainerId: id})
		wantCode(t, err, codes.NotFound)
		_, err = s.Runtime.StartContainer(s.ctx(), &cri.StartContainerRequest{ContainerId: id})
		wantCode(t, err, codes.NotFound)
		_, err = s.Runtime.ExecSync(s.ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}})
		wantCode(t, err, codes.NotFound)
		_, err = s.Runtime.ReopenContainerLog(s.ctx(), &cri.ReopenContainerLogRequest{ContainerId: id})
		wantCode(t, err, codes.NotFound)
		_, err = s.Runtime.UpdateContainerResources(s.ctx(), &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: &cri.LinuxContainerResources{CpuShares: 2}})
		wantCode(t, err, codes.NotFound)
		_, err = s.Runtime.StopPodSandbox(s.ctx(), &cri.StopPodSandboxRequest{PodSandboxId: id})
		wantCode(t, err, codes.OK)
		_, err = s.Runtime.RemovePodSandbox(s.ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: id})
		wantCode(t, err, codes.OK)
		_, err = s.Runtime.StopContainer(s.ctx(), &cri.StopContainerRequest{ContainerId: id})
		wantCode(t, err, codes.OK)
		_, err = s.Runtime.RemoveContainer(s.ctx(), &cri.RemoveContainerRequest{ContainerId: id})
		wantCode(t, err, codes.OK)
		_, err = s.Images.RemoveImage(s.ctx(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: strings.Repeat("0", 64)}})
		wantCode(t, err, codes.OK)
		response, err := s.Images.ImageStatus(s.ctx(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: strings.Repeat("0", 64)}})
		if err != nil || response.Image != nil {
			t.Errorf("status of an unknown image: %v, %v", response, err)
		}
	}
}

func TestContainerRequestsThatMakeNoSenseAreRefusedAndLeaveNothing(t *testing.T) {
	s := begin(t, daemon.Options{})
	image := s.busybox()
	pod, podConfig := s.hostPod()
	change := func(f func(*cri.ContainerConfig)) *cri.ContainerConfig {
		config := crikit.Container("bad", image, "sleep", "1000")
		f(config)
		return config
	}
	security := func(f func(*cri.LinuxContainerSecurityContext)) *cri.ContainerConfig {
		return change(func(c *cri.ContainerConfig) { f(c.Linux.SecurityContext) })
	}
	for name, test := range map[string]struct {
		pod    string
		config *cri.ContainerConfig
		code   codes.Code
	}{
		"an unknown pod":       {strings.Repeat("0", 64), change(func(*cri.ContainerConfig) {}), codes.NotFound},
		"an image not present": {pod, change(func(c *cri.ContainerConfig) { c.Image.Image = "no/such:image" }), codes.NotFound},
		"no image":             {pod, change(func(c *cri.ContainerConfig) { c.Image = nil }), codes.InvalidArgument},
		"no metadata":          {pod, change(func(c *cri.ContainerConfig) { c.Metadata = nil }), codes.InvalidArgument},
		"a group without a user": {pod, security(func(c *cri.LinuxContainerSecurityContext) {
			c.RunAsGroup = &cri.Int64Value{Value: 1000}
		}), codes.InvalidArgument},
		"a user name that the image does not know": {pod, security(func(c *cri.LinuxContainerSecurityContext) {
			c.RunAsUsername = "stranger"
		}), codes.InvalidArgument},
		"a capability that does not exist": {pod, security(func(c *cri.LinuxContainerSecurityContext) {
			c.Capabilities.AddCapabilities = []string{"FLY"}
		}), codes.InvalidArgument},
		"a privileged container in a pod that is not": {pod, security(func(c *cri.LinuxContainerSecurityContext) {
			c.Privileged = true
		}), codes.InvalidArgument},
		"a seccomp profile that is not there": {pod, security(func(c *cri.LinuxContainerSecurityContext) {
			c.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: "/no/such/profile.json"}
		}), codes.Unknown},
		"a mount with a relative path": {pod, change(func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{ContainerPath: "relative", HostPath: "/tmp"}}
		}), codes.InvalidArgument},
		"recursive read-only without read-only": {pod, change(func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{ContainerPath: "/m", HostPath: "/tmp", RecursiveReadOnly: true}}
		}), codes.InvalidArgument},
		"a process target that does not exist": {pod, security(func(c *cri.LinuxContainerSecurityContext) {
			c.NamespaceOptions = &cri.NamespaceOption{Pid: cri.NamespaceMode_TARGET, TargetId: strings.Repeat("0", 64)}
		}), codes.Unknown},
	} {
		id, err := s.tryCreate(test.pod, podConfig, test.config)
		if err == nil {
			t.Errorf("%s: accepted", name)
			s.Runtime.RemoveContainer(s.ctx(), &cri.RemoveContainerRequest{ContainerId: id})
		} else if test.code != codes.Unknown && status.Code(err) != test.code {
			t.Errorf("%s: code %v, want %v: %v", name, status.Code(err), test.code, err)
		}
	}
	list, err := s.Runtime.ListContainers(s.ctx(), &cri.ListContainersRequest{})
	s.must(err, "list")
	if len(list.Containers) != 0 {
		t.Errorf("containers that were refused are listed: %v", list.Containers)
	}
	s.removeAllPods()
	s.nothingLeft("containers that were refused")
}

func TestACommandThatCannotBeExecutedIsAStartErrorThatNamesTheFile(t *testing.T) {
	s := begin(t, daemon.Options{})
	image := s.busybox()
	pod, podConfig := s.hostPod()
	for name, command := range map[string]string{"missing": "/no/such/program", "unfindable": "no-such-program", "plain": "/etc/passwd", "directory": "/etc"} {
		id := s.create(pod, podConfig, crikit.Container(name, image, command))
		_, err := s.Runtime.StartContainer(s.ctx(), &cri.StartContainerRequest{ContainerId: id})
		if err == nil || !strings.Contains(err.Error(), command) {
			t.Errorf("%s: the error does not name %s: %v", name, command, err)
		}
		got := s.status(id)
		if got.State != cri.ContainerState_CONTAINER_EXITED || got.Reason != "StartError" || got.ExitCode != 128 || !strings.Contains(got.Message, command) {
			t.Errorf("%s: state %v, reason %q, exit code %d, message %q", name, got.State, got.Reason, got.ExitCode, got.Message)
		}
		_, err = s.Runtime.StartContainer(s.ctx(), &cri.StartContainerRequest{ContainerId: id})
		wantCode(t, err, codes.FailedPrecondition)
	}
	s.removeAllPods()
	s.nothingLeft("containers that could not be started")
}

func TestAMissingHostPathIsMadeOrRefusedAsConfigured(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		s := begin(t, daemon.Options{ConfigTail: fmt.Sprintf("[containers]\nrefuse_missing_host_paths = %v\n", refuse)})
		image := s.busybox()
		pod, podConfig := s.hostPod()
		path := s.Dir + "/made/by/davit"
		config := crikit.Container("mounting", image, "ls", "/made")
		config.Mounts = []*cri.Mount{{ContainerPath: "/made", HostPath: path}}
		id, err := s.tryCreate(pod, podConfig, config)
		info, statErr := os.Stat(path)
		if refuse {
			if err == nil || !strings.Contains(err.Error(), path) || statErr == nil {
				t.Errorf("refusal configured: %v; %v", err, statErr)
			}
			continue
		}
		s.must(err, "create")
		if statErr != nil || !info.IsDir() || info.Mode().Perm() != 0o755 {
			t.Errorf("host path: %v, %v", info, statErr)
		}
		s.start(id)
		if got := s.awaitExit(id); got.ExitCode != 0 {
			t.Errorf("exit code %d", got.ExitCode)
		}
	}
}

// layerOf is an image of one gzip layer.
func layerOf(t *testing.T, entries ...ociimage.Entry) *ociimage.Document {
	t.Helper()
	return build(t, ociimage.Image{Layers: []ociimage.Layer{{Entries: entries, Compression: ociimage.Gzip}}})
}

func TestRegistriesThatFailAndImagesThatLieAreRefusedAndLeaveNothing(t *testing.T) {
	s := begin(t, daemon.Options{})
	good := small(t, "good")
	down := fakeregistry.Start(t)
	downReference := down.Add("a", "latest", good)
	down.Close()

	big := make([]byte, 1<<20)
	for i := range big {
		big[i] = byte(i * i >> 7)
	}
	stream, err := ociimage.TarStream([]ociimage.Entry{ociimage.File("big", string(big), 0o644)})
	s.must(err, "make a tar stream")
	whole, err := ociimage.Compress(stream, ociimage.Gzip)
	s.must(err, "compress")
	image := func(layer ociimage.Layer) *ociimage.Document {
		return build(t, ociimage.Image{Layers: []ociimage.Layer{layer}})
	}
	gzip := func(layer ociimage.Layer) ociimage.Layer {
		layer.Compression = ociimage.Gzip
		if layer.Entries == nil && layer.Tar == nil {
			layer.Tar = stream
		}
		return layer
	}
	absent := image(gzip(ociimage.Layer{}))
	for digest := range absent.Blobs {
		if digest != absent.ConfigID {
			delete(absent.Blobs, digest)
		}
	}
	notJSON := &ociimage.Document{MediaType: ociimage.OCIManifest, Body: []byte("this is not JSON")}
	twice := &ociimage.Document{MediaType: good.MediaType, Blobs: good.Blobs,
		Body: bytes.Replace(good.Body, []byte(`"schemaVersion":2`), []byte(`"schemaVersion":2,"schemaVersion":2`), 1)}
	claimed := s.registry.Host() + "/claimed@" + ociimage.Digest([]byte("another manifest"))
	s.registry.Alias("claimed", ociimage.Digest([]byte("another manifest")), good)
	s.registry.Add("claimed", "latest", good)

	tests := map[string]struct {
		reference string
		code      codes.Code // OK: any error will do
	}{
		"a registry that is down":      {downReference, codes.OK},
		"a repository that is not":     {s.registry.Host() + "/no/such:latest", codes.NotFound},
		"a tag that is not":            {s.registry.Host() + "/claimed:none", codes.NotFound},
		"a manifest of another digest": {claimed, codes.DataLoss},
		"a reference that is none":     {"localhost:5000/UPPER/case:latest", codes.InvalidArgument},
		"an empty reference":           {"", codes.InvalidArgument},
	}
	for name, document := range map[string]*ociimage.Document{
		"a blob that is not there":           absent,
		"a manifest that is not JSON":        notJSON,
		"a manifest with a key twice":        twice,
		"a layer of another digest":          image(gzip(ociimage.Layer{WrongDigest: true})),
		"a layer of another diff ID":         image(gzip(ociimage.Layer{WrongDiffID: true})),
		"a layer larger than stated":         image(gzip(ociimage.Layer{SizeOff: -100})),
		"a layer smaller than stated":        image(gzip(ociimage.Layer{SizeOff: 100})),
		"a truncated gzip stream":            image(gzip(ociimage.Layer{Blob: whole[:len(whole)/2]})),
		"a gzip stream that is none":         image(gzip(ociimage.Layer{Blob: []byte("plain text")})),
		"a truncated tar stream":             image(gzip(ociimage.Layer{Tar: stream[:len(stream)/2]})),
		"bytes that are no tar stream":       image(gzip(ociimage.Layer{Tar: bytes.Repeat([]byte("nonsense"), 4096)})),
		"a path with ../":                    layerOf(t, ociimage.File("../escaped", "x", 0o644)),
		"a path with ../ inside":             layerOf(t, ociimage.Dir("a", 0o755), ociimage.File("a/../../escaped", "x", 0o644)),
		"a hard link out of the root":        layerOf(t, ociimage.HardLink("passwd", "../../../../../../etc/passwd", 0o644)),
		"a hard link to nothing":             layerOf(t, ociimage.HardLink("a", "not/there", 0o644)),
		"a device node 0:0":                  layerOf(t, ociimage.CharDevice("dev/zero-zero", 0, 0)),
		"a write through a symbolic link":    layerOf(t, ociimage.Symlink("out", "/tmp"), ociimage.File("out/davit-escaped", "x", 0o644)),
		"a write through a relative symlink": layerOf(t, ociimage.Symlink("out", "../../../../../../../../tmp"), ociimage.File("out/davit-escaped", "x", 0o644)),
	} {
		repository := "bad/" + strings.Trim(strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
				return r
			}
			return '-'
		}, strings.ToLower(name)), "-")
		for strings.Contains(repository, "--") {
			repository = strings.ReplaceAll(repository, "--", "-")
		}
		tests[name] = struct {
			reference string
			code      codes.Code
		}{s.registry.Add(repository, "latest", document), codes.OK}
	}
	// A symbolic link on the way is either refused, or followed inside the root. Never out of it.
	mayPass := map[string]bool{"a write through a symbolic link": true, "a write through a relative symlink": true}
	for name, test := range tests {
		id, err := s.tryPull(test.reference, nil)
		if err == nil {
			if !mayPass[name] {
				t.Errorf("%s: pulled", name)
			}
			s.Images.RemoveImage(s.ctx(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: id}})
		} else if test.code != codes.OK && status.Code(err) != test.code {
			t.Errorf("%s: code %v, want %v: %v", name, status.Code(err), test.code, err)
		} else if len(status.Convert(err).Message()) < 15 {
			t.Errorf("%s: the message says nothing: %v", name, err)
		}
		for _, escaped := range []string{"/tmp/davit-escaped", s.Root + "/images/escaped", s.Root + "/escaped"} {
			if _, err := os.Lstat(escaped); err == nil {
				t.Errorf("%s: wrote %s", name, escaped)
				os.Remove(escaped)
			}
		}
	}
	list, err := s.Images.ListImages(s.ctx(), &cri.ListImagesRequest{})
	s.must(err, "list")
	if len(list.Images) != 0 {
		t.Errorf("images that were refused are listed: %v", list.Images)
	}
	s.noImageData("pulls that failed")
	s.pull(s.registry.Add("good", "latest", good)) // and the service still works
}

// noImageData fails the test if the image store holds data of any layer. Files of its own, such as the
// database, are small.
func (s *suite) noImageData(after string) {
	s.Helper()
	var found []string
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		found = nil
		filepath.WalkDir(s.Root+"/images", func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() && (filepath.Base(path) == "big" || filepath.Base(path) == "escaped" || filepath.Base(path) == "name") {
				found = append(found, path)
			}
			return nil
		})
		if len(found) == 0 || time.Now().After(deadline) {
			break
		}
	}
	if len(found) > 0 {
		s.Errorf("left in the image store after %s:\n  %s", after, strings.Join(found, "\n  "))
	}
}

func TestARegistryThatIsDownIsReportedAsTheKubeletExpects(t *testing.T) {
	s := begin(t, daemon.Options{})
	down := fakeregistry.Start(t)
	reference := down.Add("a", "latest", small(t, "down"))
	down.Close()
	_, err := s.tryPull(reference, nil)
	// The kubelet reads the beginning of the bare message, which its client makes of code Unknown only.
	if status.Code(err) != codes.Unknown || !strings.HasPrefix(status.Convert(err).Message(), "RegistryUnavailable") {
		t.Errorf("got %v", err)
	}
}

func TestAServerThatBreaksOffIsAskedAgainFromWhereItStopped(t *testing.T) {
	s := begin(t, daemon.Options{})
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	document := build(t, ociimage.Image{Layers: []ociimage.Layer{{Compression: ociimage.Plain, Entries: []ociimage.Entry{ociimage.File("big", string(big), 0o644)}}}})
	broken := false
	s.registry.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
		i := strings.LastIndex(r.URL.Path, "/blobs/")
		if i < 0 || r.Method != http.MethodGet || strings.HasSuffix(r.URL.Path, document.ConfigID) || broken {
			return false
		}
		broken = true
		blob := document.Blobs[r.URL.Path[i+len("/blobs/"):]]
		w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
		w.Write(blob[:len(blob)/3])
		panic(http.ErrAbortHandler)
	}
	s.pull(s.registry.Add("breaks", "latest", document))
	if !broken {
		t.Error("the layer was never asked for")
	}
}

func TestAFullDiskFailsThePullAndLeavesRoomAndServiceIntact(t *testing.T) {
	s := prepare(t, daemon.Options{})
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=48m", "davit-e2e", s.Root).CombinedOutput(); err != nil {
		t.Fatalf("mount a small file system: %v\n%s", err, out)
	}
	s.must(s.Start(), "start davitd")
	s.before = s.Node().Take()
	// So small when compressed that nobody can foresee it.
	big := make([]byte, 64<<20)
	tooBig := build(t, ociimage.Image{Layers: []ociimage.Layer{{Compression: ociimage.Gzip, Entries: []ociimage.Entry{ociimage.File("big", string(big), 0o644)}}}})
	_, err := s.tryPull(s.registry.Add("too-big", "latest", tooBig), nil)
	wantCode(t, err, codes.ResourceExhausted)
	s.noImageData("a pull that filled the disk")
	s.pull(s.registry.Add("fits", "latest", small(t, "fits")))
}

func TestANetworkPluginThatFailsOrHangsFailsThePodAndLeavesNothing(t *testing.T) {
	s := prepare(t, daemon.Options{})
	plugins := s.Dir + "/plugins"
	s.must(os.Mkdir(plugins, 0o755), "make a plugin directory")
	record := s.Dir + "/calls"
	script := func(name, body string) {
		text := fmt.Sprintf("#!/bin/sh\necho %s $CNI_COMMAND >> %s\nif [ $CNI_COMMAND != ADD ]; then exit 0; fi\n%s\n", name, record, body)
		s.must(os.WriteFile(plugins+"/"+name, []byte(text), 0o755), "write a plugin")
	}
	script("failing", `echo '{"cniVersion":"1.0.0","code":11,"msg":"no address for you"}'; exit 1`)
	script("hanging", "sleep 1000")
	script("babbling", "yes nonsense")
	script("lying", "echo this is not JSON")
	conf := func(name string) {
		text := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"bad","plugins":[{"type":"%s"}]}`, name)
		s.must(os.WriteFile(s.ConfDir+"/10-bad.conflist.new", []byte(text), 0o644), "configure")
		s.must(os.Rename(s.ConfDir+"/10-bad.conflist.new", s.ConfDir+"/10-bad.conflist"), "configure")
	}
	s.must(s.WriteConfigCNI(fmt.Sprintf("bin_dirs = [%q]\ntimeout_seconds = 2\n", plugins)), "configure")
	conf("failing")
	s.must(s.Start(), "start davitd")
	s.before = s.Node().Take()
	for _, name := range []string{"failing", "hanging", "babbling", "lying"} {
		conf(name)
		time.Sleep(300 * time.Millisecond) // the directory is watched; its change has no answer to wait for
		_, err := s.Runtime.RunPodSandbox(s.ctx(), &cri.RunPodSandboxRequest{Config: s.pod(cri.NamespaceMode_POD)})
		if err == nil {
			t.Errorf("%s: the pod runs", name)
			s.removeAllPods()
		} else if name == "failing" && !strings.Contains(err.Error(), "no address for you") {
			t.Errorf("the plugin's own words are lost: %v", err)
		} else if !strings.Contains(err.Error(), name) {
			t.Errorf("%s: the error does not name the plugin: %v", name, err)
		}
		calls, _ := os.ReadFile(record)
		if !strings.Contains(string(calls), name+" DEL") {
			t.Errorf("%s: no DEL after the ADD that failed; calls:\n%s", name, calls)
		}
		s.nothingLeft("a pod whose plugin is " + name)
	}
}

func TestAConfigurationThatIsWrongIsRefusedWithTheNearestKeyNamed(t *testing.T) {
	s := prepare(t, daemon.Options{})
	for name, test := range map[string]struct{ text, word string }{
		"unknown key":   {"log_levle = \"info\"\n", "log_level"},
		"unknown table": {"[regsitries]\n", "registries"},
		"wrong type":    {"log_level = 7\n", "log_level"},
		"duplicate key": {"log_level = \"info\"\nlog_level = \"info\"\n", "log_level"},
		"wrong range":   {"[images]\nmax_parallel_layers = -1\n", "max_parallel_layers"},
		"no TOML":       {"this is no TOML", "1"},
	} {
		file := s.Dir + "/bad.toml"
		s.must(os.WriteFile(file, []byte(test.text), 0o644), "write")
		out, err := exec.Command(s.Binary("davitd"), "--check-config", "--config", file).CombinedOutput()
		if err == nil || !strings.Contains(string(out), test.word) || !strings.Contains(string(out), "bad.toml") {
			t.Errorf("%s: %v, output %q", name, err, out)
		}
	}
	if out, err := exec.Command(s.Binary("davitd"), "--check-config", "--config", s.ConfigFile()).CombinedOutput(); err != nil {
		t.Errorf("a good configuration is refused: %v\n%s", err, out)
	}
	if out, err := exec.Command(s.Binary("davitd"), "--version").CombinedOutput(); err != nil || !strings.Contains(string(out), "davit") {
		t.Errorf("--version: %v, %q", err, out)
	}
}

func TestASecondDaemonOnTheSameStateIsRefusedWithThePidOfTheFirst(t *testing.T) {
	s := begin(t, daemon.Options{})
	out, err := exec.Command(s.Binary("davitd"), s.Args()...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), fmt.Sprint(s.Pid())) {
		t.Errorf("%v, output %q", err, out)
	}
	if _, err := s.Runtime.Version(s.ctx(), &cri.VersionRequest{}); err != nil {
		t.Errorf("the first daemon no longer answers: %v", err)
	}
}

func TestCallsThatAreNotBuiltSayWhichTheyAre(t *testing.T) {
	s := begin(t, daemon.Options{})
	_, err := s.Runtime.CheckpointPod(s.ctx(), &cri.CheckpointPodRequest{})
	wantCode(t, err, codes.Unimplemented, "CheckpointPod")
	_, err = s.Runtime.RestorePod(s.ctx(), &cri.RestorePodRequest{})
	wantCode(t, err, codes.Unimplemented, "RestorePod")
}
