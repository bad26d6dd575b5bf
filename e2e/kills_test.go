package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"davit.dev/e2e/internal/crikit"
	"davit.dev/e2e/internal/daemon"
	"davit.dev/e2e/internal/leaks"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fromEnvironment is a number that e2e/run kills gives.
func fromEnvironment(name string, otherwise uint64) uint64 {
	if n, err := strconv.ParseUint(os.Getenv(name), 10, 64); err == nil {
		return n
	}
	return otherwise
}

// A round is one kill: one operation or two under way, cut at one instant; and in some rounds davitd is
// killed once more while it recovers. $DAVIT_KILLS_ONLY says which operations. $DAVIT_KILLS is the number of rounds, $DAVIT_KILLS_SEED what
// chooses operations and instants.
func TestKillsOfDavitdAtAnyInstantLoseNothingAndLeaveNothing(t *testing.T) {
	seed := fromEnvironment("DAVIT_KILLS_SEED", uint64(time.Now().UnixNano()%1e9))
	k := newKills(t, seed)
	var rounds []round
	if os.Getenv("DAVIT_KILLS") == "sweep" {
		rounds = k.sweep()
		t.Logf("a kill at each of %d moments", len(rounds))
	} else {
		for range fromEnvironment("DAVIT_KILLS", 16) {
			rounds = append(rounds, k.choose())
		}
		t.Logf("%d kills; again with DAVIT_KILLS_SEED=%d", len(rounds), seed)
	}
	began, played := time.Now(), 0
	for _, r := range rounds {
		// Among all tests it is a sample, and shorter on a machine that is busy.
		if os.Getenv("DAVIT_KILLS") == "" && played >= 4 && time.Since(began) > 45*time.Second {
			break
		}
		if k.play(played+1, r); t.Failed() {
			return
		}
		played++
	}
	k.finish()
	t.Logf("%d kills in %.1f s: %d answered calls, %d calls cut", played, time.Since(began).Seconds(), k.answered, k.cut)
}

// kills is a node on which davitd is killed again and again.
type kills struct {
	*suite
	random      *rand.Rand
	moments     *moments
	image       string
	host        killPod // with the witnesses, which live through all kills
	gate        string
	writer      *cri.ContainerConfig
	written     chan int // how many lines there are, once
	stopWriting chan struct{}
	base        leaks.Census // with the witnesses only
	hostFiles   []string     // of the supervisor that outlives all daemons

	operations []func(*kills) operation
	typical    map[string]typical // of an operation that nobody disturbs
	known      world
	mu         sync.Mutex

	answered, cut int
}

// typical is how long an operation takes, and how many moments it has.
type typical struct {
	took    time.Duration
	moments int
}

// world is what a client has been told of, and must find again.
type world struct {
	pods       map[string]cri.PodSandboxState
	containers map[string][]cri.ContainerState // the states that it may be in
	images     map[string]bool
}

type killPod struct {
	id     string
	config *cri.PodSandboxConfig
}

func newKills(t *testing.T, seed uint64) *kills {
	s := prepare(t, daemon.Options{CNI: true})
	k := &kills{suite: s, random: rand.New(rand.NewPCG(seed, 1)), typical: map[string]typical{}, gate: s.Dir + "/gate",
		known: world{map[string]cri.PodSandboxState{}, map[string][]cri.ContainerState{}, map[string]bool{}}}
	s.must(os.Mkdir(k.gate, 0o755), "make the gate")
	k.wrapPlugin()
	k.slowRegistry()
	s.must(s.Start(), "start davitd")
	s.before = s.Node().Take()
	k.image = s.busybox()
	k.known.images[k.image] = true
	k.startWitness()
	var err error
	k.moments, err = watch(s.State+"/pods", s.Root, s.NetnsDir, s.Dir+"/moments")
	s.must(err, "watch the directories")
	t.Cleanup(k.moments.close)
	only := regexp.MustCompile(os.Getenv("DAVIT_KILLS_ONLY"))
	for _, begin := range operations {
		if op := begin(k); only.MatchString(op.name()) {
			k.operations = append(k.operations, begin)
			k.measure(op)
		}
	}
	k.base = s.Node().Take()
	k.hostFiles = k.supervisorFiles()
	return k
}

