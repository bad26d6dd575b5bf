// Package critestimages makes stand-ins for the images that critest pulls, from busybox and one small
// program of our own, under the paths of the originals: with a mirror for each registry, critest needs
// no internet. What critest relies on in each image is noted beside it.
package critestimages

import (
	"fmt"
	"slices"

	"davit.dev/e2e/internal/ociimage"
)

// Hosts are the registries whose names the images bear; each needs a mirror to the local registry.
var Hosts = []string{"registry.k8s.io", "k8s.gcr.io", "gcr.io"}

const staging = "k8s-staging-cri-tools/"

// Push makes all images and pushes them to the registry with base URL `registry`.
func Push(registry string) error {
	entries, err := ociimage.BusyboxEntries()
	if err != nil {
		return err
	}
	shell, err := ociimage.SearchingShell()
	if err != nil {
		return err
	}
	entries = slices.DeleteFunc(entries, func(e ociimage.Entry) bool { return e.Name == "bin/sh" })
	base := ociimage.Layer{Entries: append(entries, shell...), Compression: ociimage.Gzip}
	helper, err := helperProgram()
	if err != nil {
		return err
	}
	for _, image := range images(base, helper) {
		document, err := image.Image.Build()
		if err != nil {
			return fmt.Errorf("build %s: %w", image.repository, err)
		}
		for _, tag := range image.tags {
			if err := ociimage.Push(registry, image.repository, tag, document); err != nil {
				return err
			}
		}
	}
	return nil
}

type named struct {
	repository string
	tags       []string
	ociimage.Image
}

func images(base ociimage.Layer, helper []byte) []named {
	shell := ociimage.Config{Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, Cmd: []string{"sh"}}
	with := func(config ociimage.Config, entries ...ociimage.Entry) ociimage.Image {
		layers := []ociimage.Layer{base}
		if len(entries) > 0 {
			layers = append(layers, ociimage.Layer{Entries: entries, Compression: ociimage.Gzip})
		}
		config.Env = shell.Env
		if config.Cmd == nil && config.Entrypoint == nil {
			config.Cmd = shell.Cmd
		}
		return ociimage.Image{Layers: layers, Config: config}
	}
	marker := func(name string) ociimage.Image { return with(shell, ociimage.File("marker", name, 0o644)) }
	program := func(path string, mode int64) ociimage.Entry { return ociimage.File(path, string(helper), mode) }
	user := func(u string) ociimage.Image { return with(ociimage.Config{User: u}) }

	return []named{
		{"e2e-test-images/busybox", []string{"1.29-2"}, with(shell,
			// Debian's busybox leaves these out.
			program("usr/bin/pgrep", 0o755), ociimage.HardLink("usr/bin/ipcs", "usr/bin/pgrep", 0o755))},
		// A web server whose process calls itself "nginx: master process" and has a pid file.
		{"e2e-test-images/nginx", []string{"1.14-2"}, with(ociimage.Config{Cmd: []string{"/usr/bin/nginx"}}, program("usr/bin/nginx", 0o755))},
		// A web server that logs "httpd".
		{"e2e-test-images/httpd", []string{"2.4.39-4"}, with(ociimage.Config{Cmd: []string{"/usr/bin/httpd-foreground"}}, program("usr/bin/httpd-foreground", 0o755))},
		// Says "Effective uid: N", and is set-uid root.
		{"e2e-test-images/nonewprivs", []string{"1.3"}, with(ociimage.Config{Entrypoint: []string{"/nnp"}}, program("nnp", 0o4755))},
		{staging + "hostnet-nginx-amd64", []string{"latest"}, with(ociimage.Config{Cmd: []string{"/usr/bin/hostnet-nginx"}}, program("usr/bin/hostnet-nginx", 0o755))},
		{"pause", []string{"3.9"}, ociimage.Image{Layers: []ociimage.Layer{{Compression: ociimage.Gzip,
			Entries: []ociimage.Entry{program("pause", 0o755)}}}, Config: ociimage.Config{Entrypoint: []string{"/pause"}}}},
		{staging + "test-image-user-uid", []string{"latest"}, user("1002")},
		{staging + "test-image-user-username", []string{"latest"}, user("www-data")},
		{staging + "test-image-user-uid-group", []string{"latest"}, user("1003:1004")},
		{staging + "test-image-user-username-group", []string{"latest"}, user("www-data:1004")},
		{staging + "test-image-predefined-group", []string{"latest"}, with(ociimage.Config{User: "1000"},
			ociimage.File("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\ndefault-user:x:1000:1000::/home:/bin/sh\n", 0o644),
			ociimage.File("etc/group", "root:x:0:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n", 0o644))},
		{staging + "test-image-latest", []string{"latest"}, marker("latest")},
		{staging + "test-image-1", []string{"latest"}, marker("1")},
		{staging + "test-image-2", []string{"latest"}, marker("2")},
		{staging + "test-image-3", []string{"latest"}, marker("3")},
		{staging + "test-image-tag", []string{"test"}, marker("tag test")},
		{staging + "test-image-tag", []string{"all"}, marker("tag all")},
		{staging + "test-image-tags", []string{"1", "2", "3"}, marker("tags")},
		{staging + "test-image-digest", []string{"latest"}, marker("digest")},
	}
}
