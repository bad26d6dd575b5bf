package e2e

import (
	"encoding/base64"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"davit.dev/e2e/internal/daemon"
	"davit.dev/e2e/internal/fakeregistry"
	"davit.dev/e2e/internal/ociimage"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// small is an image of one file, different for each name.
func small(t *testing.T, name string) *ociimage.Document {
	t.Helper()
	return build(t, ociimage.Image{Layers: []ociimage.Layer{{Compression: ociimage.Gzip,
		Entries: []ociimage.Entry{ociimage.File("name", name, 0o644)}}}})
}

func build(t *testing.T, image ociimage.Image) *ociimage.Document {
	t.Helper()
	document, err := image.Build()
	if err != nil {
		t.Fatal(err)
	}
	return document
}

func (s *suite) imageStatus(reference string) *cri.Image {
	s.Helper()
	response, err := s.Images.ImageStatus(s.ctx(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: reference}})
	s.must(err, "image status of "+reference)
	return response.Image
}

func TestEveryMediaTypeAndCompressionIsPulledAndTheIDIsTheConfigDigest(t *testing.T) {
	s := begin(t, daemon.Options{})
	for _, docker := range []bool{false, true} {
		for _, compression := range []ociimage.Compression{ociimage.Gzip, ociimage.Zstd, ociimage.Plain} {
			name := "oci-" + string(compression)
			if docker {
				name = "docker-" + string(compression)
			}
			document := build(t, ociimage.Image{Docker: docker, Layers: []ociimage.Layer{
				{Compression: compression, Entries: []ociimage.Entry{ociimage.File("name", name, 0o644)}},
				{Compression: compression, Entries: []ociimage.Entry{ociimage.File("second", name, 0o644)}}}})
			reference := s.registry.Add("kinds/"+strings.Trim(name, "-"), "v1", document)
			if id := s.pull(reference); id != document.ConfigID {
				t.Errorf("%s: image id %s, want %s", name, id, document.ConfigID)
			}
			image := s.imageStatus(reference)
			if image.GetId() != document.ConfigID || image.GetSize() == 0 || len(image.RepoTags) != 1 || image.RepoTags[0] != reference {
				t.Errorf("%s: status %v", name, image)
			}
		}
	}
}

func TestTheImageOfThisPlatformIsChosenFromAnIndex(t *testing.T) {
	s := begin(t, daemon.Options{})
	other := build(t, ociimage.Image{Architecture: "s390x", Layers: []ociimage.Layer{{Entries: []ociimage.Entry{ociimage.File("a", "other", 0o644)}}}})
	windows := build(t, ociimage.Image{OS: "windows", Layers: []ociimage.Layer{{Entries: []ociimage.Entry{ociimage.File("a", "windows", 0o644)}}}})
	ours := small(t, "ours")
	for _, docker := range []bool{false, true} {
		index, err := ociimage.Index(docker, other, windows, ours)
		s.must(err, "make an index")
		if id := s.pull(s.registry.Add("index", "latest", index)); id != ours.ConfigID {
			t.Errorf("docker %v: pulled %s, want %s", docker, id, ours.ConfigID)
		}
	}
	index, err := ociimage.Index(false, other, windows)
	s.must(err, "make an index")
	if _, err := s.tryPull(s.registry.Add("index", "foreign", index), nil); err == nil {
		t.Error("an index without an image for this platform is pulled")
	}
}

func TestAnImageIsPulledByDigestAndHasNoTagThen(t *testing.T) {
	s := begin(t, daemon.Options{})
	document := small(t, "by digest")
	s.registry.Add("byDigest", "unused", document)
	reference := s.registry.Host() + "/by-digest@" + document.Digest()
	s.registry.Add("by-digest", "unused", document)
	s.pull(reference)
	image := s.imageStatus(reference)
	if len(image.GetRepoTags()) != 0 || len(image.GetRepoDigests()) != 1 || image.RepoDigests[0] != reference {
		t.Errorf("tags %v, digests %v", image.GetRepoTags(), image.GetRepoDigests())
	}
}

