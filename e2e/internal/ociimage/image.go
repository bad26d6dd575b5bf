package ociimage

import (
	"encoding/json"
	"fmt"
	"runtime"
)

// Media types of the two families (image-spec media-types.md; Docker image manifest v2 schema 2).
const (
	OCIIndex       = "application/vnd.oci.image.index.v1+json"
	OCIManifest    = "application/vnd.oci.image.manifest.v1+json"
	OCIConfig      = "application/vnd.oci.image.config.v1+json"
	OCILayer       = "application/vnd.oci.image.layer.v1.tar"
	DockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	DockerConfig   = "application/vnd.docker.container.image.v1+json"
	DockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
)

// Config is what the image says about its process (image-spec config.md).
type Config struct {
	User       string              `json:",omitempty"`
	Env        []string            `json:",omitempty"`
	Entrypoint []string            `json:",omitempty"`
	Cmd        []string            `json:",omitempty"`
	WorkingDir string              `json:",omitempty"`
	StopSignal string              `json:",omitempty"`
	Volumes    map[string]struct{} `json:",omitempty"`
	Labels     map[string]string   `json:",omitempty"`
}

// An Image to be built.
type Image struct {
	Layers       []Layer
	Config       Config
	Docker       bool   // Docker's media types instead of OCI's
	Architecture string // "": this machine's
	OS           string // "": linux
	Variant      string
	Annotations  map[string]string
}

// A Descriptor refers to a blob (image-spec descriptor.md).
type Descriptor struct {
	MediaType string    `json:"mediaType"`
	Digest    string    `json:"digest"`
	Size      int64     `json:"size"`
	Platform  *Platform `json:"platform,omitempty"`
}

// A Platform is how an index tells its manifests apart.
type Platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Variant      string `json:"variant,omitempty"`
}

// A Document is a manifest or an index with everything it refers to, ready to be served.
type Document struct {
	MediaType string
	Body      []byte
	Blobs     map[string][]byte // by digest: configs and layers
	Children  []*Document       // an index's manifests
	ConfigID  string            // digest of the config: the image id. "" for an index
	Platform  Platform
}

// Digest names the document.
func (d *Document) Digest() string { return Digest(d.Body) }

// Build makes the blobs and the manifest of an image.
func (i Image) Build() (*Document, error) {
	if i.Architecture == "" {
		i.Architecture = runtime.GOARCH
	}
	if i.OS == "" {
		i.OS = "linux"
	}
	blobs := map[string][]byte{}
	var layers []Descriptor
	var diffIDs []string
	for n, layer := range i.Layers {
		stream, err := layer.tarStream()
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", n, err)
		}
		blob := layer.Blob
		if blob == nil {
			if blob, err = Compress(stream, layer.Compression); err != nil {
				return nil, fmt.Errorf("layer %d: %w", n, err)
			}
		}
		digest, diffID := Digest(blob), Digest(stream)
		if layer.WrongDigest {
			digest = Digest([]byte("something else " + digest))
		}
		if layer.WrongDiffID {
			diffID = Digest([]byte("something else " + diffID))
		}
		blobs[digest] = blob
		diffIDs = append(diffIDs, diffID)
		layers = append(layers, Descriptor{
			MediaType: i.layerType(layer.Compression), Digest: digest, Size: int64(len(blob)) + layer.SizeOff})
	}
	config, err := json.Marshal(map[string]any{
		"architecture": i.Architecture, "os": i.OS, "variant": i.Variant, "config": i.Config,
		"created": "2024-01-01T00:00:00Z",
		"rootfs":  map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	if err != nil {
		return nil, err
	}
	id := Digest(config)
	blobs[id] = config
	manifestType, configType := OCIManifest, OCIConfig
	if i.Docker {
		manifestType, configType = DockerManifest, DockerConfig
	}
	manifest := map[string]any{
		"schemaVersion": 2, "mediaType": manifestType, "layers": layers,
		"config": Descriptor{MediaType: configType, Digest: id, Size: int64(len(config))},
	}
	if len(i.Annotations) > 0 {
		manifest["annotations"] = i.Annotations
	}
	body, err := json.Marshal(manifest)
	if err != nil {
		return nil, err
	}
	return &Document{MediaType: manifestType, Body: body, Blobs: blobs, ConfigID: id,
		Platform: Platform{Architecture: i.Architecture, OS: i.OS, Variant: i.Variant}}, nil
}

// layerType is the media type of a layer. Docker has none for zstd: its tools write OCI's there.
func (i Image) layerType(c Compression) string {
	switch {
	case i.Docker && c == Gzip:
		return DockerLayer + ".gzip"
	case i.Docker && c == Plain:
		return DockerLayer
	case c == Plain:
		return OCILayer
	default:
		return OCILayer + "+" + string(c)
	}
}

// Index makes an image index (or Docker's manifest list) of several images.
func Index(docker bool, images ...*Document) (*Document, error) {
	mediaType := OCIIndex
	if docker {
		mediaType = DockerList
	}
	var manifests []Descriptor
	for _, image := range images {
		platform := image.Platform
		manifests = append(manifests, Descriptor{MediaType: image.MediaType, Digest: image.Digest(),
			Size: int64(len(image.Body)), Platform: &platform})
	}
	body, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": mediaType, "manifests": manifests})
	if err != nil {
		return nil, err
	}
	return &Document{MediaType: mediaType, Body: body, Children: images}, nil
}
