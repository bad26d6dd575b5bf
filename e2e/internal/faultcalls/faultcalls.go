// Package faultcalls has system calls of a program, and of everything it starts, fail: by a seccomp
// filter whose listener (man 2 seccomp_unotify) lets each call go on, but for the one that a test has
// chosen.
package faultcalls

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Calls that can be made to fail, by their names.
var Calls = map[string]int{
	"openat": unix.SYS_OPENAT, "openat2": unix.SYS_OPENAT2, "mkdir": unix.SYS_MKDIR, "mkdirat": unix.SYS_MKDIRAT,
	"rename": unix.SYS_RENAME, "renameat": unix.SYS_RENAMEAT, "renameat2": unix.SYS_RENAMEAT2,
	"unlinkat": unix.SYS_UNLINKAT, "fallocate": unix.SYS_FALLOCATE, "pwrite64": unix.SYS_PWRITE64,
	"mount": unix.SYS_MOUNT, "fsopen": unix.SYS_FSOPEN, "fsconfig": unix.SYS_FSCONFIG, "fsmount": unix.SYS_FSMOUNT,
	"open_tree": unix.SYS_OPEN_TREE, "move_mount": unix.SYS_MOVE_MOUNT, "mount_setattr": unix.SYS_MOUNT_SETATTR,
	"clone3": unix.SYS_CLONE3, "pidfd_open": unix.SYS_PIDFD_OPEN, "memfd_create": unix.SYS_MEMFD_CREATE,
	"socketpair": unix.SYS_SOCKETPAIR, "socket": unix.SYS_SOCKET, "pipe2": unix.SYS_PIPE2, "epoll_ctl": unix.SYS_EPOLL_CTL,
	"setns": unix.SYS_SETNS, "unshare": unix.SYS_UNSHARE, "fchown": unix.SYS_FCHOWN, "fsetxattr": unix.SYS_FSETXATTR,
	"getdents64": unix.SYS_GETDENTS64, "execveat": unix.SYS_EXECVEAT, "syncfs": unix.SYS_SYNCFS,
	"eventfd2": unix.SYS_EVENTFD2, "dup3": unix.SYS_DUP3,
}

const (
	setModeFilter   = 1          // SECCOMP_SET_MODE_FILTER
	newListener     = 1 << 3     // SECCOMP_FILTER_FLAG_NEW_LISTENER
	returnAllow     = 0x7fff0000 // SECCOMP_RET_ALLOW
	returnNotify    = 0x7fc00000 // SECCOMP_RET_USER_NOTIF
	notifyReceive   = 0xc0502100 // SECCOMP_IOCTL_NOTIF_RECV
	notifySend      = 0xc0182101 // SECCOMP_IOCTL_NOTIF_SEND
	flagContinue    = 1          // SECCOMP_USER_NOTIF_FLAG_CONTINUE
	socketVariable  = "DAVIT_FAULTCALLS"
	acknowledgement = 'g'
)

type notification struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

type response struct {
	id    uint64
	value int64
	err   int32
	flags uint32
}

// Launch runs the program of the arguments under the filter, if the environment asks for it. To be
// called at the begin of main: it returns only if there is nothing to launch.
func Launch() {
	path := os.Getenv(socketVariable)
	if path == "" || len(os.Args) < 2 {
		return
	}
	fmt.Fprintln(os.Stderr, launch(path))
	os.Exit(120)
}

func launch(path string) error {
	runtime.LockOSThread() // the filter is this thread's, and execve goes by this thread
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	file, err := conn.File()
	if err != nil {
		return err
	}
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}}
	for _, nr := range Calls {
		filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: uint32(nr)},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: returnNotify})
	}
	filter = append(filter, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: returnAllow})
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	listener, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, setModeFilter, newListener, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	if err := unix.Sendmsg(int(file.Fd()), []byte{'l'}, unix.UnixRights(int(listener)), nil, 0); err != nil {
		return fmt.Errorf("hand the listener over: %w", err)
	}
	var answer [1]byte
	if _, err := unix.Read(int(file.Fd()), answer[:]); err != nil || answer[0] != acknowledgement {
		return fmt.Errorf("nobody listens: %v", err)
	}
	unix.Close(int(listener))
	return syscall.Exec(os.Args[1], os.Args[1:], os.Environ())
}

