package daemon

import (
	"net"
	"syscall"
)

// PeerPid is the process that listens on a unix socket.
func PeerPid(socket string) (int, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var credentials *syscall.Ucred
	var callErr error
	err = raw.Control(func(fd uintptr) {
		credentials, callErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err == nil {
		err = callErr
	}
	if err != nil {
		return 0, err
	}
	return int(credentials.Pid), nil
}
