package e2e

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"davit.dev/e2e/internal/crikit"
	"davit.dev/e2e/internal/daemon"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What can become of a file while no davitd runs.
type damage struct {
	name    string
	foreign bool // there is then something that is not davit's
	do      func(path, marker string) error
}

func rewrite(change func([]byte) []byte) func(path, marker string) error {
	return func(path, marker string) error {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, change(data), 0o600)
	}
}

func flip(at func(size int) int) func(path, marker string) error {
	return rewrite(func(data []byte) []byte {
		if len(data) > 0 {
			data[at(len(data))] ^= 0x10
		}
		return data
	})
}

func replace(by func(path, marker string) error) func(path, marker string) error {
	return func(path, marker string) error {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		return by(path, marker)
	}
}

// The marker is a file of somebody else's, or names one that is to be written.
var damages = []damage{
	{"empty", false, rewrite(func([]byte) []byte { return nil })},
	{"truncated", false, rewrite(func(data []byte) []byte { return data[:len(data)/2] })},
	{"a bit flipped at its begin", false, flip(func(int) int { return 0 })},
	{"a bit flipped in its middle", false, flip(func(size int) int { return size / 2 })},
	{"a bit flipped at its end", false, flip(func(size int) int { return size - 1 })},
	{"foreign", true, replace(func(path, marker string) error {
		return os.WriteFile(path, []byte(theirs), 0o600)
	})},
	{"a directory", true, replace(func(path, marker string) error {
		if err := os.Mkdir(path, 0o700); err != nil {
			return err
		}
		return os.WriteFile(path+"/notes", []byte(theirs), 0o600)
	})},
	{"a symbolic link", false, replace(func(path, marker string) error { return os.Symlink(marker, path) })},
	{"a FIFO", false, replace(func(path, marker string) error { return syscall.Mkfifo(path, 0o600) })},
}

const theirs = "This belongs to somebody else."

// A victim is a pod with a container, one of whose files is damaged.
type victim struct {
	pod, container string
	path           string
	damage         damage
}

// damageBench has a pod that nothing is done to.
type damageBench struct {
	*suite
	image     string
	bystander string // a running container
	outside   string // a file that links lead to
}

func beginDamage(t *testing.T) *damageBench {
	t.Helper()
	s := begin(t, daemon.Options{CNI: true})
	b := &damageBench{suite: s, outside: s.Dir + "/outside"}
	b.image = s.busybox()
	_, b.bystander = b.podWithContainer("bystander")
	s.must(os.WriteFile(b.outside, []byte(theirs), 0o600), "write a file")
	return b
}

func (b *damageBench) podWithContainer(name string) (pod, container string) {
	config := b.pod(cri.NamespaceMode_POD)
	pod = b.runPod(config)
	return pod, b.run(pod, config, crikit.Container(name, b.image, "sleep", "1000"))
}

// restart kills davitd, does something, and starts it again. What it says meanwhile is returned.
func (b *damageBench) restart(meanwhile func()) (string, error) {
	b.Helper()
	b.must(b.Kill(), "kill davitd")
	meanwhile()
	before, _ := os.ReadFile(b.LogFile)
	begun := time.Now()
	err := b.Start()
	if time.Since(begun) > 15*time.Second {
		b.Errorf("the start took %v", time.Since(begun))
	}
	after, _ := os.ReadFile(b.LogFile)
	return string(after[len(before):]), err
}

// othersAreWell fails the test if what was not damaged has been touched.
func (b *damageBench) othersAreWell(after string) {
	b.Helper()
	response, err := b.Runtime.ExecSync(b.ctx(), &cri.ExecSyncRequest{ContainerId: b.bystander, Cmd: []string{"true"}, Timeout: 20})
	if err != nil || response.ExitCode != 0 {
		b.Errorf("after %s: exec in another pod: %v, %v", after, response, err)
	}
	if data, err := os.ReadFile(b.outside); err != nil || string(data) != theirs {
		b.Errorf("after %s: a file outside is now %q, %v", after, data, err)
	}
}

// keptForeign counts the files below davitd's directories that are not davit's.
func (b *damageBench) keptForeign() int {
	count := 0
	for _, top := range []string{b.State, b.Root} {
		filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Type().IsRegular() {
				if info, err := entry.Info(); err == nil && info.Size() == int64(len(theirs)) {
					if data, _ := os.ReadFile(path); string(data) == theirs {
						count++
					}
				}
			}
			return nil
		})
	}
	return count
}

func (b *damageBench) clearSetAside() {
	for _, top := range []string{b.State, b.Root} {
		filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && (entry.Name() == "set-aside" || strings.HasPrefix(entry.Name(), "set-aside-")) {
				os.RemoveAll(path)
				return filepath.SkipDir
			}
			return nil
		})
	}
}

