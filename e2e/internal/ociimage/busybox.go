package ociimage

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// busyboxBinary finds a busybox that needs no library: the machine's own, or else the one of Debian's
// busybox-static package, which apt-get fetches without installing it.
func busyboxBinary() ([]byte, error) {
	for _, path := range []string{"/bin/busybox", "/usr/bin/busybox"} {
		if isStatic(path) {
			return os.ReadFile(path)
		}
	}
	return packagedBusybox("busybox-static")
}

// packagedBusybox is the program of one of Debian's busybox packages, which apt-get fetches without
// installing it: only one of them can be installed. It is kept for the next time.
func packagedBusybox(name string) ([]byte, error) {
	cache := os.Getenv("DAVIT_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, err
		}
		cache = filepath.Join(user, "davit")
	}
	kept := filepath.Join(cache, "packages", name)
	if data, err := os.ReadFile(kept); err == nil {
		return data, nil
	}
	dir, err := os.MkdirTemp("", "davit-busybox-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	// apt downloads as the user _apt, who must be able to write here.
	if err := os.Chmod(dir, 0o777); err != nil {
		return nil, err
	}
	cmd := exec.Command("sh", "-ec", "apt-get download -q \"$0\" && dpkg -x \"$0\"_*.deb root", name)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("fetch Debian's %s: %w\n%s", name, err, out)
	}
	for _, path := range []string{"bin/busybox", "usr/bin/busybox"} {
		data, err := os.ReadFile(filepath.Join(dir, "root", path))
		if err != nil {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(kept), 0o755); err != nil {
			return nil, err
		}
		// Under a name of its own first: others may be doing the same.
		whole := fmt.Sprintf("%s.%d", kept, os.Getpid())
		if err := os.WriteFile(whole, data, 0o755); err != nil {
			return nil, err
		}
		return data, os.Rename(whole, kept)
	}
	return nil, fmt.Errorf("Debian's %s has no bin/busybox", name)
}

// SearchingShell is a /bin/sh that looks its commands up in PATH, with the libraries that it needs, to
// take the place of BusyboxEntries' own: the shell of busybox-static runs its own applets without looking at the
// file system, so that a command that is masked would still be there.
func SearchingShell() ([]Entry, error) {
	binary, err := packagedBusybox("busybox")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "davit-busybox-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "sh")
	if err := os.WriteFile(path, binary, 0o755); err != nil {
		return nil, err
	}
	out, err := exec.Command("ldd", path).Output()
	if err != nil {
		return nil, fmt.Errorf("list the libraries of busybox: %w", err)
	}
	entries := []Entry{File("bin/sh", string(binary), 0o755)}
	for _, field := range strings.Fields(string(out)) {
		if !strings.HasPrefix(field, "/") {
			continue
		}
		data, err := os.ReadFile(field)
		if err != nil {
			return nil, err
		}
		entries = append(entries, File(strings.TrimPrefix(field, "/"), string(data), 0o755))
	}
	return entries, nil
}

func isStatic(path string) bool {
	file, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer file.Close()
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			return false
		}
	}
	return true
}

// applets asks a busybox for its list. It has to be on disk to be run.
func applets(binary []byte) ([]string, error) {
	dir, err := os.MkdirTemp("", "davit-busybox-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "busybox")
	if err := os.WriteFile(path, binary, 0o755); err != nil {
		return nil, err
	}
	out, err := exec.Command(path, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list the applets of busybox: %w", err)
	}
	return strings.Fields(string(out)), nil
}

// BusyboxEntries is the root file system of a small system: busybox with hard links for its applets,
// users, and the usual directories.
func BusyboxEntries() ([]Entry, error) {
	binary, err := busyboxBinary()
	if err != nil {
		return nil, err
	}
	names, err := applets(binary)
	if err != nil {
		return nil, err
	}
	entries := []Entry{
		Dir("bin", 0o755), Dir("dev", 0o755), Dir("etc", 0o755), Dir("home", 0o755), Dir("proc", 0o555),
		Dir("root", 0o700), Dir("sys", 0o555), Dir("tmp", 0o1777), Dir("usr", 0o755), Dir("usr/bin", 0o755),
		Dir("usr/sbin", 0o755), Dir("sbin", 0o755), Dir("var", 0o755), Dir("var/run", 0o755), Dir("var/tmp", 0o1777),
		Dir("var/www", 0o755),
		File("etc/passwd", `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
`, 0o644),
		File("etc/group", `root:x:0:
daemon:x:1:
bin:x:2:
tty:x:5:
www-data:x:33:
users:x:100:
nogroup:x:65534:
`, 0o644),
		{Header: File("bin/busybox", "", 0o755).Header, Body: binary},
	}
	for _, name := range names {
		if name != "busybox" {
			entries = append(entries, HardLink("bin/"+name, "bin/busybox", 0o755))
		}
	}
	return entries, nil
}

// Busybox is an image of one gzip layer whose command is a shell.
func Busybox() (*Image, error) {
	entries, err := BusyboxEntries()
	if err != nil {
		return nil, err
	}
	return &Image{
		Layers: []Layer{{Entries: entries, Compression: Gzip}},
		Config: Config{Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Cmd: []string{"sh"}},
	}, nil
}
