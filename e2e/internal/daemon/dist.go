package daemon

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// versionMark is in front of the version in each program (runtime/sys/version.cc).
const versionMark = "davit version "

// OtherVersion copies the programs of dist into a new directory, with another version in those that
// have one: other programs, byte by byte, that do the same. Returns the directory and that version.
func OtherVersion(dist, into string) (string, error) {
	if err := os.Mkdir(into, 0o755); err != nil {
		return "", err
	}
	version := ""
	for _, name := range []string{"davitd", "davit-pod", "davit-init", "davit-unpack"} {
		data, err := os.ReadFile(filepath.Join(dist, name))
		if err != nil {
			return "", err
		}
		if at := bytes.Index(data, []byte(versionMark)); at >= 0 {
			end := at + bytes.IndexByte(data[at:], 0)
			digit := &data[end-1]
			*digit = '0' + (*digit-'0'+1)%10
			version = string(data[at+len(versionMark) : end])
		} else if name == "davitd" || name == "davit-pod" {
			return "", fmt.Errorf("%s has no version", name)
		}
		if err := os.WriteFile(filepath.Join(into, name), data, 0o755); err != nil {
			return "", err
		}
	}
	return version, nil
}

// Use makes the next start that of the programs in another directory, with further top-level keys in
// the configuration.
func (d *Daemon) Use(dist, head string) error {
	d.options.Dist, d.options.ConfigHead = dist, head
	return d.WriteConfig(d.options.Mirrors, head, d.options.ConfigTail)
}

// Reload makes davitd read its configuration again.
func (d *Daemon) Reload() error { return syscall.Kill(d.pid, syscall.SIGHUP) }