// works tries the victim's container; what is wrong with it may be said by the error.
func (b *damageBench) works(v victim) error {
	response, err := b.Runtime.ExecSync(b.ctx(), &cri.ExecSyncRequest{ContainerId: v.container, Cmd: []string{"true"}, Timeout: 20})
	if err == nil && response.ExitCode != 0 {
		err = fmt.Errorf("exit code %d", response.ExitCode)
	}
	return err
}

// chosen are the damages to be tried: all of them, or some that change with the number.
func chosen(number int) []damage {
	if allFaults() {
		return damages
	}
	return []damage{damages[number%len(damages)], damages[(number+5)%len(damages)]}
}

func TestFilesOfAPodThatAreDamagedConcernThatPodAlone(t *testing.T) {
	b := beginDamage(t)
	files := map[string]func(v victim) string{
		"the pod's record":            func(v victim) string { return b.State + "/pods/" + v.pod + "/record" },
		"the pod's hosts":             func(v victim) string { return b.State + "/pods/" + v.pod + "/hosts" },
		"the pod's hostname":          func(v victim) string { return b.State + "/pods/" + v.pod + "/hostname" },
		"the pod's resolv.conf":       func(v victim) string { return b.State + "/pods/" + v.pod + "/resolv.conf" },
		"the supervisor's socket":     func(v victim) string { return b.State + "/pods/" + v.pod + "/supervisor.sock" },
		"the directory of containers": func(v victim) string { return b.State + "/pods/" + v.pod + "/containers" },
		"the container's record": func(v victim) string {
			return b.State + "/pods/" + v.pod + "/containers/" + v.container + "/record"
		},
		"the container's config.json": func(v victim) string {
			return b.State + "/pods/" + v.pod + "/containers/" + v.container + "/config.json"
		},
		"the container's status": func(v victim) string {
			return b.State + "/pods/" + v.pod + "/containers/" + v.container + "/status"
		},
		"the network attachment": func(v victim) string { return b.Root + "/cni/" + v.pod + ".json" },
	}
	number := 0
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := files[name]
		var victims []victim
		for _, damage := range chosen(number) {
			v := victim{damage: damage}
			v.pod, v.container = b.podWithContainer("victim")
			v.path = path(v)
			info, err := os.Lstat(v.path)
			b.must(err, "find "+name)
			if !info.Mode().IsRegular() && !damage.foreign && damage.name != "a symbolic link" && damage.name != "a FIFO" {
				continue // it has no content
			}
			victims = append(victims, v)
		}
		number++
		foreign := 0
		log, err := b.restart(func() {
			for _, v := range victims {
				b.must(v.damage.do(v.path, b.outside), "damage "+v.path)
				if v.damage.foreign {
					foreign++
				}
			}
		})
		b.must(err, "start davitd after "+name+" was damaged")
		b.othersAreWell(name + " was damaged")
		if kept := b.keptForeign(); kept < foreign {
			t.Errorf("%s: %d files were somebody else's, and %d are left", name, foreign, kept)
		}
		for _, v := range victims {
			what := fmt.Sprintf("%s is now %s", name, v.damage.name)
			result := "passed"
			wrong := func(format string, arguments ...any) {
				t.Errorf(what+": "+format, arguments...)
				result = "failed"
			}
			if err := b.works(v); err != nil && !strings.Contains(log, v.pod) && !strings.Contains(log, v.container) &&
				!strings.Contains(err.Error(), v.path) {
				wrong("the container does not work, and davitd has not said why: %v", err)
			}
			if _, err := b.Runtime.StopPodSandbox(b.ctx(), &cri.StopPodSandboxRequest{PodSandboxId: v.pod}); err != nil {
				wrong("stop: %v", err)
			}
			if _, err := b.Runtime.RemovePodSandbox(b.ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: v.pod}); err != nil {
				wrong("remove: %v", err)
			}
			b.reportFault("restart", name, v.damage.name, result)
		}
	}
	b.removeAllPods()
	b.clearSetAside()
}

