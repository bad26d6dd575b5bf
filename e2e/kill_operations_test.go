package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"davit.dev/e2e/internal/crikit"
	"davit.dev/e2e/internal/ociimage"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// An operation is one that davitd is killed in. Its client behaves as the kubelet: it looks at what
// there is, repeats the request, and makes a new attempt only where the kubelet would.
type operation interface {
	name() string
	// prepare makes what the operation needs, undisturbed.
	prepare()
	// call is what is cut.
	call() error
	// uncertain takes out of what is known whatever the cut call may have changed.
	uncertain()
	// settle brings the operation to its end and checks that it has its effect, once.
	settle(err error)
	// remove takes away what the operation has made.
	remove()
}

var operations = []func(*kills) operation{
	func(k *kills) operation { return &runOperation{inPod{kills: k, network: cri.NamespaceMode_NODE}} },
	func(k *kills) operation { return &runOperation{inPod{kills: k, network: cri.NamespaceMode_POD}} },
	func(k *kills) operation {
		return &createOperation{inPod: inPod{kills: k, network: cri.NamespaceMode_NODE}}
	},
	func(k *kills) operation {
		return &createOperation{inPod: inPod{kills: k, network: cri.NamespaceMode_POD}}
	},
	func(k *kills) operation {
		return &startOperation{inPod: inPod{kills: k, network: cri.NamespaceMode_NODE}}
	},
	func(k *kills) operation {
		return &stopOperation{inPod: inPod{kills: k, network: cri.NamespaceMode_NODE}}
	},
	func(k *kills) operation {
		return &execOperation{inPod: inPod{kills: k, network: cri.NamespaceMode_NODE}}
	},
	func(k *kills) operation {
		return &removeOperation{inPod: inPod{kills: k, network: cri.NamespaceMode_NODE}}
	},
	func(k *kills) operation {
		return &endPodOperation{inPod: inPod{kills: k, network: cri.NamespaceMode_POD}}
	},
	func(k *kills) operation {
		return &endPodOperation{inPod: inPod{kills: k, network: cri.NamespaceMode_POD}, removes: true}
	},
	func(k *kills) operation {
		return &endPodOperation{inPod: inPod{kills: k, network: cri.NamespaceMode_NODE}, removes: true}
	},
	func(k *kills) operation { return &pullOperation{kills: k} },
	func(k *kills) operation { return &unpullOperation{pullOperation{kills: k}} },
}

// ---- what operations have in common: a pod of their own

type inPod struct {
	*kills
	network cri.NamespaceMode
	pod     killPod
	mine    []string // containers that were ever known
}

func (p *inPod) on() string {
	if p.network == cri.NamespaceMode_POD {
		return " with CNI"
	}
	return ""
}

func (p *inPod) makePod() {
	p.pod.config = p.kills.pod(p.network)
	p.pod.id = p.runPod(p.pod.config)
	p.knowPod(p.pod.id, cri.PodSandboxState_SANDBOX_READY)
}

func (p *inPod) remove() {
	p.forgetPod(p.pod.id)
	for _, id := range p.mine {
		p.forgetContainer(id)
	}
	list, err := p.Runtime.ListPodSandbox(p.ctx(), &cri.ListPodSandboxRequest{
		Filter: &cri.PodSandboxFilter{LabelSelector: map[string]string{"io.kubernetes.pod.uid": p.pod.config.Metadata.Uid}}})
	p.must(err, "list pods")
	for _, pod := range list.Items {
		_, err := p.Runtime.StopPodSandbox(p.ctx(), &cri.StopPodSandboxRequest{PodSandboxId: pod.Id})
		p.must(err, "stop pod")
		_, err = p.Runtime.RemovePodSandbox(p.ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod.Id})
		p.must(err, "remove pod")
	}
}

func (k *kills) knowPod(id string, state cri.PodSandboxState) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.known.pods[id] = state
}

func (k *kills) forgetPod(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.known.pods, id)
}

func (k *kills) knowContainer(id string, states ...cri.ContainerState) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.known.containers[id] = states
}

