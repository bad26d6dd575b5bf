package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"davit.dev/e2e/internal/crikit"
	"davit.dev/e2e/internal/daemon"
	"davit.dev/e2e/internal/ociimage"
	"davit.dev/e2e/internal/oracle"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pid of a container's first process, as verbose status tells it.
func (s *suite) pid(id string) int {
	s.Helper()
	response, err := s.Runtime.ContainerStatus(s.ctx(), &cri.ContainerStatusRequest{ContainerId: id, Verbose: true})
	s.must(err, "status")
	var info struct {
		Pid int `json:"pid"`
	}
	s.must(json.Unmarshal([]byte(response.Info["info"]), &info), "read the info")
	if info.Pid == 0 {
		s.Fatalf("no pid in the info: %v", response.Info)
	}
	return info.Pid
}

// twelveLayers hold every way in which a layer can change what is below it. The first is busybox.
func twelveLayers(t *testing.T) [][]ociimage.Entry {
	base, err := ociimage.BusyboxEntries()
	if err != nil {
		t.Fatal(err)
	}
	d, f, l, h := ociimage.Dir, ociimage.File, ociimage.Symlink, ociimage.HardLink
	at := time.Unix(1234567890, 123456789)
	long := "t/" + strings.Repeat("long-name-", 15)
	return [][]ociimage.Entry{
		base,
		{ // plain and odd files
			d("t", 0o755), d("t/a", 0o700).Owned(5, 6).At(at), d("t/b", 0o1777), d("t/c", 0o2755), d("t/d", 0o755), d("t/e", 0o755),
			f("t/a/one", "one", 0o644), f("t/a/two", "two", 0o600).Owned(1000, 1000), f("t/a/setuid", "s", 0o4755).Owned(1000, 1000),
			f("t/b/file", "becomes a directory", 0o644), f("t/c/file", "below a directory that becomes a file", 0o644),
			f("t/d/hidden", "hidden by an opaque mark", 0o644), d("t/d/hidden-dir", 0o755), f("t/d/hidden-dir/x", "x", 0o644),
			f("t/e/old", "removed with its directory", 0o644), f("t/empty", "", 0o644), f("t/times", "t", 0o444).At(at),
			f("t/with space and \u00e9\u4e2d", "unicode", 0o644), f(long, "long", 0o644), l("t/absolute", "/etc/passwd"), l("t/relative", "a/one"), l("t/dangling", "no/where"),
			f("t/linked", "three names", 0o640).Owned(7, 8), h("t/a/linked-too", "t/linked", 0o640).Owned(7, 8), h("t/linked-again", "t/a/linked-too", 0o640).Owned(7, 8),
			ociimage.Fifo("t/fifo", 0o622), ociimage.CharDevice("t/null", 1, 3),
			f("t/xattr", "x", 0o644).WithXattr("user.note", "kept"), f("t/capable", "x", 0o755).WithXattr("security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
			f("t/removed-then-back", "first", 0o644), f("t/twice-linked", "for another layer", 0o604).Owned(9, 9),
			l("t/link-becomes-dir", "a"), d("t/dir-becomes-link", 0o755), f("t/dir-becomes-link/x", "x", 0o644), d("t/dir-becomes-file", 0o755), f("t/dir-becomes-file/x", "x", 0o644),
			d("t/deep", 0o755), d("t/deep/er", 0o750).Owned(3, 3), d("t/deep/er/still", 0o711), f("t/deep/er/still/x", "x", 0o644),
		},
		{ociimage.Whiteout("t/a/one"), ociimage.Whiteout("t/removed-then-back"), d("t/b/file", 0o711), f("t/b/file/inside", "i", 0o644)},
		{ociimage.Opaque("t/d"), f("t/d/new", "after the mark", 0o644)},
		{f("t/new/parents/without/entries", "implicit", 0o644), f("t/a/sub/file", "below a directory of a lower layer", 0o644)},
		{ociimage.Whiteout("t/e"), d("t/e", 0o500), f("t/e/new", "in the directory made again", 0o644)},
		{h("t/link-across-layers", "t/twice-linked", 0o604).Owned(9, 9), h("t/other/link-across", "t/a/two", 0o600).Owned(1000, 1000)},
		{f("t/removed-then-back", "second", 0o600), f("t/d/before", "before the mark", 0o644), ociimage.Opaque("t/d")},
		{d("t/link-becomes-dir", 0o755), f("t/link-becomes-dir/x", "x", 0o644), l("t/dir-becomes-link", "b"), f("t/dir-becomes-file", "file", 0o644)},
		{ociimage.Whiteout("t/deep/never-was"), ociimage.Whiteout("t/deep/er/still"), f("t/deep/er/.whatever", "not a whiteout", 0o644)},
		{d("t/a", 0o711).Owned(50, 60).At(at), f("t/same-path-twice", "first", 0o644), f("t/same-path-twice", "second", 0o600)},
		{f("t/e/last", "last", 0o644), ociimage.Whiteout("t/fifo"), d("t/deep/er/still", 0o700), f("./t/dotted/./path", "cleaned", 0o644)},
	}
}

func TestTwelveLayersMakeTheTreeThatTheOracleSays(t *testing.T) {
	s := begin(t, daemon.Options{})
	layers := twelveLayers(t)
	if len(layers) != 12 {
		t.Fatalf("%d layers", len(layers))
	}
	image := ociimage.Image{Config: ociimage.Config{Cmd: []string{"sleep", "1000"}}}
	kinds := []ociimage.Compression{ociimage.Gzip, ociimage.Zstd, ociimage.Plain}
	for i, entries := range layers {
		image.Layers = append(image.Layers, ociimage.Layer{Entries: entries, Compression: kinds[i%3]})
	}
	id := s.pull(s.registry.Add("twelve", "latest", build(t, image)))
	pod, podConfig := s.hostPod()
	container := s.run(pod, podConfig, crikit.Container("main", id))

	tree := oracle.Apply(layers)
	root := fmt.Sprintf("/proc/%d/root", s.pid(container))
	got, err := tree.Walk(root, "t")
	s.must(err, "walk the container's root")
	compareLines(t, got, tree.Lines("t", time.Unix(1700000000, 0).UnixNano()))

	var one, two, three syscall.Stat_t
	for name, stat := range map[string]*syscall.Stat_t{"linked": &one, "linked-again": &two, "a/linked-too": &three} {
		s.must(syscall.Lstat(root+"/t/"+name, stat), "stat")
	}
	if one.Ino != two.Ino || one.Ino != three.Ino {
		t.Errorf("the names of one file are different inodes: %d, %d, %d", one.Ino, two.Ino, three.Ino)
	}
}

func compareLines(t *testing.T, got, want []string) {
	t.Helper()
	have, should := map[string]bool{}, map[string]bool{}
	for _, line := range got {
		have[line] = true
	}
	for _, line := range want {
		should[line] = true
		if !have[line] {
			t.Errorf("missing: %s", line)
		}
	}
	for _, line := range got {
		if !should[line] {
			t.Errorf("too much: %s", line)
		}
	}
	if len(want) < 40 {
		t.Errorf("only %d entries compared", len(want))
	}
}

func TestTheSameLayersInOneImageOrAnotherAreFetchedOnce(t *testing.T) {
	s := begin(t, daemon.Options{})
	common := ociimage.Layer{Compression: ociimage.Gzip, Entries: []ociimage.Entry{ociimage.File("common", "c", 0o644)}}
	own := func(name string) *ociimage.Document {
		return build(t, ociimage.Image{Layers: []ociimage.Layer{common, {Compression: ociimage.Gzip, Entries: []ociimage.Entry{ociimage.File("own", name, 0o644)}}}})
	}
	one, two := own("one"), own("two")
	s.pull(s.registry.Add("shared", "one", one))
	before := s.registry.Count("blobs")
	s.pull(s.registry.Add("shared", "two", two))
	if fetched := s.registry.Count("blobs") - before; fetched != 2 {
		t.Errorf("%d blobs were fetched for the second image, want 2 (config and its own layer)", fetched)
	}
}

func TestAnAttributeByWhichALayerWouldSteerOverlayfsHasNoEffect(t *testing.T) {
	s := begin(t, daemon.Options{})
	entries, err := ociimage.BusyboxEntries()
	s.must(err, "make the busybox image")
	hostile := []ociimage.Entry{ociimage.Dir("a", 0o755).WithXattr("trusted.overlay.opaque", "y"),
		ociimage.Dir("b", 0o755).WithXattr("trusted.overlay.redirect", "/etc")}
	id := s.pull(s.registry.Add("steering", "latest", build(t, ociimage.Image{Layers: []ociimage.Layer{
		{Compression: ociimage.Gzip, Entries: append(entries, ociimage.Dir("a", 0o755), ociimage.File("a/below", "shows", 0o644))},
		{Compression: ociimage.Gzip, Entries: hostile}}})))
	pod, podConfig := s.hostPod()
	container := s.run(pod, podConfig, crikit.Container("main", id, "sleep", "1000"))
	if text := s.exec(container, "sh", "-c", "cat /a/below; ls /b"); text != "shows" {
		t.Errorf("the container sees %q", text)
	}
}

func TestAContainerWritesToALayerOfItsOwn(t *testing.T) {
	s := begin(t, daemon.Options{})
	image := s.busybox()
	pod, podConfig := s.hostPod()
	one := s.run(pod, podConfig, crikit.Container("one", image, "sleep", "1000"))
	two := s.run(pod, podConfig, crikit.Container("two", image, "sleep", "1000"))
	s.exec(one, "sh", "-c", "echo mine > /etc/passwd && rm /etc/group && mkdir /made")
	if text := s.exec(two, "sh", "-c", "head -n 1 /etc/passwd; ls /etc/group; ls -d /made || true"); !strings.HasPrefix(text, "root:x:0:0") || strings.Contains(text, "/made\n") {
		t.Errorf("the other container sees %q", text)
	}
	if _, err := os.Stat("/made"); err == nil {
		t.Error("the host sees it")
	}
}