func TestFilesOfTheImageStoreThatAreDamagedAreReportedAndImagesPulledAgain(t *testing.T) {
	b := beginDamage(t)
	document := small(t, "damaged")
	reference := b.registry.Add("damaged", "latest", document)
	images := b.Root + "/images/"
	pattern := func(pattern string) func() string {
		return func() string {
			paths, _ := filepath.Glob(images + pattern)
			if len(paths) == 0 {
				t.Fatalf("no %s", pattern)
			}
			return paths[len(paths)-1]
		}
	}
	files := map[string]func() string{
		"the database":       func() string { return images + "images.db" },
		"the database's log": func() string { return images + "images.db-wal" },
		"the layout's index": func() string { return images + "oci/index.json" },
		"the layout's mark":  func() string { return images + "oci/oci-layout" },
		"a manifest": func() string {
			return images + "oci/blobs/sha256/" + strings.TrimPrefix(document.Digest(), "sha256:")
		},
		"a config": func() string {
			return images + "oci/blobs/sha256/" + strings.TrimPrefix(document.ConfigID, "sha256:")
		},
		"a layer's index":  pattern("layer-index/*"),
		"a layer":          pattern("layers/*"),
		"the root's lock":  func() string { return b.Root + "/davitd.lock" },
		"the state's lock": func() string { return b.State + "/davitd.lock" },
	}
	// What these hold is known from elsewhere, and another content is damage that the next pull or write
	// repairs: blobs are named by their digests, the index is derived, and a log whose header a power cut
	// may have spoilt is for SQLite to begin anew.
	replaced := []string{"the layout's index", "a manifest", "a config", "the database's log"}
	number := 0
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := files[name]
		for _, damage := range chosen(number) {
			b.pull(reference)
			target := path()
			info, err := os.Lstat(target)
			if os.IsNotExist(err) { // the damage before was swept away, and a start makes it again
				_, err = b.restart(func() {})
				b.must(err, "start davitd")
				info, err = os.Lstat(target)
			}
			b.must(err, "find "+name)
			if info.IsDir() && !damage.foreign && damage.name != "a symbolic link" && damage.name != "a FIFO" {
				continue
			}
			what := fmt.Sprintf("%s is now %s", name, damage.name)
			result := "passed"
			wrong := func(format string, arguments ...any) {
				t.Errorf(what+": "+format, arguments...)
				result = "failed"
			}
			log, err := b.restart(func() { b.must(damage.do(target, b.outside), "damage "+target) })
			if err != nil {
				// What cannot be set aside has to be named, and taken away by a person.
				if !strings.Contains(log, target) {
					wrong("davitd does not start and does not say why: %v", err)
				}
				if strings.HasSuffix(name, "lock") {
					b.must(os.RemoveAll(target), "remove "+target)
				} else {
					for _, suffix := range []string{"", "-wal", "-shm"} {
						b.must(os.RemoveAll(images+"images.db"+suffix), "remove the database")
					}
				}
				b.must(b.Start(), "start davitd")
			}
			if damage.foreign && err == nil && b.keptForeign() == 0 && !slices.Contains(replaced, name) {
				wrong("what was somebody else's is gone")
			}
			b.othersAreWell(what)
			if _, err := b.tryPull(reference, nil); err != nil {
				wrong("pull: %v", err)
			}
			b.image = b.busybox()
			pod, container := b.podWithContainer("after")
			b.exec(container, "true")
			b.must(b.removePodByID(pod), "remove a pod")
			_, err = b.Images.RemoveImage(b.ctx(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: reference}})
			b.must(err, "remove an image")
			b.sweepForeign()
			b.reportFault("restart", name, damage.name, result)
		}
		number++
	}
	b.removeAllPods()
	b.clearSetAside()
}

func (b *damageBench) removePodByID(id string) error {
	_, err := b.Runtime.RemovePodSandbox(b.ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: id})
	return err
}

// sweepForeign removes what a damage has put below the image store and davitd has left alone.
func (b *damageBench) sweepForeign() {
	filepath.WalkDir(b.Root+"/images", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || strings.Contains(path, "/set-aside") {
			return nil
		}
		if entry.Type()&(fs.ModeSymlink|fs.ModeNamedPipe) != 0 && filepath.Dir(filepath.Dir(path)) == b.Root+"/images" {
			os.Remove(path)
			return nil
		}
		if entry.Type().IsRegular() {
			if data, _ := os.ReadFile(path); string(data) == theirs {
				os.Remove(path)
				os.Remove(filepath.Dir(path)) // a directory that held nothing else
			}
		}
		return nil
	})
}

// runSecond runs another davitd on the same directories until it ends.
func (b *damageBench) runSecond() (string, error) {
	command := exec.CommandContext(b.ctx(), b.Binary("davitd"), append(b.Args(), "--listen", b.Dir+"/second.sock")...)
	out, err := command.CombinedOutput()
	return string(out), err
}

func TestASecondDaemonOnTheSameDirectoriesIsRefusedAndDisturbsNothing(t *testing.T) {
	b := beginDamage(t)
	out, err := b.runSecond()
	if err == nil || !strings.Contains(out, fmt.Sprintf("pid %d", b.Pid())) || !strings.Contains(out, b.Root) {
		t.Errorf("a second davitd: %v\n%s", err, out)
	}
	b.othersAreWell("a second davitd was started")
}

func TestAReadOnlyDirectoryIsNamedAtTheStart(t *testing.T) {
	for _, name := range []string{"state", "root"} {
		s := prepare(t, daemon.Options{})
		directory := map[string]string{"state": s.State, "root": s.Root}[name]
		tinyDisk(t, s.Daemon, directory, "size=4m")
		s.must(syscall.Mount("", directory, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""), "remount")
		if err := s.Start(); err == nil || !strings.Contains(err.Error(), directory) || !strings.Contains(err.Error(), "Read-only file system") {
			t.Errorf("with a read-only %s directory: %v", name, err)
		}
		s.must(syscall.Mount("", directory, "", syscall.MS_REMOUNT, "size=4m"), "remount")
		s.must(s.Start(), "start davitd")
		s.before = s.Node().Take()
		s.hostPod()
	}
}