// wrapPlugin has the CNI plugin tell when it begins and when it is done. It goes on when davitd is gone.
func (k *kills) wrapPlugin() {
	plugins := k.Dir + "/plugins"
	k.must(os.Mkdir(plugins, 0o755), "make a plugin directory")
	k.must(os.Mkdir(k.Dir+"/moments", 0o755), "make a directory")
	script := fmt.Sprintf("#!/bin/sh\n: > %[1]s/plugin.$$\n/usr/lib/cni/bridge\ncode=$?\nrm %[1]s/plugin.$$\nexit $code\n", k.Dir+"/moments")
	k.must(os.WriteFile(plugins+"/bridge", []byte(script), 0o755), "write a plugin")
	k.must(k.WriteConfigCNI(fmt.Sprintf("bin_dirs = [%q, \"/usr/lib/cni\"]\n", plugins)), "configure")
}

// startWitness runs a pod whose container passes on every line that it is given, and gives it one every
// few milliseconds, whatever happens to davitd.
func (k *kills) startWitness() {
	k.host.config = k.pod(cri.NamespaceMode_NODE)
	k.host.id = k.runPod(k.host.config)
	k.known.pods[k.host.id] = cri.PodSandboxState_SANDBOX_READY
	k.must(syscall.Mkfifo(k.gate+"/in", 0o600), "make a pipe")
	// For reading, too: the open does not wait then, and no line is lost before the container reads.
	pipe, err := os.OpenFile(k.gate+"/in", os.O_RDWR, 0)
	k.must(err, "open the pipe")
	k.writer = k.gated("writer", "cat /gate/in; exit 42")
	id := k.run(k.host.id, k.host.config, k.writer)
	k.known.containers[id] = []cri.ContainerState{cri.ContainerState_CONTAINER_RUNNING}
	k.stopWriting = make(chan struct{})
	k.written = make(chan int, 1)
	go func() {
		defer pipe.Close()
		for line := 0; ; line++ {
			fmt.Fprintf(pipe, "line %d\n", line)
			select {
			case <-k.stopWriting:
				k.written <- line + 1
				return
			case <-time.After(3 * time.Millisecond):
			}
		}
	}()
}

// gated is a container with the gate's directory in it.
func (k *kills) gated(name, script string) *cri.ContainerConfig {
	config := crikit.Container(name, k.image, "sh", "-c", script)
	config.Mounts = []*cri.Mount{{ContainerPath: "/gate", HostPath: k.gate}}
	return config
}

// measure runs an operation to its end.
func (k *kills) measure(op operation) {
	op.prepare()
	k.moments.begin(0, nil)
	began := time.Now()
	err := op.call()
	took := time.Since(began)
	time.Sleep(20 * time.Millisecond) // for the last moments to be read
	count, _ := k.moments.end()
	k.must(err, op.name())
	k.typical[op.name()] = typical{took, count}
	op.settle(nil)
	op.remove()
}

// An instant is when davitd is killed: after a time, or at a moment.
type instant struct {
	delay  time.Duration
	moment int
}

func (i instant) String() string {
	if i.moment > 0 {
		return fmt.Sprintf("moment %d", i.moment)
	}
	return fmt.Sprintf("%.2f ms", float64(i.delay.Microseconds())/1000)
}

