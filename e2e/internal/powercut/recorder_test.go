package powercut

import (
	"bytes"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// record runs `work` on an ext4 file system on a recorded disk, and returns the recorder.
func record(t *testing.T, work func(point string, r *Recorder)) *Recorder {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: it mounts file systems")
	}
	r, err := NewRecorder(t.TempDir(), 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	point := t.TempDir()
	t.Cleanup(func() {
		syscall.Unmount(point, syscall.MNT_DETACH)
		r.Close()
	})
	if out, err := exec.Command("/sbin/mkfs.ext4", "-q", "-F", r.Device()).CombinedOutput(); err != nil {
		t.Fatalf("mkfs: %v: %s", err, out)
	}
	if err := Mount(r.Device(), point, "ext4"); err != nil {
		t.Fatal(err)
	}
	work(point, r)
	if err := syscall.Unmount(point, 0); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return r
}

// after mounts the disk of a cut and gives its directory to `look`.
func after(t *testing.T, replay *Replay, moment int, random *rand.Rand, look func(point string)) {
	t.Helper()
	image, point := filepath.Join(t.TempDir(), "cut"), t.TempDir()
	if _, _, err := replay.Cut(moment, random, image); err != nil {
		t.Fatal(err)
	}
	device, err := Attach(image)
	if err != nil {
		t.Fatal(err)
	}
	defer Detach(device)
	if err := Mount(device, point, "ext4"); err != nil {
		t.Fatal(err)
	}
	defer syscall.Unmount(point, 0)
	look(point)
}

func TestASyncedFileIsThereAfterEveryLaterCutAndOneThatWasNotMayBeLost(t *testing.T) {
	content := bytes.Repeat([]byte("content "), 20000)
	var formatted, synced, end int
	r := record(t, func(point string, r *Recorder) {
		syscall.Sync()
		formatted = r.Now()
		file, err := os.Create(point + "/synced")
		if err != nil {
			t.Fatal(err)
		}
		file.Write(content)
		if err := file.Sync(); err != nil {
			t.Fatal(err)
		}
		file.Close()
		synced = r.Now()
		os.WriteFile(point+"/unsynced", content, 0o600)
		end = r.Now()
	})
	if formatted == 0 || synced <= formatted || end < synced {
		t.Fatalf("moments %d, %d, %d", formatted, synced, end)
	}
	random := rand.New(rand.NewSource(1))
	replay, err := r.NewReplay()
	if err != nil {
		t.Fatal(err)
	}
	defer replay.Close()
	after(t, replay, formatted, random, func(point string) {
		if _, err := os.Stat(point + "/synced"); err == nil {
			t.Error("a file is there before it was made")
		}
	})
	for range 5 {
		after(t, replay, synced, random, func(point string) {
			if got, err := os.ReadFile(point + "/synced"); err != nil || !bytes.Equal(got, content) {
				t.Errorf("the synced file: %d bytes, %v", len(got), err)
			}
			if got, _ := os.ReadFile(point + "/unsynced"); len(got) != 0 {
				t.Error("a file that never left the page cache is there")
			}
		})
	}
}

func TestWhatNoFlushFollowedIsLostInManyWays(t *testing.T) {
	r := &Recorder{bytes: 1 << 20, directory: t.TempDir()}
	var err error
	if r.log, err = os.Create(r.directory + "/writes"); err != nil {
		t.Fatal(err)
	}
	if r.image, err = os.Create(r.directory + "/image"); err != nil {
		t.Fatal(err)
	}
	fill := func(c byte, offset uint64) { r.write(bytes.Repeat([]byte{c}, 2*SectorSize), offset) }
	fill('a', 0)
	r.flush()
	fill('b', 0)
	fill('c', 2*SectorSize)
	replay, err := r.NewReplay()
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewSource(1))
	seen := map[string]bool{}
	for range 300 {
		path := filepath.Join(r.directory, "cut")
		if _, _, err := replay.Cut(r.Now(), random, path); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		state := ""
		for i := range 4 {
			sector := data[i*SectorSize : (i+1)*SectorSize]
			if !bytes.Equal(sector, bytes.Repeat(sector[:1], SectorSize)) {
				t.Fatal("a sector is torn")
			}
			state += string(rune(max(sector[0], '.')))
		}
		seen[state] = true
	}
	for _, want := range []string{"aa..", "bb..", "aacc", "bbcc", "abc.", "ba.c"} {
		if !seen[want] {
			t.Errorf("no cut left %s: %v", want, seen)
		}
	}
	for state := range seen {
		if state[0] == '.' || state[1] == '.' {
			t.Errorf("a cut has taken what was flushed: %s", state)
		}
	}
}
