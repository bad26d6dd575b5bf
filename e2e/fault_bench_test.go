package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"davit.dev/e2e/internal/crikit"
	"davit.dev/e2e/internal/daemon"
	"davit.dev/e2e/internal/ociimage"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A fault bench is a daemon that is made to fail: in each step of each operation, the caller has to
// get an error that names the operation and the object, an identical retry has to succeed, and
// nothing may be left. All faults are tried with DAVIT_FAULTS=all, a sample of them otherwise.
type faultBench struct {
	*suite
	orders    string // the file that orders faults of steps
	image     string
	document  *ociimage.Document // another image, small, to be pulled
	reference string
	pod       string // host network, for containers
	podConfig *cri.PodSandboxConfig
}

func allFaults() bool { return os.Getenv("DAVIT_FAULTS") == "all" }

func beginFaults(t *testing.T, options daemon.Options) *faultBench {
	t.Helper()
	b := &faultBench{suite: prepare(t, options)}
	b.start()
	return b
}

func (b *faultBench) start() {
	b.orders = b.Dir + "/fault-order"
	b.Flags = append(b.Flags, "--faults", b.orders)
	b.must(b.Daemon.Start(), "start davitd")
	b.before = b.Node().Take()
	b.image = b.busybox()
	b.document = small(b.T, "faulty")
	b.reference = b.registry.Add("faulty", "latest", b.document)
	b.pod, b.podConfig = b.hostPod()
}

// An attempt is one operation on one object, made ready to be tried.
type attempt struct {
	act    func() error
	retry  func() error // nil: the same again
	remove func() error // after the retry's success: everything of it goes
	object []string     // the error has to name one of these
}

// A scenario makes attempts at an operation of CRI.
type scenario struct {
	name    string // how an error names it
	attempt func(b *faultBench) attempt
}

func (b *faultBench) callContext() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	b.T.Cleanup(cancel)
	return ctx
}

// podNetwork is the network that pods have: one of their own, if there is one.
func (b *faultBench) podNetwork() cri.NamespaceMode {
	if b.Network != nil {
		return cri.NamespaceMode_POD
	}
	return cri.NamespaceMode_NODE
}

func (b *faultBench) runPodAttempt() attempt {
	config := b.suite.pod(b.podNetwork())
	id := ""
	act := func() error {
		response, err := b.Runtime.RunPodSandbox(b.callContext(), &cri.RunPodSandboxRequest{Config: config})
		if err == nil {
			id = response.PodSandboxId
		}
		return err
	}
	return attempt{act: act, object: []string{config.Metadata.Name}, remove: func() error { return b.removePod(id) }}
}

func (b *faultBench) removePod(id string) error {
	_, err := b.Runtime.RemovePodSandbox(b.callContext(), &cri.RemovePodSandboxRequest{PodSandboxId: id})
	return err
}

func (b *faultBench) removeContainer(id string) error {
	_, err := b.Runtime.RemoveContainer(b.callContext(), &cri.RemoveContainerRequest{ContainerId: id})
	return err
}

func (b *faultBench) startContainer(id string) error {
	_, err := b.Runtime.StartContainer(b.callContext(), &cri.StartContainerRequest{ContainerId: id})
	return err
}

func (b *faultBench) sleeper() *cri.ContainerConfig {
	return crikit.Container(crikit.Unique("faulty"), b.image, "sleep", "1000")
}

var scenarios = map[string]scenario{
	"run pod": {"run pod", func(b *faultBench) attempt { return b.runPodAttempt() }},
	"create container": {"create container", func(b *faultBench) attempt {
		config, id := b.sleeper(), ""
		act := func() error {
			made, err := b.tryCreate(b.pod, b.podConfig, config)
			if err == nil {
				id = made
			}
			return err
		}
		return attempt{act: act, object: []string{config.Metadata.Name}, remove: func() error { return b.removeContainer(id) }}
	}},
	"start container": {"start container", func(b *faultBench) attempt {
		config := b.sleeper()
		id := b.create(b.pod, b.podConfig, config)
		return attempt{
			object: []string{id},
			act:    func() error { return b.startContainer(id) },
			// What could not be started is not tried again: the kubelet makes another.
			retry: func() error {
				if b.status(id).State == cri.ContainerState_CONTAINER_CREATED {
					return b.startContainer(id)
				}
				if err := b.removeContainer(id); err != nil {
					return err
				}
				id = b.create(b.pod, b.podConfig, config)
				return b.startContainer(id)
			},
			remove: func() error { return b.removeContainer(id) },
		}
	}},
	"stop container": {"stop container", func(b *faultBench) attempt {
		id := b.run(b.pod, b.podConfig, b.sleeper())
		act := func() error {
			_, err := b.Runtime.StopContainer(b.callContext(), &cri.StopContainerRequest{ContainerId: id, Timeout: 1})
			return err
		}
		return attempt{object: []string{id}, act: act, remove: func() error {
			if state := b.status(id).State; state != cri.ContainerState_CONTAINER_EXITED {
				return fmt.Errorf("it was stopped and is %v", state)
			}
			return b.removeContainer(id)
		}}
	}},
	"remove container": {"remove container", func(b *faultBench) attempt {
		id := b.run(b.pod, b.podConfig, b.sleeper())
		return attempt{object: []string{id}, act: func() error { return b.removeContainer(id) },
			remove: func() error { return b.wantGone(id) }}
	}},
	"stop pod": {"stop pod", func(b *faultBench) attempt {
		id := b.busyPod()
		act := func() error {
			_, err := b.Runtime.StopPodSandbox(b.callContext(), &cri.StopPodSandboxRequest{PodSandboxId: id})
			return err
		}
		return attempt{object: []string{id}, act: act, remove: func() error {
			response, err := b.Runtime.PodSandboxStatus(b.callContext(), &cri.PodSandboxStatusRequest{PodSandboxId: id})
			if err == nil && response.Status.State != cri.PodSandboxState_SANDBOX_NOTREADY {
				err = fmt.Errorf("it was stopped and is %v", response.Status.State)
			}
			if err != nil {
				return err
			}
			return b.removePod(id)
		}}
	}},
	"remove pod": {"remove pod", func(b *faultBench) attempt {
		id := b.busyPod()
		return attempt{object: []string{id}, act: func() error { return b.removePod(id) }, remove: func() error {
			_, err := b.Runtime.PodSandboxStatus(b.callContext(), &cri.PodSandboxStatusRequest{PodSandboxId: id})
			if status.Code(err) != codes.NotFound {
				return fmt.Errorf("it was removed, and its status is: %v", err)
			}
			return nil
		}}
	}},
	"pull image": {"pull", func(b *faultBench) attempt { return b.pullAttempt(b.reference) }},
	"pull artifact": {"pull", func(b *faultBench) attempt {
		return b.pullAttempt(b.registry.Add("artifact", "latest", artifact(b.T)))
	}},
	"remove image": {"remove image", func(b *faultBench) attempt {
		b.pull(b.reference)
		act := func() error {
			_, err := b.Images.RemoveImage(b.callContext(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: b.reference}})
			return err
		}
		return attempt{act: act, object: []string{b.reference, b.document.ConfigID}, remove: func() error {
			response, err := b.Images.ImageStatus(b.callContext(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: b.reference}})
			if err == nil && response.Image != nil {
				err = fmt.Errorf("it was removed and is still there")
			}
			return err
		}}
	}},
}

// Operations that are part of another.
var partOf = map[string]string{
	"resolve image": "pull image", "unpack layer": "pull image", "publish layer": "pull image",
	"plan of create container": "create container",
	"set up pod":               "run pod", "set up supervisor": "run pod", "set up container": "create container",
	"finish container": "create container", "end pod": "stop pod",
}

// busyPod is a pod with a running container, and an address if there is a network.
func (b *faultBench) busyPod() string {
	config := b.suite.pod(b.podNetwork())
	id := b.runPod(config)
	b.run(id, config, b.sleeper())
	return id
}

func (b *faultBench) wantGone(container string) error {
	_, err := b.Runtime.ContainerStatus(b.callContext(), &cri.ContainerStatusRequest{ContainerId: container})
	if status.Code(err) != codes.NotFound {
		return fmt.Errorf("it was removed, and its status is: %v", err)
	}
	return nil
}

func (b *faultBench) pullAttempt(reference string) attempt {
	return attempt{
		object: []string{reference},
		act: func() error {
			_, err := b.tryPull(reference, nil)
			return err
		},
		remove: func() error {
			_, err := b.Images.RemoveImage(b.callContext(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: reference}})
			return err
		},
	}
}

