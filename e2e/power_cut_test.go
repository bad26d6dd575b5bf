package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"davit.dev/e2e/internal/crikit"
	"davit.dev/e2e/internal/daemon"
	"davit.dev/e2e/internal/fakeregistry"
	"davit.dev/e2e/internal/ociimage"
	"davit.dev/e2e/internal/powercut"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	powerCutDisk  = 400 << 20
	shortPowerCut = 12 // cuts, unless DAVIT_POWER_CUTS says how many
)

// An image whose files its own list of checksums vouches for, and what was done with it when, in
// moments of the recorded disk.
type checkedImage struct {
	reference string
	id        string
	files     int

	mu      sync.Mutex
	history []imageStep
}

type imageStep struct {
	present    bool // what it is once the step is done
	begin, end int  // end is 0 as long as it runs
}

// did notes what `work` does with the image.
func (i *checkedImage) did(present bool, now func() int, work func() error) error {
	i.mu.Lock()
	i.history = append(i.history, imageStep{present: present, begin: now()})
	at := len(i.history) - 1
	i.mu.Unlock()
	err := work()
	i.mu.Lock()
	i.history[at].end = now()
	i.mu.Unlock()
	return err
}

// at says whether the image must be there, or must not, after a cut; neither if a step was under way.
func (i *checkedImage) at(moment int) (must, mustNot bool) {
	mustNot = true
	for _, step := range i.history {
		if step.begin >= moment {
			break
		}
		if step.end > moment {
			return false, false
		}
		must, mustNot = step.present, !step.present
	}
	return must, mustNot
}

// checked builds an image of a shell and some layers of files, of which the last lists the checksums.
func checked(t *testing.T, registry *fakeregistry.Registry, name string, random *rand.Rand) *checkedImage {
	t.Helper()
	image, err := ociimage.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	var sums bytes.Buffer
	files := 0
	compressions := []ociimage.Compression{ociimage.Gzip, ociimage.Zstd, ociimage.Plain}
	for layer := range 2 + random.Intn(3) {
		entries := []ociimage.Entry{ociimage.Dir(fmt.Sprintf("layer%d", layer), 0o755)}
		for file := range 5 + random.Intn(40) {
			size := random.Intn(2000)
			if random.Intn(8) == 0 {
				size = random.Intn(400_000)
			}
			content := make([]byte, size)
			random.Read(content)
			path := fmt.Sprintf("layer%d/file%d", layer, file)
			entries = append(entries, ociimage.File(path, string(content), 0o644))
			fmt.Fprintf(&sums, "%x  /%s\n", sha256.Sum256(content), path)
			files++
		}
		image.Layers = append(image.Layers, ociimage.Layer{Compression: compressions[random.Intn(3)], Entries: entries})
	}
	image.Layers = append(image.Layers, ociimage.Layer{Entries: []ociimage.Entry{ociimage.File("sums", sums.String(), 0o644)}})
	document, err := image.Build()
	if err != nil {
		t.Fatal(err)
	}
	return &checkedImage{reference: registry.Add("cut/"+name, "latest", document), id: document.ConfigID, files: files}
}

// verify runs a container of the image that reads every file of it.
func (i *checkedImage) verify(s *suite) error {
	podConfig := s.pod(cri.NamespaceMode_NODE)
	response, err := s.Runtime.RunPodSandbox(s.ctx(), &cri.RunPodSandboxRequest{Config: podConfig})
	if err != nil {
		return fmt.Errorf("run a pod: %w", err)
	}
	config := crikit.Container("verify", i.id, "sh", "-c", "sha256sum -c /sums > /out 2>&1; rc=$?; grep -c OK /out; grep -v OK /out; exit $rc")
	id, err := s.tryCreate(response.PodSandboxId, podConfig, config)
	if err != nil {
		return fmt.Errorf("create a container of %s: %w", i.reference, err)
	}
	if _, err := s.Runtime.StartContainer(s.ctx(), &cri.StartContainerRequest{ContainerId: id}); err != nil {
		return fmt.Errorf("start a container of %s: %w", i.reference, err)
	}
	got := s.awaitExit(id)
	said := s.log(podConfig, config)
	if got.ExitCode != 0 || strings.TrimSpace(said) != strconv.Itoa(i.files) {
		return fmt.Errorf("%s is damaged: of %d files:\n%s", i.reference, i.files, said)
	}
	_, err = s.Runtime.RemovePodSandbox(s.ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: response.PodSandboxId})
	return err
}