func TestRegistriesThatWantToKnowWhoIsThereAreAnswered(t *testing.T) {
	s := begin(t, daemon.Options{})
	right := base64.StdEncoding.EncodeToString([]byte(fakeregistry.User + ":" + fakeregistry.Password))
	for name, auth := range map[string]fakeregistry.Auth{"basic": fakeregistry.Basic, "bearer": fakeregistry.Bearer} {
		registry := fakeregistry.Start(t)
		registry.Auth = auth
		reference := registry.Add("private/"+name, "latest", small(t, name))
		if _, err := s.tryPull(reference, nil); err == nil {
			t.Errorf("%s: pulled without credentials", name)
		} else {
			wantCode(t, err, codes.Unauthenticated)
		}
		if _, err := s.tryPull(reference, &cri.AuthConfig{Username: fakeregistry.User, Password: "wrong"}); err == nil {
			t.Errorf("%s: pulled with a wrong password", name)
		}
		if _, err := s.tryPull(reference, &cri.AuthConfig{Username: fakeregistry.User, Password: fakeregistry.Password}); err != nil {
			t.Errorf("%s: user and password: %v", name, err)
		}
		if _, err := s.tryPull(reference, &cri.AuthConfig{Auth: right}); err != nil {
			t.Errorf("%s: auth: %v", name, err)
		}
		// The image is there, and yet nobody gets it without credentials.
		if _, err := s.tryPull(reference, nil); err == nil {
			t.Errorf("%s: an image that is there is given to one without credentials", name)
		}
	}
	open := fakeregistry.Start(t)
	open.Auth = fakeregistry.BearerOpen
	if _, err := s.tryPull(open.Add("public", "latest", small(t, "open")), nil); err != nil {
		t.Errorf("token for anybody: %v", err)
	}
	if open.Count("token") == 0 {
		t.Error("no token was asked for")
	}
	data, err := os.ReadFile(s.LogFile)
	s.must(err, "read davitd's log")
	if strings.Contains(string(data), fakeregistry.Password) || strings.Contains(string(data), right) {
		t.Error("davitd's log holds a password")
	}
}

func TestARegistryWithHTTPSIsTrustedByItsConfiguredCAOnly(t *testing.T) {
	registry := fakeregistry.StartTLS(t)
	s := prepare(t, daemon.Options{})
	ca := s.Dir + "/ca.pem"
	s.must(os.WriteFile(ca, registry.CertificatePEM(), 0o644), "write the CA")
	s.must(s.Start(), "start davitd")
	reference := registry.Add("secure", "latest", small(t, "secure"))
	if _, err := s.tryPull(reference, nil); err == nil {
		t.Error("an unknown certificate is trusted")
	}
	s.must(s.Terminate(), "stop davitd")
	s.must(s.WriteConfig(nil, "", "[registries.\""+registry.Host()+"\"]\nca = \""+ca+"\"\n"), "configure")
	s.must(s.Start(), "start davitd")
	if _, err := s.tryPull(reference, nil); err != nil {
		t.Errorf("with the CA configured: %v", err)
	}
}

func TestAFamiliarNameGoesToItsMirrorUnderTheFullName(t *testing.T) {
	registry := fakeregistry.Start(t)
	s := begin(t, daemon.Options{Mirrors: map[string]string{"docker.io": registry.URL()}})
	document := small(t, "familiar")
	registry.Add("library/busybox", "latest", document)
	if id := s.pull("busybox"); id != document.ConfigID {
		t.Errorf("image id %s", id)
	}
	for _, name := range []string{"busybox", "busybox:latest", "docker.io/library/busybox", "library/busybox",
		document.ConfigID, strings.TrimPrefix(document.ConfigID, "sha256:"), strings.TrimPrefix(document.ConfigID, "sha256:")[:12]} {
		if image := s.imageStatus(name); image.GetId() != document.ConfigID || image.RepoTags[0] != "docker.io/library/busybox:latest" {
			t.Errorf("status of %q: %v", name, image)
		}
	}
	_, err := s.Images.RemoveImage(s.ctx(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: "busybox"}})
	s.must(err, "remove")
	if image := s.imageStatus("busybox"); image != nil {
		t.Errorf("still there: %v", image)
	}
}

func TestIdenticalPullsInFlightShareOneJob(t *testing.T) {
	s := begin(t, daemon.Options{})
	document := small(t, "shared")
	release := s.holdLayers(document.ConfigID, make(chan struct{}))
	defer release()
	reference := s.registry.Add("shared", "latest", document)
	const callers = 8
	results := make(chan string, callers)
	for range callers {
		go func() {
			id, err := s.tryPull(reference, nil)
			if err != nil {
				id = err.Error()
			}
			results <- id
		}()
	}
	// Every caller makes its own request for the manifest; the layer waits for the last of them.
	for deadline := time.Now().Add(10 * time.Second); s.registry.Count("manifests") < callers && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	release()
	for range callers {
		if id := <-results; id != document.ConfigID {
			t.Errorf("a caller got %q", id)
		}
	}
	if got := s.registry.Count("blobs"); got != 2 {
		t.Errorf("%d blobs were fetched for %d callers, want 2 (config and layer)", got, callers)
	}
	if got := s.registry.Count("manifests"); got < callers {
		t.Errorf("%d requests for the manifest, want one of each of %d callers", got, callers)
	}
}