// artifact is a manifest whose config is no image's, with one part.
func artifact(t *testing.T) *ociimage.Document {
	t.Helper()
	part, config := []byte("a part of an artifact"), []byte("{}")
	body := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"artifactType":"application/vnd.davit.test",`+
		`"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":%d},`+
		`"layers":[{"mediaType":"application/octet-stream","digest":%q,"size":%d}]}`,
		ociimage.OCIManifest, ociimage.Digest(config), len(config), ociimage.Digest(part), len(part))
	return &ociimage.Document{MediaType: ociimage.OCIManifest, Body: []byte(body),
		Blobs: map[string][]byte{ociimage.Digest(part): part, ociimage.Digest(config): config}}
}

// A fault is what is done to a daemon during one attempt.
type fault struct {
	operation, step, kind string       // for the table
	codes                 []codes.Code // one of these; empty: any but OK
	never                 []codes.Code // none of these
	arm                   func()
	disarm                func() bool // whether it has struck; called once
	mayPass               bool        // the operation may do without what failed
}

// try makes one attempt with a fault. False: the fault was not reached.
func (b *faultBench) try(s scenario, f fault) bool {
	b.Helper()
	before := b.Node().Take()
	a := s.attempt(b)
	f.arm()
	err := a.act()
	if struck := f.disarm(); !struck {
		if err == nil {
			err = a.remove()
		}
		if err != nil {
			b.fail(f, fmt.Sprintf("no fault struck, and yet: %v", err))
		}
		return false
	}
	switch {
	case err == nil && !f.mayPass:
		b.fail(f, "no error")
	case err != nil:
		b.checkError(s, a, f, err)
		if a.retry == nil {
			a.retry = a.act
		}
		err := a.retry()
		// A connection that was lost over it is made again meanwhile; callers come back later than this.
		for limit := time.Now().Add(5 * time.Second); status.Code(err) == codes.Unavailable && time.Now().Before(limit); {
			time.Sleep(20 * time.Millisecond)
			err = a.retry()
		}
		if err != nil {
			b.fail(f, fmt.Sprintf("the retry failed: %v", err))
			return true
		}
	}
	if err := a.remove(); err != nil {
		b.fail(f, fmt.Sprintf("removal: %v", err))
	}
	if left := before.AwaitNoMore(b.Node, 5*time.Second); len(left) > 0 {
		b.fail(f, "left behind: "+strings.Join(left, "; "))
	} else {
		b.report(f, "passed")
	}
	return true
}

func (b *faultBench) checkError(s scenario, a attempt, f fault, err error) {
	message := status.Convert(err).Message()
	if !strings.Contains(message, s.name) {
		b.fail(f, fmt.Sprintf("the error does not name the operation %q: %v", s.name, err))
	}
	named := false
	for _, object := range a.object {
		named = named || strings.Contains(message, object)
	}
	if !named {
		b.fail(f, fmt.Sprintf("the error names none of %q: %v", a.object, err))
	}
	if slices.Contains(f.never, status.Code(err)) {
		b.fail(f, fmt.Sprintf("code %v says something of the object: %v", status.Code(err), err))
	}
	if len(f.codes) == 0 {
		return
	}
	for _, code := range f.codes {
		if status.Code(err) == code {
			return
		}
	}
	b.fail(f, fmt.Sprintf("code %v, want one of %v: %v", status.Code(err), f.codes, err))
}

func (b *faultBench) fail(f fault, why string) {
	b.Helper()
	b.Errorf("%s / %s / %s: %s", f.operation, f.step, f.kind, why)
	b.report(f, "failed")
}

func (b *faultBench) report(f fault, result string) {
	b.reportFault(f.operation, f.step, f.kind, result)
}

// reportFault adds a line to the table that `e2e/run faults` prints.
func (s *suite) reportFault(operation, step, kind, result string) {
	path := os.Getenv("DAVIT_FAULTS_TABLE")
	if path == "" {
		return
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	s.must(err, "open the table of faults")
	defer file.Close()
	fmt.Fprintf(file, "%s\t%s\t%s\t%s\n", operation, step, kind, result)
}

// order is the fault of a step, by the file that davitd looks at.
func (b *faultBench) order(operation, step, moment, action string, value int) fault {
	return fault{
		operation: operation, step: step, kind: fmt.Sprintf("%s: %s %s", moment, action, syscall.Errno(value).Error()),
		codes: []codes.Code{codeOf(syscall.Errno(value))},
		arm: func() {
			line := fmt.Sprintf("%s\t%s\t%s\t%s\t%d\n", operation, step, moment, action, value)
			b.must(os.WriteFile(b.orders+".new", []byte(line), 0o600), "order a fault")
			b.must(os.Rename(b.orders+".new", b.orders), "order a fault")
		},
		disarm: func() bool { return os.Remove(b.orders) != nil },
	}
}

// codeOf is the code that runtime/sys/errno.h gives an errno.
func codeOf(err syscall.Errno) codes.Code {
	switch err {
	case syscall.ENOSPC, syscall.EMFILE, syscall.ENOMEM:
		return codes.ResourceExhausted
	case syscall.EAGAIN, syscall.EBUSY:
		return codes.Unavailable
	case syscall.EACCES, syscall.EPERM:
		return codes.PermissionDenied
	}
	return codes.Internal
}

type step struct{ operation, name string }

// listSteps asks the programs for the steps that they have.
func (b *faultBench) listSteps() []step {
	var steps []step
	for _, program := range []string{"davitd", "davit-pod"} {
		out, err := exec.Command(b.Binary(program), "--list-steps").Output()
		b.must(err, program+" --list-steps")
		for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
			operation, name, ok := strings.Cut(line, "\t")
			if !ok {
				b.Fatalf("%s --list-steps printed %q", program, line)
			}
			steps = append(steps, step{operation, name})
		}
	}
	return steps
}

// scenarioOf finds how an operation is reached. One that no scenario reaches is not tested.
func scenarioOf(operation string) (scenario, bool) {
	if whole, ok := partOf[operation]; ok {
		operation = whole
	}
	s, ok := scenarios[operation]
	return s, ok
}
