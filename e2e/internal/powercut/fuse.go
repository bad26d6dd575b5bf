package powercut

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// The part of the kernel's FUSE protocol (linux/fuse.h, 7.31) that a file system of one file needs.
const (
	opLookup     = 1
	opForget     = 2
	opGetattr    = 3
	opSetattr    = 4
	opOpen       = 14
	opRead       = 15
	opWrite      = 16
	opStatfs     = 17
	opRelease    = 18
	opFsync      = 20
	opFlush      = 25
	opInit       = 26
	opOpendir    = 27
	opReaddir    = 28
	opReleasedir = 29
	opInterrupt  = 36
	opDestroy    = 38
	opBatchForg  = 42

	rootNode = 1
	fileNode = 2
	fileName = "disk"

	maxWrite      = 1 << 20
	initBigWrites = 1 << 5
	initMaxPages  = 1 << 22
	openDirectIO  = 1 << 0

	headerIn  = 40
	headerOut = 16
	writeIn   = 40
)

// A disk is one file, which a loop device can stand on. Requests are handled one after the other, and
// each is answered before the next is looked at.
type disk interface {
	size() uint64
	read(buffer []byte, offset uint64) error
	write(data []byte, offset uint64) error
	flush() error
}

// fuseServer serves <directory>/disk until the directory is unmounted.
type fuseServer struct {
	directory string
	device    int
	disk      disk
	done      chan struct{}
}

func serveFuse(directory string, d disk) (*fuseServer, error) {
	device, err := syscall.Open("/dev/fuse", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/fuse: %w", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", device)
	if err := syscall.Mount("davit-powercut", directory, "fuse", syscall.MS_NOSUID|syscall.MS_NODEV, options); err != nil {
		syscall.Close(device)
		return nil, fmt.Errorf("mount a FUSE file system on %s: %w", directory, err)
	}
	server := &fuseServer{directory, device, d, make(chan struct{})}
	go server.serve()
	return server, nil
}

// close unmounts; whatever still uses the file gets errors.
func (s *fuseServer) close() error {
	err := syscall.Unmount(s.directory, syscall.MNT_DETACH)
	select {
	case <-s.done:
	case <-time.After(10 * time.Second):
		err = errors.Join(err, errors.New("the FUSE file system is still in use"))
	}
	return err
}

func (s *fuseServer) serve() {
	defer close(s.done)
	defer syscall.Close(s.device)
	buffer := make([]byte, maxWrite+headerIn+writeIn+4096)
	for {
		n, err := syscall.Read(s.device, buffer)
		if err == syscall.EINTR || err == syscall.ENOENT || err == syscall.EAGAIN {
			continue
		}
		if err != nil { // ENODEV: unmounted
			return
		}
		request := buffer[:n]
		op, unique, node := le32(request, 4), le64(request, 8), le64(request, 16)
		reply, errno, silent := s.handle(op, node, request[headerIn:])
		if silent {
			continue
		}
		s.answer(unique, reply, errno)
	}
}

func (s *fuseServer) answer(unique uint64, body []byte, errno syscall.Errno) {
	if errno != 0 {
		body = nil
	}
	out := make([]byte, headerOut, headerOut+len(body))
	binary.LittleEndian.PutUint32(out, uint32(headerOut+len(body)))
	binary.LittleEndian.PutUint32(out[4:], uint32(-int32(errno)))
	binary.LittleEndian.PutUint64(out[8:], unique)
	if _, err := syscall.Write(s.device, append(out, body...)); err != nil && err != syscall.ENOENT && err != syscall.ENODEV {
		fmt.Fprintln(os.Stderr, "powercut: answer the kernel:", err)
	}
}

// handle returns the body of the answer, or an error; some requests have no answer.
func (s *fuseServer) handle(op uint32, node uint64, in []byte) (body []byte, errno syscall.Errno, silent bool) {
	switch op {
	case opInit:
		out := make([]byte, 64)
		put := binary.LittleEndian
		put.PutUint32(out, 7)
		put.PutUint32(out[4:], 31)
		put.PutUint32(out[8:], 128<<10) // readahead
		put.PutUint32(out[12:], initBigWrites|initMaxPages)
		put.PutUint16(out[16:], 16) // requests in the background
		put.PutUint16(out[18:], 12)
		put.PutUint32(out[20:], maxWrite)
		put.PutUint32(out[24:], 1)
		put.PutUint16(out[28:], maxWrite/4096)
		return out, 0, false
	case opForget, opBatchForg, opInterrupt:
		return nil, 0, true
	case opLookup:
		if node != rootNode || cString(in) != fileName {
			return nil, syscall.ENOENT, false
		}
		out := make([]byte, 40, 40+88)
		binary.LittleEndian.PutUint64(out, fileNode)
		binary.LittleEndian.PutUint64(out[16:], 3600) // entry and attributes stay valid
		binary.LittleEndian.PutUint64(out[24:], 3600)
		return append(out, s.attributes(fileNode)...), 0, false
	case opGetattr, opSetattr:
		out := make([]byte, 16, 16+88)
		binary.LittleEndian.PutUint64(out, 3600)
		return append(out, s.attributes(node)...), 0, false
	case opOpen, opOpendir:
		out := make([]byte, 16)
		if node == fileNode {
			binary.LittleEndian.PutUint32(out[8:], openDirectIO)
		}
		return out, 0, false
	case opRead:
		return s.read(in)
	case opWrite:
		return s.write(in)
	case opFsync:
		if err := s.disk.flush(); err != nil {
			return nil, syscall.EIO, false
		}
		return nil, 0, false
	case opStatfs:
		return make([]byte, 80), 0, false
	case opFlush, opRelease, opReleasedir, opReaddir, opDestroy:
		return nil, 0, false
	}
	return nil, syscall.ENOSYS, false
}

func (s *fuseServer) read(in []byte) ([]byte, syscall.Errno, bool) {
	offset, size := le64(in, 8), uint64(le32(in, 16))
	if offset >= s.disk.size() {
		return nil, 0, false
	}
	out := make([]byte, min(size, s.disk.size()-offset))
	if err := s.disk.read(out, offset); err != nil {
		return nil, syscall.EIO, false
	}
	return out, 0, false
}

func (s *fuseServer) write(in []byte) ([]byte, syscall.Errno, bool) {
	offset, size := le64(in, 8), uint64(le32(in, 16))
	data := in[writeIn:]
	if uint64(len(data)) < size || offset+size > s.disk.size() {
		return nil, syscall.EIO, false
	}
	if err := s.disk.write(data[:size], offset); err != nil {
		return nil, syscall.EIO, false
	}
	out := make([]byte, 8)
	binary.LittleEndian.PutUint32(out, uint32(size))
	return out, 0, false
}

func (s *fuseServer) attributes(node uint64) []byte {
	out := make([]byte, 88)
	put := binary.LittleEndian
	put.PutUint64(out, node)
	mode, links := uint32(syscall.S_IFDIR|0o755), uint32(2)
	if node == fileNode {
		put.PutUint64(out[8:], s.disk.size())
		put.PutUint64(out[16:], s.disk.size()/512)
		mode, links = syscall.S_IFREG|0o600, 1
	}
	put.PutUint32(out[60:], mode)
	put.PutUint32(out[64:], links)
	put.PutUint32(out[80:], 4096)
	return out
}

func le32(b []byte, at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
func le64(b []byte, at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }

func cString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
