// Package ociimage makes container images out of lists of tar entries, well-formed or hostile, and
// pushes them to a registry. It stands on the Go standard library and one zstd encoder, so that it
// shares no line with the code under test.
package ociimage

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"
)

// An Entry is one member of a layer's tar stream.
type Entry struct {
	tar.Header
	Body []byte
}

// epoch is the time of every entry that has none: images are the same bytes whenever they are made.
var epoch = time.Unix(1700000000, 0)

func Dir(path string, mode int64) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: path + "/", Mode: mode}}
}

func File(path, content string, mode int64) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: path, Mode: mode}, Body: []byte(content)}
}

func Symlink(path, target string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: path, Linkname: target, Mode: 0o777}}
}

// HardLink is another name of a file. As tar writers do, it repeats the file's mode (and its owner, by
// Owned): some readers set them again.
func HardLink(path, target string, mode int64) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: path, Linkname: target, Mode: mode}}
}

func Fifo(path string, mode int64) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeFifo, Name: path, Mode: mode}}
}

func CharDevice(path string, major, minor int64) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeChar, Name: path, Mode: 0o666, Devmajor: major, Devminor: minor}}
}

// Whiteout removes `path` of the layers below (image-spec layer.md, "Whiteouts").
func Whiteout(path string) Entry {
	return File(filepath.Join(filepath.Dir(path), ".wh."+filepath.Base(path)), "", 0o644)
}

// Opaque hides everything that the layers below have in `dir`.
func Opaque(dir string) Entry { return File(dir+"/.wh..wh..opq", "", 0o644) }

// Owned gives an entry to a user and group.
func (e Entry) Owned(uid, gid int) Entry {
	e.Uid, e.Gid = uid, gid
	return e
}

// WithXattr adds an extended attribute.
func (e Entry) WithXattr(name, value string) Entry {
	records := map[string]string{}
	for k, v := range e.PAXRecords {
		records[k] = v
	}
	records["SCHILY.xattr."+name] = value
	e.PAXRecords = records
	return e
}

// At sets the modification time.
func (e Entry) At(t time.Time) Entry {
	e.ModTime = t
	return e
}

// FromTree lists a directory of the host as entries, in the order of the names.
func FromTree(root string) ([]Entry, error) {
	var entries []Entry
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		link := ""
		if info.Mode()&fs.ModeSymlink != 0 {
			if link, err = os.Readlink(path); err != nil {
				return err
			}
		}
		header, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return err
		}
		header.Name, header.Uname, header.Gname = name, "", ""
		entry := Entry{Header: *header}
		switch {
		case info.IsDir():
			entry.Name += "/"
		case info.Mode().IsRegular():
			if entry.Body, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		entries = append(entries, entry)
		return nil
	})
	return entries, err
}

// A Compression of layer blobs.
type Compression string

const (
	Gzip  Compression = "gzip"
	Zstd  Compression = "zstd"
	Plain Compression = ""
)

// A Layer of an image. Entries make the tar stream unless Tar is given; the stream, compressed, makes
// the blob unless Blob is given. The other fields let a manifest lie about the blob.
type Layer struct {
	Entries     []Entry
	Compression Compression
	Tar         []byte // instead of Entries
	Blob        []byte // instead of the compressed stream
	SizeOff     int64  // added to the size that the manifest states
	WrongDigest bool   // the manifest names the blob by another digest, under which it is served
	WrongDiffID bool   // the config names another uncompressed digest
}

func (l Layer) tarStream() ([]byte, error) {
	if l.Tar != nil {
		return l.Tar, nil
	}
	return TarStream(l.Entries)
}

// TarStream writes entries in PAX or USTAR format, whichever each needs.
func TarStream(entries []Entry) ([]byte, error) {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, e := range entries {
		header := e.Header
		header.Size = int64(len(e.Body))
		if header.ModTime.IsZero() {
			header.ModTime = epoch
		}
		if header.ModTime.Nanosecond() != 0 { // the older formats have whole seconds only
			header.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(&header); err != nil {
			return nil, fmt.Errorf("tar entry %q: %w", e.Name, err)
		}
		if _, err := w.Write(e.Body); err != nil {
			return nil, fmt.Errorf("tar entry %q: %w", e.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buffer.Bytes(), nil
}

// Compress makes a layer's blob.
func Compress(stream []byte, c Compression) ([]byte, error) {
	var buffer bytes.Buffer
	switch c {
	case Plain:
		return stream, nil
	case Gzip:
		w := gzip.NewWriter(&buffer)
		if _, err := w.Write(stream); err != nil {
			return nil, err
		}
		if err := w.Close(); err != nil {
			return nil, err
		}
	case Zstd:
		w, err := zstd.NewWriter(&buffer)
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(stream); err != nil {
			return nil, err
		}
		if err := w.Close(); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("no such compression: %q", c)
	}
	return buffer.Bytes(), nil
}

// Digest is the sha256 digest of some bytes in the form that OCI writes.
func Digest(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }
