// Package powercut records every write and every flush that reaches a disk while something runs on it,
// and makes the disks that a loss of power at any moment could have left behind.
//
// The disk is a loop device on a FUSE file of this process, so that the file system, the block layer
// and all their barriers are the kernel's own. What a disk with a volatile write cache promises is this:
// writes that were complete when a flush was asked for are safe once it is answered. Of all later ones,
// any part may be lost, in any order, sector by sector.
package powercut

import (
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// SectorSize is what a disk writes whole or not at all.
const SectorSize = 4096

type event struct {
	flush  bool
	offset uint64
	length int
	at     int64 // of the data in the log
}

// A Recorder is a disk that remembers. Safe for use by several goroutines.
type Recorder struct {
	directory string
	bytes     uint64
	image     *os.File // the disk as it is
	log       *os.File // the data of all writes
	server    *fuseServer
	device    string // loop device

	mu      sync.Mutex
	events  []event
	logSize int64
	failure error
}

// NewRecorder makes an empty disk of so many bytes, with its files below directory, which exists.
func NewRecorder(directory string, bytes uint64) (*Recorder, error) {
	r := &Recorder{directory: directory, bytes: bytes}
	var err error
	if r.image, err = os.OpenFile(filepath.Join(directory, "image"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if err = r.image.Truncate(int64(bytes)); err != nil {
		return nil, err
	}
	if r.log, err = os.OpenFile(filepath.Join(directory, "writes"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	point := filepath.Join(directory, "fuse")
	if err = os.Mkdir(point, 0o700); err != nil {
		return nil, err
	}
	if r.server, err = serveFuse(point, r); err != nil {
		return nil, err
	}
	if r.device, err = Attach(filepath.Join(point, fileName)); err != nil {
		r.server.close()
		return nil, err
	}
	return r, nil
}

// Device is the block device.
func (r *Recorder) Device() string { return r.device }

// Close lets the device go, which nothing is mounted on any more. What was recorded stays.
func (r *Recorder) Close() error {
	if r.device == "" {
		return nil
	}
	err := Detach(r.device)
	r.device = ""
	if closed := r.server.close(); err == nil {
		err = closed
	}
	if err == nil {
		err = r.failure
	}
	return err
}

// Now is how many writes and flushes there have been: what has happened before it was asked for is in
// a cut at this or a later moment.
func (r *Recorder) Now() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.events)
}

func (r *Recorder) size() uint64 { return r.bytes }

func (r *Recorder) read(buffer []byte, offset uint64) error {
	_, err := r.image.ReadAt(buffer, int64(offset))
	return err
}

func (r *Recorder) write(data []byte, offset uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, err := r.image.WriteAt(data, int64(offset))
	if err == nil {
		_, err = r.log.WriteAt(data, r.logSize)
	}
	if err != nil {
		r.failure = err
		return err
	}
	r.events = append(r.events, event{offset: offset, length: len(data), at: r.logSize})
	r.logSize += int64(len(data))
	return nil
}

func (r *Recorder) flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, event{flush: true})
	return nil
}

// Statistics of what was recorded.
func (r *Recorder) Statistics() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	flushes := 0
	for _, e := range r.events {
		if e.flush {
			flushes++
		}
	}
	return fmt.Sprintf("%d writes of %.1f MB, %d flushes", len(r.events)-flushes, float64(r.logSize)/1e6, flushes)
}

// A Replay makes disks after cuts, in the order of their moments.
type Replay struct {
	recorder *Recorder
	safe     *os.File // with everything up to `next`
	next     int
}

// NewReplay begins with the empty disk.
func (r *Recorder) NewReplay() (*Replay, error) {
	safe, err := os.OpenFile(filepath.Join(r.directory, "safe"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return &Replay{recorder: r, safe: safe}, safe.Truncate(int64(r.bytes))
}

// Cut writes to path the disk as a cut could leave it right after so many writes and flushes; moments
// only grow from call to call. What was not flushed is lost as random says. It returns how many sectors
// of those were kept and lost.
func (p *Replay) Cut(moment int, random *rand.Rand, path string) (kept, lost int, err error) {
	events := p.recorder.events
	safe := p.next
	for i := p.next; i < moment; i++ {
		if events[i].flush {
			safe = i + 1
		}
	}
	for ; p.next < safe; p.next++ {
		if e := events[p.next]; !e.flush {
			if err := p.apply(p.safe, e, 0, e.length); err != nil {
				return 0, 0, err
			}
		}
	}
	// Sparse, so that only what was ever written is copied.
	if out, err := exec.Command("cp", "--sparse=always", p.safe.Name(), path).CombinedOutput(); err != nil {
		return 0, 0, fmt.Errorf("copy the disk: %v: %s", err, out)
	}
	image, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, 0, err
	}
	defer image.Close()
	pending := p.pending(safe, moment, random)
	for _, s := range pending {
		if s.lost {
			lost++
			continue
		}
		kept++
		if err := p.apply(image, s.event, s.from, s.to); err != nil {
			return 0, 0, err
		}
	}
	return kept, lost, nil
}

// A sector of a write that no flush has made safe.
type pendingSector struct {
	event    event
	from, to int
	lost     bool
}

// pending decides for every sector in the cache. Each cut has its own temper: the cache may have
// written nothing, nearly all, or some; whole writes or single sectors; in their order or not.
func (p *Replay) pending(safe, moment int, random *rand.Rand) []pendingSector {
	share := []float64{0, 0.1, 0.5, 0.9, 1}[random.Intn(5)]
	whole, shuffled := random.Intn(2) == 0, random.Intn(2) == 0
	var sectors []pendingSector
	for _, e := range p.recorder.events[safe:moment] {
		if e.flush {
			continue
		}
		keep := random.Float64() < share
		for from := 0; from < e.length; from += SectorSize {
			if !whole {
				keep = random.Float64() < share
			}
			sectors = append(sectors, pendingSector{e, from, min(from+SectorSize, e.length), !keep})
		}
	}
	if shuffled {
		// Two versions of one sector in the cache are one sector: the older never comes last.
		seen := map[uint64]bool{}
		for i := len(sectors) - 1; i >= 0; i-- {
			at := sectors[i].event.offset + uint64(sectors[i].from)
			if seen[at] {
				sectors[i].lost = true
			}
			seen[at] = seen[at] || !sectors[i].lost
		}
	}
	return sectors
}

func (p *Replay) apply(image *os.File, e event, from, to int) error {
	data := make([]byte, to-from)
	if _, err := p.recorder.log.ReadAt(data, e.at+int64(from)); err != nil {
		return err
	}
	_, err := image.WriteAt(data, int64(e.offset)+int64(from))
	return err
}

// Close removes what the replay has made.
func (p *Replay) Close() error {
	p.safe.Close()
	return os.Remove(p.safe.Name())
}

// Attach makes a loop device of a file.
func Attach(path string) (string, error) {
	out, err := exec.Command("losetup", "--find", "--show", path).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("losetup %s: %v: %s", path, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// Detach lets a loop device go.
func Detach(device string) error {
	if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
		return fmt.Errorf("losetup --detach %s: %v: %s", device, err, out)
	}
	return nil
}

// Mount mounts a device or an attached image, with the file system's own recovery.
func Mount(device, point, fsType string) error {
	if err := syscall.Mount(device, point, fsType, syscall.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mount %s (%s) on %s: %w", device, fsType, point, err)
	}
	return nil
}