func (p *inPod) know(id string, states ...cri.ContainerState) {
	p.mine = append(p.mine, id)
	p.knowContainer(id, states...)
}

func (k *kills) forgetContainer(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.known.containers, id)
}

func (k *kills) knowImage(id string, is bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if is {
		k.known.images[id] = true
	} else {
		delete(k.known.images, id)
	}
}

func (k *kills) removeContainer(id string) {
	_, err := k.Runtime.RemoveContainer(k.ctx(), &cri.RemoveContainerRequest{ContainerId: id})
	k.must(err, "remove container "+id)
	k.forgetContainer(id)
}

// containersOf lists a pod's containers of a name, the latest attempt first, as the kubelet finds them.
func (k *kills) containersOf(pod killPod, name string) []*cri.Container {
	list, err := k.Runtime.ListContainers(k.ctx(), &cri.ListContainersRequest{
		Filter: &cri.ContainerFilter{PodSandboxId: pod.id, LabelSelector: map[string]string{"io.kubernetes.container.name": name}}})
	k.must(err, "list containers")
	slices.SortFunc(list.Containers, func(a, b *cri.Container) int { return int(b.Metadata.Attempt) - int(a.Metadata.Attempt) })
	return list.Containers
}

// ensureRunning does what the kubelet does for a container that should run: nothing if it does; else a
// new one, whose attempt is one more than that of the last that it finds.
func (k *kills) ensureRunning(pod killPod, config *cri.ContainerConfig) string {
	found := k.containersOf(pod, config.Metadata.Name)
	if len(found) > 0 && found[0].State == cri.ContainerState_CONTAINER_RUNNING {
		return found[0].Id
	}
	if len(found) > 0 {
		config.Metadata.Attempt = found[0].Metadata.Attempt + 1
		config.LogPath = fmt.Sprintf("%s/%d.log", config.Metadata.Name, config.Metadata.Attempt)
	}
	return k.run(pod.id, pod.config, config)
}

// ---- RunPodSandbox

type runOperation struct{ inPod }

func (o *runOperation) name() string { return "RunPodSandbox" + o.on() }
func (o *runOperation) prepare()     { o.pod.config = o.kills.pod(o.network) }
func (o *runOperation) uncertain()   {}

func (o *runOperation) call() error {
	response, err := o.Runtime.RunPodSandbox(o.ctx(), &cri.RunPodSandboxRequest{Config: o.pod.config})
	if err == nil {
		o.pod.id = response.PodSandboxId
		o.knowPod(o.pod.id, cri.PodSandboxState_SANDBOX_READY)
	}
	return err
}

func (o *runOperation) settle(err error) {
	list, listErr := o.Runtime.ListPodSandbox(o.ctx(), &cri.ListPodSandboxRequest{
		Filter: &cri.PodSandboxFilter{LabelSelector: map[string]string{"io.kubernetes.pod.uid": o.pod.config.Metadata.Uid}}})
	o.must(listErr, "list pods")
	if len(list.Items) > 1 {
		o.Errorf("%d pods came of one request", len(list.Items))
	}
	if err != nil {
		o.pod.id = ""
		for _, pod := range list.Items {
			if pod.State != cri.PodSandboxState_SANDBOX_READY {
				o.Errorf("pod %s, whose making was cut short, is listed as %v", pod.Id, pod.State)
			}
			o.pod.id = pod.Id
		}
	}
	if o.pod.id == "" {
		o.must(o.call(), "run the pod again")
	}
	o.knowPod(o.pod.id, cri.PodSandboxState_SANDBOX_READY)
	status, err := o.Runtime.PodSandboxStatus(o.ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: o.pod.id})
	o.must(err, "status of the pod")
	address := status.Status.GetNetwork().GetIp()
	if (address != "") != (o.network == cri.NamespaceMode_POD) {
		o.Errorf("the pod's address is %q", address)
	}
	id := o.ensureRunning(o.pod, crikit.Container("main", o.image, "sleep", "1000"))
	if o.network == cri.NamespaceMode_POD {
		if out := o.exec(id, "ip", "-4", "addr", "show", "eth0"); !strings.Contains(out, "inet "+address+"/") {
			o.Errorf("the pod should have the address %s, and has: %s", address, out)
		}
	}
}

