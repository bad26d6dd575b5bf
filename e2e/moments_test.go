package e2e

import (
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Moments are what can be seen from outside of a daemon's work: changes of its directories, and what a
// plugin or a registry tells. They are counted, so that something can be done at the n-th of them.
type moments struct {
	fd   int
	done chan struct{}

	mu    sync.Mutex
	paths map[int32]string
	count int
	at    int    // the count at which act is called; 0: never
	act   func() // once
	last  string
}

const changes = syscall.IN_CREATE | syscall.IN_DELETE | syscall.IN_MOVED_FROM | syscall.IN_MOVED_TO

// watch sees to changes in the directories and everything below them.
func watch(directories ...string) (*moments, error) {
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	m := &moments{fd: fd, done: make(chan struct{}), paths: map[int32]string{}}
	for _, directory := range directories {
		m.add(directory)
	}
	go m.read()
	return m, nil
}

// add watches a directory and those in it. One that is gone meanwhile is no loss.
func (m *moments) add(directory string) {
	filepath.WalkDir(directory, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return nil
		}
		if id, err := syscall.InotifyAddWatch(m.fd, path, changes|syscall.IN_ONLYDIR|syscall.IN_DONT_FOLLOW); err == nil {
			m.mu.Lock()
			m.paths[int32(id)] = path
			m.mu.Unlock()
		}
		return nil
	})
}

func (m *moments) read() {
	defer syscall.Close(m.fd)
	buffer := make([]byte, 64<<10)
	for {
		select {
		case <-m.done:
			return
		default:
		}
		n, err := syscall.Read(m.fd, buffer)
		if err == syscall.EAGAIN {
			time.Sleep(100 * time.Microsecond) // fine enough to be in the middle of things
			continue
		}
		if err != nil {
			return
		}
		for offset := 0; offset+syscall.SizeofInotifyEvent <= n; {
			event := (*syscall.InotifyEvent)(unsafe.Pointer(&buffer[offset]))
			name := buffer[offset+syscall.SizeofInotifyEvent : offset+syscall.SizeofInotifyEvent+int(event.Len)]
			offset += syscall.SizeofInotifyEvent + int(event.Len)
			m.mu.Lock()
			path := m.paths[event.Wd]
			m.mu.Unlock()
			path += "/" + cString(name)
			if event.Mask&syscall.IN_ISDIR != 0 && event.Mask&(syscall.IN_CREATE|syscall.IN_MOVED_TO) != 0 {
				m.add(path)
			}
			m.happened(path)
		}
	}
}

func cString(bytes []byte) string {
	for i, b := range bytes {
		if b == 0 {
			return string(bytes[:i])
		}
	}
	return string(bytes)
}

// happened counts one moment.
func (m *moments) happened(what string) {
	m.mu.Lock()
	m.count++
	act := m.act
	if m.at == 0 || m.count < m.at {
		act = nil
	} else {
		m.act, m.at = nil, 0
	}
	if act != nil {
		m.last = what
	}
	m.mu.Unlock()
	if act != nil {
		act()
	}
}

// begin counts from 0 and calls act at moment n; 0: never.
func (m *moments) begin(n int, act func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count, m.at, m.act, m.last = 0, n, act, ""
}

// end returns the count, and what the moment of the act was.
func (m *moments) end() (int, string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at, m.act = 0, nil
	return m.count, m.last
}

func (m *moments) close() { close(m.done) }