// choose draws everything of a round, whatever the clock does later: the seed repeats it.
func (k *kills) choose() round {
	ops := []operation{k.operations[k.random.IntN(len(k.operations))](k)}
	if k.random.IntN(3) == 0 {
		ops = append(ops, k.operations[k.random.IntN(len(k.operations))](k))
	}
	usual := k.typical[ops[0].name()]
	byTime := k.random.IntN(2) == 0
	part, which := k.random.Float64(), k.random.Float64()
	r := round{ops: ops, when: instant{moment: 1 + int(which*float64(usual.moments))}, passing: k.random.IntN(300)}
	if byTime || usual.moments == 0 {
		r.when = instant{delay: time.Duration(1.2 * part * float64(usual.took))}
	}
	if again := time.Duration(k.random.IntN(100)) * time.Millisecond; k.random.IntN(4) == 0 {
		r.again = again
	}
	return r
}

// sweep is a round for every moment of every operation.
func (k *kills) sweep() []round {
	var rounds []round
	for _, begin := range k.operations {
		for moment := 1; moment <= k.typical[begin(k).name()].moments; moment++ {
			rounds = append(rounds, round{ops: []operation{begin(k)}, when: instant{moment: moment}, passing: moment % 50})
		}
	}
	return rounds
}

type round struct {
	ops     []operation
	when    instant
	again   time.Duration // after this time the next davitd is killed, too; 0: it is not
	passing int           // milliseconds after which the passer ends
}

func (k *kills) play(number int, r round) {
	ops := r.ops
	var names []string
	for _, op := range ops {
		names = append(names, op.name())
		op.prepare()
	}
	passer := k.startPasser(number, r.passing)
	label := fmt.Sprintf("kill %d: %s at %v", number, strings.Join(names, " and "), r.when)
	results, what := k.cutAt(r.when, ops)
	if what != "" {
		label += " (" + strings.TrimPrefix(what, k.Dir+"/") + ")"
	}
	for _, op := range ops {
		op.uncertain()
	}
	if r.again > 0 {
		label += fmt.Sprintf(", and once more after %v", r.again)
		k.must(k.Launch(), "start davitd again")
		time.Sleep(r.again)
		k.must(k.Kill(), "kill davitd while it recovers")
	}
	k.Log(label)
	answers := make(chan error, 1)
	go func() { answers <- k.firstAnswer() }()
	k.must(k.Start(), "start davitd again, after "+label)
	if err := <-answers; err != nil {
		k.Errorf("after %s: %v", label, err)
	}
	for i, op := range ops {
		op.settle(results[i])
	}
	k.checkPasser(number, passer)
	for _, op := range ops {
		op.remove()
	}
	if left := k.base.AwaitNoMore(k.Node, 10*time.Second); len(left) > 0 {
		k.Errorf("left behind after %s:\n  %s", label, strings.Join(left, "\n  "))
	}
	for deadline := time.Now().Add(10 * time.Second); len(k.supervisorFiles()) > len(k.hostFiles); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			k.Errorf("open files of a supervisor after %s: %s", label, leaks.MoreDescriptors(k.hostFiles, k.supervisorFiles()))
			break
		}
	}
}

func (k *kills) supervisorFiles() []string {
	return leaks.Descriptors(k.Node().Supervisors()[k.host.id])
}

// cutAt begins the operations, kills davitd at the instant, or when they have ended, and returns what
// became of the calls.
func (k *kills) cutAt(when instant, ops []operation) ([]error, string) {
	killed := make(chan struct{})
	kill := sync.OnceFunc(func() {
		syscall.Kill(k.Pid(), syscall.SIGKILL)
		close(killed)
	})
	k.moments.begin(when.moment, kill)
	results := make([]error, len(ops))
	var calls sync.WaitGroup
	for i, op := range ops {
		calls.Add(1)
		go func() {
			defer calls.Done()
			results[i] = op.call()
		}()
	}
	if when.moment == 0 {
		time.Sleep(when.delay)
		kill()
	} else {
		ended := make(chan struct{})
		go func() { calls.Wait(); close(ended) }()
		select {
		case <-killed:
		case <-ended:
			kill() // there were fewer moments than usual
		case <-time.After(30 * time.Second):
			k.Errorf("no end of %s", ops[0].name())
			kill()
		}
	}
	calls.Wait()
	_, what := k.moments.end()
	k.must(k.Kill(), "wait for the end of davitd")
	for _, err := range results {
		if err == nil {
			k.answered++
		} else {
			k.cut++
		}
	}
	return results, what
}