// ---- CreateContainer

type createOperation struct {
	inPod
	config *cri.ContainerConfig
	id     string
}

func (o *createOperation) name() string { return "CreateContainer" + o.on() }
func (o *createOperation) uncertain()   {}

func (o *createOperation) prepare() {
	o.makePod()
	o.config = crikit.Container("main", o.image, "sh", "-c", "echo I run; sleep 1000")
}

func (o *createOperation) call() (err error) {
	o.id, err = o.tryCreate(o.pod.id, o.pod.config, o.config)
	if err == nil {
		o.know(o.id, cri.ContainerState_CONTAINER_CREATED)
	}
	return err
}

func (o *createOperation) settle(err error) {
	if err == nil {
		o.start(o.id)
	} else {
		o.id = o.ensureRunning(o.pod, o.config)
	}
	o.forgetContainer(o.id)
	if out := o.exec(o.id, "echo", "it runs"); out != "it runs\n" {
		o.Errorf("exec in the container: %q", out)
	}
	o.awaitLog(o.pod, o.config, "I run\n")
}

// awaitLog waits for a container's log to be as it should: the line is written right after the start.
func (k *kills) awaitLog(pod killPod, config *cri.ContainerConfig, want string) {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		got := k.log(pod.config, config)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			k.Errorf("the log of container %s is %q, not %q", config.Metadata.Name, got, want)
			return
		}
	}
}

// ---- StartContainer

type startOperation struct {
	inPod
	config *cri.ContainerConfig
	id     string
}

func (o *startOperation) name() string { return "StartContainer" }
func (o *startOperation) uncertain()   { o.forgetContainer(o.id) }

func (o *startOperation) prepare() {
	o.makePod()
	o.config = crikit.Container("main", o.image, "sh", "-c", "echo I run; sleep 0.1; exit 7")
	o.id = o.create(o.pod.id, o.pod.config, o.config)
	o.know(o.id, cri.ContainerState_CONTAINER_CREATED)
}

func (o *startOperation) call() error {
	_, err := o.Runtime.StartContainer(o.ctx(), &cri.StartContainerRequest{ContainerId: o.id})
	return err
}

func (o *startOperation) settle(err error) {
	got := o.status(o.id)
	if got.State == cri.ContainerState_CONTAINER_CREATED {
		if err == nil {
			o.Errorf("a container whose start was answered is listed as created")
		}
		// The start never came to it: the kubelet makes a new one.
		o.id = o.ensureRunning(o.pod, o.config)
	}
	got = o.awaitExit(o.id)
	if got.ExitCode != 7 || got.StartedAt == 0 || got.FinishedAt < got.StartedAt {
		o.Errorf("exit code %d (%s), started at %d, finished at %d", got.ExitCode, got.Reason, got.StartedAt, got.FinishedAt)
	}
	o.awaitLog(o.pod, o.config, "I run\n")
}

// ---- StopContainer

type stopOperation struct {
	inPod
	config *cri.ContainerConfig
	id     string
}

func (o *stopOperation) name() string { return "StopContainer" }

func (o *stopOperation) prepare() {
	o.makePod()
	o.config = crikit.Container("main", o.image, "sh", "-c",
		"trap 'echo asked; sleep 0.03; exit 9' TERM; echo ready; while :; do sleep 0.01; done")
	o.id = o.run(o.pod.id, o.pod.config, o.config)
	o.know(o.id, cri.ContainerState_CONTAINER_RUNNING)
	o.awaitLog(o.pod, o.config, "ready\n")
}

func (o *stopOperation) call() error {
	_, err := o.Runtime.StopContainer(o.ctx(), &cri.StopContainerRequest{ContainerId: o.id, Timeout: 30})
	if err == nil {
		o.know(o.id, cri.ContainerState_CONTAINER_EXITED)
	}
	return err
}

func (o *stopOperation) uncertain() {
	o.know(o.id, cri.ContainerState_CONTAINER_RUNNING, cri.ContainerState_CONTAINER_EXITED)
}