// An Injector decides about the calls of one program. Safe for use by several goroutines.
type Injector struct {
	socket *net.UnixListener

	mu      sync.Mutex
	armed   bool
	nr      int32
	program string
	skip    int // calls that go on before the one that fails; negative: none fails
	errno   syscall.Errno
	struck  bool
	counts  map[string]int // calls by "program call" since counting began
}

// New listens for a program that is to be launched with Environment, behind this very executable.
func New(socket string) (*Injector, error) {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	i := &Injector{socket: listener}
	go i.accept()
	return i, nil
}

// Environment is what Launch has to find.
func (i *Injector) Environment() string { return socketVariable + "=" + i.socket.Addr().String() }

// Close ends the injector: calls go on failing with ENOSYS if the program still lives.
func (i *Injector) Close() { i.socket.Close() }

func (i *Injector) accept() {
	for {
		conn, err := i.socket.AcceptUnix()
		if err != nil {
			return
		}
		data, control := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
		_, n, _, _, err := conn.ReadMsgUnix(data, control)
		if err != nil {
			continue
		}
		messages, err := unix.ParseSocketControlMessage(control[:n])
		if err != nil || len(messages) != 1 {
			continue
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(fds) != 1 {
			continue
		}
		go i.serve(fds[0])
		conn.Write([]byte{acknowledgement})
	}
}

func (i *Injector) serve(listener int) {
	defer unix.Close(listener)
	for {
		// Readable: a call waits. The end: nobody is left who has the filter.
		fds := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err == unix.EINTR {
			continue
		} else if err != nil || fds[0].Revents&unix.POLLIN == 0 {
			return
		}
		var call notification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), notifyReceive, uintptr(unsafe.Pointer(&call))); errno != 0 {
			continue // whoever made it has been killed
		}
		answer := response{id: call.id, flags: flagContinue}
		if errno := i.decide(call); errno != 0 {
			answer.flags, answer.err = 0, -int32(errno)
		}
		unix.Syscall(unix.SYS_IOCTL, uintptr(listener), notifySend, uintptr(unsafe.Pointer(&answer)))
	}
}

func (i *Injector) decide(call notification) syscall.Errno {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.counts == nil && (!i.armed || i.nr != call.nr) {
		return 0
	}
	program := programOf(call.pid)
	if i.counts != nil {
		i.counts[program+" "+nameOf(call.nr)]++
	}
	if !i.armed || i.nr != call.nr || i.program != program || i.struck {
		return 0
	}
	if i.skip--; i.skip >= 0 {
		return 0
	}
	i.struck = true
	return i.errno
}

func nameOf(nr int32) string {
	for name, number := range Calls {
		if int32(number) == nr {
			return name
		}
	}
	return ""
}

// programOf is the name of a thread's executable, which may be in a memfd.
func programOf(pid uint32) string {
	target, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	target = strings.TrimSuffix(target, " (deleted)")
	target = strings.TrimPrefix(target, "/memfd:")
	return target[strings.LastIndexByte(target, '/')+1:]
}

// Arm has one call of a program fail, after `skip` others of the same name.
func (i *Injector) Arm(program, call string, skip int, errno syscall.Errno) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.armed, i.struck, i.nr, i.program, i.skip, i.errno = true, false, int32(Calls[call]), program, skip, errno
}

// Disarm tells whether the call has failed.
func (i *Injector) Disarm() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.armed = false
	return i.struck
}

// Count runs something and returns how many calls there were meanwhile, by "program call".
func (i *Injector) Count(what func()) map[string]int {
	i.mu.Lock()
	i.counts = map[string]int{}
	i.mu.Unlock()
	what()
	time.Sleep(20 * time.Millisecond) // what is done in the background belongs to it
	i.mu.Lock()
	defer i.mu.Unlock()
	counts := i.counts
	i.counts = nil
	return counts
}