// A passer is a container that ends by itself around the time of the kill, with an exit code of its own.
func (k *kills) startPasser(number, delay int) string {
	config := k.gated(fmt.Sprintf("passer-%d", number),
		fmt.Sprintf("sleep %d.%03d; echo passing; : > /gate/passed-%d; exit %d", delay/1000, delay%1000, number, 1+number%100))
	id := k.run(k.host.id, k.host.config, config)
	k.known.containers[id] = []cri.ContainerState{cri.ContainerState_CONTAINER_RUNNING, cri.ContainerState_CONTAINER_EXITED}
	return id
}

func (k *kills) checkPasser(number int, id string) {
	got := k.awaitExit(id)
	if got.ExitCode != int32(1+number%100) {
		k.Errorf("a container that ended around the kill has exit code %d (%s), not %d", got.ExitCode, got.Reason, 1+number%100)
	}
	mark, err := os.Stat(fmt.Sprintf("%s/passed-%d", k.gate, number))
	k.must(err, "look at the passer's mark")
	// It ends right after it has made its mark.
	finished := time.Unix(0, got.FinishedAt)
	if finished.Before(mark.ModTime().Add(-50*time.Millisecond)) || finished.After(mark.ModTime().Add(5*time.Second)) {
		k.Errorf("a container that ended at %v is said to have ended at %v", mark.ModTime(), finished)
	}
	config := k.gated(fmt.Sprintf("passer-%d", number), "")
	if log := k.log(k.host.config, config); log != "passing\n" {
		k.Errorf("the log of a container that ended around the kill is %q", log)
	}
	k.removeContainer(id)
}

// firstAnswer lists as soon as there is an answer, and compares with what clients know.
func (k *kills) firstAnswer() error {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		k.Conn.ResetConnectBackoff()
		pods, err := k.Runtime.ListPodSandbox(k.ctx(), &cri.ListPodSandboxRequest{})
		if err != nil {
			continue
		}
		containers, err := k.Runtime.ListContainers(k.ctx(), &cri.ListContainersRequest{})
		if err != nil {
			return err
		}
		images, err := k.Images.ListImages(k.ctx(), &cri.ListImagesRequest{})
		if err != nil {
			return err
		}
		return k.compare(pods.Items, containers.Containers, images.Images)
	}
	return fmt.Errorf("no answer")
}

func (k *kills) compare(pods []*cri.PodSandbox, containers []*cri.Container, images []*cri.Image) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, state := range k.known.pods {
		i := slices.IndexFunc(pods, func(p *cri.PodSandbox) bool { return p.Id == id })
		if i < 0 || pods[i].State != state {
			return fmt.Errorf("pod %s is not listed as %v: %v", id, state, pods)
		}
	}
	for id, states := range k.known.containers {
		i := slices.IndexFunc(containers, func(c *cri.Container) bool { return c.Id == id })
		if i < 0 || !slices.Contains(states, containers[i].State) {
			return fmt.Errorf("container %s is not listed as %v: %v", id, states, containers)
		}
	}
	for id := range k.known.images {
		if !slices.ContainsFunc(images, func(i *cri.Image) bool { return i.Id == id }) {
			return fmt.Errorf("image %s is not listed: %v", id, images)
		}
	}
	return nil
}

// finish ends the witness and looks at everything that it has written.
func (k *kills) finish() {
	close(k.stopWriting)
	lines := <-k.written
	list, err := k.Runtime.ListContainers(k.ctx(), &cri.ListContainersRequest{})
	k.must(err, "list containers")
	for _, container := range list.Containers {
		if got := k.awaitExit(container.Id); got.ExitCode != 42 {
			k.Errorf("the writer's exit code is %d (%s)", got.ExitCode, got.Reason)
		}
	}
	checkCounted(k.T, crikit.LogFile(k.host.config, k.writer), 0, lines)
}