func (o *stopOperation) settle(err error) {
	if err != nil {
		o.must(o.call(), "stop the container again")
	}
	if got := o.status(o.id); got.State != cri.ContainerState_CONTAINER_EXITED || got.ExitCode != 9 {
		o.Errorf("after its stop the container is %v with exit code %d (%s)", got.State, got.ExitCode, got.Reason)
	}
	o.awaitLog(o.pod, o.config, "ready\nasked\n")
	o.removeContainer(o.id)
}

// ---- ExecSync

type execOperation struct {
	inPod
	id string
}

func (o *execOperation) name() string { return "ExecSync" }
func (o *execOperation) uncertain()   {}

func (o *execOperation) prepare() {
	o.makePod()
	o.id = o.run(o.pod.id, o.pod.config, crikit.Container("main", o.image, "sleep", "1000"))
	o.know(o.id, cri.ContainerState_CONTAINER_RUNNING)
}

func (o *execOperation) call() error {
	response, err := o.Runtime.ExecSync(o.ctx(), &cri.ExecSyncRequest{ContainerId: o.id, Timeout: 20,
		Cmd: []string{"sh", "-c", "echo begun; sleep 0.02; echo done; exit 3"}})
	if err == nil && (response.ExitCode != 3 || string(response.Stdout) != "begun\ndone\n") {
		o.Errorf("exec: exit code %d, output %q", response.ExitCode, response.Stdout)
	}
	return err
}

func (o *execOperation) settle(err error) {
	if err != nil {
		o.must(o.call(), "exec again")
	}
	// Of a session whose daemon is gone nothing goes on.
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		out := o.exec(o.id, "ps")
		if !strings.Contains(out, "echo begun") {
			break
		}
		if time.Now().After(deadline) {
			o.Errorf("the exec session goes on: %s", out)
			break
		}
	}
	o.forgetContainer(o.id)
}

// ---- ReopenContainerLog, while the container writes

type rotateOperation struct {
	inPod
	config *cri.ContainerConfig
	id     string
}

const rotatedLines = 4000

func (o *rotateOperation) name() string { return "ReopenContainerLog" }

func (o *rotateOperation) prepare() {
	o.makePod()
	o.config = crikit.Container("main", o.image, "sh", "-c",
		fmt.Sprintf("i=0; while [ $i -lt %d ]; do echo line $i; i=$((i+1)); done; exit 4", rotatedLines))
	o.id = o.run(o.pod.id, o.pod.config, o.config)
}

func (o *rotateOperation) uncertain() {}

func (o *rotateOperation) call() error {
	log := crikit.LogFile(o.pod.config, o.config)
	if err := os.Rename(log, log+".0"); err != nil && !os.IsNotExist(err) {
		return err
	}
	return o.reopen()
}

// reopen takes it for done if there is nothing to reopen any more.
func (o *rotateOperation) reopen() error {
	_, err := o.Runtime.ReopenContainerLog(o.ctx(), &cri.ReopenContainerLogRequest{ContainerId: o.id})
	if status.Code(err) == codes.FailedPrecondition {
		return nil
	}
	return err
}

func (o *rotateOperation) settle(err error) {
	if err != nil {
		o.must(o.reopen(), "reopen the log again")
	}
	if got := o.awaitExit(o.id); got.ExitCode != 4 {
		o.Errorf("the exit code is %d (%s)", got.ExitCode, got.Reason)
	}
	log := crikit.LogFile(o.pod.config, o.config)
	earlier, _ := os.ReadFile(log + ".0")
	later, _ := os.ReadFile(log)
	text, err := unframe(string(earlier) + string(later))
	o.must(err, "read the logs")
	var want strings.Builder
	for i := range rotatedLines {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	if text != want.String() {
		o.Errorf("the log, %d bytes in the first file and %d in the second, does not have every line once", len(earlier), len(later))
	}
}

// ---- RemoveContainer

type removeOperation struct {
	inPod
	id string
}

func (o *removeOperation) name() string { return "RemoveContainer" }
func (o *removeOperation) uncertain()   { o.forgetContainer(o.id) }

func (o *removeOperation) prepare() {
	o.makePod()
	o.id = o.run(o.pod.id, o.pod.config, crikit.Container("main", o.image, "sh", "-c", "echo x > /file; exit 5"))
	o.awaitExit(o.id)
	o.know(o.id, cri.ContainerState_CONTAINER_EXITED)
}

func (o *removeOperation) call() error {
	_, err := o.Runtime.RemoveContainer(o.ctx(), &cri.RemoveContainerRequest{ContainerId: o.id})
	if err == nil {
		o.forgetContainer(o.id)
	}
	return err
}

func (o *removeOperation) settle(err error) {
	for _, container := range o.containersOf(o.pod, "main") {
		if err == nil {
			o.Errorf("a container that was removed is listed")
		}
		if got := o.status(container.Id); got.State != cri.ContainerState_CONTAINER_EXITED || got.ExitCode != 5 {
			o.Errorf("a container whose removal was cut short is %v with exit code %d", got.State, got.ExitCode)
		}
	}
	if err != nil {
		o.must(o.call(), "remove the container again")
	}
}

// ---- StopPodSandbox and RemovePodSandbox

type endPodOperation struct {
	inPod
	removes bool
	id      string
}

func (o *endPodOperation) name() string {
	if o.removes {
		return "RemovePodSandbox" + o.on()
	}
	return "StopPodSandbox" + o.on()
}

func (o *endPodOperation) prepare() {
	o.makePod()
	o.id = o.run(o.pod.id, o.pod.config, crikit.Container("main", o.image, "sleep", "1000"))
	o.know(o.id, cri.ContainerState_CONTAINER_RUNNING)
}

func (o *endPodOperation) call() error {
	if o.removes {
		_, err := o.Runtime.RemovePodSandbox(o.ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: o.pod.id})
		return err
	}
	_, err := o.Runtime.StopPodSandbox(o.ctx(), &cri.StopPodSandboxRequest{PodSandboxId: o.pod.id})
	return err
}

func (o *endPodOperation) uncertain() {
	o.forgetPod(o.pod.id)
	o.forgetContainer(o.id)
}

func (o *endPodOperation) settle(err error) {
	if err != nil {
		o.must(o.call(), "end the pod again")
	}
	list, err := o.Runtime.ListPodSandbox(o.ctx(), &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{Id: o.pod.id}})
	o.must(err, "list pods")
	if o.removes {
		if len(list.Items) != 0 {
			o.Errorf("a pod that was removed is listed: %v", list.Items)
		}
		return
	}
	if len(list.Items) != 1 || list.Items[0].State != cri.PodSandboxState_SANDBOX_NOTREADY {
		o.Errorf("a pod that was stopped is listed as: %v", list.Items)
	}
	if got := o.status(o.id); got.State != cri.ContainerState_CONTAINER_EXITED || got.ExitCode != 137 {
		o.Errorf("the container of a pod that was stopped is %v with exit code %d (%s)", got.State, got.ExitCode, got.Reason)
	}
	if leases := o.leases(o.pod.id); len(leases) > 0 {
		o.Errorf("addresses of a pod that was stopped: %v", leases)
	}
}

// leases are the addresses that a pod has; host-local writes whose each is into its file.
func (k *kills) leases(pod string) []string {
	var found []string
	files, _ := filepath.Glob(k.Node().Leases + "/*/*")
	for _, file := range files {
		if owner, _ := os.ReadFile(file); strings.HasPrefix(string(owner), pod) {
			found = append(found, filepath.Base(file))
		}
	}
	return found
}

// ---- PullImage

type pullOperation struct {
	*kills
	marker    string
	reference string
	id        string
}

var busyboxEntriesOnce = sync.OnceValues(ociimage.BusyboxEntries)

func (o *pullOperation) name() string { return "PullImage" }
func (o *pullOperation) uncertain()   {}