func TestACallerThatGivesUpLeavesThePullToTheNext(t *testing.T) {
	s := begin(t, daemon.Options{})
	_, err := s.Images.PullImage(contextOf(t, time.Millisecond), &cri.PullImageRequest{
		Image: &cri.ImageSpec{Image: s.registry.Add("slow", "latest", small(t, "slow"))}})
	wantCode(t, err, codes.DeadlineExceeded)
	s.pull(s.registry.Host() + "/slow:latest")
}

func TestAnImageWithSeveralTagsIsListedOnceAndRemovedWithAllOfThem(t *testing.T) {
	s := begin(t, daemon.Options{})
	document := small(t, "tags")
	for _, tag := range []string{"1", "2", "3"} {
		s.pull(s.registry.Add("tags", tag, document))
	}
	list, err := s.Images.ListImages(s.ctx(), &cri.ListImagesRequest{})
	s.must(err, "list")
	if len(list.Images) != 1 || len(list.Images[0].RepoTags) != 3 {
		t.Fatalf("list: %v", list.Images)
	}
	stream, err := s.Images.StreamImages(s.ctx(), &cri.StreamImagesRequest{})
	s.must(err, "stream")
	first, err := stream.Recv()
	s.must(err, "stream")
	if len(first.Images) != 1 || first.Images[0].Id != document.ConfigID {
		t.Errorf("stream: %v", first.Images)
	}
	_, err = s.Images.RemoveImage(s.ctx(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: s.registry.Host() + "/tags:2"}})
	s.must(err, "remove by one tag")
	list, err = s.Images.ListImages(s.ctx(), &cri.ListImagesRequest{})
	s.must(err, "list")
	if len(list.Images) != 0 {
		t.Errorf("after removal: %v", list.Images)
	}
}

func TestTheUserOfAnImageIsANumberOrAName(t *testing.T) {
	s := begin(t, daemon.Options{})
	for user, want := range map[string]string{"1002": "1002 ", "www-data": "- www-data", "1003:1004": "1003 ", "www-data:1004": "- www-data", "": "- "} {
		document := build(t, ociimage.Image{Config: ociimage.Config{User: user}, Layers: []ociimage.Layer{{Compression: ociimage.Gzip, Entries: []ociimage.Entry{ociimage.File("a", user, 0o644)}}}})
		reference := s.registry.Add("user", "t"+strings.ReplaceAll(user, ":", "-"), document)
		s.pull(reference)
		image := s.imageStatus(reference)
		got := "- " + image.GetUsername()
		if image.GetUid() != nil {
			got = formatInt(image.Uid.Value) + " " + image.GetUsername()
		}
		// An image without a user runs as root: as a number or not at all.
		if got != want && !(user == "" && got == "0 ") {
			t.Errorf("user %q shows as %q, want %q", user, got, want)
		}
	}
}

func TestImageFsInfoNamesAFileSystemAndCountsWhatIsOnIt(t *testing.T) {
	s := begin(t, daemon.Options{})
	s.busybox()
	info, err := s.Images.ImageFsInfo(s.ctx(), &cri.ImageFsInfoRequest{})
	s.must(err, "image fs info")
	if len(info.ImageFilesystems) == 0 {
		t.Fatal("no file system")
	}
	fs := info.ImageFilesystems[0]
	if _, err := os.Stat(fs.GetFsId().GetMountpoint()); err != nil || fs.Timestamp == 0 || fs.GetUsedBytes().GetValue() < 1<<20 || fs.GetInodesUsed().GetValue() < 10 {
		t.Errorf("file system %v: %v", fs, err)
	}
}

// holdLayers makes the registry wait before it serves any layer; `held` is closed when one is asked
// for. The function that is returned lets them go.
func (s *suite) holdLayers(config string, held chan struct{}) func() {
	release := make(chan struct{})
	var first, last sync.Once
	s.registry.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") && !strings.HasSuffix(r.URL.Path, config) {
			first.Do(func() { close(held) })
			<-release
		}
		return false
	}
	return func() { last.Do(func() { close(release) }) }
}
