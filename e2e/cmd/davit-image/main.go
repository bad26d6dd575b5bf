// Command davit-image builds images without any other tool and pushes them to a registry.
//
//	davit-image busybox REGISTRY REPOSITORY TAG    Debian's busybox as an image
//	davit-image tree DIR REGISTRY REPOSITORY TAG   a directory as an image of one layer
//	davit-image critest REGISTRY                   every image that critest asks for
//
// REGISTRY is a base URL: http://127.0.0.1:5000
package main

import (
	"fmt"
	"os"

	"davit.dev/e2e/internal/critestimages"
	"davit.dev/e2e/internal/ociimage"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "davit-image:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 4 && args[0] == "busybox":
		image, err := ociimage.Busybox()
		if err != nil {
			return err
		}
		return push(*image, args[1], args[2], args[3])
	case len(args) == 5 && args[0] == "tree":
		entries, err := ociimage.FromTree(args[1])
		if err != nil {
			return err
		}
		image := ociimage.Image{Layers: []ociimage.Layer{{Entries: entries, Compression: ociimage.Gzip}}}
		return push(image, args[2], args[3], args[4])
	case len(args) == 2 && args[0] == "critest":
		return critestimages.Push(args[1])
	}
	return fmt.Errorf("usage: davit-image busybox REGISTRY REPOSITORY TAG | tree DIR REGISTRY REPOSITORY TAG | critest REGISTRY")
}

func push(image ociimage.Image, registry, repository, tag string) error {
	document, err := image.Build()
	if err != nil {
		return err
	}
	if err := ociimage.Push(registry, repository, tag, document); err != nil {
		return err
	}
	fmt.Println(document.Digest())
	return nil
}