func (o *pullOperation) prepare() {
	o.marker = crikit.Unique("marker")
	entries, err := busyboxEntriesOnce()
	o.must(err, "build an image")
	// Not compressed, and so made fast; davitd has this layer, by its content.
	base := ociimage.Image{Layers: []ociimage.Layer{{Entries: entries}}}
	fill := make([]byte, 200<<10)
	for i := range fill {
		fill[i] = o.marker[i%len(o.marker)] ^ byte(i*i>>8)
	}
	base.Layers = append(base.Layers,
		ociimage.Layer{Compression: ociimage.Gzip, Entries: []ociimage.Entry{ociimage.File("fill", string(fill), 0o644)}},
		ociimage.Layer{Compression: ociimage.Zstd, Entries: []ociimage.Entry{ociimage.File("marker", o.marker, 0o644)}})
	document := build(o.T, base)
	o.id = document.ConfigID
	o.reference = o.registry.Add("kills/"+o.marker, "latest", document)
}

func (o *pullOperation) call() error {
	id, err := o.tryPull(o.reference, nil)
	if err == nil {
		o.knowImage(o.id, true)
		if id != o.id {
			o.Errorf("the image is %s, not %s", id, o.id)
		}
	}
	return err
}

func (o *pullOperation) settle(err error) {
	// Whatever is listed runs, before anything is pulled again.
	if o.imageStatus(o.reference) != nil {
		o.runs()
	} else if err == nil {
		o.Errorf("an image that was pulled is not there")
	}
	if err != nil {
		o.must(o.call(), "pull again")
		o.runs()
	}
}

// runs has a container of the image say what is in each of its layers.
func (o *pullOperation) runs() {
	config := crikit.Container("proof-"+crikit.Unique("x"), o.id, "sh", "-c", "cat /marker; wc -c < /fill; exit 11")
	id := o.run(o.host.id, o.host.config, config)
	if got := o.awaitExit(id); got.ExitCode != 11 {
		o.Errorf("a container of the image ended with code %d (%s: %s)", got.ExitCode, got.Reason, got.Message)
	}
	if log := o.kills.log(o.host.config, config); log != fmt.Sprintf("%s%d\n", o.marker, 200<<10) {
		o.Errorf("a container of the image says %q", log)
	}
	o.removeContainer(id)
	os.RemoveAll(o.host.config.LogDirectory + "/" + config.Metadata.Name)
}

func (o *pullOperation) remove() {
	o.knowImage(o.id, false)
	_, err := o.Images.RemoveImage(o.ctx(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: o.id}})
	o.must(err, "remove the image")
}

// ---- RemoveImage

type unpullOperation struct{ pullOperation }

func (o *unpullOperation) name() string { return "RemoveImage" }
func (o *unpullOperation) uncertain()   { o.knowImage(o.id, false) }

func (o *unpullOperation) prepare() {
	o.pullOperation.prepare()
	o.must(o.pullOperation.call(), "pull")
}

func (o *unpullOperation) call() error {
	_, err := o.Images.RemoveImage(o.ctx(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: o.id}})
	return err
}

func (o *unpullOperation) settle(err error) {
	if o.imageStatus(o.reference) != nil {
		if err == nil {
			o.Errorf("an image that was removed is there")
		}
		o.runs()
	}
	if err != nil {
		o.must(o.call(), "remove the image again")
	}
	if o.imageStatus(o.reference) != nil {
		o.Errorf("an image that was removed is there")
	}
}

// slowRegistry serves blobs in pieces, so that there is a middle, and counts requests as moments.
func (k *kills) slowRegistry() {
	k.registry.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if k.moments == nil {
			return false
		}
		k.moments.happened("request " + r.URL.Path)
		blob, ok := k.registry.Blob(r.URL.Path)
		if !ok || r.Method != http.MethodGet || r.Header.Get("Range") != "" {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
		for begin := 0; begin < len(blob); begin += 32 << 10 {
			w.Write(blob[begin:min(begin+32<<10, len(blob))])
			w.(http.Flusher).Flush()
			k.moments.happened(fmt.Sprintf("byte %d of %s", begin, r.URL.Path))
			time.Sleep(time.Millisecond)
		}
		return true
	}
}