// A power cut takes what a disk was only asked to write. Whatever davitd was doing with images and
// containers at that moment: it starts again on what is left, has every image whose pull had ended, has
// none that it cannot vouch for, and has kept nothing that belongs to none.
func TestNoPowerCutDamagesAnImageOrLosesOneThatWasPulled(t *testing.T) {
	cuts := shortPowerCut
	if text := os.Getenv("DAVIT_POWER_CUTS"); text != "" {
		var err error
		if cuts, err = strconv.Atoi(text); err != nil {
			t.Fatalf("DAVIT_POWER_CUTS: %v", err)
		}
	}
	seed := time.Now().UnixNano()
	if text := os.Getenv("DAVIT_POWER_CUT_SEED"); text != "" {
		seed, _ = strconv.ParseInt(text, 10, 64)
	}
	t.Logf("DAVIT_POWER_CUT_SEED=%d", seed)
	fileSystems := map[string][]string{"ext4": {"/sbin/mkfs.ext4", "-q", "-F"}}
	if _, err := os.Stat("/sbin/mkfs.xfs"); err == nil && cuts > shortPowerCut {
		fileSystems["xfs"] = []string{"/sbin/mkfs.xfs", "-q", "-f"}
	}
	for _, name := range []string{"ext4", "xfs"} {
		mkfs := fileSystems[name]
		if mkfs == nil {
			continue
		}
		t.Run(name, func(t *testing.T) {
			run := &powerCutRun{random: rand.New(rand.NewSource(seed)), fsType: name, registry: fakeregistry.Start(t)}
			for i := range 5 {
				run.images = append(run.images, checked(t, run.registry, fmt.Sprintf("image%d", i), run.random))
			}
			run.record(t, mkfs)
			run.replay(t, cuts/len(fileSystems))
		})
	}
}

type powerCutRun struct {
	random    *rand.Rand
	fsType    string
	registry  *fakeregistry.Registry
	images    []*checkedImage
	recorder  *powercut.Recorder
	formatted int // the moment from which on there is a file system
}

// record runs a daemon whose root is on a recorded disk.
func (r *powerCutRun) record(t *testing.T, mkfs []string) {
	files := scratch(t)
	var err error
	if r.recorder, err = powercut.NewRecorder(files, powerCutDisk); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.recorder.Close() })
	if out, err := exec.Command(mkfs[0], append(mkfs[1:], r.recorder.Device())...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", mkfs, err, out)
	}
	d, err := daemon.New(daemon.Options{LogLevel: "info"})
	if err != nil {
		t.Fatal(err)
	}
	s := &suite{T: t, Daemon: d, registry: r.registry, files: map[string]int{}}
	s.must(powercut.Mount(r.recorder.Device(), d.Root, r.fsType), "mount the recorded disk")
	defer func() {
		s.Terminate()
		syscall.Unmount(d.Root, 0)
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}()
	s.must(exec.Command("sync", "-f", d.Root).Run(), "sync")
	r.formatted = r.recorder.Now()
	s.must(s.Start(), "start davitd")
	r.workload(s)
	s.must(s.Terminate(), "stop davitd")
	s.must(syscall.Unmount(d.Root, 0), "unmount the recorded disk")
	s.must(r.recorder.Close(), "end the recording")
	t.Logf("recorded %s", r.recorder.Statistics())
}

