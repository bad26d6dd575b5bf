// Package oracle says what file system a list of layers makes (image-spec layer.md), by the shortest
// code that can: a map of paths. Tests compare it with what a container really sees.
package oracle

import (
	"archive/tar"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"syscall"

	"davit.dev/e2e/internal/ociimage"
)

// A node of the file system. Two names of one inode share a node.
type node struct {
	kind    byte // tar type flag
	mode    int64
	uid     int
	gid     int
	content string
	target  string
	device  [2]int64
	xattrs  map[string]string
	mtime   int64 // ns; 0 = not stated by any layer
	layer   int   // that made the name
}

// A Tree is a file system in the making.
type Tree struct {
	nodes map[string]*node
	layer int
}

// Apply makes the tree of some layers, the lowest first.
func Apply(layers [][]ociimage.Entry) *Tree {
	t := &Tree{nodes: map[string]*node{}}
	for _, entries := range layers {
		t.layer++
		for _, e := range entries {
			t.apply(e)
		}
	}
	return t
}

func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

func (t *Tree) apply(e ociimage.Entry) {
	name := clean(e.Name)
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	if hidden, ok := strings.CutPrefix(base, ".wh."); ok {
		t.touch(dir)
		if hidden == ".wh..opq" {
			t.dropBelow(dir)
		} else {
			t.dropLower(path.Join(dir, hidden))
		}
		return
	}
	t.parents(dir)
	if e.Typeflag == tar.TypeLink {
		// Another name of the same inode: a change of one would be a change of both.
		linked := *t.nodes[clean(e.Linkname)]
		linked.layer = t.layer
		t.replace(name)
		t.nodes[name] = &linked
		return
	}
	n := &node{kind: e.Typeflag, mode: e.Mode, uid: e.Uid, gid: e.Gid, content: string(e.Body), target: e.Linkname,
		device: [2]int64{e.Devmajor, e.Devminor}, mtime: e.ModTime.UnixNano(), layer: t.layer, xattrs: map[string]string{}}
	if e.ModTime.IsZero() {
		n.mtime = -1
	}
	for key, value := range e.PAXRecords {
		if attribute, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			n.xattrs[attribute] = value
		}
	}
	if old := t.nodes[name]; !(old != nil && old.kind == tar.TypeDir && n.kind == tar.TypeDir) {
		t.replace(name)
	}
	t.nodes[name] = n
}

// parents makes the directories above a path that no layer has stated, and forgets the times of those
// that are written to.
func (t *Tree) parents(dir string) {
	if dir == "" || dir == "." {
		return
	}
	t.parents(strings.TrimSuffix(path.Dir(dir), "."))
	n := t.nodes[dir]
	if n == nil || n.kind != tar.TypeDir {
		t.replace(dir)
		t.nodes[dir] = &node{kind: tar.TypeDir, mode: 0o755, layer: t.layer, xattrs: map[string]string{}}
	}
	t.touch(dir)
}

// touch forgets the time of a directory that a layer writes to without stating it.
func (t *Tree) touch(dir string) {
	if n := t.nodes[dir]; n != nil && n.layer < t.layer {
		n.mtime = 0
	}
}

// replace makes room for another kind of file.
func (t *Tree) replace(name string) {
	delete(t.nodes, name)
	for below := range t.nodes {
		if strings.HasPrefix(below, name+"/") {
			delete(t.nodes, below)
		}
	}
}

// dropLower applies a whiteout: it hides the layers below, never its own.
func (t *Tree) dropLower(name string) {
	if n := t.nodes[name]; n != nil && n.layer < t.layer {
		delete(t.nodes, name)
	}
	t.dropBelow(name)
}

func (t *Tree) dropBelow(dir string) {
	for below, n := range t.nodes {
		if strings.HasPrefix(below, dir+"/") && n.layer < t.layer {
			delete(t.nodes, below)
		}
	}
}

// Lines describes everything below `top`, one file a line, sorted. Times are left out where no layer
// states them; `epoch` stands for those that the image builder filled in.
func (t *Tree) Lines(top string, epoch int64) []string {
	var lines []string
	for name, n := range t.nodes {
		if name != top && !strings.HasPrefix(name, top+"/") {
			continue
		}
		mtime := n.mtime
		if mtime == -1 {
			mtime = epoch
		}
		lines = append(lines, line(name, n, mtime))
	}
	sort.Strings(lines)
	return lines
}

func line(name string, n *node, mtime int64) string {
	var what string
	switch n.kind {
	case tar.TypeDir:
		what = "dir"
	case tar.TypeReg:
		what = fmt.Sprintf("file %q", n.content)
	case tar.TypeSymlink:
		return fmt.Sprintf("%s: symlink to %q %d:%d", name, n.target, n.uid, n.gid)
	case tar.TypeFifo:
		what = "fifo"
	case tar.TypeChar:
		what = fmt.Sprintf("char %d:%d", n.device[0], n.device[1])
	default:
		what = fmt.Sprintf("kind %q", n.kind)
	}
	var attributes []string
	for key, value := range n.xattrs {
		attributes = append(attributes, key+"="+value)
	}
	sort.Strings(attributes)
	text := fmt.Sprintf("%s: %s %04o %d:%d %v", name, what, n.mode, n.uid, n.gid, attributes)
	if mtime != 0 {
		text += fmt.Sprintf(" mtime %d", mtime)
	}
	return text
}

// Walk describes a real directory in the same way. Times that the tree does not state are left out.
func (t *Tree) Walk(root, top string) ([]string, error) {
	var lines []string
	err := filepath.WalkDir(filepath.Join(root, top), func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, p)
		n, err := inspect(p)
		if err != nil {
			return err
		}
		mtime := n.mtime
		if want := t.nodes[name]; want != nil && want.mtime == 0 {
			mtime = 0
		}
		lines = append(lines, line(name, n, mtime))
		return nil
	})
	sort.Strings(lines)
	return lines, err
}

func inspect(p string) (*node, error) {
	var s syscall.Stat_t
	if err := syscall.Lstat(p, &s); err != nil {
		return nil, err
	}
	n := &node{mode: int64(s.Mode & 0o7777), uid: int(s.Uid), gid: int(s.Gid), mtime: s.Mtim.Nano(), xattrs: map[string]string{}}
	var err error
	switch s.Mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		n.kind = tar.TypeDir
	case syscall.S_IFREG:
		n.kind = tar.TypeReg
		var data []byte
		data, err = os.ReadFile(p)
		n.content = string(data)
	case syscall.S_IFLNK:
		n.kind = tar.TypeSymlink
		n.target, err = os.Readlink(p)
		return n, err
	case syscall.S_IFIFO:
		n.kind = tar.TypeFifo
	case syscall.S_IFCHR:
		n.kind = tar.TypeChar
		n.device = [2]int64{int64(s.Rdev >> 8 & 0xfff), int64(s.Rdev & 0xff)}
	default:
		return nil, fmt.Errorf("%s: unexpected mode %o", p, s.Mode)
	}
	if err != nil {
		return nil, err
	}
	return n, attributesOf(p, n)
}

func attributesOf(p string, n *node) error {
	names := make([]byte, 4096)
	size, err := syscall.Listxattr(p, names)
	if err != nil {
		return err
	}
	for _, name := range strings.Split(string(names[:size]), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		value := make([]byte, 4096)
		size, err := syscall.Getxattr(p, name, value)
		if err != nil {
			return err
		}
		n.xattrs[name] = string(value[:size])
	}
	return nil
}