// workload pulls and removes images side by side, and makes and removes containers meanwhile.
func (r *powerCutRun) workload(s *suite) {
	pull := func(image *checkedImage) error {
		return image.did(true, r.recorder.Now, func() error { _, err := s.tryPull(image.reference, nil); return err })
	}
	remove := func(image *checkedImage) error {
		return image.did(false, r.recorder.Now, func() error {
			_, err := s.Images.RemoveImage(s.ctx(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: image.reference}})
			return err
		})
	}
	together := func(steps ...func() error) {
		s.Helper()
		errs := make(chan error, len(steps))
		for _, step := range steps {
			go func() { errs <- step() }()
		}
		for range steps {
			s.must(<-errs, "workload")
		}
	}
	container := func(image *checkedImage) func() error {
		return func() error {
			podConfig := s.pod(cri.NamespaceMode_NODE)
			pod, err := s.Runtime.RunPodSandbox(s.ctx(), &cri.RunPodSandboxRequest{Config: podConfig})
			if err != nil {
				return err
			}
			config := crikit.Container("writer", image.id, "sh", "-c", "dd if=/dev/urandom of=/data bs=64k count=20; rm -r /layer0; sync; echo done")
			id, err := s.tryCreate(pod.PodSandboxId, podConfig, config)
			if err != nil {
				return err
			}
			if _, err := s.Runtime.StartContainer(s.ctx(), &cri.StartContainerRequest{ContainerId: id}); err != nil {
				return err
			}
			s.awaitExit(id)
			if _, err := s.Runtime.RemoveContainer(s.ctx(), &cri.RemoveContainerRequest{ContainerId: id}); err != nil {
				return err
			}
			_, err = s.Runtime.RemovePodSandbox(s.ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod.PodSandboxId})
			return err
		}
	}
	a, b, c, d, e := r.images[0], r.images[1], r.images[2], r.images[3], r.images[4]
	one := func(step func(*checkedImage) error, image *checkedImage) func() error {
		return func() error { return step(image) }
	}
	for range 2 {
		together(one(pull, a), one(pull, b))
		together(container(a), one(pull, c))
		together(one(remove, b), one(pull, d), container(a))
		together(one(pull, b), one(remove, c), one(pull, e))
		together(one(remove, a), one(remove, d), container(b))
		together(one(pull, d), one(remove, e))
		together(one(remove, d), one(remove, b), one(pull, c))
		together(one(remove, c))
	}
	together(one(pull, a), one(pull, b), one(pull, c))
}

func (r *powerCutRun) replay(t *testing.T, cuts int) {
	replay, err := r.recorder.NewReplay()
	if err != nil {
		t.Fatal(err)
	}
	defer replay.Close()
	var moments []int
	for range cuts {
		moments = append(moments, r.formatted+r.random.Intn(r.recorder.Now()-r.formatted+1))
	}
	slices.Sort(moments)
	for i, moment := range moments {
		t.Run(fmt.Sprintf("cut%03d", i), func(t *testing.T) { r.cut(t, replay, moment) })
	}
}

// cut starts a daemon on the disk of one cut, and looks.
func (r *powerCutRun) cut(t *testing.T, replay *powercut.Replay, moment int) {
	disk := scratch(t) + "/disk"
	kept, lost, err := replay.Cut(moment, r.random, disk)
	if err != nil {
		t.Fatal(err)
	}
	device, err := powercut.Attach(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer powercut.Detach(device)
	d, err := daemon.New(daemon.Options{LogLevel: "info"})
	if err != nil {
		t.Fatal(err)
	}
	s := &suite{T: t, Daemon: d, registry: r.registry, files: map[string]int{}}
	s.must(powercut.Mount(device, d.Root, r.fsType), "mount the disk after the cut")
	defer func() {
		if t.Failed() {
			t.Logf("cut at %d of %d: %d sectors of the cache kept, %d lost; davitd's log:\n%s", moment, r.recorder.Now(), kept, lost, s.LogTail())
		}
		s.Terminate()
		if err := syscall.Unmount(d.Root, 0); err != nil {
			t.Errorf("unmount: %v", err)
			syscall.Unmount(d.Root, syscall.MNT_DETACH)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}()
	s.must(s.Start(), "start davitd after the cut")
	listed := s.listedImages()
	for _, image := range r.images {
		must, mustNot := image.at(moment)
		switch there := slices.Contains(listed, image.id); {
		case must && !there:
			t.Errorf("%s had been pulled, and is lost", image.reference)
		case mustNot && there:
			t.Errorf("%s had been removed, and is back", image.reference)
		case there:
			if err := image.verify(s); err != nil {
				t.Error(err)
			}
		}
	}
	s.nothingOfNobody()
	again := r.images[r.random.Intn(len(r.images))]
	if _, err := s.tryPull(again.reference, nil); err != nil {
		t.Errorf("pull %s again: %v", again.reference, err)
	} else if err := again.verify(s); err != nil {
		t.Errorf("after another pull: %v", err)
	}
}

func (s *suite) listedImages() []string {
	s.Helper()
	list, err := s.Images.ListImages(s.ctx(), &cri.ListImagesRequest{})
	s.must(err, "list images")
	var ids []string
	for _, image := range list.Images {
		ids = append(ids, image.Id)
	}
	return ids
}

// nothingOfNobody fails the test if the root holds a layer, a blob or a writable layer that belongs to
// no image or container, once the daemon has had the time to look. There are no containers.
func (s *suite) nothingOfNobody() {
	s.Helper()
	var found []string
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if found = s.ofNobody(); len(found) == 0 {
			return
		}
		if time.Now().After(deadline) {
			s.Errorf("it belongs to nobody:\n  %s", strings.Join(found, "\n  "))
			return
		}
	}
}

func (s *suite) ofNobody() []string {
	query := func(sql string) map[string]bool {
		out, err := exec.Command("sqlite3", "-readonly", "-cmd", ".timeout 5000", s.Root+"/images/images.db", sql).Output()
		if err != nil {
			return map[string]bool{"error: " + err.Error(): true}
		}
		rows := map[string]bool{}
		for _, row := range strings.Fields(string(out)) {
			rows[row] = true
		}
		return rows
	}
	var found []string
	compare := func(pattern string, rows map[string]bool, name func(string) string) {
		there := map[string]bool{}
		paths, _ := filepath.Glob(s.Root + "/" + pattern)
		for _, path := range paths {
			there[name(path)] = true
			if !rows[name(path)] {
				found = append(found, path)
			}
		}
		for row := range rows {
			if !there[row] {
				found = append(found, "a row without "+pattern+": "+row)
			}
		}
	}
	layers := query("SELECT DISTINCT layer_id FROM image_layers")
	compare("images/layer-index/*", layers, filepath.Base)
	for row := range query("SELECT id FROM layers") {
		if !layers[row] {
			found = append(found, "a layer of no image: "+row)
		}
	}
	layers["0"] = true // the empty one
	compare("images/layers/*", layers, filepath.Base)
	blobs := query("SELECT DISTINCT digest FROM manifests WHERE kind < 3")
	compare("images/oci/blobs/sha256/*", blobs, func(path string) string { return "sha256:" + filepath.Base(path) })
	for _, pattern := range []string{"images/oci/blobs/.new-*", "images/staging/*", "images/trash/*", "containers/*", "trash/*"} {
		paths, _ := filepath.Glob(s.Root + "/" + pattern)
		found = append(found, paths...)
	}
	return found
}

// scratch is a directory in memory where there is one, that goes with the test.
func scratch(t *testing.T) string {
	t.Helper()
	base := "/dev/shm"
	if _, err := os.Stat(base); err != nil {
		base = ""
	}
	dir, err := os.MkdirTemp(base, "davit-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
